"""Contexts and buffers: lifetime, memory, threads, fork, and the GIL."""

import ctypes
import dataclasses
import gc
import os
import subprocess
import sys
import threading
import time
import tracemalloc
import weakref
from inspect import signature

import ml_dtypes
import numpy as np
import pytest
import torch
from support.dlpack_producer import IS_COPIED, READ_ONLY, LegacyProducer, VersionedProducer

import mfa

ONES = np.ones((1, 3, 2, 4), np.float32)
LSE = np.ones((1, 2, 3), np.float32)


def minus(tensor):
    """`tensor`, as a tensor with its negative bit set."""
    return torch.complex(torch.zeros(tensor.shape), -tensor).conj().imag


@pytest.fixture
def fresh():
    with mfa.Context() as context:
        yield context


# ---------------------------------------------------------------- contexts


def test_describe(fresh):
    info = fresh.describe()
    assert info.backend in ("cpu", "metal")
    assert info.device
    assert info.isa
    assert info.num_threads >= 1
    assert info.allow_cpu_fallback is False
    with pytest.raises(dataclasses.FrozenInstanceError):
        info.backend = "other"


def test_options_are_taken():
    with mfa.Context("cpu", num_threads=1, cpu_isa="scalar", allow_cpu_fallback=True) as context:
        info = context.describe()
    assert (info.backend, info.isa, info.num_threads, info.allow_cpu_fallback) == ("cpu", "scalar", 1, True)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"backend": "cuda"}, ValueError, "backend: 'cuda', expected one of 'auto', 'cpu', 'metal'"),
        ({"backend": 1}, TypeError, "backend: 1, expected a string"),
        ({"cpu_isa": "sse"}, ValueError, "cpu_isa: 'sse', expected one of 'auto', 'scalar', 'avx2'"),
        ({"cpu_isa": None}, TypeError, "cpu_isa: None, expected a string"),
        ({"num_threads": -1}, ValueError, "num_threads: -1, expected 0 to"),
        ({"num_threads": 2**31}, ValueError, "num_threads: 2147483648, expected 0 to"),
        ({"num_threads": 1.0}, TypeError, r"num_threads: 1\.0, expected an integer"),
        ({"num_threads": np.array([1, 2])}, TypeError, r"num_threads: array.*, expected an integer"),
        ({"num_threads": np.array(1)}, TypeError, r"num_threads: array.*, expected an integer"),
        ({"num_threads": True}, TypeError, "num_threads: True, expected an integer"),
        ({"device": "gpu"}, TypeError, "device: 'gpu', expected an integer"),
        ({"device": -1}, ValueError, "device: -1, expected 0 to"),
        ({"allow_cpu_fallback": 1}, TypeError, "allow_cpu_fallback: 1, expected a bool"),
    ],
)
def test_wrong_options(arguments, error, message):
    with pytest.raises(error, match=message):
        mfa.Context(**arguments)


def test_closed_context_says_so():
    context = mfa.Context()
    assert not context.closed
    with context:
        mfa.attention(ONES, ONES, ONES, context=context)
    assert context.closed
    context.close()
    for use in (
        lambda: mfa.attention(ONES, ONES, ONES, context=context),
        lambda: mfa.attention_backward(ONES, ONES, ONES, ONES, ONES, LSE, context=context),
        lambda: mfa.plan(ONES, ONES, ONES, context=context),
        lambda: mfa.plan(ONES, ONES, ONES, backward=True, context=context),
        context.describe,
        context.trim,
        lambda: mfa.Buffer(context, 4),
    ):
        with pytest.raises(ValueError, match="context: is closed, expected an open one"):
            use()
    assert repr(context) == "<mfa.Context closed>"


def test_trim_keeps_the_context_usable(fresh):
    expected = mfa.attention(ONES, ONES, ONES, context=fresh)
    fresh.trim()
    assert np.array_equal(mfa.attention(ONES, ONES, ONES, context=fresh), expected)


