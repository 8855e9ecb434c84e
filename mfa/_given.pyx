"""What a call gives: one walk over its keywords, instead of a question for each of the many that it does not give."""

from cpython.dict cimport PyDict_Next
from cpython.ref cimport PyObject
from libc.stdint cimport uint64_t

from mfa._exchange cimport TorchState, ask, is_plain_type

from mfa._attention_keywords import DEFAULTS, HEADS_FIRST
from mfa._tensors import is_tensor

cdef dict defaults = DEFAULTS
cdef dict heads_first = HEADS_FIRST
cdef list NAMES = list(DEFAULTS)
cdef uint64_t LAYOUT = bits_of(("layout",))


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
    if keywords is defaults:
        return 0
    if keywords is heads_first:
        return LAYOUT
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


cdef Concern concern(
        object query, object key, object value, dict keywords, uint64_t given, TorchState *state) except? ASK:
    """What torch need know of a call, `given` being what given_of() says of its keywords."""
    if not is_plain_type(type(query)):
        return ASK if is_tensor(query) else OWN
    ask(state)
    if not state.plain or state.casts:
        return ASK
    if not has_odd(query, key, value, keywords, given, state):
        return OWN
    state.records = False  # what is odd then is so for another reason
    return ASK if has_odd(query, key, value, keywords, given, state) else RECORDED


cdef bint has_odd(
        object query, object key, object value, dict keywords, uint64_t given, TorchState *state) except -1:
    cdef PyObject *name
    cdef PyObject *operand
    cdef Py_ssize_t place = 0
    if is_odd(query, state) or is_odd(key, state) or is_odd(value, state):
        return True
    while given and PyDict_Next(keywords, &place, &name, &operand):
        if given & 1 and is_odd(<object> operand, state):
            return True
        given >>= 1
    return False


cdef bint is_odd(object operand, TorchState *state) except -1:
    """Whether it is a tensor of which there is more to say than where its numbers are."""
    if is_plain_type(type(operand)):
        return state.records and operand.requires_grad
    return is_tensor(operand)
