"""Lists of lengths and places: int32 arrays of any kind, which plans read too."""

import array
import ctypes

import numpy as np
import pytest
import torch
from support.dlpack_producer import LegacyProducer, VersionedProducer
from support.views import shifted

import mfa

STARTS = np.array([0, 3, 8], np.int32)
ROWS = np.ones((8, 2, 4), np.float32)


class Bare:
    def __init__(self, tensor):
        self.tensor = tensor

    def __dlpack__(self, **options):
        return self.tensor.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.tensor.__dlpack_device__()


def produced(kind):
    return lambda numbers: kind(numbers, code=0)


KINDS = {
    "ndarray": lambda numbers: numbers,
    "tensor": torch.from_numpy,
    "bare tensor": lambda numbers: Bare(torch.from_numpy(numbers)),
    "versioned": produced(VersionedProducer),
    "legacy": produced(LegacyProducer),
    "memoryview": memoryview,
    "array": lambda numbers: array.array("i", numbers),
    "ctypes": lambda numbers: (ctypes.c_int32 * len(numbers))(*numbers),
    "strided": lambda numbers: np.repeat(numbers, 2)[::2],
    "reversed": lambda numbers: numbers[::-1].copy()[::-1],
    "misaligned": lambda numbers: shifted(numbers, 1),
    "with metadata": lambda numbers: numbers.astype(np.dtype(np.int32, metadata={"a": 1})),
}


def lists(kind):
    """Both of that kind, each an object of its own: producers export one thing at a time."""
    return {name: KINDS[kind](STARTS.copy()) for name in ("cu_seqlens_q", "cu_seqlens_k")}


@pytest.mark.parametrize("kind", KINDS)
def test_any_kind(rng, kind):
    rows = rng.standard_normal(ROWS.shape).astype(np.float32)
    out = mfa.attention(rows, rows, rows, **lists(kind))
    assert np.array_equal(out, mfa.attention(rows, rows, rows, cu_seqlens_q=STARTS, cu_seqlens_k=STARTS))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backward", [False, True])
def test_plans_read_lists(kind, backward):
    assert mfa.plan(ROWS, ROWS, ROWS, **lists(kind), backward=backward).status == 0
    with pytest.raises(ValueError, match=r"^cu_seqlens_q\[2\]: 8, expected at most 7"):
        mfa.plan(ROWS[:7], ROWS, ROWS, **lists(kind), backward=backward)


OTHERS = {
    "int64": np.int64,
    "uint32": np.uint32,
    "int16": np.int16,
    "float32": np.float32,
    "bool": np.bool_,
    ">i4": ">i4",
}


@pytest.mark.parametrize("dtype", OTHERS)
def test_other_types_are_refused(dtype):
    starts = STARTS.astype(OTHERS[dtype])
    hint = {">i4": " in native byte order", "int64": r", as cu_seqlens_q\.astype\(numpy\.int32\) has"}
    message = f"^cu_seqlens_q: dtype {dtype}, expected int32{hint.get(dtype, '')}$"
    with pytest.raises(TypeError, match=message):
        mfa.attention(ROWS, ROWS, ROWS, cu_seqlens_q=starts, cu_seqlens_k=STARTS)


def test_int32_is_no_type_of_rows():
    rows = ROWS.astype(np.int32)
    with pytest.raises(TypeError, match=r"^query: dtype int32, expected float32, float16 or bfloat16"):
        mfa.attention(rows[None], rows[None], rows[None])
    with pytest.raises(TypeError, match=r"^mask: dtype int32, expected float32, float16, bfloat16 or bool"):
        mfa.attention(ROWS[None], ROWS[None], ROWS[None], mask=np.ones((8, 8), np.int32))


@pytest.mark.parametrize("backward", [False, True])
def test_plans_of_results_that_are_not_there(backward):
    """Packed results have other shapes than batches."""
    of_pages = {"cu_seqlens_q": STARTS, "seqused_k": STARTS[1:], "page_table": np.array([[0], [1]], np.int32)}
    pages = np.ones((3, 8, 2, 4), np.float32)
    plan = mfa.plan(ROWS, pages, pages, **of_pages, backward=backward, return_lse=True)
    assert plan.status == 0


def test_plans_append_nothing():
    cache = np.zeros((1, 8, 2, 4), np.float32)
    new = {"k_new": ROWS[None, :2], "v_new": ROWS[None, :2], "seqused_k": np.zeros(1, np.int32)}
    assert mfa.plan(ROWS[None], cache, cache.copy(), **new).status == 0
    assert not cache.any()
