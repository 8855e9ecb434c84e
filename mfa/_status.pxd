from mfa.c_mfa cimport mfa_status_t

cdef int check(mfa_status_t status, dict names=*, str layout=*, int ndim=*) except -1
