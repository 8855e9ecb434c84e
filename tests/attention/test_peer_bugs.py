"""Bugs that users of other attention libraries reported, each as the symptom they saw."""

import sys

import numpy as np
import pytest
from support import checks
from support.probe import run_probe

import mfa

LAYOUT = {"layout": "bhsd"}
HALF = pytest.mark.parametrize("dtype", [checks.FLOAT16, checks.BFLOAT16], ids=str)
ANY = pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)


def operands(rng, **sizes):
    return checks.operands(rng, **sizes, **LAYOUT)


# ---------------------------------------------------------------- wrong numbers, silently


@ANY
@pytest.mark.parametrize("query_length", [2, 64, 129])
def test_causal_leaks_future_tokens(context, rng, dtype, query_length):  # pytorch#195910
    query, key, value = operands(
        rng, heads=2, query_length=query_length, key_length=query_length, dtype=dtype
    )
    before = mfa.attention(query, key, value, causal="top-left", context=context, **LAYOUT)
    row = (query_length - 1) // 2
    key[:, :, row + 1 :] = 9
    value[:, :, row + 1 :] = -9
    after = mfa.attention(query, key, value, causal="top-left", context=context, **LAYOUT)
    assert checks.same_bits(after[:, :, : row + 1], before[:, :, : row + 1])
    assert not checks.same_bits(after, before)


def test_non_contiguous_operands_are_read_as_contiguous(context, rng):  # pytorch#181133
    arrays = operands(rng, batch=2, heads=3, query_length=20, key_length=30)
    plain = mfa.attention(*arrays, context=context, **LAYOUT)
    transposed = [np.asfortranarray(x) for x in arrays]
    assert checks.same_bits(mfa.attention(*transposed, context=context, **LAYOUT), plain)


@pytest.mark.skipif(sys.platform == "win32", reason="guard pages are made with mprotect")
def test_reads_past_the_end_of_an_operand(backend):  # pytorch#174861
    assert run_probe("guard_pages", **backend.options)["calls"] > 100


@ANY
def test_key_length_is_not_a_multiple_of_32(context, rng, dtype):  # pytorch#169222
    for key_length in range(1, 100):
        checks.check(context, *operands(rng, query_length=3, key_length=key_length, dtype=dtype), **LAYOUT)


@ANY
def test_broadcast_mask_is_read_as_full(context, rng, dtype):  # pytorch#184180, umfa#29
    arrays = operands(rng, batch=3, heads=2, query_length=40, key_length=70, dtype=dtype)
    bias = rng.standard_normal((3, 2, 40, 70)).astype(dtype)
    for axes in np.ndindex(2, 2, 2, 2):
        part = bias[tuple(slice(0, 1) if cut else slice(None) for cut in axes)]
        checks.check(context, *arrays, bias=part, **LAYOUT)


def test_scale_of_an_earlier_call_is_used(context, rng):  # pytorch#184122
    arrays = operands(rng, query_length=20, key_length=30)
    for scale in (0.5, 2.0, None, 0.5, -1.0):
        checks.check(context, *arrays, softmax_scale=scale, **LAYOUT)


def test_dropout_is_ignored(rng):  # pytorch#184126
    arrays = operands(rng)
    without = mfa.scaled_dot_product_attention(*arrays)
    assert not np.allclose(mfa.scaled_dot_product_attention(*arrays, dropout_p=0.5), without)


@pytest.mark.parametrize(("head_dim", "value_dim"), [(64, 32), (32, 64), (192, 128), (1, 7), (576, 512)])
def test_value_dim_differs_from_head_dim(context, rng, head_dim, value_dim):  # pytorch#176767
    arrays = operands(rng, heads=2, query_length=5, key_length=40, head_dim=head_dim, value_dim=value_dim)
    out, _ = checks.check(context, *arrays, **LAYOUT)
    assert out.shape == (1, 2, 5, value_dim)


def test_more_than_two_to_the_32_scores(context, rng):  # pytorch#179352
    length = 66_000
    assert length**2 > 2**32
    query, key, value = operands(rng, query_length=length, key_length=length, head_dim=8)
    options = {"window": (16, 0), **LAYOUT}
    out, logsumexp = mfa.attention(query, key, value, context=context, return_lse=True, **options)
    for start in (0, 32_700, 65_500, length - 100):
        rows = slice(start, start + 100)
        keys = slice(max(start - 16, 0), start + 100)
        reference = checks.expected(query[:, :, rows], key[:, :, keys], value[:, :, keys], **options)
        checks.assert_matches((out[:, :, rows], logsumexp[:, :, rows]), reference, **LAYOUT)


@HALF
def test_large_activations_give_nan_and_black_images(context, rng, dtype):  # pytorch#96602, ComfyUI#10681
    query, key, value = operands(rng, heads=2, query_length=77, key_length=77, head_dim=40, dtype=dtype)
    query, key = (x * np.array(300, dtype) for x in (query, key))
    out, _ = checks.check(context, query, key, value, **LAYOUT)
    assert np.isfinite(out.astype(np.float32)).all()


@ANY
def test_fully_masked_rows_give_nan(context, rng, dtype):  # mlx#2395, mlx#2608
    arrays = operands(rng, heads=2, query_length=20, key_length=50, dtype=dtype)
    mask = np.ones((20, 50), bool)
    mask[5:15] = False
    for hidden in (mask, np.where(mask, 0, -np.inf).astype(dtype)):
        out, logsumexp = checks.check(context, *arrays, mask=hidden, **LAYOUT)
        assert not out[:, :, 5:15].astype(np.float32).any()
        assert np.isneginf(logsumexp[:, :, 5:15]).all()


# ---------------------------------------------------------------- heads, batches, layouts


