"""Buffers: whose memory they are, how long they live."""

import ctypes
import gc
import weakref

import ml_dtypes
import numpy as np
import pytest
import torch
from support.dlpack_producer import IS_COPIED, READ_ONLY, LegacyProducer, VersionedProducer

import mfa

ONES = np.ones((1, 3, 2, 4), np.float32)


def minus(tensor):
    """`tensor`, as a tensor with its negative bit set."""
    return torch.complex(torch.zeros(tensor.shape), -tensor).conj().imag


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.int16])
def test_numpy_integers_are_sizes(fresh, kind):
    with mfa.Buffer(fresh, kind(24)) as buffer:
        assert buffer.nbytes == 24
        assert not memoryview(buffer).readonly
        assert bytes(buffer) == bytes(24)


def test_owned_buffer_is_zeroed_and_writable(fresh):
    with mfa.Buffer(fresh, 64) as buffer:
        assert (buffer.nbytes, len(buffer), buffer.zero_copy) == (64, 64, True)
        assert bytes(buffer) == bytes(64)
        with memoryview(buffer) as view:
            assert not view.readonly
            assert (view.format, view.shape, view.contiguous) == ("B", (64,), True)
            view[3] = 9
        assert bytes(buffer)[3] == 9
    assert buffer.closed


def test_buffers_serve_as_operands(fresh):
    buffers = [mfa.Buffer(fresh, ONES.nbytes) for _ in range(4)]
    query, key, value, out = (np.frombuffer(b, np.float32).reshape(ONES.shape) for b in buffers)
    query[...], key[...], value[...] = ONES, ONES, 3
    mfa.attention(query, key, value, out=out, context=fresh)
    assert bytes(buffers[3]) == np.full_like(ONES, 3).tobytes()


@pytest.mark.parametrize(
    "wrap",
    [np.asarray, memoryview, VersionedProducer, LegacyProducer, torch.from_numpy],
    ids=lambda wrap: wrap.__name__,
)
def test_wrapped_memory_is_the_memory(fresh, wrap):
    memory = np.arange(12, dtype=np.float32).reshape(3, 4)
    buffer = mfa.Buffer(fresh, wrap(memory))
    seen = np.frombuffer(buffer, np.float32)
    assert buffer.nbytes == memory.nbytes
    assert seen.ctypes.data == memory.ctypes.data
    memory[1, 1] = 99
    assert seen[5] == 99
    seen[0] = -1
    assert memory[0, 0] == -1


def test_wraps_fields_with_any_name(fresh):
    records = np.zeros(2, [("Offset", "f4")])
    assert mfa.Buffer(fresh, memoryview(records)).nbytes == 8


def test_wraps_any_dtype(fresh):
    for array in (np.ones(3, ml_dtypes.bfloat16), np.ones(3, np.complex128), np.ones(3, np.int8)):
        assert bytes(mfa.Buffer(fresh, array)) == array.tobytes()
    assert mfa.Buffer(fresh, torch.ones(3, dtype=torch.bfloat16)).nbytes == 6


def test_read_only_stays_read_only(fresh):
    frozen = np.ones(4, np.float32)
    frozen.flags.writeable = False
    for source in (b"0123", frozen, VersionedProducer(np.ones(4), flags=READ_ONLY)):
        buffer = mfa.Buffer(fresh, source)
        assert memoryview(buffer).readonly
        with pytest.raises(TypeError):
            memoryview(buffer)[0] = 1


def test_read_only_bytes_are_not_copied(fresh):
    source = bytes(range(256)) * 16
    address = np.frombuffer(source, np.uint8).ctypes.data
    assert np.frombuffer(mfa.Buffer(fresh, source), np.uint8).ctypes.data == address


def test_owner_lives_as_long_as_the_buffer(fresh):
    owner = np.arange(1000.0)
    gone = weakref.ref(owner)
    buffer = mfa.Buffer(fresh, owner)
    del owner
    gc.collect()
    assert gone() is not None
    assert np.frombuffer(buffer)[999] == 999
    view = memoryview(buffer)
    del buffer
    gc.collect()
    assert gone() is not None
    view.release()
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("producer", [VersionedProducer, LegacyProducer])
def test_dlpack_deleter_runs_when_the_buffer_closes(fresh, producer):
    source = producer(np.ones(4))
    buffer = mfa.Buffer(fresh, source)
    assert source.deletions == 0
    buffer.close()
    buffer.close()
    del buffer
    assert (source.exports, source.deletions) == (1, 1)


def test_close_waits_for_nobody_but_refuses_while_viewed(fresh):
    buffer = mfa.Buffer(fresh, 8)
    view = memoryview(buffer)
    with pytest.raises(BufferError, match="buffer: 1 views of it exist, expected none"):
        buffer.close()
    view[0] = 1
    view.release()
    buffer.close()
    with pytest.raises(ValueError, match="buffer: is closed"):
        memoryview(buffer)
    with pytest.raises(ValueError, match="buffer: is closed"):
        _ = buffer.zero_copy
    assert repr(buffer) == "<mfa.Buffer closed>"


def test_buffer_outlives_its_context():
    context = mfa.Context()
    buffer = mfa.Buffer(context, 16)
    context.close()
    del context
    gc.collect()
    memoryview(buffer)[:] = b"x" * 16
    assert bytes(buffer) == b"x" * 16


def test_empty_buffers(fresh):
    for source in (0, b"", np.ones((0, 3))):
        buffer = mfa.Buffer(fresh, source)
        assert buffer.nbytes == 0
        assert bytes(buffer) == b""


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (-1, ValueError, "size_or_object: -1 bytes, expected a size from 0 up"),
        (2**70, ValueError, "size_or_object: 1180591620717411303424 bytes, expected"),
        (True, TypeError, "size_or_object: True, expected a size in bytes or an array"),
        (np.True_, TypeError, "size_or_object: .*True_?, expected a size in bytes or an array"),
        (np.float32(8), TypeError, "size_or_object: .*8.*, expected a size in bytes or an array"),
        (np.array([object()]), TypeError, "size_or_object: holds Python objects, expected"),
        (np.zeros(2, [("x", "O"), ("y", "f4")]), TypeError, "size_or_object: holds Python objects"),
        ((ctypes.py_object * 2)(), TypeError, "size_or_object: holds Python objects"),
        (minus(torch.ones(3)), BufferError, "size_or_object: has its negative bit set"),
        (
            torch.ones(3, dtype=torch.complex64).conj(),
            BufferError,
            "size_or_object: has its conjugate bit set",
        ),
        (
            VersionedProducer(np.ones(2), flags=IS_COPIED),
            BufferError,
            "size_or_object: was exported as a copy",
        ),
        (1.5, TypeError, "size_or_object: float, expected a size or an object"),
        (None, TypeError, "size_or_object: NoneType, expected"),
        (np.ones((4, 4))[:, ::2], BufferError, "size_or_object: .*contiguous"),
        (torch.ones(4, 4).T, BufferError, "size_or_object: is not C-contiguous"),
        (VersionedProducer(np.ones(2), device=(10, 0)), BufferError, "size_or_object: on DLPack device"),
    ],
    ids=range(16),
)
def test_wrong_sources(fresh, source, error, message):
    with pytest.raises(error, match=message):
        mfa.Buffer(fresh, source)


def test_buffer_needs_a_context():
    for context in (None, "cpu"):
        with pytest.raises(TypeError, match="context"):
            mfa.Buffer(context, 4)
