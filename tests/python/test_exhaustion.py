"""Each allocation of a call fails once: the call ends with MemoryError or succeeds, and nothing is lost."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.tools import require_module

require_module("_testcapi", "a Python built with its test modules")

# Runs one case in a process of its own, which a lost reference may bring down.
PROGRAM = """
import collections, faulthandler, gc, json, re, sys
import _testcapi
import numpy as np
import mfa
from support.views import shifted

class Bare:
    def __init__(self, array):
        self.array = array
    def __dlpack__(self):
        return self.array.__dlpack__()
    def __dlpack_device__(self):
        return 1, 0

faulthandler.enable()
x = np.ones((1, 3, 2, 8), np.float32)
five, odd, lse = np.ones((2, 1, 2, 3, 8), np.float32), shifted(x, 1), np.ones((1, 2, 3), np.float32)
row, exact, bare, mask = np.ones(2, np.float32), np.ones(2), Bare(x), np.ones((3, 3), bool)
context = mfa.Context("cpu", num_threads=1)
lists = dict(cu_seqlens_q=np.array([0, 2, 3], "i4"), cu_seqlens_k=np.array([0, 1, 3], "i4"))
cache, table, used = np.zeros((3, 2, 2, 8), np.float32), np.array([[1, 2]], "i4"), np.array([0], "i4")
packed = np.ones((1, 3, 4, 8), np.float32)
tables = dict(rotary_cos=np.ones((9, 4), np.float32), rotary_sin=np.ones((9, 4), np.float32))
features = dict(mask=mask, bias=row[:1], alibi_slopes=row, sinks=exact, context=context)
cases = {
    "attention": lambda: mfa.attention(x, x, x, context=context),
    "every feature": lambda: mfa.attention(odd, x, x, causal=True, return_lse=True, **features),
    "out": lambda: mfa.attention(x, x, x, out=np.empty_like(x), out_dtype="float32"),
    "backward": lambda: mfa.attention_backward(x, x, x, x, x, lse, dlse=lse, **features),
    "plan": lambda: mfa.plan(x, x, x, **features),
    "plan of backward": lambda: mfa.plan(odd, x, x, backward=True, **features),
    "sdpa": lambda: mfa.scaled_dot_product_attention(x, x, x, mask, 0.5),
    "sdpa of five axes": lambda: mfa.scaled_dot_product_attention(five, five, five),
    "flash_attn_func": lambda: mfa.flash_attn_func(x, x, x, return_attn_probs=True),
    "varlen": lambda: mfa.flash_attn_varlen_func(x[0], x[0], x[0], *lists.values(), 9, 9),
    "varlen of tensors": lambda: mfa.attention(x[0], x[0], x[0], **{k: Bare(v) for k, v in lists.items()}),
    "gradients of varlen": lambda: mfa.attention_backward(x[0], x[0], x[0], x[0], x[0], lse[0], **lists),
    "cache": lambda: mfa.flash_attn_with_kvcache(
        x, cache, cache.copy(), x, x, cache_seqlens=0, page_table=table, cache_batch_idx=used, **tables),
    "full cache": lambda: mfa.flash_attn_with_kvcache(x, x, x.copy(), x, x, cache_seqlens=1),
    "qkvpacked": lambda: mfa.flash_attn_qkvpacked_func(packed, num_heads_q=2, return_attn_probs=True),
    "metadata": lambda: mfa.get_scheduler_metadata(1, 1, 4, 2, 2, 8, used),
    "dlpack": lambda: mfa.attention(bare, bare, bare, sinks=Bare(row), context=context),
    "memoryview": lambda: mfa.attention(memoryview(x), x, x, context=context),
    "buffer": lambda: mfa.Buffer(context, x).close(),
    "buffer of a size": lambda: bytes(memoryview(mfa.Buffer(context, 64))),
    "context": lambda: repr(mfa.Context("cpu", num_threads=2)),
    "wrong shape": lambda: mfa.attention(x, x[:, :2], x, context=context),
    "wrong scores": lambda: mfa.attention(x, x, x, mask=mask[:2], context=context),
    "wrong number": lambda: mfa.attention(x, x, x, softcap=list(range(99)), context=context),
    "wrong keyword": lambda: mfa.plan(x, x, x, softcup=3),
    "wrong to the library": lambda: mfa.attention(x, x, x, out=x, context=context),
}
call = cases[sys.argv[1]]
watched = [x, cache, table, used, *lists.values(), *tables.values(), packed]
watched += [five, odd, lse, row, exact, mask, bare, context, np.dtype(np.float32), mfa.Gradients, mfa.Plan]

def named(error):
    if not isinstance(error, SystemError):
        return type(error).__name__
    return re.sub(" at 0x[0-9a-f]+", "", str(error))

def outcome():
    try:
        call()
    except Exception as error:
        return named(error)
    return "success"

def references():
    gc.collect()
    return list(map(sys.getrefcount, watched))

usual = outcome()
before = references()
outcomes = collections.Counter()
allocation, since = 0, 0
while since < 30:  # until the calls make no such allocation any more
    error = None
    _testcapi.set_nomemory(allocation, allocation + 1)
    try:
        call()
    except Exception as raised:
        error = raised
    finally:
        _testcapi.remove_mem_hooks()
    found = "success" if error is None else named(error)
    del error
    outcomes[found] += 1
    since = since + 1 if found == usual else 0
    allocation += 1
lost = [after - then for after, then in zip(references(), before)]
print(json.dumps({"usual": usual, "outcomes": outcomes, "lost": lost, "after": outcome()}))
"""
CASES = [line.split('"')[1] for line in PROGRAM.splitlines() if line.startswith('    "') and "lambda" in line]
# What Python and NumPy themselves say of an exception that they had no memory for.
OTHERS = {
    "error return without exception set",
    "<class 'numpy.nditer'> returned NULL without setting an exception",
    # The same of a function in Python that it calls, which Cython hands on.
    "<cyfunction attend> returned NULL without setting an exception",
}


@pytest.mark.parametrize("case", CASES)
def test_every_allocation_fails_once(case):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, case],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr[-2000:]
    seen = json.loads(done.stdout)
    assert set(seen["outcomes"]) <= {seen["usual"], "MemoryError", *OTHERS}
    assert seen["outcomes"].get("MemoryError", 0) > (0 if case.startswith("buffer") else 5)
    if "nditer" not in str(seen["outcomes"]):  # which then keeps what it was made for
        assert seen["lost"] == [0] * len(seen["lost"])
    assert seen["after"] == seen["usual"]
