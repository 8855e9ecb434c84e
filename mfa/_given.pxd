from libc.stdint cimport uint64_t

from mfa._exchange cimport TorchState


cdef enum Concern:
    ASK  # mfa._tensors
    OWN  # nothing
    RECORDED  # what gradients there are


cdef uint64_t given_of(dict keywords)
cdef uint64_t bits_of(object names) except *
cdef Concern concern(
    object query, object key, object value, dict keywords, uint64_t given, TorchState *state) except? ASK
