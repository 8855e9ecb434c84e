"""The oracle itself: hand-computed cases, published random numbers, finite differences, and PyTorch's
math-mode attention in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import oracle, philox, strategies
from support.checks import oracle_features
from support.tools import require_module


def rows(*values):
    return np.array(values, np.float64)[None, None]


def test_weights_by_hand():
    # Scores 0 and log 3: weights 1/4 and 3/4, logsumexp log 4.
    out, logsumexp = oracle.attention(
        rows([1]), rows([0], [np.log(3)]), rows([4, 0], [8, 4]), softmax_scale=1
    )
    np.testing.assert_allclose(out[0, 0], [[7, 3]], rtol=1e-15)
    np.testing.assert_allclose(logsumexp[0, 0], [np.log(4)], rtol=1e-15)


def test_default_scale_by_hand():
    _, logsumexp = oracle.attention(rows([2, 2, 2, 2]), rows([1, 1, 1, 1]), rows([1]))
    assert logsumexp[0, 0, 0] == 4  # 8 / sqrt(4)


def test_sink_by_hand():
    # Score 0 and sink log 3: the one key weighs 1/4.
    out, logsumexp = oracle.attention(rows([0]), rows([0]), rows([8]), sinks=[np.log(3)])
    np.testing.assert_allclose((out[0, 0, 0, 0], logsumexp[0, 0, 0]), (2, np.log(4)), rtol=1e-15)


def test_softcap_comes_before_biases_by_hand():
    _, logsumexp = oracle.attention(
        rows([1]), rows([3]), rows([1]), softmax_scale=1, softcap=2, additive_mask=np.array([[[[10.0]]]])
    )
    np.testing.assert_allclose(logsumexp[0, 0, 0], 2 * np.tanh(1.5) + 10, rtol=1e-15)


def test_alibi_by_hand():
    _, logsumexp = oracle.attention(rows([1], [1]), rows([0]), rows([1]), offset=-1, alibi_slopes=[0.5])
    assert logsumexp[0, 0].tolist() == [-0.5, 0]  # row 0 stands at key -1, row 1 at key 0


@pytest.mark.parametrize(
    ("causal", "offset", "window", "expected"),
    [
        (True, 0, (-1, -1), ["1...", "11..", "111."]),
        (True, 1, (-1, -1), ["11..", "111.", "1111"]),
        (True, -2, (-1, -1), ["....", "....", "1..."]),
        (False, 1, (1, 0), ["11..", ".11.", "..11"]),
        (False, 0, (0, 0), ["1...", ".1..", "..1."]),
        (False, 1, (-1, 1), ["111.", "1111", "1111"]),
        (True, 1, (1, 2), ["11..", ".11.", "..11"]),
        (False, -9, (2, 2), ["....", "....", "...."]),
    ],
)
def test_ranges_by_hand(causal, offset, window, expected):
    visible = oracle.keys_in_range(3, 4, causal=causal, offset=offset, window=window)
    assert ["".join(".1"[int(x)] for x in row) for row in visible] == expected


def test_row_without_visible_key_is_zero_and_minus_infinity():
    hidden = np.zeros((1, 1, 1, 2), bool)
    out, logsumexp = oracle.attention(
        rows([np.nan]), rows([np.nan], [1]), rows([1], [np.nan]), bool_mask=hidden
    )
    assert out.item() == 0
    assert logsumexp.item() == -np.inf
    _, logsumexp = oracle.attention(rows([1]), rows([1], [1]), rows([1], [1]), bool_mask=hidden, sinks=[0.25])
    assert logsumexp.item() == 0.25


def test_row_whose_visible_scores_are_all_minus_infinity_is_zero():
    out, logsumexp = oracle.attention(rows([1]), rows([-np.inf], [-np.inf]), rows([1], [2]))
    assert (out.item(), logsumexp.item()) == (0, -np.inf)


def test_hidden_values_do_not_matter_and_visible_nan_does():
    hides_first = np.array([[[[False, True]]]])
    out, _ = oracle.attention(rows([1]), rows([np.nan], [1]), rows([np.nan], [5]), bool_mask=hides_first)
    assert out.item() == 5
    minus_infinity = np.array([[[[-np.inf, 0.0]]]])
    out, _ = oracle.attention(
        rows([1]), rows([np.nan], [1]), rows([np.nan], [5]), additive_mask=minus_infinity
    )
    assert out.item() == 5
    out, logsumexp = oracle.attention(rows([1]), rows([np.nan], [1]), rows([1], [5]))
    assert np.isnan(out.item())
    assert np.isnan(logsumexp.item())


def test_grouped_heads():
    value = np.arange(2.0)[None, :, None, None]
    out, _ = oracle.attention(np.zeros((1, 6, 1, 1)), np.zeros((1, 2, 1, 1)), value)
    assert out.ravel().tolist() == [0, 0, 0, 1, 1, 1]


def test_combine_by_hand():
    parts = [(rows([4]), np.array([[[0.0]]])), (rows([8]), np.array([[[np.log(3)]]]))]
    out, logsumexp = oracle.combine(parts)
    np.testing.assert_allclose((out.item(), logsumexp.item()), (7, np.log(4)), rtol=1e-15)
    empty = (rows([0]), np.array([[[-np.inf]]]))
    out, logsumexp = oracle.combine([empty, empty])
    assert (out.item(), logsumexp.item()) == (0, -np.inf)


# ---------------------------------------------------------------- dropout


# The known answers that the authors of Philox publish with Random123.
@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(counter, key, expected):
    assert tuple(int(word) for word in philox.philox4x32(counter, key)) == expected


def test_dropout_bits_by_hand():
    """Column 300 of row 5, head 1, batch 2: lane 12 of the third group, slice 2, the low half of word 1."""
    key = philox.philox4x32((7, 9, 0, 0), (3, 4))[:2]
    words = philox.philox4x32((16 * 2 + 12, 5, 1, 2), key)
    bits = philox.dropout_bits((3, 2, 6, 301), seed=4 << 32 | 3, offset=9 << 32 | 7)
    assert bits[2, 1, 5, 300] == int(words[1]) & 0xFFFF
    assert philox.dropout_bits((3, 2, 6, 317), seed=4 << 32 | 3, offset=9 << 32 | 7)[2, 1, 5, 316] == (
        int(words[1]) >> 16
    )


def test_dropout_factors_by_hand():
    options = {"seed": 11, "offset": 12}
    bits = philox.dropout_bits((1, 1, 4, 300), **options)
    factors = philox.dropout_factors((1, 1, 4, 300), dropout_p=0.25, **options)
    assert (factors == np.where(bits < 16384, 0, 4 / 3)).all()


def test_dropout_leaves_the_logsumexp():
    arrays = np.random.default_rng(1).standard_normal((3, 1, 2, 4, 5))
    out, logsumexp = oracle.attention(*arrays)
    dropped, same = oracle.attention(*arrays, dropout_p=0.5, dropout_seed=1)
    assert (logsumexp == same).all()
    assert not np.isclose(out, dropped).all()


# ---------------------------------------------------------------- gradients


def test_gradients_by_hand():
    # Scores 0 and log 3, values 4 and 8, so weights 1/4 and 3/4, and out 7.
    arrays = rows([1]), rows([0], [np.log(3)]), rows([4], [8])
    g = oracle.attention_backward(rows([2]), *arrays, softmax_scale=1)
    np.testing.assert_allclose(g.dv[0, 0], [[0.5], [1.5]], rtol=1e-15)
    np.testing.assert_allclose(g.dbias[0, 0], [[-1.5, 1.5]], rtol=1e-14)  # 2 weight (value - out)
    np.testing.assert_allclose(g.dk[0, 0], [[-1.5], [1.5]], rtol=1e-14)
    np.testing.assert_allclose(g.dq[0, 0], [[1.5 * np.log(3)]], rtol=1e-14)


def test_gradient_of_a_sink_by_hand():
    # Score 0 and sink log 3: the key weighs 1/4, so out is 2, and a unit of sink takes 3/4 of it.
    g = oracle.attention_backward(rows([1]), rows([0]), rows([0]), rows([8]), sinks=[np.log(3)])
    np.testing.assert_allclose(g.dsinks, [-1.5], rtol=1e-15)


def test_gradient_of_the_logsumexp_by_hand():
    # Score 0 and sink log 3: of a unit of logsumexp, 1/4 is the score's and 3/4 the sink's.
    arrays = rows([0]), rows([0]), rows([6]), rows([8])
    g = oracle.attention_backward(
        *arrays, dlogsumexp=np.full((1, 1, 1), 2), softmax_scale=1, sinks=[np.log(3)]
    )
    np.testing.assert_allclose(g.dsinks, [1.5], rtol=1e-15)
    np.testing.assert_allclose(g.dbias, [[[[0.5]]]], rtol=1e-15)
    np.testing.assert_allclose(g.dq, [[[[3]]]], rtol=1e-15)
    assert not g.dv.any()


def test_row_without_visible_key_has_and_adds_no_gradient():
    arrays = rows([1], [np.nan]), rows([1], [2]), rows([3], [5])
    mask = np.array([[True, True], [False, False]])
    alone = oracle.attention_backward(rows([1]), rows([1]), *arrays[1:])
    g = oracle.attention_backward(rows([1], [np.nan]), *arrays, bool_mask=mask, sinks=None)
    assert (g.dq[0, 0, 1] == 0).all()
    assert (g.dbias[0, 0, 1] == 0).all()
    assert (g.dk == alone.dk).all()
    assert (g.dv == alone.dv).all()


def test_summed_to_by_hand():
    array = np.arange(12.0).reshape(1, 2, 2, 3)
    assert oracle.summed_to(array, ()) == 66
    assert oracle.summed_to(array, (3,)).tolist() == [18, 22, 26]
    assert oracle.summed_to(array, (2, 1, 1)).ravel().tolist() == [15, 51]
    assert (oracle.summed_to(array, array.shape) == array).all()


@st.composite
def small_problems(draw):
    """float64 operands by name, dout, and features, of a call small enough to differentiate numerically."""
    sizes = draw(st.tuples(*(st.integers(1, most) for most in (2, 2, 3, 6, 7, 5, 4))))
    batch, kv_heads, group, query_length, key_length, head_dim, value_dim = sizes
    shape = strategies.Shape(batch, kv_heads * group, kv_heads, query_length, key_length, head_dim, value_dim)
    rng = np.random.default_rng(draw(strategies.seeds))
    features = oracle_features(query_length, key_length, **draw(strategies.features(rng, shape)))
    operands = {
        "query": rng.standard_normal((*shape.scores[:3], head_dim)),
        "key": rng.standard_normal((batch, kv_heads, key_length, head_dim)),
        "value": rng.standard_normal((batch, kv_heads, key_length, value_dim)),
    }
    for name in ("additive_mask", "sinks"):
        if features[name] is not None:
            operands[name] = np.asarray(features.pop(name), np.float64)
    return operands, rng.standard_normal((*shape.scores[:3], value_dim)), features


def product_with_results(dout, dlogsumexp, operands, features):
    """sum(dout * out) + sum(dlogsumexp * logsumexp), over the logsumexps that are not -inf."""
    out, logsumexp = oracle.attention(**operands, **features)
    return np.vdot(dout, out) + np.vdot(dlogsumexp, np.where(np.isneginf(logsumexp), 0, logsumexp))


@given(drawn=small_problems(), seed=strategies.seeds)
def test_gradients_equal_finite_differences(drawn, seed):
    """Along a random direction of each operand, whatever the combination of features."""
    operands, dout, features = drawn
    rng = np.random.default_rng(seed)
    dlogsumexp = rng.standard_normal(dout.shape[:3])
    g = oracle.attention_backward(dout, dlogsumexp=dlogsumexp, **operands, **features)
    gradients = {"query": g.dq, "key": g.dk, "value": g.dv, "sinks": g.dsinks}
    if "additive_mask" in operands:
        gradients["additive_mask"] = oracle.summed_to(g.dbias, operands["additive_mask"].shape)
    step = 1e-5
    for name, operand in operands.items():
        direction = rng.standard_normal(operand.shape)
        ahead, behind = (
            product_with_results(dout, dlogsumexp, {**operands, name: operand + way * direction}, features)
            for way in (step, -step)
        )
        slope = (ahead - behind) / (2 * step)
        scale = 1 + np.abs(gradients[name]).sum()
        assert abs(slope - np.vdot(gradients[name], direction)) < 1e-7 * scale, name


@st.composite
def torch_problems(draw):
    """What PyTorch's scaled_dot_product_attention can say: operands, dout, features and torch's mask."""
    (query_length, key_length), (head_dim, value_dim) = draw(
        st.tuples(*[st.tuples(st.integers(1, 9), st.integers(1, 9))] * 2)
    )
    heads = 2 * draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(strategies.seeds))
    mask = draw(st.sampled_from(("none", "causal", "bool", "additive")))
    features = {
        "softmax_scale": draw(st.sampled_from((None, 0.7, -1.3, 0.0))),
        "causal": mask == "causal",
        # Where a row sees nothing PyTorch's gradient is NaN.
        "bool_mask": (rng.random((2, 1, query_length, key_length)) < 0.5) | np.eye(1, key_length, dtype=bool)
        if mask == "bool"
        else None,
        "additive_mask": rng.standard_normal((query_length, key_length)) if mask == "additive" else None,
    }
    operands = (
        rng.standard_normal((2, heads, query_length, head_dim)),
        rng.standard_normal((2, 2, key_length, head_dim)),
        rng.standard_normal((2, 2, key_length, value_dim)),
    )
    return operands, rng.standard_normal((2, heads, query_length, value_dim)), features


@given(drawn=torch_problems())
def test_equals_torch_in_float64(drawn):
    torch = require_module("torch", "pip install torch")
    operands, dout, features = drawn
    mask = features["bool_mask"] if features["bool_mask"] is not None else features["additive_mask"]
    inputs = [torch.from_numpy(x).requires_grad_() for x in operands]
    torch_mask = None if mask is None else torch.from_numpy(mask)
    if mask is not None and mask.dtype != bool:
        inputs.append(torch_mask.requires_grad_())
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected = torch.nn.functional.scaled_dot_product_attention(
            *inputs[:3],
            attn_mask=torch_mask,
            is_causal=features["causal"],
            scale=features["softmax_scale"],
            enable_gqa=True,
        )
    expected.backward(torch.from_numpy(dout))
    out, _ = oracle.attention(*operands, **features)
    np.testing.assert_allclose(out, expected.detach().numpy(), rtol=1e-11, atol=1e-13)
    g = oracle.attention_backward(dout, *operands, **features)
    gradients = g.dq, g.dk, g.dv, oracle.summed_to(g.dbias, mask.shape) if len(inputs) > 3 else None
    for gradient, tensor in zip(gradients, inputs, strict=False):
        np.testing.assert_allclose(gradient, tensor.grad.numpy(), rtol=1e-10, atol=1e-12)
