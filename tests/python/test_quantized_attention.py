"""Attention calls that take a QuantizedTensor as key or value: they compute what it stands for."""

import numpy as np
import pytest
import torch

import mfa

TOLERANCE = {"rtol": 2e-4, "atol": 2e-5}
GRANULARITIES = ["tensor", "head", "token", "channel", "block4", "group32", (3, 64)]


@pytest.fixture
def arrays(rng):
    """query, key, value; in layout "bhsd"."""
    return [rng.standard_normal((2, 4, n, 40), dtype=np.float32) for n in (20, 33, 33)]


def swapped(arrays):
    return [np.ascontiguousarray(array.swapaxes(1, 2)) for array in arrays]


def pair(key, value, layout="bshd", **options):
    return mfa.quantize(key, smooth=True, layout=layout, **options), mfa.quantize(
        value, "int4", layout=layout
    )


def close(actual, expected):
    for found, wanted in zip(actual, expected, strict=True):
        assert np.allclose(found, wanted, **TOLERANCE)


# ------------------------------------------------------------------ results


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
@pytest.mark.parametrize("precision", ["int8", "uint8", "int4", "uint4"])
def test_attention_is_that_of_what_codes_stand_for(context, arrays, precision, granularity):
    query, key, value = swapped(arrays)
    codes = [mfa.quantize(array, precision, granularity) for array in (key, value)]
    out = mfa.attention(query, *codes, causal=True, return_lse=True, context=context)
    floats = [tensor.dequantize() for tensor in codes]
    close(out, mfa.attention(query, *floats, causal=True, return_lse=True, context=context))


@pytest.mark.parametrize("layout", ["bshd", "bhsd"])
def test_layout_and_mean_and_one_of_both(context, arrays, layout):
    query, key, value = arrays if layout == "bhsd" else swapped(arrays)
    codes, values = pair(key, value, layout)
    for given, floats in [
        ((codes, values), (codes.dequantize(), values.dequantize())),
        ((key, values), (key, values.dequantize())),
        ((codes, value), (codes.dequantize(), value)),
    ]:
        out = mfa.attention(query, *given, layout=layout, context=context)
        close([out], [mfa.attention(query, *floats, layout=layout, context=context)])


def test_tensors_have_tensors_as_results(arrays):
    query, key, value = map(torch.from_numpy, swapped(arrays))
    codes = pair(key, value)
    out = mfa.attention(query.bfloat16(), *codes)
    assert isinstance(out, torch.Tensor)
    assert out.dtype == torch.bfloat16


def test_plan_takes_codes(context, arrays):
    query, key, value = swapped(arrays)
    assert mfa.plan(query, *pair(key, value), context=context).status == 0
    assert mfa.plan(query, *pair(key, value), context=context, backward=True).status == 0


def test_integers_are_multiplied_where_asked(arrays):
    query, key, value = swapped(arrays)
    codes = mfa.quantize(key), mfa.quantize(value)
    exact, rounded = (mfa.attention(query, *codes, compute_mode=mode) for mode in ("exact", "int8"))
    error = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
    assert 0 < error < 0.02


def test_gradients_are_those_of_what_codes_stand_for(context, arrays):
    query, key, value = swapped(arrays)
    codes = pair(key, value)
    floats = [tensor.dequantize() for tensor in codes]
    out, lse = mfa.attention(query, *floats, causal=True, return_lse=True)
    found = mfa.attention_backward(out, query, *codes, out, lse, causal=True, context=context)
    expected = mfa.attention_backward(out, query, *floats, out, lse, causal=True)
    close(found[:3], expected[:3])
    assert [gradient.dtype for gradient in found[:3]] == [np.float32] * 3


def test_gradients_of_codes_are_of_querys_kind(arrays):
    query, key, value = swapped(arrays)
    codes = pair(key, value)
    query = torch.from_numpy(query).half()
    out, lse = mfa.attention(query, *codes, return_lse=True)
    gradients = mfa.attention_backward(out, query, *codes, out, lse)
    assert [gradient.dtype for gradient in gradients[:3]] == [torch.float16] * 3
    assert gradients.dk.shape == key.shape


