"""A DLPack producer made by hand, so that tests decide every field of the capsule and see every call of its
deleter."""

import ctypes

import numpy as np

CPU = (1, 0)
READ_ONLY = 1
IS_COPIED = 2
CODES = {"i": 0, "u": 1, "f": 2, "c": 5, "b": 6}

Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class Legacy(ctypes.Structure):
    _fields_ = (("tensor", Tensor), ("manager", ctypes.c_void_p), ("deleter", Deleter))


class Versioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager", ctypes.c_void_p),
        ("deleter", Deleter),
        ("flags", ctypes.c_uint64),
        ("tensor", Tensor),
    )


_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)


class VersionedProducer:
    """Exports an ndarray's memory in a versioned capsule.

    `exports` and `deletions` count capsules made and deleter calls; the capsule itself has no destructor, so
    that only the consumer can delete.
    """

    name = b"dltensor_versioned"

    def __init__(
        self, array, *, flags=0, major=1, device=CPU, exported_device=None, code=None, lanes=1, strides=True,
        byte_offset=0,
    ):  # fmt: skip
        self.array = array
        self.flags = flags
        self.major = major
        self.device = device
        self.exports = 0
        self.deletions = 0
        self._deleter = Deleter(self._delete)
        self._shape = (ctypes.c_int64 * array.ndim)(*array.shape)
        self._strides = (ctypes.c_int64 * array.ndim)(*(s // array.itemsize for s in array.strides))
        self._tensor = Tensor(
            array.ctypes.data - byte_offset,
            *(exported_device or device),
            array.ndim,
            CODES[array.dtype.kind] if code is None else code,
            array.itemsize * 8,
            lanes,
            self._shape,
            self._strides if strides else None,
            byte_offset,
        )

    def _delete(self, managed):
        self.deletions += 1

    def _managed(self):
        return Versioned(self.major, 0, None, self._deleter, self.flags, self._tensor)

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, *, max_version):
        assert max_version >= (1, 0)
        return self.capsule()

    def capsule(self):
        self.exports += 1
        self._exported = self._managed()
        return _new_capsule(ctypes.addressof(self._exported), self.name, None)


class LegacyProducer(VersionedProducer):
    """Exports as producers did before DLPack 1.0."""

    name = b"dltensor"

    def _managed(self):
        return Legacy(self._tensor, None, self._deleter)

    def __dlpack__(self):
        return self.capsule()


def bfloat16_bits(array):
    """The float32 `array` rounded towards zero to bfloat16, as uint16."""
    return (np.ascontiguousarray(array).view(np.uint32) >> 16).astype(np.uint16)
