"""The oracle itself: hand-computed cases, and PyTorch's math-mode attention in float64."""

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tools import require_module


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


@given(
    lengths=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    dims=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    group=st.integers(1, 3),
    mask=st.sampled_from(("none", "causal", "bool", "additive")),
    scale=st.sampled_from((None, 0.7, -1.3, 0.0)),
    seed=st.integers(0, 2**32 - 1),
)
def test_equals_torch_in_float64(lengths, dims, group, mask, scale, seed):
    torch = require_module("torch", "pip install torch")
    rng = np.random.default_rng(seed)
    query_length, key_length = lengths
    head_dim, value_dim = dims
    query = rng.standard_normal((2, 2 * group, query_length, head_dim))
    key = rng.standard_normal((2, 2, key_length, head_dim))
    value = rng.standard_normal((2, 2, key_length, value_dim))
    bool_mask = rng.random((2, 1, query_length, key_length)) < 0.5 if mask == "bool" else None
    additive_mask = rng.standard_normal((query_length, key_length)) if mask == "additive" else None
    torch_mask = bool_mask if bool_mask is not None else additive_mask
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected = torch.nn.functional.scaled_dot_product_attention(
            *(torch.from_numpy(x) for x in (query, key, value)),
            attn_mask=None if torch_mask is None else torch.from_numpy(torch_mask),
            is_causal=mask == "causal",
            scale=scale,
            enable_gqa=True,
        )
    out, _ = oracle.attention(
        query,
        key,
        value,
        softmax_scale=scale,
        causal=mask == "causal",
        bool_mask=bool_mask,
        additive_mask=additive_mask,
    )
    np.testing.assert_allclose(out, expected.numpy(), rtol=1e-11, atol=1e-13)
