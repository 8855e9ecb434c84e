"""Buffers: memory that a context's device can use, owned or borrowed, seen from Python as bytes."""

import re

import numpy

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo

from mfa._context cimport Context
from mfa._memory cimport Memory
from mfa._status cimport check
from mfa.c_mfa cimport (
    mfa_buffer_contents,
    mfa_buffer_from_ptr,
    mfa_buffer_is_zero_copy,
    mfa_buffer_t,
    mfa_context_t,
    mfa_create_buffer,
    mfa_destroy_buffer,
    mfa_status_t,
)

from mfa._keywords import integer
from mfa._messages import shown

cdef object LARGEST_SIZE = <size_t> -1 >> 1


# The garbage collector must not take `source` away before __dealloc__ gives up what lies in it.
@cython.no_gc_clear
cdef class Buffer:
    # Python takes the first line for the signature.
    """Buffer(context, size_or_object)\n--\n
    Memory that a context's device can use.

    A buffer has the buffer protocol, as one run of bytes: ``numpy.frombuffer(buffer, numpy.float32)`` and
    ``memoryview(buffer)`` see the memory itself. It keeps what it needs of its context alive, is a context
    manager that closes itself, and may be read by several threads at once.

    Parameters
    ----------
    context : Context
    size_or_object : int or array
        An integer allocates that many zeroed bytes. Anything else must be C-contiguous and have the buffer
        protocol or DLPack on the CPU; its memory is wrapped without a copy and kept alive, and the buffer is
        read-only if it is.

    Attributes
    ----------
    nbytes : int
        Size in bytes.
    zero_copy : bool
        Whether the device works on the memory itself. Always true on the CPU backend.
    closed : bool

    Raises
    ------
    TypeError, ValueError, BufferError
        The argument is neither a size nor such an object.
    MemoryError
        The memory cannot be had.
    """

    cdef object __weakref__
    cdef mfa_buffer_t handle
    cdef Memory source
    cdef Py_ssize_t exports
    cdef readonly size_t nbytes
    cdef readonly bint closed

    def __cinit__(self, context, size_or_object):
        cdef Context owner
        cdef mfa_context_t handle
        cdef mfa_status_t status
        self.closed = True
        if not isinstance(context, Context):
            raise TypeError(f"context: {shown(context)}, expected a mfa.Context")
        owner = context
        if isinstance(size_or_object, (int, numpy.generic)):
            size_or_object = integer(size_or_object, "size_or_object", "a size in bytes or an array")
            self.nbytes = require_size(size_or_object)
        else:
            self.source = Memory.__new__(Memory)
            self.source.hold_for_long(size_or_object, "size_or_object")
            self.nbytes = require_size(count_bytes(self.source))
        handle = owner.acquire()
        with nogil:
            if self.source is None:
                status = mfa_create_buffer(handle, self.nbytes, &self.handle)
            else:
                status = mfa_buffer_from_ptr(handle, self.source.data, self.nbytes, &self.handle)
        owner.release()
        check(status)
        self.closed = False

    def __dealloc__(self):
        mfa_destroy_buffer(self.handle)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def __len__(self):
        return self.nbytes

    def __repr__(self):
        if self.closed:
            return "<mfa.Buffer closed>"
        return f"<mfa.Buffer of {self.nbytes} bytes>"

    def __reduce__(self):
        raise TypeError("buffer: cannot be pickled or copied, expected bytes(buffer)")

    def __getbuffer__(self, Py_buffer *view, int flags):
        cdef bint read_only = self.source is not None and self.source.read_only
        self.require_open()
        PyBuffer_FillInfo(view, self, mfa_buffer_contents(self.handle), self.nbytes, read_only, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.exports -= 1

    cdef int require_open(self) except -1:
        if self.closed:
            raise ValueError("buffer: is closed, expected an open one")
        return 0

    @property
    def zero_copy(self):
        self.require_open()
        return bool(mfa_buffer_is_zero_copy(self.handle))

    def close(self):
        """Free or give back the memory. Closing twice is allowed.

        Raises
        ------
        BufferError
            Something still looks at the memory, such as an array made with ``numpy.frombuffer``.
        """
        if self.exports:
            raise BufferError(f"buffer: {self.exports} views of it exist, expected none when it is closed")
        mfa_destroy_buffer(self.handle)
        self.handle = NULL
        self.source = None
        self.closed = True


cdef object require_size(object nbytes):
    if 0 <= nbytes <= LARGEST_SIZE:
        return nbytes
    raise ValueError(
        f"size_or_object: {shown(nbytes)} bytes, expected a size from 0 up that memory can have")


cdef object count_bytes(Memory memory):
    """The size of what must be one run of bytes and hold no references."""
    cdef object nbytes = memory.itemsize
    cdef bint run = True
    cdef int axis
    if memory.is_copy:
        raise BufferError("size_or_object: was exported as a copy, expected the array's own memory")
    dtype = memory.dtype()
    # In a format of the buffer protocol, names of fields stand between colons.
    if dtype.hasobject if isinstance(dtype, numpy.dtype) else "O" in re.sub(":[^:]*:", "", dtype):
        raise TypeError("size_or_object: holds Python objects, expected numbers or bytes")
    for axis in range(memory.ndim - 1, -1, -1):
        run = run and (memory.extent(axis) == 1 or memory.stride(axis) == nbytes)
        nbytes *= memory.extent(axis)
    if nbytes and not run:
        raise BufferError("size_or_object: is not C-contiguous, expected one run of bytes")
    return nbytes
