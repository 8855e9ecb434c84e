"""The one way to any array's memory, where it lies: the buffer protocol, DLPack or torch."""

import sys

import ml_dtypes
import numpy

cimport cython
from cpython.buffer cimport (
    PyBUF_FORMAT,
    PyBUF_STRIDES,
    PyBuffer_Release,
    PyObject_CheckBuffer,
    PyObject_GetBuffer,
)
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid, PyCapsule_SetName
from libc.stdint cimport INT64_MAX, int64_t, uint64_t, uintptr_t

from mfa._dlpack cimport (
    DLPACK_FLAG_IS_COPIED,
    DLPACK_FLAG_READ_ONLY,
    DLPACK_MAJOR_VERSION,
    DLDataType,
    DLManagedTensor,
    DLManagedTensorVersioned,
    DLTensor,
    kDLBfloat,
    kDLBool,
    kDLCPU,
    kDLFloat,
    kDLInt,
    kDLMetal,
)
from mfa._exchange cimport TorchState, is_plain_type, read_tensor
from mfa.c_mfa cimport (
    MFA_PRECISION_BF16,
    MFA_PRECISION_BOOL,
    MFA_PRECISION_DEFAULT,
    MFA_PRECISION_FP16,
    MFA_PRECISION_FP32,
    MFA_PRECISION_INT32,
)

from mfa._messages import because, brief, kind, shown
from mfa._producers import dlpack_capsule, has_dlpack, is_elsewhere
from mfa._tensors import capsule_of, is_tensor, rank

cdef object ndarray = numpy.ndarray
cdef object MaskedArray = numpy.ma.MaskedArray
cdef object dtype_of = numpy.ndarray.dtype.__get__  # which no subclass can override
cdef object FLOAT32 = numpy.dtype(numpy.float32)
cdef object FLOAT16 = numpy.dtype(numpy.float16)
cdef object BFLOAT16 = numpy.dtype(ml_dtypes.bfloat16)
cdef object BOOL = numpy.dtype(numpy.bool_)
cdef object INT32 = numpy.dtype(numpy.int32)
# By DLPack's codes.
cdef dict SMALL_FLOATS = {
    7: "float8_e3m4",
    8: "float8_e4m3",
    9: "float8_e4m3b11fnuz",
    10: "float8_e4m3fn",
    11: "float8_e4m3fnuz",
    12: "float8_e5m2",
    13: "float8_e5m2fnuz",
    14: "float8_e8m0fnu",
    15: "float6_e2m3fn",
    16: "float6_e3m2fn",
    17: "float4_e2m1fn",
}
cdef enum:
    MOST_AXES = 64  # NumPy's limit too
    PLAIN_AXES = 4


