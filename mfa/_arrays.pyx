"""From Python arrays to C tensors, through the buffer protocol or DLPack, without a copy wherever one can be
avoided."""

import re
import sys

import ml_dtypes
import numpy

from cpython.buffer cimport (
    PyBUF_FORMAT,
    PyBUF_SIMPLE,
    PyBUF_STRIDES,
    PyBuffer_Release,
    PyBuffer_ToContiguous,
    PyObject_CheckBuffer,
    PyObject_GetBuffer,
)
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid, PyCapsule_SetName
from libc.stdint cimport int64_t, uintptr_t

from mfa._dlpack cimport (
    DLPACK_FLAG_IS_COPIED,
    DLPACK_FLAG_READ_ONLY,
    DLPACK_MAJOR_VERSION,
    DLPACK_MINOR_VERSION,
    DLDataType,
    DLManagedTensor,
    DLManagedTensorVersioned,
    DLTensor,
    kDLBfloat,
    kDLBool,
    kDLCPU,
    kDLFloat,
)
from mfa.c_mfa cimport (
    MFA_PRECISION_BF16,
    MFA_PRECISION_BOOL,
    MFA_PRECISION_DEFAULT,
    MFA_PRECISION_FP16,
    MFA_PRECISION_FP32,
    mfa_tensor_init,
)

from mfa._numpy import plain_tensor, refuse_masked

cdef object ndarray = numpy.ndarray
cdef object FLOAT32 = numpy.dtype(numpy.float32)
cdef object FLOAT16 = numpy.dtype(numpy.float16)
cdef object BFLOAT16 = numpy.dtype(ml_dtypes.bfloat16)
cdef object BOOL = numpy.dtype(numpy.bool_)
cdef dict DTYPE_NAMES = {
    MFA_PRECISION_FP32: "float32",
    MFA_PRECISION_FP16: "float16",
    MFA_PRECISION_BF16: "bfloat16",
    MFA_PRECISION_BOOL: "bool",
}
cdef dict EXPECTED_DTYPES = {
    FLOATS: "float32, float16 or bfloat16",
    FLOATS_OR_BOOL: "float32, float16 or bfloat16 or bool",
    ONLY_FLOAT32: "float32",
}
cdef dict MAX_VERSION = {"max_version": (DLPACK_MAJOR_VERSION, DLPACK_MINOR_VERSION)}


cdef inline int64_t item_size(int precision) noexcept:
    if precision == MFA_PRECISION_FP32:
        return 4
    return 1 if precision == MFA_PRECISION_BOOL else 2


cdef object loaded_torch():
    """The torch module if somebody imported it, else None: a tensor cannot exist without it."""
    torch = sys.modules.get("torch")
    return torch if hasattr(torch, "Tensor") else None


cdef class Memory:

    def __dealloc__(self):
        PyBuffer_Release(&self.view)  # does nothing where no view was taken
        if self.legacy != NULL and self.legacy.deleter != NULL:
            self.legacy.deleter(self.legacy)
        if self.versioned != NULL and self.versioned.deleter != NULL:
            self.versioned.deleter(self.versioned)

    cdef int hold_buffer(self, object array, str name, int flags) except -1:
        try:
            PyObject_GetBuffer(array, &self.view, flags)
        except (BufferError, ValueError) as error:
            raise BufferError(f"{name}: {error}") from error
        return 0

    cdef int hold_dlpack(self, object array, str name, bint in_place) except -1:
        torch = loaded_torch()
        if torch is not None and isinstance(array, torch.Tensor):
            return self.hold_capsule(torch_capsule(torch, array, name, in_place), name)
        device_type, device_id = array.__dlpack_device__()
        if device_type != kDLCPU:
            raise BufferError(
                f"{name}: on DLPack device ({int(device_type)}, {int(device_id)}), "
                f"expected the CPU ({kDLCPU}, 0)")
        try:
            try:
                capsule = array.__dlpack__(**MAX_VERSION)
            except TypeError:
                # Producers older than DLPack 1.0 do not take the keyword.
                capsule = array.__dlpack__()
        except BufferError as error:
            raise BufferError(f"{name}: {error}") from error
        return self.hold_capsule(capsule, name)

    cdef int hold_capsule(self, object capsule, str name) except -1:
        # Renaming the capsule moves the duty to call the deleter from it to this object.
        if PyCapsule_IsValid(capsule, "dltensor_versioned"):
            self.versioned = <DLManagedTensorVersioned *> PyCapsule_GetPointer(capsule, "dltensor_versioned")
            PyCapsule_SetName(capsule, "used_dltensor_versioned")
            if self.versioned.version.major > DLPACK_MAJOR_VERSION:
                raise BufferError(
                    f"{name}: DLPack version {self.versioned.version.major}, "
                    f"expected at most {DLPACK_MAJOR_VERSION}")
        elif PyCapsule_IsValid(capsule, "dltensor"):
            self.legacy = <DLManagedTensor *> PyCapsule_GetPointer(capsule, "dltensor")
            PyCapsule_SetName(capsule, "used_dltensor")
        else:
            raise BufferError(f"{name}: __dlpack__ returned {capsule!r}, expected an unused DLPack capsule")
        if self.dlpack().device.device_type != kDLCPU:
            raise BufferError(
                f"{name}: on DLPack device type {self.dlpack().device.device_type}, "
                f"expected the CPU ({kDLCPU})")
        return 0

    cdef int require_original(self, str name) except -1:
        if self.versioned != NULL and self.versioned.flags & DLPACK_FLAG_IS_COPIED:
            raise BufferError(f"{name}: was exported as a copy, expected the array's own memory")
        return 0

    cdef DLTensor *dlpack(self) noexcept:
        if self.versioned != NULL:
            return &self.versioned.dl_tensor
        return &self.legacy.dl_tensor


