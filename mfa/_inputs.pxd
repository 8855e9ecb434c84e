from libc.stdint cimport int64_t, uint64_t, uintptr_t

from mfa._arrays cimport Elements, Operand
from mfa._codes cimport Codes
from mfa._exchange cimport TorchState
from mfa.c_mfa cimport (
    mfa_append_t,
    mfa_attention_desc_t,
    mfa_blocks_t,
    mfa_pages_t,
    mfa_scales_t,
    mfa_sequences_t,
    mfa_tensor_t,
)


cdef class Inputs:
    cdef readonly tuple shape
    cdef bint heads_first, planning
    cdef bint has_lists  # sequences have lengths or places of their own
    cdef bint on_metal  # an array is, and so all of them have to be
    cdef bint reads_lists  # arrays that are looked at before anything is computed
    cdef bint appends  # key and value are written
    cdef uintptr_t nowhere
    cdef TorchState torch
    cdef dict names
    cdef list kept
    cdef readonly str forward_only  # an argument given that no backward pass knows; None without
    cdef int64_t batch, key_batch  # sequences; what key and value have along that axis
    cdef Operand query, key, value
    cdef Codes key_codes, value_codes  # None without
    cdef Operand query_starts, key_starts  # None without
    cdef Operand additive_mask, sinks  # None without
    cdef mfa_attention_desc_t desc  # without results
    cdef mfa_sequences_t sequences
    cdef mfa_pages_t pages
    cdef mfa_blocks_t blocks
    cdef mfa_append_t append
    cdef mfa_scales_t scales

    cdef int fill(
        self, object query, object key, object value, dict keywords, uint64_t given, dict names, bint loose,
        bint grouped, bint planning) except -1
    cdef int read_options(self, dict keywords, uint64_t given) except -1
    cdef int add_operands(self, dict keywords) except -1
    cdef int add_masks(self, object mask, object bias) except -1
    cdef int add_sequences(self, dict keywords) except -1
    cdef Operand load_starts(self, dict keywords, str argument)
    cdef int add_pages(self, object page_table) except -1
    cdef int add_blocks(self, object block_mask) except -1
    cdef const mfa_tensor_t *blocks_of(self, object array, str name, Elements accepted) except? NULL
    cdef int add_forward_only(self, dict keywords) except -1
    cdef int add_append(self, dict keywords) except -1
    cdef int add_rotary(self, dict keywords) except -1
    cdef const mfa_tensor_t *list_of(self, dict keywords, str argument, int64_t length) except? NULL
    cdef const mfa_tensor_t *scale_of(self, dict keywords, str argument) except? NULL
    cdef str name_of(self, str argument)
    cdef uintptr_t stand_in(self) noexcept
    cdef Operand load(
        self, object array, str argument, Elements accepted, int min_ndim, int max_ndim, bint writable=*,
        str axes=*)
    cdef int keep(self, Operand operand) except -1
    cdef Operand load_rows(
        self, object array, str argument, int min_ndim, int max_ndim, bint writable=*)
    cdef Codes load_codes(self, object tensor, str argument, int min_ndim, int max_ndim)
    cdef int require_compute_mode(self, dict keywords) except -1
    cdef Operand load_scores(self, object array, str argument, Elements accepted)
    cdef Operand load_heads(self, object array, str argument, Elements accepted, int max_ndim)
    cdef int broadcast_axis(self, int axis) except -1
    cdef int require_operands_that_fit(self, bint grouped) except -1
    cdef str hint_of_layout(self)
    cdef int require_dtype_of_query(self, Operand operand) except -1
    cdef int require_mean_of_sequences(self, Operand mean) except -1
    cdef int require_rows(
        self, Operand operand, int64_t batch, int64_t heads, int64_t rows, int64_t dim) except -1
    cdef int require_shape_of_out(self, Operand operand) except -1
    cdef tuple logsumexp_shape(self)
    cdef tuple caller_shape(self, int64_t batch, int64_t heads, int64_t rows, int64_t dim, int ndim)
