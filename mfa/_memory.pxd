from cpython.buffer cimport Py_buffer
from libc.stdint cimport int64_t

from mfa._dlpack cimport DLManagedTensor, DLManagedTensorVersioned, DLTensor
from mfa._exchange cimport TorchState


cdef class Memory:
    """Some array's memory, kept alive and in place until this object goes."""
    cdef str name  # of the argument
    cdef object array  # as the caller gave it; None if there is none
    cdef int precision  # as in mfa.h; MFA_PRECISION_DEFAULT for what has none there
    cdef int ndim
    cdef int64_t itemsize
    cdef char *data
    cdef bint read_only
    cdef bint takes_metal, on_metal  # whether memory of a GPU is welcome; `data` is an id<MTLBuffer> then
    cdef bint is_copy  # what is written there would not reach the array
    cdef Py_buffer view
    cdef DLManagedTensor *legacy
    cdef DLManagedTensorVersioned *versioned
    cdef DLTensor *dlpack
    cdef DLTensor plain  # what `dlpack` points to where no capsule was needed
    cdef int64_t[4] plain_shape, plain_strides

    cdef int hold(self, object array, str name, bint in_place, TorchState *state) except -1
    cdef int hold_for_long(self, object array, str name) except -1
    cdef int hold_whatever(self, object array, bint in_place, bint for_long) except -1
    cdef int hold_plain(self) except -1
    cdef int hold_buffer(self, object array, int flags) except -1
    cdef int hold_dlpack(self, object capsule) except -1
    cdef int take_dlpack(self) except -1
    cdef int require_true(self) except -1
    cdef int require_writable(self) except -1
    cdef int64_t extent(self, int axis) noexcept
    cdef int64_t stride(self, int axis) noexcept
    cdef object dtype(self)
    cdef object numpy_dtype(self)
    cdef object as_ndarray(self)


cdef int refuse_masked(object array, str name) except -1
