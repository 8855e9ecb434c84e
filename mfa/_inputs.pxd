from libc.stdint cimport int64_t, uintptr_t

from mfa._arrays cimport Elements, Operand
from mfa.c_mfa cimport mfa_attention_desc_t


cdef class Inputs:
    cdef readonly tuple shape
    cdef bint heads_first, planning
    cdef uintptr_t nowhere
    cdef dict names
    cdef list kept
    cdef Operand query, key, value
    cdef Operand additive_mask, sinks  # None without
    cdef mfa_attention_desc_t desc  # without results

    cdef int add_masks(self, object mask, object bias) except -1
    cdef str name_of(self, str argument)
    cdef uintptr_t stand_in(self) noexcept
    cdef Operand load(
        self, object array, str argument, Elements accepted, int min_ndim, int max_ndim, bint writable=*)
    cdef Operand load_rows(
        self, object array, str argument, int min_ndim, int max_ndim, bint writable=*)
    cdef Operand load_scores(self, object array, str argument, Elements accepted)
    cdef Operand load_heads(self, object array, str argument, Elements accepted, int max_ndim)
    cdef int broadcast_axis(self, int axis) except -1
    cdef int require_operands_that_fit(self, bint grouped) except -1
    cdef int require_rows(
        self, Operand operand, int64_t batch, int64_t heads, int64_t rows, int64_t dim) except -1
    cdef int require_shape_of_out(self, Operand operand) except -1
    cdef tuple caller_shape(self, int64_t batch, int64_t heads, int64_t rows, int64_t dim, int ndim)