@pytest.mark.parametrize("heads", [2, 5])
def test_only_the_first_head_and_batch_are_computed(context, rng, heads):  # umfa#27, umfa on M1 and M2
    arrays = operands(rng, batch=3, heads=heads, query_length=9, key_length=9)
    out = np.full((3, heads, 9, 16), np.nan, np.float32)
    checks.check(context, *arrays, out=out, **LAYOUT)
    assert len({out[b, h].tobytes() for b, h in np.ndindex(3, heads)}) == 3 * heads


def test_keys_of_cross_attention_are_found_by_the_query_length(context, rng):  # umfa, multi-head offsets
    for query_length, key_length in ((3, 50), (50, 3)):
        arrays = operands(rng, batch=3, heads=4, query_length=query_length, key_length=key_length)
        checks.check(context, *arrays, **LAYOUT)


def test_grouped_heads_are_interleaved(context):  # umfa maps head % kv_heads
    value = np.arange(3, dtype=np.float32)[None, :, None, None]
    zeros = np.zeros((1, 3, 1, 4), np.float32)
    out = mfa.attention(np.repeat(zeros, 4, axis=1), zeros, value, context=context, **LAYOUT)
    assert out.ravel().tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]


@pytest.mark.parametrize("query_length", [1, 5, 33])
def test_grouped_heads_with_a_mask_crash(context, rng, query_length):  # pytorch#149132
    arrays = operands(rng, batch=2, heads=8, kv_heads=2, query_length=query_length, key_length=70)
    checks.check(context, *arrays, mask=rng.random((2, 8, query_length, 70)) < 0.7, **LAYOUT)
    checks.check(context, *arrays, mask=rng.random((2, 1, query_length, 70)) < 0.7, **LAYOUT)


def test_layout_is_not_the_one_documented(context, rng):  # umfa indexes BHSD where its header says BSHD
    query, key, value = operands(rng, heads=3, query_length=5, key_length=7)
    heads_first = mfa.attention(query, key, value, context=context, **LAYOUT)
    sequence_first = mfa.attention(*(x.swapaxes(1, 2).copy() for x in (query, key, value)), context=context)
    assert checks.same_bits(sequence_first.swapaxes(1, 2), heads_first)


# ---------------------------------------------------------------- conventions


def test_true_in_a_bool_mask_means_hidden(context):  # umfa's Python documentation
    zeros = np.zeros((1, 1, 1, 4), np.float32)
    value = np.array([3, 5], np.float32)[None, None, :, None]
    out = mfa.attention(
        zeros, zeros.repeat(2, axis=2), value, mask=np.array([True, False]), context=context, **LAYOUT
    )
    assert out.item() == 3


def test_logsumexp_is_in_base_two(context):  # umfa, mfa
    zeros = np.zeros((1, 1, 10, 4), np.float32)
    _, logsumexp = mfa.attention(zeros, zeros, zeros, return_lse=True, context=context, **LAYOUT)
    np.testing.assert_allclose(logsumexp, np.log(10), rtol=1e-6)


def test_output_depends_on_what_it_held_before(context, rng):  # umfa seeds its maximum from the buffer
    arrays = operands(rng, heads=2, query_length=40, key_length=50)
    plain = mfa.attention(*arrays, context=context, **LAYOUT)
    for before in (np.nan, np.inf, -1e38):
        out = np.full_like(plain, before)
        mfa.attention(*arrays, out=out, context=context, **LAYOUT)
        assert checks.same_bits(out, plain)


@pytest.mark.parametrize("precision", ["float8", "fp32 ", 7])
def test_unknown_precision_becomes_float32(context, rng, precision):  # umfa
    with pytest.raises((TypeError, ValueError), match="intermediate_precision"):
        mfa.attention(*operands(rng), intermediate_precision=precision, context=context, **LAYOUT)


def test_output_precision_is_ignored(context, rng):  # umfa
    arrays = operands(rng, dtype=checks.FLOAT16)
    assert mfa.attention(*arrays, out_dtype=np.float32, context=context, **LAYOUT).dtype == np.float32


def test_window_is_not_skipped(context, rng):  # umfa's window visits every tile
    """Keys that no row sees cost nothing: their tiles are never read."""
    query, key, value = operands(rng, query_length=64, key_length=4096)
    key[:, :, :2048] = value[:, :, :2048] = np.nan
    out, _ = checks.check(context, query, key[:, :, 2048:], value[:, :, 2048:], window=(100, 0), **LAYOUT)
    windowed = mfa.attention(query, key, value, window=(100, 0), context=context, **LAYOUT)
    np.testing.assert_allclose(windowed, out, atol=1e-6)


def test_contexts_share_state(backend, rng):  # umfa's contexts are one singleton
    arrays = operands(rng, heads=2, query_length=40, key_length=50)
    with backend.context(num_threads=1) as one, backend.context(num_threads=2) as two:
        plain, described = mfa.attention(*arrays, context=two, **LAYOUT), two.describe()
        one.close()
        assert two.describe() == described
        assert checks.same_bits(mfa.attention(*arrays, context=two, **LAYOUT), plain)


# ---------------------------------------------------------------- silent fallbacks


@pytest.mark.parametrize("head_dim", [40, 192, 512, 576])
def test_large_heads_silently_take_a_slow_path(context, rng, head_dim):  # mlx#3885, mlx#3658
    """The plan names the kernel, and no head dimension makes it hold the matrix of scores."""
    arrays = operands(rng, query_length=4096, key_length=4096, head_dim=head_dim)
    plan = mfa.plan(*arrays, context=context, **LAYOUT)
    assert plan.status == 0
    assert not plan.fallback
    assert plan.kernel
    assert plan.workspace_bytes < 4096 * 4096 * 4 / 2
