"""Laws of attention that need no oracle: what must not change, and what must change in step."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support import checks, oracle, strategies, tolerance

import mfa

TWO_CALLS = 2  # each side of a law may be off by its own bound


def run(context, query, key, value, **options):
    out, logsumexp = mfa.attention(query, key, value, context=context, return_lse=True, **options)
    return checks.heads_first(out, options.get("layout", "bshd")), logsumexp


def assert_agree(actual, expected, reference):
    for index, (bound, what) in enumerate(
        ((reference.out_bound, "out"), (reference.logsumexp_bound, "logsumexp"))
    ):
        with np.errstate(invalid="ignore"):
            tolerance.assert_within(
                actual[index], expected[index].astype(np.float64), TWO_CALLS * bound, what
            )


@st.composite
def plain_operands(draw, **fixed):
    """Rng, sizes and standard normal operands in layout "bhsd"."""
    shape = draw(strategies.shapes())
    assume(shape.batch and shape.query_length and shape.key_length)
    rng = np.random.default_rng(draw(strategies.seeds))
    sizes = {name: getattr(shape, name) for name in shape.__dataclass_fields__}
    dtype = fixed.get("dtype") or draw(strategies.dtypes)
    return rng, shape, checks.operands(rng, **sizes, dtype=dtype, layout="bhsd")


@given(drawn=plain_operands(), data=st.data())
def test_permuting_keys_changes_nothing(context, drawn, data):
    rng, shape, (query, key, value) = drawn
    order = rng.permutation(shape.key_length)
    masks = {
        name: np.broadcast_to(x, shape.scores)
        for name, x in data.draw(strategies.masks(rng, shape.scores)).items()
    }
    permuted = {name: x[..., order] for name, x in masks.items()}
    assert_agree(
        run(context, query, key[:, :, order], value[:, :, order], layout="bhsd", **permuted),
        run(context, query, key, value, layout="bhsd", **masks),
        checks.expected(query, key, value, layout="bhsd", **masks),
    )


@given(drawn=plain_operands(), parts=st.integers(2, 4))
def test_splitting_keys_and_combining_equals_the_whole(context, drawn, parts):
    rng, shape, (query, key, value) = drawn
    cuts = [0, *np.sort(rng.integers(0, shape.key_length + 1, parts - 1)), shape.key_length]
    options = {"layout": "bhsd", "intermediate_precision": "float32", "out_dtype": np.float32}
    pieces = [
        run(context, query, key[:, :, a:b], value[:, :, a:b], **options) for a, b in itertools.pairwise(cuts)
    ]
    whole = run(context, query, key, value, **options)
    joined = [x.astype(np.float32) for x in oracle.combine(pieces)]
    assert_agree(joined, whole, checks.expected(query, key, value, **options))


@given(drawn=plain_operands(), factor=st.sampled_from((-4.0, 0.0, 2.0, 8.0)))
def test_scaling_values_scales_the_output(context, drawn, factor):
    """By powers of two, so that no rounding differs."""
    _, _, (query, key, value) = drawn
    options = {"layout": "bhsd", "out_dtype": np.float32}
    out, logsumexp = run(context, query, key, value, **options)
    scaled, same = run(context, query, key, value * np.array(factor, value.dtype), **options)
    np.testing.assert_array_equal(scaled, out * np.float32(factor))
    assert checks.same_bits(same, logsumexp)


@given(drawn=plain_operands(), shift=st.floats(-50, 50, width=16))
def test_a_constant_bias_shifts_only_the_logsumexp(context, drawn, shift):
    _, _, (query, key, value) = drawn
    bias = np.full((1, 1, 1, 1), shift, np.float32)
    reference = checks.expected(query, key, value, layout="bhsd", mask=bias)
    out, logsumexp = run(context, query, key, value, layout="bhsd")
    assert_agree(
        run(context, query, key, value, layout="bhsd", mask=bias),
        (out, logsumexp + np.float32(shift)),
        reference,
    )


@given(drawn=plain_operands())
def test_grouped_heads_equal_repeated_heads(context, drawn):
    _, shape, (query, key, value) = drawn
    group = shape.heads // shape.kv_heads
    repeated = (np.repeat(x, group, axis=1) for x in (key, value))
    assert_agree(
        run(context, query, *repeated, layout="bhsd"),
        run(context, query, key, value, layout="bhsd"),
        checks.expected(query, key, value, layout="bhsd"),
    )


@given(drawn=plain_operands(), data=st.data())
def test_a_query_block_alone_equals_its_rows_of_the_whole(context, drawn, data):
    _, shape, (query, key, value) = drawn
    start = data.draw(st.integers(0, shape.query_length - 1))
    stop = data.draw(st.integers(start + 1, shape.query_length))
    assert_agree(
        run(context, query[:, :, start:stop], key, value, layout="bhsd"),
        [x[:, :, start:stop] for x in run(context, query, key, value, layout="bhsd")],
        checks.expected(query[:, :, start:stop], key, value, layout="bhsd"),
    )


@given(drawn=plain_operands())
def test_batches_and_heads_do_not_meet(context, drawn):
    """Each batch entry and head alone gives what it gives among the others."""
    _, shape, (query, key, value) = drawn
    whole = run(context, query, key, value, layout="bhsd", causal="top-left")
    group = shape.heads // shape.kv_heads
    b, h = shape.batch - 1, shape.heads - 1
    alone = (query[b:, h:], key[b:, h // group :], value[b:, h // group :])
    assert_agree(
        run(context, *alone, layout="bhsd", causal="top-left"),
        [x[b:, h:] for x in whole],
        checks.expected(*alone, layout="bhsd", causal="top-left"),
    )


@given(drawn=plain_operands())
def test_output_lies_within_the_values(context, drawn):
    _, shape, (query, key, value) = drawn
    out, _ = run(context, query, key, value, layout="bhsd", out_dtype=np.float32)
    bound = checks.expected(query, key, value, layout="bhsd", out_dtype=np.float32).out_bound
    repeated = np.repeat(value.astype(np.float64), shape.heads // shape.kv_heads, axis=1)
    assert (out >= repeated.min(axis=2, keepdims=True) - bound).all()
    assert (out <= repeated.max(axis=2, keepdims=True) + bound).all()


@given(drawn=plain_operands(), data=st.data())
def test_ranges_equal_the_same_bool_mask(context, drawn, data):
    _, shape, (query, key, value) = drawn
    kind = data.draw(st.sampled_from(("causal", "window", "both")))
    alignment = data.draw(st.sampled_from(("top-left", "bottom-right")))
    window = data.draw(strategies.windows(*shape.scores[2:])) if kind != "causal" else (-1, -1)
    options = {"window": window, "alignment": alignment, "causal": alignment if kind != "window" else None}
    visible = oracle.keys_in_range(
        *shape.scores[2:],
        causal=kind != "window",
        offset=oracle.key_offset(alignment, *shape.scores[2:]),
        window=window,
    )
    assert_agree(
        run(context, query, key, value, layout="bhsd", **options),
        run(context, query, key, value, layout="bhsd", mask=visible),
        checks.expected(query, key, value, layout="bhsd", mask=visible),
    )


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
def test_a_large_softcap_is_no_softcap(context, rng, dtype):
    """cap * tanh(s / cap) is s to within s**3 / (3 * cap**2); a careless tanh loses cap * epsilon."""
    arrays = checks.operands(rng, heads=2, query_length=40, key_length=70, dtype=dtype)
    reference = checks.expected(*arrays)
    capped = run(context, *arrays, softcap=3e4)
    assert_agree(capped, run(context, *arrays), reference)