def test_delta_is_written_or_read(context, arrays):
    query, key, value = swapped(arrays)
    codes = pair(key, value)
    out, lse = mfa.attention(query, *codes, return_lse=True)
    dout = np.cos(out)
    delta = np.full(lse.shape, np.nan, np.float32)
    plain = mfa.attention_backward(dout, query, *codes, out, lse, context=context)
    written = mfa.attention_backward(dout, query, *codes, out, lse, delta=delta, context=context)
    assert np.allclose(delta, (dout * out).sum(-1).swapaxes(1, 2), **TOLERANCE)
    delta.flags.writeable = False
    read = mfa.attention_backward(dout, query, *codes, None, lse, delta=delta, context=context)
    close(written[:3], plain[:3])
    close(read[:3], plain[:3])


def test_clipped_codes_have_no_gradients(context, arrays):
    query, key, value = swapped(arrays)
    codes = mfa.quantize(key, scale=0.01), mfa.quantize(value, scale=0.5)
    out, lse = mfa.attention(query, *codes, return_lse=True)
    plain = mfa.attention_backward(out, query, *codes, out, lse, context=context)
    zeroed = mfa.attention_backward(out, query, *codes, out, lse, zero_clipped=True, context=context)
    clipped = np.abs(codes[0].data) == 127
    assert 0.1 < clipped.mean() < 0.9
    assert not zeroed.dk[clipped].any()
    close([zeroed.dk[~clipped], zeroed.dv], [plain.dk[~clipped], plain.dv])


# -------------------------------------------------------------- other doors


def test_scaled_dot_product_attention(arrays):
    query, key, value = arrays
    codes = pair(key, value, "bhsd")
    floats = [tensor.dequantize() for tensor in codes]
    close(
        [mfa.scaled_dot_product_attention(query, *codes, is_causal=True)],
        [mfa.scaled_dot_product_attention(query, *floats, is_causal=True)],
    )
    lone = pair(key[0, 0], value[0, 0], "bhsd")
    floats = [tensor.dequantize() for tensor in lone]
    # One batch and head for all.
    close(
        [mfa.scaled_dot_product_attention(query, *lone)], [mfa.scaled_dot_product_attention(query, *floats)]
    )
    with pytest.raises(ValueError, match="query: 5 dimensions, expected at most 4 beside a QuantizedTensor"):
        mfa.scaled_dot_product_attention(query[None], *codes)


def test_flash_attn_func(arrays):
    query, key, value = swapped(arrays)
    codes = pair(key, value)
    floats = [tensor.dequantize() for tensor in codes]
    close([mfa.flash_attn_func(query, *codes)], [mfa.flash_attn_func(query, *floats)])


def test_packed_sequences(arrays):
    query, key, value = (array.reshape(-1, *array.shape[2:]) for array in swapped(arrays))
    codes = mfa.quantize(key, "uint4", "block4"), mfa.quantize(value)
    starts = np.array([0, 9, 25], np.int32)
    more = starts, starts * 2, 20, 40
    floats = [tensor.dequantize() for tensor in codes]
    close(
        [mfa.flash_attn_varlen_func(query, *codes, *more)],
        [mfa.flash_attn_varlen_func(query, *floats, *more)],
    )


def test_each_sequence_has_its_mean(arrays):
    query, key, value = (array.reshape(-1, *array.shape[2:]) for array in swapped(arrays))
    codes = mfa.quantize(key)
    means = np.linspace(-1, 1, 2 * 4 * 40, dtype=np.float32).reshape(2, 1, 4, 40)
    starts = np.array([0, 9, 25], np.int32)
    with_means = mfa.QuantizedTensor(codes.data, codes.scales, None, means)
    floats = codes.dequantize()
    floats[: 2 * 9] += means[0]
    floats[2 * 9 :] += means[1]
    more = starts, starts * 2, 20, 40
    close(
        [mfa.flash_attn_varlen_func(query, with_means, value, *more)],
        [mfa.flash_attn_varlen_func(query, floats, value, *more)],
    )


@pytest.mark.parametrize("precision", ["int8", "uint4"])
def test_rows_are_appended_to_caches_of_codes(arrays, precision):
    query, key, value = swapped(arrays)
    symmetric = None if precision == "int8" else False
    caches = [mfa.quantize(array, precision, symmetric=symmetric) for array in (key, value)]
    new = [array[:, :3] + 1 for array in (key, value)]
    lengths = np.array([5, 30], np.int32)
    out = mfa.flash_attn_with_kvcache(query, *caches, *new, cache_seqlens=lengths, causal=True)
    for cache, rows, old in zip(caches, new, (key, value), strict=True):
        expected = old.copy()
        for b, length in enumerate(lengths):
            expected[b, length : length + 3] = rows[b]
        plain = mfa.quantize(expected, precision, symmetric=symmetric)
        for name in ("data", "scales", "zero_points"):
            assert np.array_equal(getattr(cache, name), getattr(plain, name))
    floats = [tensor.dequantize() for tensor in caches]
    close([out], [mfa.flash_attn_with_kvcache(query, *floats, cache_seqlens=lengths + 3, causal=True)])