def long_forward():
    """A call that takes a single scalar thread some tenths of a second."""
    operands = [np.random.default_rng(i).standard_normal((1, 1536, 2, 64), np.float32) for i in range(3)]
    return lambda context: mfa.attention(*operands, context=context)


def long_backward():
    """Likewise."""
    operands = [np.random.default_rng(i).standard_normal((1, 1024, 2, 64), np.float32) for i in range(4)]
    out, lse = mfa.attention(*operands[1:], return_lse=True)
    return lambda context: mfa.attention_backward(*operands, out, lse, wanted=["dq"], context=context).dq


either_pass = pytest.mark.parametrize("long_call", [long_forward, long_backward], ids=["forward", "backward"])


@either_pass
def test_context_closed_during_a_call_lets_it_finish(long_call):
    call = long_call()
    context = mfa.Context("cpu", cpu_isa="scalar", num_threads=1)
    expected = call(context)
    results = []
    caller = threading.Thread(target=lambda: results.append(call(context)))
    caller.start()
    time.sleep(0.01)
    assert caller.is_alive(), "the call is too short for this test to mean anything"
    context.close()
    with pytest.raises(ValueError, match="context: is closed"):
        mfa.attention(ONES, ONES, ONES, context=context)
    caller.join()
    assert np.array_equal(results[0], expected)


@either_pass
def test_gil_is_released(long_call):
    call = long_call()
    context = mfa.Context("cpu", cpu_isa="scalar", num_threads=1)
    call(context)
    span = []

    def timed_call():
        begin = time.perf_counter()
        call(context)
        span.extend((begin, time.perf_counter()))

    caller = threading.Thread(target=timed_call)
    ticks = []
    caller.start()
    while caller.is_alive():
        ticks.append(time.perf_counter())
        time.sleep(0.0005)
    begin, end = span
    middle = [t for t in ticks if begin + (end - begin) / 4 < t < end - (end - begin) / 4]
    assert end - begin > 0.02, "the call is too short for this test to mean anything"
    assert len(middle) > 3


