"""Plans: what a call would do, without doing it."""

import dataclasses
import tracemalloc

import numpy as np
import pytest

import mfa

ONES = np.ones((1, 3, 2, 4), np.float32)


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
def test_plan_reads_no_scales(backward):
    memory = np.zeros(33, np.uint8)
    # A call would copy them, and refuse them.
    scales = memory[1:].view(np.float32).reshape(1, 1, 2, 4)[..., :1]
    codes = mfa.QuantizedTensor(np.ones((1, 3, 2, 4), np.int8), scales, rows=0)
    assert mfa.plan(ONES, codes, codes, backward=backward).status == 0
    with pytest.raises(ValueError, match=r"^key.scales\[0, 0, 0, 0\]: 0, expected a positive"):
        mfa.attention(ONES, codes, codes)


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