# The garbage collector sees `array` and what `view` refers to, but must not take them away: __dealloc__ gives
# the view back. A circle through this object has a dict or the like, where it can be cut.
@cython.no_gc_clear
cdef class Memory:

    def __dealloc__(self):
        PyBuffer_Release(&self.view)  # does nothing where no view was taken
        if self.legacy != NULL and self.legacy.deleter != NULL:
            self.legacy.deleter(self.legacy)
        if self.versioned != NULL and self.versioned.deleter != NULL:
            self.versioned.deleter(self.versioned)

    cdef int hold(self, object array, str name, bint in_place, TorchState *state) except -1:
        """Take hold of the memory of `array`; `in_place` refuses what would be a copy."""
        self.name = name
        self.array = array
        if type(array) is not ndarray and read_tensor(array, state, &self.plain) and self.plain.ndim <= PLAIN_AXES:
            return self.hold_plain()
        return self.hold_whatever(array, in_place, False)

    cdef int hold_for_long(self, object array, str name) except -1:
        """As hold(), in place, for what callers keep, and to which `array` itself may refer."""
        self.name = name
        self.array = array
        return self.hold_whatever(array, True, True)

    cdef int hold_whatever(self, object array, bint in_place, bint for_long) except -1:
        cdef str name = self.name
        if isinstance(array, ndarray):
            # NumPy has no buffer format for bfloat16, and leaving formats out is faster.
            self.hold_buffer(array, PyBUF_STRIDES)
            self.precision = dtype_precision(array.dtype if type(array) is ndarray else dtype_of(array))
            return 0
        if is_tensor(array):
            return self.hold_dlpack(capsule_of(array, name, in_place, self.takes_metal))
        if has_dlpack(array) and not (PyObject_CheckBuffer(array) and is_elsewhere(array)):
            return self.hold_dlpack(dlpack_capsule(array, name))
        if PyObject_CheckBuffer(array):
            self.hold_buffer(array, PyBUF_STRIDES | PyBUF_FORMAT)
            self.precision = format_precision(self.view.format, self.itemsize)
            return 0
        expected = "a size or an object" if for_long else "an array"
        raise TypeError(f"{name}: {kind(array)}, expected {expected} with the buffer protocol or DLPack")

    cdef int hold_plain(self) except -1:
        """Take over what `plain` says. It borrowed sizes from a tensor, whose owner may change them meanwhile."""
        cdef int axis
        for axis in range(self.plain.ndim):
            self.plain_shape[axis] = self.plain.shape[axis]
            self.plain_strides[axis] = self.plain.strides[axis]
        self.plain.shape = self.plain_shape
        self.plain.strides = self.plain_strides
        self.dlpack = &self.plain
        return self.take_dlpack()

    cdef int hold_buffer(self, object array, int flags) except -1:
        try:
            PyObject_GetBuffer(array, &self.view, flags)
        except MemoryError:
            raise
        except Exception as error:
            raise BufferError(f"{self.name}: {because(error)}") from error
        self.ndim = self.view.ndim
        self.itemsize = self.view.itemsize
        self.data = <char *> self.view.buf
        self.read_only = self.view.readonly
        if self.ndim > 0 and self.view.shape == NULL:
            raise BufferError(f"{self.name}: exports no shape, expected one of {self.ndim} dimensions")
        return 0

    cdef int hold_dlpack(self, object capsule) except -1:
        # Renaming the capsule moves the duty to call the deleter from it to this object.
        if PyCapsule_IsValid(capsule, "dltensor_versioned"):
            self.versioned = <DLManagedTensorVersioned *> PyCapsule_GetPointer(capsule, "dltensor_versioned")
            PyCapsule_SetName(capsule, "used_dltensor_versioned")
            if self.versioned.version.major > DLPACK_MAJOR_VERSION:
                raise BufferError(
                    f"{self.name}: DLPack version {self.versioned.version.major}, "
                    f"expected at most {DLPACK_MAJOR_VERSION}")
            self.dlpack = &self.versioned.dl_tensor
            self.read_only = self.versioned.flags & DLPACK_FLAG_READ_ONLY != 0
            self.is_copy = self.versioned.flags & DLPACK_FLAG_IS_COPIED != 0
        elif PyCapsule_IsValid(capsule, "dltensor"):
            self.legacy = <DLManagedTensor *> PyCapsule_GetPointer(capsule, "dltensor")
            PyCapsule_SetName(capsule, "used_dltensor")
            self.dlpack = &self.legacy.dl_tensor
        else:
            raise BufferError(
                f"{self.name}: __dlpack__ returned {shown(capsule)}, expected an unused DLPack capsule")
        return self.take_dlpack()

    cdef int take_dlpack(self) except -1:
        self.require_true()
        self.precision = dlpack_precision(self.dlpack.dtype)
        self.ndim = self.dlpack.ndim
        self.itemsize = (self.dlpack.dtype.bits * self.dlpack.dtype.lanes + 7) // 8
        self.on_metal = self.dlpack.device.device_type == kDLMetal
        self.data = <char *> self.dlpack.data
        if not self.on_metal:
            self.data += self.dlpack.byte_offset
        return 0

    cdef int require_true(self) except -1:
        """Refuse what is true of no array, before anything follows from it."""
        cdef DLTensor *tensor = self.dlpack
        cdef int64_t largest_stride = INT64_MAX // (<int64_t> tensor.dtype.bits * tensor.dtype.lanes + 8)
        cdef bint empty = False
        cdef int axis
        if tensor.device.device_type != kDLCPU and not (self.takes_metal and tensor.device.device_type == kDLMetal):
            raise BufferError(
                f"{self.name}: on DLPack device type {tensor.device.device_type}, "
                f"expected the CPU ({kDLCPU})")
        if not 0 <= tensor.ndim <= MOST_AXES:
            raise BufferError(f"{self.name}: DLPack ndim {tensor.ndim}, expected 0 to {MOST_AXES}")
        if tensor.ndim > 0 and tensor.shape == NULL:
            raise BufferError(f"{self.name}: exports no shape, expected one of {tensor.ndim} dimensions")
        for axis in range(tensor.ndim):
            if tensor.shape[axis] < 0:
                raise BufferError(
                    f"{self.name}: DLPack shape with {tensor.shape[axis]}, expected sizes from 0 up")
            empty |= tensor.shape[axis] == 0
            if tensor.strides == NULL or tensor.shape[axis] == 1:
                continue
            if not -largest_stride < tensor.strides[axis] < largest_stride:
                raise BufferError(
                    f"{self.name}: DLPack stride {tensor.strides[axis]}, expected one within memory")
        if tensor.data == NULL and not empty:
            raise BufferError(f"{self.name}: DLPack data is NULL, expected memory")
        return 0

    cdef int require_writable(self) except -1:
        if self.read_only:
            raise BufferError(f"{self.name}: is read-only, expected writable memory")
        if self.is_copy:
            raise BufferError(f"{self.name}: was exported as a copy, expected the array's own memory")
        return 0

    cdef int64_t extent(self, int axis) noexcept:
        return self.dlpack.shape[axis] if self.dlpack != NULL else self.view.shape[axis]

    cdef int64_t stride(self, int axis) noexcept:
        """In bytes. Exporters of C-contiguous memory, such as ctypes, may leave strides out."""
        cdef uint64_t compact = self.itemsize
        cdef int later
        if self.dlpack != NULL and self.dlpack.strides != NULL:
            return self.dlpack.strides[axis] * self.itemsize
        if self.dlpack == NULL and self.view.strides != NULL:
            return self.view.strides[axis]
        for later in range(axis + 1, self.ndim):
            compact *= <uint64_t> self.extent(later)
        return <int64_t> compact

    cdef object dtype(self):
        """That of NumPy's arrays, or a name for what is none."""
        if self.dlpack != NULL:
            return dlpack_dtype_name(self.dlpack.dtype)
        if isinstance(self.array, ndarray):
            return dtype_of(self.array)
        return "B" if self.view.format == NULL else self.view.format.decode("ascii", "replace")

    cdef object numpy_dtype(self):
        """None for what NumPy has none for."""
        dtype = None
        try:
            dtype = numpy.dtype(self.dtype())
        except MemoryError:
            raise
        except Exception:  # what NumPy raises of text that is no dtype
            pass  # a return from here is a NULL followed, in Cython 3.3.1, if memory runs out
        return dtype if dtype is not None and dtype.itemsize == self.itemsize else None

    cdef object as_ndarray(self):
        if isinstance(self.array, ndarray):
            return numpy.asarray(self.array)
        return numpy.asarray(self).view(self.numpy_dtype())

    @property
    def __array_interface__(self):
        # Loops: where memory runs out, a comprehension of Cython's (3.3.1) gives an element back twice.
        shape, strides = [], []
        for axis in range(self.ndim):
            shape.append(self.extent(axis))
            strides.append(self.stride(axis))
        return {
            "version": 3,
            "typestr": f"|V{self.itemsize}",
            "data": (<uintptr_t> self.data, self.read_only),
            "shape": tuple(shape),
            "strides": tuple(strides),
        }