def test_metadata_knows_caches_of_codes(arrays):
    query, key, value = swapped(arrays)
    caches = pair(key, value)
    lengths = np.array([5, 30], np.int32)
    metadata = mfa.get_scheduler_metadata(2, 20, 33, 4, 4, 40, lengths)
    more = {"cache_seqlens": lengths, "scheduler_metadata": metadata}
    out = mfa.flash_attn_with_kvcache(query, *caches, **more)
    floats = [tensor.dequantize() for tensor in caches]
    close([out], [mfa.flash_attn_with_kvcache(query, *floats, **more)])


def relative(score, b, h, q_idx, kv_idx):
    return score + 0.1 * (q_idx - kv_idx)


def bias(score, b, h, q_idx, kv_idx):
    return score + (q_idx * kv_idx % 7) * 0.1


def generic(score, b, h, q_idx, kv_idx):
    return score * score * 0.3


def torch_generic(score, b, h, q_idx, kv_idx):
    return torch.sin(score)


@pytest.mark.parametrize("score_mod", [None, relative, bias, generic])
@pytest.mark.parametrize("most", [1 << 22, 300])
def test_flex_attention(arrays, score_mod, most, monkeypatch):
    monkeypatch.setattr("mfa._flex_call.MOST_SCORES", most)
    monkeypatch.setattr("mfa._flex_call.MOST_BIASES", most)
    query, key, value = arrays
    codes = mfa.quantize(key, "uint8", "block4", layout="bhsd"), mfa.quantize(value, layout="bhsd")
    floats = [tensor.dequantize() for tensor in codes]
    block_mask = mfa.create_block_mask(
        lambda b, h, q_idx, kv_idx: q_idx + 13 >= kv_idx, None, None, 20, 33, BLOCK_SIZE=(8, 6)
    )
    options = {"return_lse": True, "block_mask": block_mask}
    close(
        mfa.flex_attention(query, *codes, score_mod, **options),
        mfa.flex_attention(query, *floats, score_mod, **options),
    )
    assert mfa.flex_plan(query, *codes, score_mod).plan.status == 0


@pytest.mark.parametrize("most", [1 << 22, 300])
def test_flex_attention_to_one_batch_of_codes_with_means_of_all(arrays, most, monkeypatch):
    monkeypatch.setattr("mfa._flex_call.MOST_SCORES", most)
    query, key, value = arrays
    shared = mfa.quantize(key[:1], "int8", "block4", layout="bhsd")
    means = np.cos(key[:, :, :1]) * 3
    codes = mfa.QuantizedTensor(shared.data, shared.scales, None, means, rows=4, layout="bhsd")
    floats = shared.dequantize() + means, np.concatenate([value[:1]] * 2)
    close(
        mfa.flex_attention(query, codes, value[:1], generic, return_lse=True),
        mfa.flex_attention(query, *floats, generic, return_lse=True),
    )


@pytest.mark.parametrize("score_mod", [None, bias, torch_generic])
def test_flex_attention_backward(arrays, score_mod):
    query, key, value = arrays
    codes = pair(key, value, "bhsd")
    floats = [tensor.dequantize() for tensor in codes]
    out, lse = mfa.flex_attention(query, *floats, score_mod, return_lse=True)
    close(
        mfa.flex_attention_backward(out, query, *codes, out, lse, score_mod)[:3],
        mfa.flex_attention_backward(out, query, *floats, out, lse, score_mod)[:3],
    )


# ------------------------------------------------------------------- errors


