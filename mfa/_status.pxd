from mfa.c_mfa cimport mfa_status_t

cdef int check(mfa_status_t status, dict names=*) except -1
