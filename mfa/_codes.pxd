from libc.stdint cimport uintptr_t

from mfa._arrays cimport Operand
from mfa.c_mfa cimport mfa_quantization_t


cdef class Codes:
    """The arrays of a QuantizedTensor, with axes in the library's order."""
    cdef Operand codes, scales
    cdef Operand zero_points, mean  # None without
    cdef mfa_quantization_t quantization  # what the codes stand for


# What is going to be written.
cdef enum Written:
    NOTHING
    ONLY_CODES
    CODES_AND_SCALES
    ALL_PARTS


cdef Codes load_codes(object tensor, str name, Written written, uintptr_t stand_in)
