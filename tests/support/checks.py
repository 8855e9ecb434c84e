"""One call of mfa.attention, or of mfa.attention_backward, beside the oracle: what is expected of it, and
whether it delivered."""

import ml_dtypes
import numpy as np
from support import gradient_tolerance, oracle, tolerance

import mfa

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOAT16 = np.dtype(np.float16)
FLOAT32 = np.dtype(np.float32)
DTYPES = (FLOAT32, FLOAT16, BFLOAT16)


def heads_first(array, layout):
    """(B, H, N, D), whatever the layout, without a copy."""
    return array if layout == "bhsd" else array.swapaxes(1, 2)


def oracle_features(
    query_length, key_length, *, causal=None, alignment=None, window=(-1, -1), softmax_scale=None,
    softcap=0.0, mask=None, bias=None, alibi_slopes=None, sinks=None, dropout_p=0.0, dropout_seed=0,
    dropout_offset=0,
):  # fmt: skip
    """The keywords of mfa.attention as those of oracle.attention."""
    if causal is True:
        causal = "bottom-right"
    additive = additive_mask(mask=mask, bias=bias)
    return {
        "causal": bool(causal),
        "offset": oracle.key_offset(alignment or causal or "bottom-right", query_length, key_length),
        "window": window,
        "softmax_scale": softmax_scale,
        "softcap": softcap,
        "bool_mask": mask if mask is not None and mask.dtype == bool else None,
        "additive_mask": None if additive is None else additive.astype(np.float64),
        "alibi_slopes": alibi_slopes,
        "sinks": sinks,
        "dropout_p": dropout_p,
        "dropout_seed": dropout_seed,
        "dropout_offset": dropout_offset,
    }


def additive_mask(*, mask=None, bias=None, **_):
    """The array that the scores are added, whichever keyword brings it; None without one."""
    additive = [x for x in (mask, bias) if x is not None and x.dtype != bool]
    assert len(additive) <= 1
    return additive[0] if additive else None


def expected(
    query, key, value, *, layout="bshd", intermediate_precision=None, out=None, out_dtype=None, **features
):  # fmt: skip
    """tolerance.Reference, in (B, H, N, D), of mfa.attention with the same arguments."""
    q, k, v = (heads_first(x, layout).astype(np.float64) for x in (query, key, value))
    return tolerance.reference(
        q,
        k,
        v,
        weight_dtype=FLOAT32 if intermediate_precision == "float32" else query.dtype,
        out_dtype=out.dtype if out is not None else out_dtype or query.dtype,
        **oracle_features(q.shape[2], k.shape[2], **features),
    )


def assert_matches(result, reference, layout="bshd"):
    """`result` is (out, logsumexp) of mfa.attention."""
    out, logsumexp = result
    tolerance.assert_within(heads_first(out, layout), reference.out, reference.out_bound)
    assert logsumexp.dtype == FLOAT32
    tolerance.assert_within(logsumexp, reference.logsumexp, reference.logsumexp_bound, what="logsumexp")


def check(context, query, key, value, **options):
    """Runs mfa.attention, holds it against the oracle and returns (out, logsumexp)."""
    result = mfa.attention(query, key, value, context=context, return_lse=True, **options)
    assert_matches(result, expected(query, key, value, **options), options.get("layout", "bshd"))
    return result


def expected_gradients(
    dout, query, key, value, *, layout="bshd", intermediate_precision=None, out_dtype=None,
    forward_dtype=None, **features,
):  # fmt: skip
    """gradient_tolerance.GradientReference, in (B, H, N, D), of mfa.attention_backward with these arguments
    after a forward call that wrote `forward_dtype`, by default query's."""
    g, q, k, v = (heads_first(x, layout).astype(np.float64) for x in (dout, query, key, value))
    additive = additive_mask(mask=features.get("mask"), bias=features.get("bias"))
    return gradient_tolerance.gradient_reference(
        g,
        q,
        k,
        v,
        weight_dtype=FLOAT32 if intermediate_precision == "float32" else query.dtype,
        out_dtype=forward_dtype or query.dtype,
        gradient_dtype=np.dtype(out_dtype or query.dtype),
        bias_shape=None if additive is None else additive.shape,
        bias_dtype=_bias_dtype(additive, out_dtype),
        **oracle_features(q.shape[2], k.shape[2], **features),
    )


def _bias_dtype(additive, out_dtype):
    if additive is None:
        return None
    return FLOAT32 if out_dtype is not None and np.dtype(out_dtype) == FLOAT32 else additive.dtype


def backward(context, dout, query, key, value, *, forward_dtype=None, wanted=None, **options):
    """mfa.attention_backward after the forward call that it needs, which writes `forward_dtype`."""
    forward = {**options, "out_dtype": forward_dtype}
    out, logsumexp = mfa.attention(query, key, value, context=context, return_lse=True, **forward)
    return mfa.attention_backward(
        dout, query, key, value, out, logsumexp, context=context, wanted=wanted, **options
    )


def gradients_heads_first(gradients, layout):
    """With dq, dk and dv as the oracle has them."""
    swapped = {name: heads_first(getattr(gradients, name), layout) for name in ("dq", "dk", "dv")}
    return gradients._replace(**swapped)


def assert_gradients_match(gradients, reference, layout="bshd"):
    reference.assert_holds(gradients_heads_first(gradients, layout))


def check_backward(context, dout, query, key, value, **options):
    """Runs a forward and a backward call, holds the gradients against the oracle and returns them."""
    gradients = backward(context, dout, query, key, value, **options)
    reference = expected_gradients(dout, query, key, value, **options)
    assert_gradients_match(gradients, reference, options.get("layout", "bshd"))
    return gradients


def same_gradient_bits(actual, expected):
    """Of two results of mfa.attention_backward."""
    return all((x is None and y is None) or same_bits(x, y) for x, y in zip(actual, expected, strict=True))


def same_bits(actual, expected):
    """Equality of representations, so that NaN equals itself and 0 differs from -0."""
    return (
        actual.dtype == expected.dtype
        and actual.shape == expected.shape
        and np.ascontiguousarray(actual).tobytes() == np.ascontiguousarray(expected).tobytes()
    )


def operands(
    rng, *, batch=1, heads=1, kv_heads=None, query_length=8, key_length=8, head_dim=16, value_dim=None,
    dtype=FLOAT32, layout="bshd",
):  # fmt: skip
    """Standard normal query, key and value."""
    kv_heads = heads if kv_heads is None else kv_heads
    value_dim = head_dim if value_dim is None else value_dim
    shapes = (
        (batch, heads, query_length, head_dim),
        (batch, kv_heads, key_length, head_dim),
        (batch, kv_heads, key_length, value_dim),
    )
    arrays = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    return tuple(np.ascontiguousarray(heads_first(x, layout)) for x in arrays)


def operands_and_dout(rng, *, dout_dtype=None, **sizes):
    """Standard normal dout, query, key and value."""
    query, key, value = operands(rng, **sizes)
    shape = (*query.shape[:3], value.shape[3])
    return rng.standard_normal(shape).astype(dout_dtype or query.dtype), query, key, value