def test_threads_share_a_context(fresh, rng):
    problems = [[rng.standard_normal((1, n, 2, 16), np.float32) for _ in range(3)] for n in range(20, 28)]
    expected = [mfa.attention(*problem, causal=True) for problem in problems]
    failures = []

    def work(index):
        for _ in range(50):
            out = mfa.attention(*problems[index], causal=True, context=fresh)
            if not np.array_equal(out, expected[index]):
                failures.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(problems))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_errors_in_threads_keep_their_messages(fresh):
    wrong = []

    def work(size):
        for _ in range(100):
            try:
                mfa.Buffer(fresh, size)
            except MemoryError as error:
                if str(size) not in str(error):
                    wrong.append(str(error))
            else:
                wrong.append("no error")

    threads = [threading.Thread(target=work, args=(2**62 + index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_default_context_is_made_once_by_many_threads():
    code = """
import sys, threading
from mfa._context import default_context
sys.setswitchinterval(1e-6)
barrier, seen = threading.Barrier(8), []
def work():
    barrier.wait()
    seen.append(default_context())
threads = [threading.Thread(target=work) for _ in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
assert len(seen) == 8 and len(set(map(id, seen))) == 1
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.cpu
def test_default_context_after_fork():
    code = """
import os, sys, numpy, mfa
rng = numpy.random.default_rng(0)
operands = [rng.standard_normal((2, 300, 4, 64), numpy.float32) for _ in range(3)]
expected = mfa.attention(*operands)
def child(depth):
    if not numpy.array_equal(mfa.attention(*operands), expected):
        return 2
    return run(depth - 1) if depth else 0
def run(depth):
    pid = os.fork()
    if pid == 0:
        os._exit(child(depth))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
sys.exit(run(1) or (not numpy.array_equal(mfa.attention(*operands), expected)))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.cpu
def test_explicit_context_after_fork(fresh):
    expected = mfa.attention(ONES, ONES, ONES, context=fresh)
    pid = os.fork()
    if pid == 0:
        same = False
        try:
            same = np.array_equal(mfa.attention(ONES, ONES, ONES, context=fresh), expected)
        finally:
            os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_last_latency_belongs_to_the_thread():
    mfa.attention(ONES, ONES, ONES)
    forward = mfa.last_latency()
    assert 0 < forward < 10
    mfa.attention_backward(ONES, ONES, ONES, ONES, ONES, LSE)
    assert 0 < mfa.last_latency() < 10
    assert mfa.last_latency() != forward
    elsewhere = []
    thread = threading.Thread(target=lambda: elsewhere.append(mfa.last_latency()))
    thread.start()
    thread.join()
    assert elsewhere == [0.0]


# ---------------------------------------------------------------- plans


@pytest.mark.parametrize("backward", [False, True])
def test_plan(fresh, backward):
    plan = mfa.plan(ONES, ONES, ONES, causal=True, backward=backward, context=fresh)
    assert plan.status == 0
    assert plan.backend == fresh.describe().backend
    assert plan.fallback is False
    assert plan.kernel
    assert plan.tile_queries >= 1
    assert plan.tile_keys >= 1
    assert plan.key_splits >= 1
    assert plan.num_threads >= 1
    assert plan.workspace_bytes >= 0
    assert plan.reason == ""
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.status = 1


def test_plan_and_backward_take_what_attention_takes():
    forward = dict(signature(mfa.attention).parameters)
    plan = dict(signature(mfa.plan).parameters)
    backward = dict(signature(mfa.attention_backward).parameters)
    assert plan.pop("backward").default is False
    assert plan == forward
    assert list(backward)[:6] == ["dout", "query", "key", "value", "out", "lse"]
    only_backward = {name: backward.pop(name) for name in ("dout", "out", "lse", "wanted")}
    assert only_backward["wanted"].default is None
    del forward["out"], forward["return_lse"]
    assert backward == forward


@pytest.mark.parametrize("backward", [False, True])
def test_plan_runs_nothing(backward):
    out = np.full_like(ONES, 7)
    mfa.plan(ONES, ONES, ONES, out=out, backward=backward)
    assert (out == 7).all()


def test_plan_of_backward_is_another(fresh):
    rows = np.ones((1, 500, 2, 64), np.float32)
    options = {"bias": np.ones(500, np.float32), "sinks": np.ones(2), "return_lse": True, "context": fresh}
    forward, backward = (mfa.plan(rows, rows, rows, backward=flag, **options) for flag in (False, True))
    assert (forward.status, backward.status) == (0, 0)
    assert forward.kernel != backward.kernel


@pytest.mark.parametrize("backward", [False, True])
def test_plan_allocates_no_result_and_copies_nothing(fresh, backward):
    small = np.ones((1, 1, 1, 1), np.float32)
    rows = np.broadcast_to(small, (1, 2**30, 4, 64))
    memory = np.zeros(2**21 + 1, np.uint8)
    odd = memory[1:].view(np.float32).reshape(1, -1, 4, 64)
    for query, key in ((rows, small[..., [0] * 64]), (odd, odd)):
        tracemalloc.start()
        plan = mfa.plan(query, key, key, return_lse=True, backward=backward, context=fresh)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert plan.status == 0
        assert peak < memory.nbytes // 16


@pytest.mark.parametrize("backward", [False, True])
def test_plan_of_odd_strides_is_that_of_the_copy(fresh, backward):
    memory = np.zeros(4 * 8 * 2 * 64 + 1, np.uint8)
    odd = memory[1:].view(np.float32).reshape(1, 8, 2, 64)[:, ::-1]
    options = {"backward": backward, "context": fresh}
    assert mfa.plan(odd, odd, odd, **options) == mfa.plan(*[odd.copy()] * 3, **options)


# ---------------------------------------------------------------- buffers


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
