"""mfa.scaled_dot_product_attention does what PyTorch's does."""

import checks
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tools import require_module

import mfa

torch = require_module("torch", "pip install torch")


def torch_result(query, key, value, attn_mask=None, **options):
    """PyTorch's answer, in float64."""

    def tensor(array):
        return (
            None
            if array is None
            else torch.from_numpy(array if array.dtype == bool else array.astype(np.float64))
        )

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        return torch.nn.functional.scaled_dot_product_attention(
            tensor(query), tensor(key), tensor(value), attn_mask=tensor(attn_mask), **options
        ).numpy()


def assert_equals_torch(query, key, value, **options):
    expected = torch_result(query, key, value, **options)
    out = mfa.scaled_dot_product_attention(query, key, value, **options)
    assert out.dtype == query.dtype
    assert out.shape == expected.shape
    # Outputs are averages of values; their weights are as uncertain as the largest score is.
    scores = 1 + np.abs(query.astype(np.float32)).max(initial=0) * np.abs(key.astype(np.float32)).sum(-1).max(
        initial=0
    )
    unit = checks.tolerance.unit_roundoff(query.dtype) + scores * 8 * checks.tolerance.FLOAT32
    bound = 2 * unit * np.abs(value.astype(np.float64)).max(initial=0)
    checks.tolerance.assert_within(out, expected, np.full(out.shape, bound))


@st.composite
def sdpa_calls(draw):
    """Operands of 2 to 5 dimensions whose leading sizes broadcast, a mask that does too, and options."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dims = draw(st.integers(2, 5))
    leading = tuple(draw(st.integers(1, 3)) for _ in range(dims - 2))
    heads = leading[-1:]
    enable_gqa = dims >= 3 and draw(st.booleans())
    group = draw(st.integers(1, 3)) if enable_gqa else 1
    query_length, key_length = draw(st.integers(0, 40)), draw(st.integers(1, 70))
    head_dim, value_dim = draw(st.integers(1, 40)), draw(st.integers(1, 40))

    def broadcastable(sizes):
        return tuple(size if draw(st.booleans()) else 1 for size in sizes)

    def operand(heads, *sizes):
        shape = (*broadcastable(leading[:-1]), *heads, *sizes)
        return rng.standard_normal(shape).astype(dtype)

    dtype = draw(st.sampled_from(checks.DTYPES))
    query = operand(tuple(group * size for size in heads), query_length, head_dim)
    key = operand(heads, key_length, head_dim)
    value = operand(heads, key_length, value_dim)
    options = {"enable_gqa": enable_gqa}
    batch = np.broadcast_shapes(*(x.shape[: max(dims - 3, 0)] for x in (query, key, value)))
    kind = draw(st.sampled_from(("none", "causal", "bool", "additive")))
    if kind == "causal":
        options["is_causal"] = True
    elif kind != "none":
        shape = broadcastable((*batch, *query.shape[max(dims - 3, 0) : -2], query_length, key_length))
        shape = shape[draw(st.integers(0, dims - 2)) :]
        mask = rng.standard_normal(shape)
        options["attn_mask"] = mask > -0.3 if kind == "bool" else mask.astype(dtype)
    if draw(st.booleans()):
        options["scale"] = draw(st.sampled_from((0.0, 0.5, -1.0)))
    return query, key, value, options


@given(call=sdpa_calls())
def test_equals_torch(call):
    *operands, options = call
    assert_equals_torch(*operands, **options)


@pytest.mark.parametrize(("query_length", "key_length"), [(5, 9), (9, 5)])
def test_causal_is_aligned_top_left(rng, query_length, key_length):
    query, key, value = checks.operands(rng, query_length=query_length, key_length=key_length, layout="bhsd")
    out = mfa.scaled_dot_product_attention(query, key, value, is_causal=True)
    assert checks.same_bits(out, mfa.attention(query, key, value, causal="top-left", layout="bhsd"))


def test_causal_with_a_mask_is_refused(rng):
    arrays = checks.operands(rng, layout="bhsd")
    with pytest.raises(ValueError, match="attn_mask"):
        mfa.scaled_dot_product_attention(*arrays, attn_mask=np.ones((8, 8), bool), is_causal=True)


def test_head_counts_must_match_unless_enable_gqa(rng):
    arrays = checks.operands(rng, heads=4, kv_heads=2, layout="bhsd")
    with pytest.raises(ValueError, match="head"):
        mfa.scaled_dot_product_attention(*arrays)
    assert_equals_torch(*arrays, enable_gqa=True)


@pytest.mark.parametrize("shapes", [((8,), (8, 4), (8, 4)), ((2, 8, 4), (3, 8, 4), (3, 8, 4))], ids=str)
def test_shapes_that_do_not_fit_are_refused(shapes):
    with pytest.raises(ValueError, match=r"query|key|value"):
        mfa.scaled_dot_product_attention(*(np.zeros(shape, np.float32) for shape in shapes))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_torch_tensors_in_torch_tensors_out(rng, dtype):
    query, key, value = (torch.from_numpy(rng.standard_normal((2, 3, 20, 16))).to(dtype) for _ in range(3))
    mask = torch.from_numpy(rng.random((20, 20)) < 0.7)
    for arguments in ({}, {"attn_mask": mask}, {"is_causal": True}):
        out = mfa.scaled_dot_product_attention(query, key, value, **arguments)
        assert isinstance(out, torch.Tensor)
        assert out.dtype == dtype
        exact = (x.double() for x in (query, key, value))
        expected = torch.nn.functional.scaled_dot_product_attention(*exact, **arguments)
        torch.testing.assert_close(out.double(), expected, rtol=0, atol=8 * torch.finfo(dtype).eps)


def test_transposed_torch_tensors_are_read_in_place(rng):
    """As models make them: (B, N, H, D) seen as (B, H, N, D)."""
    query, key, value = (
        torch.from_numpy(rng.standard_normal((2, 20, 3, 16), np.float32)).transpose(1, 2) for _ in range(3)
    )
    out = mfa.scaled_dot_product_attention(query, key, value)
    same = mfa.scaled_dot_product_attention(query.contiguous(), key.contiguous(), value.contiguous())
    assert torch.equal(out, same)
