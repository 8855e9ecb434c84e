"""The same bits on every run, and for any number of threads, forward and backward."""

import numpy as np
import pytest
from hypothesis import given
from support import checks, strategies

import mfa


@pytest.fixture(scope="module")
def contexts(backend):
    """One context for each number of threads."""
    contexts = [backend.context(num_threads=count) for count in (1, 2, 3)]
    yield contexts
    for context in contexts:
        context.close()


def assert_same_bits(contexts, *operands, **options):
    runs = []
    for context in [*contexts, contexts[-1]]:
        out, logsumexp = mfa.attention(*operands, **options, context=context, return_lse=True)
        runs.append((out.copy(), logsumexp))
    for out, logsumexp in runs[1:]:
        assert checks.same_bits(out, runs[0][0])
        assert checks.same_bits(logsumexp, runs[0][1])


@pytest.mark.cpu
@given(call=strategies.calls())
def test_threads_do_not_change_a_bit(contexts, call):
    assert_same_bits(contexts, *call.operands, **call.options)


@given(call=strategies.calls())
def test_an_earlier_call_leaves_nothing_behind(context, call):
    """Workspaces are kept between calls: one full of NaN must not show in the next call."""
    runs = []
    for _ in range(2):
        out, logsumexp = mfa.attention(*call.operands, **call.options, context=context, return_lse=True)
        runs.append((out.copy(), logsumexp))
        nan = (np.full(x.shape, np.nan, x.dtype) for x in call.operands)
        options = {name: x for name, x in call.options.items() if name != "out"}
        mfa.attention(*nan, **options, context=context)
    assert checks.same_bits(runs[0][0], runs[1][0])
    assert checks.same_bits(runs[0][1], runs[1][1])


# One head must fill all cores, and few rows split the keys: both are partitions of the problem alone.
@pytest.mark.cpu
@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
@pytest.mark.parametrize(
    ("query_length", "key_length", "heads", "kv_heads"),
    [(1, 5000, 8, 2), (1, 9001, 1, 1), (7, 3000, 4, 1), (64, 2049, 1, 1), (700, 600, 1, 1)],
)
def test_one_batch_on_all_threads(contexts, rng, dtype, query_length, key_length, heads, kv_heads):
    arrays = checks.operands(
        rng,
        heads=heads,
        kv_heads=kv_heads,
        query_length=query_length,
        key_length=key_length,
        head_dim=64,
        dtype=dtype,
    )
    assert_same_bits(contexts, *arrays)
    assert_same_bits(
        contexts, *arrays, causal="bottom-right", sinks=rng.standard_normal(heads).astype("float32")
    )


# ---------------------------------------------------------------- gradients


def assert_same_gradients(contexts, dout, *inputs, forward_dtype=None, dlse=None, **options):
    """From one out and logsumexp, on every context and twice on the last."""
    forward = {**options, "out_dtype": forward_dtype}
    out, logsumexp = mfa.attention(*inputs, **forward, context=contexts[0], return_lse=True)
    runs = [
        mfa.attention_backward(dout, *inputs, out, logsumexp, dlse=dlse, **options, context=context)
        for context in [*contexts, contexts[-1]]
    ]
    for run in runs[1:]:
        assert checks.same_gradient_bits(run, runs[0])


@pytest.mark.cpu
@given(call=strategies.backward_calls())
def test_threads_do_not_change_a_bit_of_the_gradients(contexts, call):
    assert_same_gradients(contexts, *call.operands, **call.options)


@given(call=strategies.backward_calls())
def test_an_earlier_backward_call_leaves_nothing_behind(context, call):
    runs = []
    for _ in range(2):
        runs.append(checks.backward(context, *call.operands, **call.options))
        nan = (np.full(x.shape, np.nan, x.dtype) for x in call.operands)
        checks.backward(context, *nan, **call.options)
    assert checks.same_gradient_bits(*runs)


# One head must fill all cores: blocks of keys add to the same rows of dq, in the same order whoever is first.
@pytest.mark.cpu
@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
@pytest.mark.parametrize(
    ("query_length", "key_length", "heads", "kv_heads"),
    [(1, 5000, 2, 1), (97, 4001, 1, 1), (700, 900, 1, 1), (200, 700, 4, 1)],
)
def test_gradients_of_one_batch_on_all_threads(
    contexts, rng, dtype, query_length, key_length, heads, kv_heads
):
    sizes = {"query_length": query_length, "key_length": key_length, "heads": heads, "kv_heads": kv_heads}
    arrays = checks.operands_and_dout(rng, **sizes, head_dim=64, dtype=dtype)
    bias = rng.standard_normal((query_length, key_length)).astype(dtype)
    assert_same_gradients(contexts, *arrays)
    features = {"bias": bias, "sinks": np.ones(heads, np.float32), "dropout_p": 0.2, "causal": "bottom-right"}
    for _ in range(3):
        assert_same_gradients(contexts, *arrays, **features)


@pytest.mark.cpu
def test_environment_sets_the_threads_that_the_caller_left_open(backend, monkeypatch):
    monkeypatch.setenv("MFA_NUM_THREADS", "1")
    with backend.context() as one, backend.context(num_threads=2) as two:
        assert one.describe().num_threads == 1
        assert two.describe().num_threads == 2