cdef object torch_capsule(object torch, object tensor, str name, bint in_place):
    if not tensor.is_cpu:
        raise BufferError(f"{name}: on device {tensor.device}, expected cpu")
    tensor = plain_tensor(tensor, name)
    if in_place and tensor.is_conj():
        raise BufferError(f"{name}: has its conjugate bit set, expected plain memory")
    if tensor.is_neg():
        if in_place:
            raise BufferError(f"{name}: has its negative bit set, expected plain memory")
        tensor = tensor.resolve_neg()
    try:
        return torch.utils.dlpack.to_dlpack(tensor)
    except (BufferError, RuntimeError) as error:
        raise BufferError(f"{name}: {error}") from error


cdef class Operand(Memory):

    def __dealloc__(self):
        PyMem_RawFree(self.copy)

    cdef int describe_view(self, str name, int precision, bint writable, uintptr_t stand_in) except -1:
        cdef int64_t size = item_size(precision)
        cdef int64_t extent
        cdef int64_t compact = size
        cdef int64_t[4] shape, strides  # in bytes; zero where it is never followed
        cdef bint odd_strides = False
        cdef bint empty = False
        cdef int i, axis
        self.ndim = self.view.ndim
        if self.ndim > 4:
            raise ValueError(f"{name}: {self.ndim} dimensions, expected at most 4")
        if self.ndim > 0 and self.view.shape == NULL:
            raise BufferError(f"{name}: exports no shape, expected one of {self.ndim} dimensions")
        if writable and self.view.readonly:
            raise BufferError(f"{name}: is read-only, expected writable memory")
        for axis in range(4):
            shape[axis] = 1
            strides[axis] = 0
        for i in range(self.ndim - 1, -1, -1):
            axis = 4 - self.ndim + i
            extent = self.view.shape[i]
            shape[axis] = extent
            empty |= extent == 0
            if extent > 1:
                # Exporters of C-contiguous memory, such as ctypes, may leave strides out.
                strides[axis] = compact if self.view.strides == NULL else self.view.strides[i]
                odd_strides |= strides[axis] % size != 0
            compact *= extent
        self.tensor = mfa_tensor_init()
        self.tensor.precision = precision
        self.tensor.data = NULL if empty else self.view.buf
        for axis in range(4):
            self.tensor.shape[axis] = shape[axis]
            self.tensor.stride[axis] = strides[axis] // size
        if not empty and (odd_strides or <uintptr_t> self.view.buf % <uintptr_t> size):
            if writable:
                raise BufferError(
                    f"{name}: address or strides are not multiples of the item size {size}, "
                    "expected memory that can be written element by element")
            self.copy_view(strides, size, stand_in)
        return 0

    cdef int copy_view(self, int64_t *strides, int64_t size, uintptr_t stand_in) except -1:
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
        kept.ndim = 4
        kept.itemsize = size
        kept.shape = kept_shape
        kept.strides = kept_strides
        kept.suboffsets = NULL
        kept.len = stride * size
        if stand_in:
            self.tensor.data = <void *> stand_in
            return 0
        self.copy = PyMem_RawMalloc(kept.len)
        if self.copy == NULL:
            raise MemoryError(f"{kept.len} bytes for an aligned copy")
        PyBuffer_ToContiguous(self.copy, &kept, kept.len, b"C")
        self.tensor.data = self.copy
        return 0

    cdef int describe_absent(self, tuple shape, int precision, uintptr_t stand_in) except -1:
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
        return 0

    cdef int describe_dlpack(self, str name, int accepted, bint writable) except -1:
        cdef DLTensor *source = self.dlpack()
        cdef int precision = dlpack_precision(source.dtype)
        cdef int64_t compact = 1
        cdef bint empty = False
        cdef int i, axis
        if precision == MFA_PRECISION_DEFAULT:
            raise wrong_dtype(name, dlpack_dtype_name(source.dtype), accepted)
        self.ndim = source.ndim
        if self.ndim > 4:
            raise ValueError(f"{name}: {self.ndim} dimensions, expected at most 4")
        if writable and self.versioned != NULL:
            if self.versioned.flags & DLPACK_FLAG_READ_ONLY:
                raise BufferError(f"{name}: is read-only, expected writable memory")
            self.require_original(name)
        self.tensor = mfa_tensor_init()
        self.tensor.precision = precision
        self.tensor.data = <char *> source.data + source.byte_offset
        for i in range(4):
            self.tensor.shape[i] = 1
        for i in range(self.ndim - 1, -1, -1):
            axis = 4 - self.ndim + i
            self.tensor.shape[axis] = source.shape[i]
            if source.shape[i] > 1:
                self.tensor.stride[axis] = compact if source.strides == NULL else source.strides[i]
            empty |= source.shape[i] == 0
            compact *= source.shape[i]
        if empty:
            self.tensor.data = NULL
        elif <uintptr_t> self.tensor.data % <uintptr_t> item_size(precision):
            raise BufferError(f"{name}: address is not a multiple of the item size {item_size(precision)}")
        return 0


