from libc.stdint cimport int64_t, uintptr_t

from mfa._arrays cimport Operand
from mfa.c_mfa cimport mfa_attention_desc_t, mfa_tensor_t

# Which operand a plan pretends to find at an address of its own.
cdef enum Slot:
    QUERY
    KEY
    VALUE
    MASK
    BIAS
    OUT
    LOGSUMEXP
    DOUT
    DQUERY
    DKEY
    DVALUE
    DBIAS
    DSINKS


cdef class Inputs:
    cdef readonly tuple shape
    cdef bint heads_first, planning
    cdef str query_name, key_name, value_name
    cdef Operand query, key, value, mask, bias
    cdef Operand additive_mask  # that of mask and bias which is added, or None
    cdef object sinks
    cdef const float[:, :] alibi_rows
    cdef const float[:, :] sink_rows
    cdef mfa_tensor_t alibi_tensor, sink_tensor
    cdef mfa_attention_desc_t desc  # without results

    cdef uintptr_t stand_in(self, Slot slot) noexcept
    cdef Operand load_rows(self, object array, str name, int min_ndim, int max_ndim, bint writable, Slot slot)
    cdef int broadcast_axis(self, int axis) except -1
    cdef int require_operands_that_fit(self, bint grouped) except -1
    cdef int require_rows(
        self, Operand operand, str name, int64_t batch, int64_t heads, int64_t rows, int64_t dim) except -1
    cdef int require_shape_of_out(self, Operand operand, str name) except -1
    cdef int require_head_shape(self, object rows, str name, bint batches) except -1
    cdef int require_score_shape(self, Operand operand, str name) except -1
    cdef tuple caller_shape(self, int64_t batch, int64_t heads, int64_t rows, int64_t dim, int ndim)


cdef void swap_rows_and_heads(Operand operand) noexcept
