"""From Python arrays to C tensors, without a copy wherever one can be avoided."""

import ml_dtypes
import numpy

from cpython.buffer cimport PyBUF_STRIDES, Py_buffer, PyBuffer_ToContiguous
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.stdint cimport int64_t, uintptr_t

from mfa._exchange cimport TorchState, describe_new, new_tensor
from mfa._memory cimport Memory, refuse_masked
from mfa._status cimport check
from mfa.c_mfa cimport (
    MFA_PRECISION_BF16,
    MFA_PRECISION_BOOL,
    MFA_PRECISION_DEFAULT,
    MFA_PRECISION_FP16,
    MFA_PRECISION_FP32,
    MFA_PRECISION_INT32,
    mfa_buffer_from_mtl_buffer,
    mfa_context_t,
    mfa_destroy_buffer,
    mfa_tensor_init,
    mfa_tensor_t,
)

from mfa._dtypes import wrong_dtype
from mfa._messages import because
from mfa._tensors import new_array

cdef object ndarray = numpy.ndarray
cdef object FLOAT32 = numpy.dtype(numpy.float32)
cdef object BFLOAT16 = numpy.dtype(ml_dtypes.bfloat16)
cdef dict DTYPE_NAMES = {
    MFA_PRECISION_FP32: "float32",
    MFA_PRECISION_FP16: "float16",
    MFA_PRECISION_BF16: "bfloat16",
    MFA_PRECISION_BOOL: "bool",
    MFA_PRECISION_INT32: "int32",
}
cdef dict NUMPY_DTYPES = {
    MFA_PRECISION_FP32: FLOAT32,
    MFA_PRECISION_FP16: numpy.dtype(numpy.float16),
    MFA_PRECISION_BF16: BFLOAT16,
}
cdef dict EXPECTED_DTYPES = {
    FLOATS: "float32, float16 or bfloat16",
    FLOATS_OR_BOOL: "float32, float16, bfloat16 or bool",
    ONLY_FLOAT32: "float32",
    AS_FLOAT32: "a floating one",
    ONLY_INT32: "int32",
    ONLY_BOOL: "bool",
}
# Of arrays with a number for each head; others say how many axes they have.
cdef dict EXPECTED_AXES = {(1, 1): "(heads)", (1, 2): "(heads) or (batch, heads)"}


cdef str dtype_name(int precision):
    return DTYPE_NAMES[precision]


cdef class Operand(Memory):

    def __dealloc__(self):
        PyMem_RawFree(self.copy)
        mfa_destroy_buffer(self.buffer)

    cdef int describe(self, bint writable, uintptr_t stand_in) except -1:
        cdef int64_t[4] strides  # in bytes; zero where it is never followed
        cdef int64_t size = self.itemsize
        cdef bint odd_strides = False
        cdef bint empty = False
        cdef int i, axis
        self.tensor = mfa_tensor_init()
        self.tensor.precision = self.precision
        for axis in range(4):
            i = axis + self.ndim - 4
            self.tensor.shape[axis] = 1 if i < 0 else self.extent(i)
            strides[axis] = 0 if self.tensor.shape[axis] <= 1 else self.stride(i)
            self.tensor.stride[axis] = strides[axis] // size
            odd_strides |= strides[axis] % size != 0
            empty |= self.tensor.shape[axis] == 0
        if empty:
            return 0
        if self.on_metal:
            self.tensor.byte_offset = self.dlpack.byte_offset
            return 0
        self.tensor.data = self.data
        if odd_strides or <uintptr_t> self.data % <uintptr_t> size:
            if writable:
                raise BufferError(
                    f"{self.name}: address or strides are not multiples of the item size {size}, "
                    "expected memory that can be written element by element")
            self.copy_elements(strides, stand_in)
        return 0

    cdef int wrap(self, mfa_context_t context) except -1:
        """Have the tensor name the Metal buffer that it is in, as `context` knows it."""
        if self.on_metal and self.data != NULL:
            mfa_destroy_buffer(self.buffer)
            self.buffer = self.tensor.buffer = NULL
            try:
                check(mfa_buffer_from_mtl_buffer(context, self.data, &self.buffer))
            except ValueError as error:
                raise BufferError(f"{self.name}: {because(error)}") from error
            self.tensor.buffer = self.buffer
        return 0

    cdef int copy_elements(self, int64_t *strides, uintptr_t stand_in) except -1:
        """Replace the memory by an aligned copy, in which what was broadcast still is."""
        cdef Py_ssize_t[4] kept_shape, kept_strides
        cdef Py_buffer kept = self.view
        cdef int64_t stride = 1
        cdef int axis
        for axis in range(3, -1, -1):
            kept_shape[axis] = self.tensor.shape[axis] if strides[axis] != 0 else 1
            kept_strides[axis] = strides[axis]
            self.tensor.stride[axis] = stride if strides[axis] != 0 else 0
            stride *= kept_shape[axis]
        kept.buf = self.data
        kept.ndim = 4
        kept.itemsize = self.itemsize
        kept.shape = kept_shape
        kept.strides = kept_strides
        kept.suboffsets = NULL
        kept.len = stride * self.itemsize
        if stand_in:
            self.tensor.data = <void *> stand_in
            return 0
        self.copy = PyMem_RawMalloc(kept.len)
        if self.copy == NULL:
            raise MemoryError(f"{kept.len} bytes for an aligned copy")
        PyBuffer_ToContiguous(self.copy, &kept, kept.len, b"C")
        self.tensor.data = self.copy
        return 0

    cdef void describe_absent(self, tuple shape, int precision, uintptr_t stand_in) noexcept:
        """What a new array of that shape would be, without its memory."""
        cdef int64_t stride = 1
        cdef int axis
        self.ndim = len(shape)
        self.tensor = mfa_tensor_init()
        self.tensor.precision = precision
        for axis in range(3, -1, -1):
            self.tensor.shape[axis] = shape[axis + self.ndim - 4] if axis + self.ndim >= 4 else 1
            self.tensor.stride[axis] = stride
            stride *= self.tensor.shape[axis]
        self.tensor.data = <void *> stand_in

    cdef tuple given_shape(self):
        cdef int64_t *shape = self.tensor.shape
        return (shape[0], shape[1], shape[2], shape[3])[4 - self.ndim:]

    cdef void take_halves(self, int64_t columns) noexcept:
        """Bytes side by side become two codes each, the last of a row perhaps one."""
        cdef mfa_tensor_t *tensor = &self.tensor
        cdef int axis
        for axis in range(3):
            tensor.stride[axis] *= 2
        tensor.shape[3], tensor.stride[3] = columns, 1

    cdef void append_unit_axes(self, int count) noexcept:
        """Moves the sizes of an array that has only 4 - count axes to the front."""
        cdef mfa_tensor_t *tensor = &self.tensor
        cdef int axis
        for axis in range(4):
            tensor.shape[axis] = tensor.shape[axis + count] if axis + count < 4 else 1
            tensor.stride[axis] = tensor.stride[axis + count] if axis + count < 4 else 0

    cdef void swap_rows_and_heads(self) noexcept:
        cdef mfa_tensor_t *tensor = &self.tensor
        tensor.shape[1], tensor.shape[2] = tensor.shape[2], tensor.shape[1]
        tensor.stride[1], tensor.stride[2] = tensor.stride[2], tensor.stride[1]


