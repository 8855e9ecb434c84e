from cpython.buffer cimport Py_buffer
from libc.stdint cimport int64_t, uintptr_t

from mfa._dlpack cimport DLManagedTensor, DLManagedTensorVersioned, DLTensor
from mfa.c_mfa cimport mfa_tensor_t

# What an operand's elements may be.
cdef enum:
    FLOATS = 1
    FLOATS_OR_BOOL = 2
    ONLY_FLOAT32 = 3


cdef class Memory:
    """Some array's memory, kept alive and in place until this object goes."""
    cdef Py_buffer view
    cdef DLManagedTensor *legacy
    cdef DLManagedTensorVersioned *versioned

    cdef int hold_buffer(self, object array, str name, int flags) except -1
    cdef int hold_dlpack(self, object array, str name, bint in_place) except -1
    cdef int hold_capsule(self, object capsule, str name) except -1
    cdef int require_original(self, str name) except -1
    cdef DLTensor *dlpack(self) noexcept


cdef class Operand(Memory):
    """An array as a C tensor. Leading axes that it lacks have size 1."""
    cdef object array  # None if it describes one that does not exist
    cdef mfa_tensor_t tensor
    cdef int ndim
    cdef void *copy

    cdef int describe_view(self, str name, int precision, bint writable, uintptr_t stand_in) except -1
    cdef int describe_dlpack(self, str name, int accepted, bint writable) except -1
    cdef int copy_view(self, int64_t *strides, int64_t size, uintptr_t stand_in) except -1
    cdef int describe_absent(self, tuple shape, int precision, uintptr_t stand_in) except -1


cdef class Bytes(Memory):
    """An array's memory as one run of bytes."""
    cdef void *data
    cdef size_t nbytes
    cdef bint read_only


cdef Operand load_operand(
    object array, str name, int accepted, int min_ndim, int max_ndim, bint writable,
    uintptr_t stand_in)
cdef Bytes load_bytes(object array, str name)
cdef str dtype_name(int precision)
cdef object loaded_torch()