cdef int dlpack_precision(DLDataType dtype) noexcept:
    if dtype.lanes != 1:
        return MFA_PRECISION_DEFAULT
    if dtype.code == kDLFloat and dtype.bits == 32:
        return MFA_PRECISION_FP32
    if dtype.code == kDLFloat and dtype.bits == 16:
        return MFA_PRECISION_FP16
    if dtype.code == kDLBfloat and dtype.bits == 16:
        return MFA_PRECISION_BF16
    if dtype.code == kDLBool and dtype.bits == 8:
        return MFA_PRECISION_BOOL
    return MFA_PRECISION_DEFAULT


cdef str dlpack_dtype_name(DLDataType dtype):
    kinds = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 5: "complex", 6: "bool"}
    kind = kinds.get(dtype.code, f"DLPack code {dtype.code}, bits ")
    return f"{kind}{dtype.bits}" + (f" with {dtype.lanes} lanes" if dtype.lanes != 1 else "")


cdef int dtype_precision(object dtype) except -2:
    if dtype is FLOAT32:
        return MFA_PRECISION_FP32
    if dtype is FLOAT16:
        return MFA_PRECISION_FP16
    if dtype is BFLOAT16:
        return MFA_PRECISION_BF16
    if dtype is BOOL:
        return MFA_PRECISION_BOOL
    # An equal dtype that is not the singleton, such as one with metadata.
    if dtype == FLOAT32:
        return MFA_PRECISION_FP32
    if dtype == FLOAT16:
        return MFA_PRECISION_FP16
    if dtype == BFLOAT16:
        return MFA_PRECISION_BF16
    if dtype == BOOL:
        return MFA_PRECISION_BOOL
    return MFA_PRECISION_DEFAULT


cdef int format_precision(const char *format) except -2:
    text = "B" if format == NULL else format.decode("ascii", "replace")
    if text[0] in "@=" or text[0] == ("<" if sys.byteorder == "little" else ">"):
        text = text[1:]
    if text == "f":
        return MFA_PRECISION_FP32
    if text == "e":
        return MFA_PRECISION_FP16
    if text == "?":
        return MFA_PRECISION_BOOL
    return MFA_PRECISION_DEFAULT