def test_arguments_are_named_as_callers_do(arrays):
    query, key, value = swapped(arrays)
    codes, values = pair(key, value)
    zero = mfa.QuantizedTensor(codes.data, np.where(np.arange(33)[:, None, None] == 7, 0, codes.scales))
    frozen = mfa.QuantizedTensor(np.broadcast_to(codes.data, codes.shape), codes.scales)
    lengths = np.array([5, 30], np.int32)
    append = {"k_new": key[:, :3], "v_new": value[:, :3], "seqused_k": lengths}
    out, lse = mfa.attention(query, codes, values, return_lse=True)
    for call, error, message in [
        (
            lambda: mfa.flex_attention(query.swapaxes(1, 2), codes, value.swapaxes(1, 2)),
            ValueError,
            "key: layout 'bshd', expected 'bhsd'",
        ),
        (
            lambda: mfa.attention(query, mfa.quantize(key, "int8", "block4"), values, **append),
            ValueError,
            "key.rows: 4, expected 0 or 1",
        ),
        (
            lambda: mfa.attention(
                query, mfa.QuantizedTensor(codes.data, codes.scales[:, :, :1].copy()), values, **append
            ),
            ValueError,
            r"key.scales: shape \(2, 33, 1, 1\), expected \(2, 33, 4, 1\), as new rows have their own",
        ),
        (lambda: mfa.attention(codes, key, value), TypeError, "query: QuantizedTensor, expected an array"),
        (
            lambda: mfa.attention(query, codes, values, layout="bhsd"),
            ValueError,
            "key: layout 'bshd', expected 'bhsd'",
        ),
        (lambda: mfa.attention(query, key, codes), ValueError, "value.mean: given, expected None"),
        (
            lambda: mfa.attention(query, zero, values),
            ValueError,
            r"key.scales\[0, 7, 0, 0\]: 0, expected a positive",
        ),
        (lambda: mfa.flash_attn_func(query, key, zero), ValueError, r"v.scales\[0, 7, 0, 0\]: 0, expected a"),
        (
            lambda: mfa.attention(
                query[:1], mfa.QuantizedTensor(codes.data[:1], codes.scales[:1], None, codes.mean), values
            ),
            ValueError,
            "key.mean: of 2 sequences, expected 1",
        ),
        (
            lambda: mfa.attention(query[..., :8], codes, values),
            ValueError,
            r"key: shape \(2, 33, 4, 40\), expected",
        ),
        (
            lambda: mfa.attention(query, frozen, values, **append),
            BufferError,
            "key: is read-only, expected writable",
        ),
        (
            lambda: mfa.attention(query, codes, values, compute_mode="int4"),
            ValueError,
            "compute_mode: 'int4', expected",
        ),
        (
            lambda: mfa.attention(query, codes, values, compute_mode=8),
            TypeError,
            "compute_mode: 8, expected 'exact'",
        ),
        (
            lambda: mfa.attention(query, key, values, compute_mode="int8"),
            ValueError,
            "compute_mode: .* as key",
        ),
        (
            lambda: mfa.attention(query, codes, value, compute_mode="int8"),
            ValueError,
            "compute_mode: .* as value",
        ),
        (
            lambda: mfa.attention(query, codes, values, compute_mode="int8", qv=query),
            ValueError,
            "compute_mode: 'int8', expected 'exact' beside qv",
        ),
        (
            lambda: mfa.attention(
                query, codes, values, compute_mode="int8", intermediate_precision="float32"
            ),
            ValueError,
            "compute_mode: 'int8', expected 'exact' beside intermediate_precision",
        ),
        (
            lambda: mfa.attention_backward(out, query, key, value, out, lse, zero_clipped=True),
            ValueError,
            "zero_clipped: True, expected False, or a QuantizedTensor",
        ),
        (
            lambda: mfa.attention_backward(out, query, codes, values, out, lse, delta=lse[:1]),
            ValueError,
            r"delta: shape \(1, 4, 20\), expected \(2, 4, 20\)",
        ),
        (
            lambda: mfa.attention_backward(out, query, codes, values, None, lse),
            TypeError,
            "out: NoneType, expected an array",
        ),
    ]:
        with pytest.raises(error, match=f"^{message}"):
            call()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_rows_of_bytes_that_were_given_another_shape_are_not_read(arrays):
    query, key, _ = swapped(arrays)
    codes = mfa.quantize(key, "int4", "tensor")
    codes.data.shape = (2, 33, 8, 10)
    with pytest.raises(
        ValueError, match=r"^key.data: shape \(2, 33, 8, 10\) by now, expected rows of 20 bytes"
    ):
        mfa.attention(np.repeat(query, 2, axis=2), codes, codes)
