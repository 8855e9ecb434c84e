from libc.stdint cimport uint64_t


cdef uint64_t given_of(dict keywords)
cdef uint64_t bits_of(object names) except *
