"""The call that quantises: an array becomes codes in memory that is there already."""

from mfa._arrays cimport FLOATS, Operand, load_operand
from mfa._codes cimport ALL_PARTS, ONLY_CODES, Codes, load_codes
from mfa._context cimport Context, default_context, known_context
from mfa._exchange cimport TorchState
from mfa._status cimport check
from mfa.c_mfa cimport (
    MFA_QUANTIZE_SATURATE,
    MFA_QUANTIZE_STATIC,
    mfa_context_t,
    mfa_quantize,
    mfa_quantize_desc_init,
    mfa_quantize_desc_t,
    mfa_status_t,
)


def fill(x not None, tensor not None, *, bint is_static, bint saturate, object context=None):
    """Quantise an ndarray into the arrays of a QuantizedTensor of its shape, whose scales count if static."""
    cdef int ndim = x.ndim
    cdef TorchState state = [False, False, False, False]
    cdef Operand source = load_operand(x, "x", FLOATS, ndim, ndim, False, 0, &state)
    cdef Codes codes = load_codes(tensor, "codes", ONLY_CODES if is_static else ALL_PARTS, 0)
    cdef mfa_quantize_desc_t desc = mfa_quantize_desc_init()
    cdef mfa_context_t handle
    cdef mfa_status_t status
    if tensor.layout == "bshd":
        source.swap_rows_and_heads()
    desc.input = &source.tensor
    desc.codes = &codes.codes.tensor
    desc.quantization = &codes.quantization
    desc.flags = (MFA_QUANTIZE_STATIC if is_static else 0) | (MFA_QUANTIZE_SATURATE if saturate else 0)
    cdef Context running = known_context(context) or default_context()
    handle = running.acquire()
    with nogil:
        status = mfa_quantize(handle, &desc)
    running.release()
    check(status, {}, tensor.layout, ndim)