cdef str dtype_name(int precision):
    return DTYPE_NAMES[precision]


cdef bint accepts(int accepted, int precision) noexcept:
    if precision == MFA_PRECISION_BOOL:
        return accepted == FLOATS_OR_BOOL
    return precision == MFA_PRECISION_FP32 or accepted != ONLY_FLOAT32


cdef object wrong_dtype(str name, object dtype, int accepted):
    expected = EXPECTED_DTYPES[accepted]
    return TypeError(f"{name}: dtype {dtype}, expected {expected} in native byte order")


cdef Operand load_operand(
        object array, str name, int accepted, int min_ndim, int max_ndim, bint writable,
        uintptr_t stand_in):
    """Describe `array`, whose memory the result keeps.

    An input whose address or strides are not multiples of its item size is copied, or described as its copy
    would be at the address `stand_in` if that is not 0; an output is refused.
    """
    cdef Operand operand = Operand.__new__(Operand)
    cdef int precision
    operand.array = array
    if isinstance(array, ndarray):
        if type(array) is not ndarray:
            refuse_masked(array, name)
        precision = dtype_precision(array.dtype)
        if precision == MFA_PRECISION_DEFAULT:
            raise wrong_dtype(name, array.dtype, accepted)
        # NumPy has no buffer format for bfloat16, and leaving formats out is faster.
        operand.hold_buffer(array, name, PyBUF_STRIDES)
        operand.describe_view(name, precision, writable, stand_in)
    elif hasattr(array, "__dlpack__"):
        operand.hold_dlpack(array, name, writable)
        operand.describe_dlpack(name, accepted, writable)
    elif PyObject_CheckBuffer(array):
        operand.hold_buffer(array, name, PyBUF_STRIDES | PyBUF_FORMAT)
        precision = format_precision(operand.view.format)
        if precision == MFA_PRECISION_DEFAULT:
            raise wrong_dtype(name, memoryview(array).format, accepted)
        operand.describe_view(name, precision, writable, stand_in)
    else:
        raise TypeError(
            f"{name}: {type(array).__name__}, expected an array with the buffer protocol or DLPack")
    if not accepts(accepted, operand.tensor.precision):
        raise wrong_dtype(name, dtype_name(operand.tensor.precision), accepted)
    if not min_ndim <= operand.ndim <= max_ndim:
        expected = f"{min_ndim}" if min_ndim == max_ndim else f"{min_ndim} to {max_ndim}"
        raise ValueError(f"{name}: {operand.ndim} dimensions, expected {expected}")
    return operand


cdef Bytes load_bytes(object array, str name):
    """The memory of a C-contiguous array of any dtype but objects, never copied."""
    cdef Bytes run = Bytes.__new__(Bytes)
    cdef DLTensor *source
    cdef int64_t items = 1
    cdef int i
    if PyObject_CheckBuffer(array):
        if holds_objects(array):
            raise TypeError(f"{name}: holds Python objects, expected numbers or bytes")
        run.hold_buffer(array, name, PyBUF_SIMPLE)
        run.data = run.view.buf
        run.nbytes = run.view.len
        run.read_only = run.view.readonly
        return run
    if not hasattr(array, "__dlpack__"):
        raise TypeError(
            f"{name}: {type(array).__name__}, "
            "expected a size or an object with the buffer protocol or DLPack")
    run.hold_dlpack(array, name, True)
    run.require_original(name)
    source = run.dlpack()
    for i in range(source.ndim - 1, -1, -1):
        if source.strides != NULL and source.shape[i] > 1 and source.strides[i] != items:
            raise BufferError(f"{name}: is not C-contiguous, expected one run of bytes")
        items *= source.shape[i]
    run.data = <char *> source.data + source.byte_offset
    run.nbytes = items * ((source.dtype.bits * source.dtype.lanes + 7) // 8)
    run.read_only = run.versioned != NULL and run.versioned.flags & DLPACK_FLAG_READ_ONLY != 0
    return run


cdef bint holds_objects(object array) except -1:
    if isinstance(array, ndarray):
        return array.dtype.hasobject
    # Names of fields stand between colons.
    return "O" in re.sub(":[^:]*:", "", memoryview(array).format)