def as_ndarray(array, str name not None, bint writable=False):
    """An ndarray over the memory of `array`, which is to be written if `writable`.

    It may be kept: a tensor that is given other memory later does not take the ndarray's away.
    """
    cdef Memory memory
    if isinstance(array, ndarray) and not writable:
        if type(array) is ndarray:
            return array
        refuse_masked(array, name)
        return numpy.asarray(array)
    refuse_masked(array, name)
    memory = Memory.__new__(Memory)
    memory.name = name
    memory.array = array
    memory.hold_whatever(array, writable, False)
    if writable:
        memory.require_writable()
    if memory.numpy_dtype() is None:
        raise TypeError(f"{name}: dtype {brief(memory.dtype())}, expected one that NumPy knows")
    return memory.as_ndarray()


def known(array, str name not None):
    """`array` itself if it is NumPy's or torch's, which have a rank; else an ndarray over its memory."""
    return array if type(array) is ndarray or is_tensor(array) else as_ndarray(array, name)


def are_plain_tensors(query, key, value):
    """Whether all three are tensors of torch's own type."""
    return is_plain_type(type(query)) and is_plain_type(type(key)) and is_plain_type(type(value))


def rank_of(array):
    """The number of axes of what `known` returns."""
    return array.ndim if type(array) is ndarray else rank(array)


