"""One call of mfa.attention, or of mfa.attention_backward, beside the oracle: what is expected of it, and
whether it delivered."""

import ml_dtypes
import numpy as np
from support import gradient_tolerance, oracle, sequences, tolerance

import mfa

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOAT16 = np.dtype(np.float16)
FLOAT32 = np.dtype(np.float32)
DTYPES = (FLOAT32, FLOAT16, BFLOAT16)


def heads_first(array, layout):
    """(B, H, N, D), whatever the layout, without a copy; of packed rows there is one batch."""
    array = array[None] if array.ndim == 3 else array
    return array if layout == "bhsd" else array.swapaxes(1, 2)


def oracle_features(
    query_length, key_length, *, causal=None, alignment=None, window=(-1, -1), softmax_scale=None,
    softcap=0.0, mask=None, bias=None, alibi_slopes=None, sinks=None, dropout_p=0.0, dropout_seed=0,
    dropout_offset=0, dropout_batch=0,
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
        "dropout_batch": dropout_batch,
    }


def additive_mask(*, mask=None, bias=None, **_):
    """The array that the scores are added, whichever keyword brings it; None without one."""
    additive = [x for x in (mask, bias) if x is not None and x.dtype != bool]
    assert len(additive) <= 1
    return additive[0] if additive else None


def expected(
    query, key, value, *, layout="bshd", intermediate_precision=None, out=None, out_dtype=None,
    operand_rounding=0.0, **features,
):  # fmt: skip
    """tolerance.Reference, in (B, H, N, D), of mfa.attention with the same arguments."""
    dtypes = {
        "operand_rounding": operand_rounding,
        "weight_dtype": FLOAT32 if intermediate_precision == "float32" else query.dtype,
        "out_dtype": out.dtype if out is not None else out_dtype or query.dtype,
    }
    q, k, v = (heads_first(x, layout) for x in (query, key, value))
    if not sequences.is_plain(features):
        return _expected_of_sequences(q, k, v, layout, dtypes, features)
    return _expected(q, k, v, dtypes, features)


def _expected(query, key, value, dtypes, features):
    q, k, v = (x.astype(np.float64) for x in (query, key, value))
    return tolerance.reference(q, k, v, **dtypes, **oracle_features(q.shape[2], k.shape[2], **features))


def _expected_of_sequences(query, key, value, layout, dtypes, features):
    out = np.zeros((*query.shape[:3], value.shape[3]))
    logsumexp = np.full(query.shape[:3], -np.inf)
    reference = tolerance.Reference(out, logsumexp, np.zeros_like(out), np.zeros_like(logsumexp))
    for call in sequences.plain_calls(query, key, value, features):
        if features.get("qv") is not None:
            call = sequences.with_query_value(call, heads_first(features["qv"], layout), features)
        plain = _expected(call.query, call.key, call.value, dtypes, call.options)
        for whole, part in zip(reference, plain, strict=True):
            call.sequence.queries.scatter(whole, part)
    return reference


def assert_matches(result, reference, layout="bshd"):
    """`result` is (out, logsumexp) of mfa.attention."""
    out, logsumexp = result
    tolerance.assert_within(heads_first(out, layout), reference.out, reference.out_bound)
    assert logsumexp.dtype == FLOAT32
    logsumexp = logsumexp[None] if logsumexp.ndim == 2 else logsumexp
    tolerance.assert_within(logsumexp, reference.logsumexp, reference.logsumexp_bound, what="logsumexp")


def check(context, query, key, value, **options):
    """Runs mfa.attention, holds it against the oracle and returns (out, logsumexp)."""
    result = mfa.attention(query, key, value, context=context, return_lse=True, **options)
    assert_matches(result, expected(query, key, value, **options), options.get("layout", "bshd"))
    return result


def expected_gradients(
    dout, query, key, value, *, layout="bshd", intermediate_precision=None, out_dtype=None,
    forward_dtype=None, dlse=None, **features,
):  # fmt: skip
    """gradient_tolerance.GradientReference, in (B, H, N, D), of mfa.attention_backward with these arguments
    after a forward call that wrote `forward_dtype`, by default query's."""
    g, q, k, v = (heads_first(x, layout) for x in (dout, query, key, value))
    additive = additive_mask(mask=features.get("mask"), bias=features.get("bias"))
    bias_shape, bias_dtype = None if additive is None else additive.shape, _bias_dtype(additive, out_dtype)
    dtypes = {
        "weight_dtype": FLOAT32 if intermediate_precision == "float32" else query.dtype,
        "out_dtype": forward_dtype or query.dtype,
        "gradient_dtype": np.dtype(out_dtype or query.dtype),
    }
    if not sequences.is_plain(features):
        return _expected_gradients_of_sequences(g, q, k, v, dlse, dtypes, bias_shape, bias_dtype, features)
    return _expected_gradients(
        g, q, k, v, **dtypes, dlogsumexp=dlse, bias_shape=bias_shape, bias_dtype=bias_dtype, features=features
    )


def _expected_gradients(dout, query, key, value, *, features, **dtypes):
    g, q, k, v = (x.astype(np.float64) for x in (dout, query, key, value))
    return gradient_tolerance.gradient_reference(
        g, q, k, v, **dtypes, **oracle_features(q.shape[2], k.shape[2], **features)
    )


def _expected_gradients_of_sequences(
    dout, query, key, value, dlse, dtypes, bias_shape, bias_dtype, features,
):  # fmt: skip
    dlse = dlse[None] if dlse is not None and dlse.ndim == 2 else dlse
    rows, keys = sequences.most(query, key, features)
    calls = list(sequences.plain_calls(query, key, value, features))
    scores = (len(calls), query.shape[1], rows, keys)
    exact, bound = (
        oracle.Gradients(*map(np.zeros, (query.shape, key.shape, value.shape, scores, query.shape[1])))
        for _ in range(2)
    )
    for call in calls:
        part_dout = call.sequence.queries.gather(dout)
        part_dlse = None if dlse is None else call.sequence.queries.gather(dlse)
        plain = _expected_gradients(
            part_dout, call.query, call.key, call.value, **dtypes, dlogsumexp=part_dlse, features=call.options
        )
        for whole, part in ((exact, plain.exact), (bound, plain.bound)):
            call.sequence.queries.scatter(whole.dq, part.dq)
            call.sequence.keys.scatter(whole.dk, part.dk)
            call.sequence.keys.scatter(whole.dv, part.dv)
            whole.dbias[call.at, :, : part.dbias.shape[2], : part.dbias.shape[3]] = part.dbias[0]
            # Sums over more rows than those of each sequence.
            whole.dsinks[:] += part.dsinks * (1 if whole is exact else len(calls) ** 0.5)
    dbias, dbias_bound = gradient_tolerance.bias_reference(exact.dbias, bound.dbias, bias_shape, bias_dtype)
    return gradient_tolerance.GradientReference(
        exact._replace(dbias=dbias), bound._replace(dbias=dbias_bound)
    )


def _bias_dtype(additive, out_dtype):
    if additive is None:
        return None
    return FLOAT32 if out_dtype is not None and np.dtype(out_dtype) == FLOAT32 else additive.dtype


def backward(context, dout, query, key, value, *, forward_dtype=None, wanted=None, dlse=None, **options):
    """mfa.attention_backward after the forward call that it needs, which writes `forward_dtype`."""
    forward = {**options, "out_dtype": forward_dtype}
    out, logsumexp = mfa.attention(query, key, value, context=context, return_lse=True, **forward)
    return mfa.attention_backward(
        dout, query, key, value, out, logsumexp, dlse=dlse, context=context, wanted=wanted, **options
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
