"""What a call gives: one walk over its keywords, instead of a question for each of the many that it does not give."""

from cpython.dict cimport PyDict_Next
from cpython.ref cimport PyObject
from libc.stdint cimport uint64_t

from mfa._exchange cimport TorchState, ask, is_plain_type

from mfa._attention_keywords import DEFAULTS
from mfa._tensors import is_tensor

cdef dict defaults = DEFAULTS
cdef list NAMES = list(DEFAULTS)


cdef uint64_t given_of(dict keywords):
    """A bit for each, in the order of DEFAULTS, that is not the default itself.

    All bits if the order is another, as in no dictionary that began as a copy of DEFAULTS.
    """
    cdef uint64_t given = 0, bit = 1
    cdef Py_ssize_t place = 0, default_place = 0
    cdef PyObject *name
    cdef PyObject *value
    cdef PyObject *default_name
    cdef PyObject *default
    while PyDict_Next(defaults, &default_place, &default_name, &default):
        if not PyDict_Next(keywords, &place, &name, &value) or name != default_name:
            return <uint64_t> -1
        if value != default:
            given |= bit
        bit <<= 1
    return given


cdef uint64_t bits_of(object names) except *:
    """Those of the keywords with these names."""
    cdef uint64_t bits = 0, bit = 1
    for name in NAMES:
        if bit == 0:
            raise ImportError("more keywords than an integer has bits")
        if name in names:
            bits |= bit
        bit <<= 1
    return bits


def is_own(query, key, value, dict keywords not None):
    """Whether torch need not know of a call with these tensors; False leaves it to `mfa._tensors` to say why."""
    cdef TorchState state
    cdef uint64_t given
    cdef PyObject *name
    cdef PyObject *operand
    cdef Py_ssize_t place = 0
    if not is_plain_type(type(query)):
        return False
    ask(&state)
    if not state.plain or state.casts:
        return False
    if is_odd(query, &state) or is_odd(key, &state) or is_odd(value, &state):
        return False
    given = given_of(keywords)
    while given and PyDict_Next(keywords, &place, &name, &operand):
        if given & 1 and is_odd(<object> operand, &state):
            return False
        given >>= 1
    return True


cdef bint is_odd(object operand, TorchState *state) except -1:
    """Whether it is a tensor of which there is more to say than where its numbers are."""
    if is_plain_type(type(operand)):
        return state.records and operand.requires_grad
    return is_tensor(operand)
