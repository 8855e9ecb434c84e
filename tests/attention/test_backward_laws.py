"""Laws of the gradients that need no oracle."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support import checks, oracle, strategies, tolerance

import mfa

LAYOUT = {"layout": "bhsd"}
NAMES = mfa.Gradients._fields
TWO_CALLS = 2  # each side of a law may be off by its own bound
# What changes the weights but hides nothing and has no gradient of its own.
FEATURES = st.sampled_from(
    ({}, {"softcap": 2.0}, {"softmax_scale": -0.5}, {"dropout_p": 0.3, "dropout_seed": 8})
)


@st.composite
def problems(draw):
    """Rng, sizes, and standard normal dout, query, key and value in layout "bhsd", none empty."""
    shape = draw(strategies.shapes(strategies.BACKWARD_ROW_BUDGET))
    assume(shape.batch and shape.query_length and shape.key_length)
    rng = np.random.default_rng(draw(strategies.seeds))
    sizes = {name: getattr(shape, name) for name in shape.__dataclass_fields__}
    return rng, shape, checks.operands_and_dout(rng, **sizes, dtype=draw(strategies.dtypes), **LAYOUT)


def backward(context, *arrays, **options):
    return checks.backward(context, *arrays, **options, **LAYOUT)


@given(drawn=problems(), data=st.data())
def test_a_hidden_key_has_gradient_zero(context, drawn, data):
    """Exactly, whichever rule hides it; and dscores are exactly 0 wherever a row does not see a key."""
    rng, shape, arrays = drawn
    query_length, key_length = shape.scores[2:]
    alignment = data.draw(st.sampled_from(("top-left", "bottom-right")))
    hidden = data.draw(strategies.hidden_patterns(rng, shape.scores))
    bias = np.zeros(shape.scores, np.float32)
    options, visible = {
        "mask": ({"mask": ~hidden}, ~hidden),
        "bias": ({}, ~hidden),
        "causal": ({"causal": alignment}, {"causal": True}),
        "window": ({"window": (5, 3), "alignment": alignment}, {"window": (5, 3)}),
    }[data.draw(st.sampled_from(("mask", "bias", "causal", "window")))]
    if isinstance(visible, dict):
        offset = oracle.key_offset(alignment, query_length, key_length)
        visible = np.broadcast_to(
            oracle.keys_in_range(query_length, key_length, offset=offset, **visible), shape.scores
        )
    elif not options:
        bias[hidden] = -np.inf
    g = backward(context, *arrays, **options, bias=bias)
    by_kv_head = visible.reshape(shape.batch, shape.kv_heads, -1, key_length)
    assert not g.dbias[~visible].any()
    assert not g.dk[~by_kv_head.any(axis=2)].astype(np.float32).any()
    assert not g.dv[~by_kv_head.any(axis=2)].astype(np.float32).any()
    assert not g.dq[~visible.any(axis=3)].astype(np.float32).any()


@given(drawn=problems(), data=st.data())
def test_gradients_of_a_row_of_scores_sum_to_zero(context, drawn, data):
    """Adding the same to all scores of a row changes no weight, unless there is a sink."""
    rng, shape, arrays = drawn
    options = data.draw(FEATURES)
    bias = rng.standard_normal(shape.scores).astype(np.float32)
    bias[data.draw(strategies.hidden_patterns(rng, shape.scores))] = -np.inf
    options = {**options, "bias": bias, "forward_dtype": np.float32, "intermediate_precision": "float32"}
    g = backward(context, *arrays, **options)
    bound = checks.expected_gradients(*arrays, **options, **LAYOUT).bound.dbias
    assert (np.abs(g.dbias.sum(axis=-1, dtype=np.float64)) <= bound.sum(axis=-1)).all()


@given(drawn=problems(), options=FEATURES, factor=st.sampled_from((-4.0, 0.0, 2.0, 8.0)))
def test_gradients_are_linear_in_dout(context, drawn, options, factor):
    """Bit for bit for powers of two that make nothing subnormal: they change no rounding."""
    rng, shape, (dout, *inputs) = drawn
    options = {
        **options,
        "bias": rng.standard_normal(shape.scores[2:]).astype(np.float32),
        "sinks": rng.standard_normal(shape.heads).astype(np.float32),
        "out_dtype": np.float32,
    }
    plain = backward(context, dout, *inputs, **options)
    scaled = backward(context, dout * np.array(factor, dout.dtype), *inputs, **options)
    for name in NAMES:
        np.testing.assert_array_equal(
            getattr(scaled, name), getattr(plain, name) * np.float32(factor), err_msg=name
        )


@given(drawn=problems(), options=FEATURES)
def test_gradients_of_grouped_heads_are_those_of_repeated_heads_summed(context, drawn, options):
    _, shape, (dout, query, key, value) = drawn
    group = shape.heads // shape.kv_heads
    options = {**options, "out_dtype": np.float32}
    g = backward(context, dout, query, key, value, **options)
    repeated = backward(context, dout, query, *(np.repeat(x, group, axis=1) for x in (key, value)), **options)
    bound = checks.expected_gradients(dout, query, key, value, **options, **LAYOUT).bound
    for name in ("dq", "dk", "dv"):
        expected = getattr(repeated, name).astype(np.float64)
        if name != "dq":
            expected = expected.reshape(shape.batch, shape.kv_heads, group, *expected.shape[2:]).sum(axis=2)
        tolerance.assert_within(getattr(g, name), expected, (group + 1) * getattr(bound, name), what=name)


@given(drawn=problems(), data=st.data())
def test_a_batch_alone_gives_the_same_bits(context, drawn, data):
    """Given the same out and logsumexp, which need not have the same bits."""
    rng, shape, (dout, *inputs) = drawn
    options = {
        "causal": data.draw(st.sampled_from((None, "top-left", "bottom-right"))),
        "mask": rng.random((shape.batch, 1, *shape.scores[2:])) < 0.8,
        **LAYOUT,
    }
    out, logsumexp = mfa.attention(*inputs, **options, return_lse=True, context=context)
    whole = mfa.attention_backward(dout, *inputs, out, logsumexp, **options, context=context)
    for b in range(shape.batch):
        one = slice(b, b + 1)
        alone = mfa.attention_backward(
            *(x[one] for x in (dout, *inputs, out, logsumexp)),
            **{**options, "mask": options["mask"][one]},
            context=context,
        )
        for name in ("dq", "dk", "dv"):
            assert checks.same_bits(getattr(alone, name), getattr(whole, name)[one]), name


@given(drawn=problems(), options=FEATURES)
def test_a_zero_dout_gives_zero(context, drawn, options):
    _, _, (dout, *inputs) = drawn
    for gradient in backward(context, np.zeros_like(dout), *inputs, **options)[:3]:
        assert not gradient.astype(np.float32).any()


@given(drawn=problems())
def test_gradient_of_the_logits_does_not_depend_on_a_shift_of_the_values(context, drawn):
    """The same vector added to every value adds itself to every output, whatever the weights."""
    _, _, (dout, query, key, value) = drawn
    options = {"out_dtype": np.float32, "forward_dtype": np.float32}
    constant = np.broadcast_to(value[:, :, :1], value.shape)
    g = backward(context, dout, query, key, constant, **options)
    bound = checks.expected_gradients(dout, query, key, constant, **options, **LAYOUT).bound
    zeros = np.zeros(query.shape), np.zeros(key.shape)
    for name, zero in zip(("dq", "dk"), zeros, strict=True):
        tolerance.assert_within(getattr(g, name), zero, getattr(bound, name), what=name)


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
def test_a_large_softcap_is_no_softcap(context, rng, dtype):
    arrays = checks.operands_and_dout(rng, heads=2, query_length=40, key_length=70, dtype=dtype, **LAYOUT)
    reference = checks.expected_gradients(*arrays, **LAYOUT)
    plain = backward(context, *arrays)
    exact = reference.exact._replace(
        **{name: getattr(plain, name).astype(np.float64) for name in ("dq", "dk", "dv")}
    )
    reference._replace(exact=exact).assert_holds(backward(context, *arrays, softcap=3e4), times=TWO_CALLS)
