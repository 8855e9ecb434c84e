"""Contexts: options, closing, threads, fork, and the GIL."""

import copy
import dataclasses
import os
import pickle
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import mfa

ONES = np.ones((1, 3, 2, 4), np.float32)
LSE = np.ones((1, 2, 3), np.float32)


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
        ({"threads": 2}, TypeError, r"^Context\(\) got .* keyword argument 'threads', expected num_threads$"),
        ({"thraeds": 2}, TypeError, r"^Context\(\) got .* keyword argument 'thraeds', expected num_threads$"),
        ({"xyzzy": 2}, TypeError, r"^Context\(\) got an unexpected keyword argument 'xyzzy'$"),
    ],
)
def test_wrong_options(arguments, error, message):
    with pytest.raises(error, match=message):
        mfa.Context(**arguments)


def test_options_are_given_by_name():
    with pytest.raises(TypeError, match=r"^Context\(\) takes 1 .* but 2 were given; expected .*num_threads"):
        mfa.Context("cpu", 2)


@pytest.mark.parametrize(
    "make", [mfa.Context, lambda: mfa.Buffer(mfa.Context(), 4)], ids=["Context", "Buffer"]
)
@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_handles_are_not_copied(make, copied):
    with pytest.raises(TypeError, match=r"^(context|buffer): cannot be pickled or copied, expected"):
        copied(make())


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
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
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
