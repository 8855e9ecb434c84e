"""What scores are made of beside queries and keys: `qv`, and factors of stored queries, keys and values."""

import numpy as np
import pytest
from support import checks, tolerance

import mfa

LAYOUT = {"layout": "bhsd"}
HEADS, KV_HEADS, BATCH = 4, 2, 2
# Rows that are decoded and that are tiled, columns of values in several blocks on Metal, no whole vectors.
SIZES = [(1, 40, 16, 32), (3, 70, 17, 33), (9, 61, 40, 24), (70, 130, 8, 200), (20, 33, 64, 516)]


def operands(rng, queries, keys, head_dim, value_dim, dtype):
    query = rng.standard_normal((BATCH, HEADS, queries, head_dim)).astype(dtype)
    key = rng.standard_normal((BATCH, KV_HEADS, keys, head_dim)).astype(dtype)
    value = rng.standard_normal((BATCH, KV_HEADS, keys, value_dim)).astype(dtype)
    qv = rng.standard_normal((BATCH, HEADS, queries, value_dim)).astype(dtype)
    return query, key, value, qv


def check(context, query, key, value, *, qv=None, q_descale=None, k_descale=None, v_descale=None, **features):
    result = mfa.attention(
        query, key, value, qv=qv, q_descale=q_descale, k_descale=k_descale, v_descale=v_descale,
        context=context, return_lse=True, **LAYOUT, **features,
    )  # fmt: skip
    q, k, v = (x.astype(np.float64) for x in (query, key, value))
    if qv is not None:
        q, k = np.concatenate([q, qv.astype(np.float64)], -1), np.concatenate([k, v], -1)
    for factor in (q_descale, k_descale):
        if factor is not None:
            q = q * spread(factor, HEADS)
    if v_descale is not None:
        v = v * spread(v_descale, KV_HEADS)
    reference = tolerance.reference(
        q,
        k,
        v,
        weight_dtype=query.dtype,
        out_dtype=query.dtype,
        **checks.oracle_features(q.shape[2], k.shape[2], **features),
    )
    checks.assert_matches(result, reference, "bhsd")
    return result


def spread(factor, heads):
    """(B, Hkv) or less as (B, heads, 1, 1)."""
    full = np.broadcast_to(factor, (BATCH, KV_HEADS)).astype(np.float64)
    return np.repeat(full, heads // KV_HEADS, axis=1)[:, :, None, None]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("sizes", SIZES)
def test_query_value(context, rng, sizes, dtype):
    query, key, value, qv = operands(rng, *sizes, dtype)
    check(context, query, key, value, qv=qv, causal=True)


@pytest.mark.parametrize("sizes", SIZES[:4])
def test_factors(context, rng, sizes):
    query, key, value, qv = operands(rng, *sizes, "float16")
    factors = rng.uniform(-1, 1, (3, BATCH, KV_HEADS)).astype(np.float32)
    factors[:, 0, 0] = 0
    check(context, query, key, value, q_descale=factors[0])
    check(
        context, query, key, value, v_descale=factors[2], sinks=rng.standard_normal(HEADS).astype(np.float32)
    )
    check(
        context, query, key, value, qv=qv, q_descale=factors[0], k_descale=factors[1], v_descale=factors[2],
        softcap=0.8, window=(30, -1),
    )  # fmt: skip


def test_factors_of_1_change_no_bit(context, rng):
    query, key, value, _ = operands(rng, 9, 50, 16, 16, "float16")
    ones = np.ones((BATCH, KV_HEADS), np.float32)
    plain = mfa.attention(query, key, value, context=context, softcap=3.0, **LAYOUT)
    scaled = mfa.attention(
        query,
        key,
        value,
        q_descale=ones,
        k_descale=ones,
        v_descale=ones,
        context=context,
        softcap=3.0,
        **LAYOUT,
    )
    assert checks.same_bits(plain, scaled)


def test_query_value_reads_no_hidden_value(context, rng):
    query, key, value, qv = operands(rng, 12, 40, 16, 16, "float32")
    value[:, :, 20:] = np.nan
    hidden = np.arange(40) < 20
    out = mfa.attention(query, key, value, qv=qv, mask=hidden[None, None, None], context=context, **LAYOUT)
    seen = mfa.attention(query, key[:, :, :20], value[:, :, :20], qv=qv, context=context, **LAYOUT)
    np.testing.assert_allclose(out, seen, rtol=1e-5, atol=1e-6)