cdef bint accepts(Elements accepted, int precision) noexcept:
    if accepted == ONLY_FLOAT32 or accepted == AS_FLOAT32:
        return precision == MFA_PRECISION_FP32
    if accepted == ONLY_INT32 or precision == MFA_PRECISION_INT32:
        return accepted == ONLY_INT32 and precision == MFA_PRECISION_INT32
    if accepted == ONLY_BOOL or precision == MFA_PRECISION_BOOL:
        return accepted != FLOATS and precision == MFA_PRECISION_BOOL
    return precision != MFA_PRECISION_DEFAULT


cdef Operand load_operand(
        object array, str name, Elements accepted, int min_ndim, int max_ndim, bint writable,
        uintptr_t stand_in, TorchState *state, str axes=None):
    """Describe `array`, whose memory the result keeps; `state` is the call's, `axes` are their names.

    An input whose address or strides are not multiples of its item size is copied, or described as its copy
    would be at the address `stand_in` if that is not 0; an output is refused.
    """
    cdef Operand operand = Operand.__new__(Operand)
    if type(array) is not ndarray:
        refuse_masked(array, name)
    operand.takes_metal = True
    operand.hold(array, name, writable, state)
    if not accepts(accepted, operand.precision):
        if accepted == AS_FLOAT32 and is_floating(operand.numpy_dtype()):
            numbers = array.float() if operand.on_metal else operand.as_ndarray().astype(FLOAT32)
            operand = load_operand(numbers, name, ONLY_FLOAT32, min_ndim, max_ndim, False, 0, state)
            operand.array = array
            return operand
        dtype = DTYPE_NAMES.get(operand.precision) or operand.dtype()
        raise TypeError(wrong_dtype(name, array, dtype, EXPECTED_DTYPES[accepted]))
    if not min_ndim <= operand.ndim <= max_ndim:
        expected = EXPECTED_AXES.get((min_ndim, max_ndim))
        if expected is None or accepted == ONLY_INT32:
            expected = f"{min_ndim}" if min_ndim == max_ndim else f"{min_ndim} to {max_ndim}"
        if operand.ndim > 4 and max_ndim == 4:
            expected = "at most 4"
        if axes is not None:
            expected += f", {axes}"
        raise ValueError(f"{name}: {operand.ndim} dimensions, expected {expected}")
    if writable:
        operand.require_writable()
    operand.describe(writable, stand_in)
    return operand


cdef Operand load_known(object array, str name, int precision, bint writable, uintptr_t stand_in):
    """Describe an ndarray whose precision and axes have been looked at."""
    cdef Operand operand = Operand.__new__(Operand)
    operand.name = name
    operand.array = array
    operand.precision = precision
    operand.hold_buffer(array, PyBUF_STRIDES)
    if writable:
        operand.require_writable()
    operand.describe(writable, stand_in)
    return operand


cdef Operand load_new(object like, tuple shape, int precision, bint heads_inside, bint on_metal):
    """A new array of the kind of `like`, as `mfa._tensors.new_array` says."""
    cdef Operand operand = Operand.__new__(Operand)
    operand.name = "result"
    operand.precision = precision
    operand.takes_metal = on_metal
    operand.array = None if on_metal else new_tensor(like, shape, precision, heads_inside)
    if operand.array is not None:
        describe_new(operand.array, &operand.plain)
        operand.hold_plain()
    else:
        operand.array = new_array(like, shape, NUMPY_DTYPES[precision], heads_inside)
        operand.hold_whatever(operand.array, True, False)
    operand.describe(True, 0)
    return operand


cdef bint is_floating(object dtype) except -1:
    return dtype is not None and (dtype.kind == "f" or dtype == BFLOAT16)
