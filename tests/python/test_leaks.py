"""Nothing is left behind by thousands of calls: no Python object, no memory that Python does not know of."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support import backends

CALLS = 10_000 if backends.DEFAULT.is_cpu else 3_000  # each waits for a GPU, or for what emulates one

# Runs one case in a process of its own: warms up, then reports what as many rounds left behind twice. What is
# made once, at some time, is no leak.
PROGRAM = """
import ctypes, gc, json, pathlib, subprocess, os, sys
import ml_dtypes, numpy as np
import mfa
from support.dlpack_producer import LegacyProducer, VersionedProducer

case, calls = sys.argv[1], int(sys.argv[2])
context = mfa.Context()
one = np.ones((1, 2, 2, 32), np.float32)
odd = np.zeros(one.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(one.shape)
mask, row = np.ones((2, 2), bool), np.ones(2, np.float32)
lse = np.ones((1, 2, 2), np.float32)
producers = {"dlpack": VersionedProducer, "legacy dlpack": LegacyProducer}
starts, table = np.array([0, 1, 2], "i4"), np.array([[1, 0]], "i4")
cache = np.zeros((2, 3, 2, 32), np.float32)
kept = []

def everything():
    mfa.attention(one, one, one, causal=True, mask=mask, bias=row, alibi_slopes=row, sinks=row,
                  return_lse=True, context=context)

def refused(**arguments):
    try:
        mfa.attention(**{"query": one, "key": one, "value": one, **arguments})
    except (TypeError, ValueError, BufferError):
        return
    raise AssertionError("not refused")

def gradients():
    mfa.attention_backward(one, one, one, one, one, lse, causal=True, mask=mask, bias=row, alibi_slopes=row,
                           sinks=row, dropout_p=0.5, context=context)

def gradient_errors():
    for wrong in {"dout": one[..., 1:]}, {"lse": one}, {"wanted": ["dbias"]}, {"out": 3}:
        arguments = {"dout": odd, "query": one, "key": one, "value": one, "out": odd, "lse": lse, **wrong}
        try:
            mfa.attention_backward(**arguments)
        except (TypeError, ValueError):
            continue
        raise AssertionError("not refused")

def errors():
    for wrong in {"key": one[..., 1:]}, {"value": one.view("i4")}, {"out": one}, {"query": 3}:
        refused(**wrong)

def contexts():
    with mfa.Context("cpu", num_threads=1) as own:
        mfa.attention(one, one, one, context=own)

def buffers():
    with mfa.Buffer(context, 4096) as owned, mfa.Buffer(context, one) as wrapped:
        np.frombuffer(owned, np.float32)[:] = np.frombuffer(wrapped, np.float32)[0]

def tensors():
    mfa.attention(tensor, tensor, tensor)
    mfa.attention_backward(tensor, tensor, tensor, tensor, tensor, lse, dlse=lse)

def codes():
    key, value = mfa.quantize(one, smooth=True), mfa.quantize(one, "uint4", "channel")
    out, sums = mfa.attention(one, key, value, return_lse=True)
    mfa.attention_backward(out, one, key, value, out, sums, delta=sums.copy(), zero_clipped=True)

def code_errors():
    key = mfa.quantize(one)
    for wrong in {"key": key, "layout": "bhsd"}, {"value": key, "compute_mode": "int8"}, {"query": key}:
        refused(**wrong)
    try:
        mfa.quantize(one, scale=np.zeros((1, 2, 2, 1), np.float32))
    except ValueError:
        return
    raise AssertionError("not refused")

def exported():
    fresh = producers[case](one)
    mfa.attention(fresh, one, one)
    try:
        mfa.attention(one, producers[case](one), one[0])
    except ValueError:
        pass

rounds = {
    "arrays": lambda: mfa.attention(one, one, one),
    "everything": everything,
    "bfloat16": lambda: mfa.scaled_dot_product_attention(*[one.astype(ml_dtypes.bfloat16)] * 3),
    "copies": lambda: mfa.attention(odd, odd, one),
    "sequences": lambda: mfa.attention(one[0], one[0], one[0], cu_seqlens_q=starts, cu_seqlens_k=starts),
    "caches": lambda: mfa.flash_attn_with_kvcache(
        one, cache, cache.copy(), one, one, cache_seqlens=0, page_table=table, causal=True),
    "plans": lambda: mfa.plan(one, one, one),
    "backward plans": lambda: mfa.plan(one, one, one, bias=row, sinks=row, backward=True),
    "gradients": gradients,
    "gradient copies": lambda: mfa.attention_backward(odd, odd, one, one, odd, lse, wanted=("dq", "dv")),
    "gradient errors": gradient_errors,
    "errors": errors,
    "codes": codes,
    "code errors": code_errors,
    "contexts": contexts,
    "buffers": buffers,
    "torch": tensors,
    "dlpack": exported,
    "legacy dlpack": exported,
    "a leaked object": lambda: kept.append(memoryview(one)),
    "leaked memory": lambda: ctypes.pythonapi.PyMem_RawMalloc(2048),
}
if case == "torch":
    import torch
    tensor = torch.ones(1, 2, 2, 32)
ctypes.pythonapi.PyMem_RawMalloc.restype = ctypes.c_void_p
ctypes.pythonapi.PyMem_RawMalloc.argtypes = [ctypes.c_size_t]

def resident():
    statm = pathlib.Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return int(subprocess.check_output(["ps", "-o", "rss=", "-p", str(os.getpid())])) * 1024

def measure(count):
    for _ in range(count):
        rounds[case]()
    gc.collect()
    return sys.getallocatedblocks(), sys.getrefcount(one), resident()

counts = [measure(number) for number in (calls // 5, calls, calls)]
names = ("blocks", "references", "bytes")
print(json.dumps({
    name: min(second - first, third - second) for name, first, second, third in zip(names, *counts)}))
"""


def left_behind(case):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, case, str(CALLS)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def leaks(growth):
    """Names of what grew with the number of calls: by less than one block or 50 bytes a call is noise."""
    limits = {"blocks": CALLS // 10, "references": CALLS // 10, "bytes": 50 * CALLS}
    return {name for name, limit in limits.items() if growth[name] > limit}


@pytest.mark.parametrize(
    "case",
    [
        "arrays",
        "everything",
        "bfloat16",
        "copies",
        "sequences",
        "caches",
        "plans",
        "backward plans",
        "gradients",
        "gradient copies",
        "gradient errors",
        "errors",
        "codes",
        "code errors",
        "contexts",
        "buffers",
        "torch",
        "dlpack",
        "legacy dlpack",
    ],
)
def test_nothing_is_left_behind(case):
    growth = left_behind(case)
    assert leaks(growth) == set(), growth


def test_a_leaked_object_would_be_seen():
    assert leaks(left_behind("a leaked object")) >= {"blocks", "references"}


def test_leaked_memory_would_be_seen():
    assert leaks(left_behind("leaked memory")) == {"bytes"}
