from mfa.c_mfa cimport mfa_context_t


cdef class Context:
    cdef object __weakref__
    cdef mfa_context_t handle
    cdef Py_ssize_t calls_in_flight
    cdef readonly bint closed

    cdef mfa_context_t acquire(self) except NULL
    cdef void release(self) noexcept
    cdef void destroy_if_unused(self) noexcept


cdef Context known_context(object context)
cpdef Context default_context()