cdef int refuse_masked(object array, str name) except -1:
    if isinstance(array, ndarray) and isinstance(array, MaskedArray):
        raise TypeError(f"{name}: is a masked array, whose mask would be ignored; expected a plain array")
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
    if dtype.code == kDLInt and dtype.bits == 32:
        return MFA_PRECISION_INT32
    return MFA_PRECISION_DEFAULT


cdef str dlpack_dtype_name(DLDataType dtype):
    families = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 5: "complex"}
    if dtype.code in SMALL_FLOATS:
        return SMALL_FLOATS[dtype.code]
    name = f"{families.get(dtype.code, f'DLPack code {dtype.code}, bits ')}{dtype.bits}"
    if dtype.code == kDLBool and dtype.bits == 8:
        name = "bool"
    return name + (f" with {dtype.lanes} lanes" if dtype.lanes != 1 else "")


cdef int dtype_precision(object dtype) except -2:
    if dtype is FLOAT32:
        return MFA_PRECISION_FP32
    if dtype is FLOAT16:
        return MFA_PRECISION_FP16
    if dtype is BFLOAT16:
        return MFA_PRECISION_BF16
    if dtype is BOOL:
        return MFA_PRECISION_BOOL
    if dtype is INT32:
        return MFA_PRECISION_INT32
    # An equal dtype that is not the singleton, such as one with metadata.
    if dtype == FLOAT32:
        return MFA_PRECISION_FP32
    if dtype == FLOAT16:
        return MFA_PRECISION_FP16
    if dtype == BFLOAT16:
        return MFA_PRECISION_BF16
    if dtype == BOOL:
        return MFA_PRECISION_BOOL
    if dtype == INT32:
        return MFA_PRECISION_INT32
    return MFA_PRECISION_DEFAULT


cdef int format_precision(const char *format, int64_t itemsize) except -2:
    text = "B" if format == NULL else format.decode("ascii", "replace")
    if text[:1] in "@=" or text[:1] == ("<" if sys.byteorder == "little" else ">"):
        text = text[1:]
    if text == "f":
        return MFA_PRECISION_FP32
    if text == "e":
        return MFA_PRECISION_FP16
    if text == "?":
        return MFA_PRECISION_BOOL
    if text in ("i", "l") and itemsize == 4:
        return MFA_PRECISION_INT32
    return MFA_PRECISION_DEFAULT
