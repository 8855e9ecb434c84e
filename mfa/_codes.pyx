"""QuantizedTensors as the library takes them."""

from libc.stdint cimport int64_t, uintptr_t

from mfa._arrays cimport Operand, load_known
from mfa.c_mfa cimport (
    MFA_PRECISION_FP16,
    MFA_PRECISION_FP32,
    MFA_PRECISION_INT4,
    MFA_PRECISION_INT8,
    MFA_PRECISION_INT32,
    MFA_PRECISION_UINT4,
    MFA_PRECISION_UINT8,
    mfa_quantization_init,
)

cdef dict PRECISIONS = {
    "int8": MFA_PRECISION_INT8,
    "uint8": MFA_PRECISION_UINT8,
    "int4": MFA_PRECISION_INT4,
    "uint4": MFA_PRECISION_UINT4,
}
# Between the addresses that stand for copies of parts.
cdef uintptr_t APART = (<uintptr_t> 1) << 54


cdef class Codes:
    pass


cdef Codes load_codes(object tensor, str name, Written written, uintptr_t stand_in):
    """Describe a QuantizedTensor, which has looked at its own dtypes and shapes.

    `stand_in` is an address for what would be copied, as in load_operand().
    """
    cdef Codes loaded = Codes.__new__(Codes)
    cdef bint heads_first = tensor.layout == "bhsd"
    cdef int precision = PRECISIONS[tensor.precision]
    cdef object array = tensor.scales
    loaded.codes = load_known(tensor.data, name, precision, written >= ONLY_CODES, stand_in)
    if precision == MFA_PRECISION_INT4 or precision == MFA_PRECISION_UINT4:
        require_bytes(loaded.codes, tensor)
        loaded.codes.take_halves(tensor.shape[-1])
    loaded.quantization = mfa_quantization_init()
    loaded.quantization.rows, loaded.quantization.columns = tensor.rows, tensor.columns
    loaded.scales = load_known(
        array, f"{name}.scales", MFA_PRECISION_FP32 if array.dtype.itemsize == 4 else MFA_PRECISION_FP16,
        written >= CODES_AND_SCALES, stand_in)
    loaded.quantization.scales = &loaded.scales.tensor
    array = tensor.zero_points
    if array is not None:
        loaded.zero_points = load_known(
            array, f"{name}.zero_points", whole_precision(array.dtype), written >= CODES_AND_SCALES,
            stand_in + APART if stand_in else 0)
        loaded.quantization.zero_points = &loaded.zero_points.tensor
    array = tensor.mean
    if array is not None:
        loaded.mean = load_known(
            array, f"{name}.mean", MFA_PRECISION_FP32, written >= ALL_PARTS,
            stand_in + 2 * APART if stand_in else 0)
        loaded.quantization.mean = &loaded.mean.tensor
    if not heads_first:
        swap_all(loaded)
    return loaded


cdef int require_bytes(Operand codes, object tensor) except -1:
    """An ndarray's shape can be set, and what is taken for rows of other lengths would end behind its memory."""
    cdef int64_t expected = (<int64_t> tensor.shape[-1] + 1) // 2
    if codes.tensor.shape[3] != expected:
        raise ValueError(
            f"{codes.name}.data: shape {codes.given_shape()} by now, expected rows of {expected} bytes")
    return 0


cdef void swap_all(Codes loaded) noexcept:
    loaded.codes.swap_rows_and_heads()
    loaded.scales.swap_rows_and_heads()
    if loaded.zero_points is not None:
        loaded.zero_points.swap_rows_and_heads()
    if loaded.mean is not None:
        loaded.mean.swap_rows_and_heads()


cdef int whole_precision(object dtype) except -2:
    if dtype.itemsize == 4:
        return MFA_PRECISION_INT32
    return MFA_PRECISION_INT8 if dtype.kind == "i" else MFA_PRECISION_UINT8
