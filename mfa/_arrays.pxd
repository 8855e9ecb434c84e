from libc.stdint cimport int64_t, uintptr_t

from mfa._exchange cimport TorchState
from mfa._memory cimport Memory
from mfa.c_mfa cimport mfa_buffer_t, mfa_context_t, mfa_tensor_t

# What an operand's elements may be.
cdef enum Elements:
    FLOATS
    FLOATS_OR_BOOL
    ONLY_FLOAT32
    AS_FLOAT32  # any floating ones, converted
    ONLY_INT32
    ONLY_BOOL


cdef class Operand(Memory):
    """An array as a C tensor. Leading axes that it lacks have size 1."""
    cdef mfa_tensor_t tensor
    cdef void *copy
    cdef mfa_buffer_t buffer  # around the Metal buffer, once a context is known

    cdef int describe(self, bint writable, uintptr_t stand_in) except -1
    cdef int wrap(self, mfa_context_t context) except -1
    cdef int copy_elements(self, int64_t *strides, uintptr_t stand_in) except -1
    cdef void describe_absent(self, tuple shape, int precision, uintptr_t stand_in) noexcept
    cdef tuple given_shape(self)
    cdef void take_halves(self, int64_t columns) noexcept
    cdef void append_unit_axes(self, int count) noexcept
    cdef void swap_rows_and_heads(self) noexcept


cdef Operand load_operand(
    object array, str name, Elements accepted, int min_ndim, int max_ndim, bint writable,
    uintptr_t stand_in, TorchState *state, str axes=*)
cdef Operand load_known(object array, str name, int precision, bint writable, uintptr_t stand_in)
cdef Operand load_new(object like, tuple shape, int precision, bint heads_inside, bint on_metal)
cdef str dtype_name(int precision)
