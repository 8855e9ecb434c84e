"""mfa.scaled_dot_product_attention does what PyTorch's does."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import checks
from support.tools import require_module

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


def merged(arrays, axes):
    """Each array as (B, H, N, D), broadcast along all but its last `axes` axes."""
    ndim = max(3, *(x.ndim for x in arrays))
    padded = [x[(None,) * (ndim - x.ndim)] for x in arrays]
    leading = np.broadcast_shapes(*(x.shape[:-axes] for x in padded))
    broadcast = [np.broadcast_to(x, (*leading, *x.shape[-axes:])) for x in padded]
    return [x.reshape(math.prod(x.shape[:-3]), *x.shape[-3:]) for x in broadcast]


def bound(query, key, value, attn_mask=None, is_causal=False, scale=None, enable_gqa=False):
    """How far each element of the result may be from the float64 one, as (B, H, N, D)."""
    shape = result_shape(query, key, value, enable_gqa)
    features = {"causal": is_causal, "softmax_scale": scale}
    if attn_mask is not None:
        scores = np.broadcast_to(attn_mask, (*shape[:-1], key.shape[-2]))
        kind = "bool_mask" if attn_mask.dtype == bool else "additive_mask"
        features[kind] = merged([scores], 2)[0]
        if kind == "additive_mask":
            features[kind] = features[kind].astype(np.float64)
    operands = merged([x.astype(np.float64) for x in (query, key, value)], 3 if enable_gqa else 2)
    reference = checks.tolerance.reference(
        *operands, weight_dtype=query.dtype, out_dtype=query.dtype, **features
    )
    return reference.out_bound.reshape(shape)


def result_shape(query, key, value, enable_gqa):
    operands = (query,) if enable_gqa else (query, key, value)
    heads = np.broadcast_shapes(*(x.shape[-3:-2] for x in operands))
    batch = np.broadcast_shapes(*(x.shape[:-3] for x in (query, key, value)))
    if batch and not heads:
        heads = (1,)
    return (*batch, *heads, query.shape[-2], value.shape[-1])


def assert_equals_torch(query, key, value, **options):
    out = mfa.scaled_dot_product_attention(query, key, value, **options)
    assert out.dtype == query.dtype
    assert out.shape == result_shape(query, key, value, options.get("enable_gqa", False))
    # Of nothing, PyTorch does not broadcast all axes.
    if out.size:
        expected = torch_result(query, key, value, **options)
        checks.tolerance.assert_within(out, expected, bound(query, key, value, **options))


@st.composite
def sdpa_calls(draw):
    """Operands of 2 to 5 dimensions each whose leading sizes broadcast, a mask that does too, and options."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    leading = tuple(draw(st.integers(1, 3)) for _ in range(draw(st.integers(0, 3))))
    enable_gqa = bool(leading) and draw(st.booleans())
    group = draw(st.integers(1, 3)) if enable_gqa else 1
    query_length, key_length = draw(st.integers(0, 40)), draw(st.integers(1, 70))
    head_dim, value_dim = draw(st.integers(1, 40)), draw(st.integers(1, 40))

    def broadcastable(sizes):
        sizes = sizes[draw(st.integers(0, len(sizes))) :]
        return tuple(size if draw(st.booleans()) else 1 for size in sizes)

    def operand(group, *sizes):
        # Grouped heads are the only axis before the last two that does not broadcast.
        heads = (group * leading[-1],) if enable_gqa else ()
        shape = (*broadcastable(leading[:-1] if enable_gqa else leading), *heads, *sizes)
        return rng.standard_normal(shape).astype(dtype)

    dtype = draw(st.sampled_from(checks.DTYPES))
    query = operand(group, query_length, head_dim)
    key = operand(1, key_length, head_dim)
    value = operand(1, key_length, value_dim)
    options = {"enable_gqa": enable_gqa}
    kind = draw(st.sampled_from(("none", "causal", "bool", "additive")))
    if kind == "causal":
        options["is_causal"] = True
    elif kind != "none":
        # PyTorch's mask broadcasts to the scores, of which values do not decide the shape.
        shape = broadcastable((*result_shape(query, key, key, enable_gqa)[:-1], key_length))
        mask = np.asarray(rng.standard_normal(shape))
        options["attn_mask"] = np.asarray(mask > -0.3 if kind == "bool" else mask.astype(dtype))
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


# ---------------------------------------------------------------- dropout


class NumpyGenerator:
    seed = staticmethod(np.random.seed)
    array = staticmethod(np.asarray)

    @staticmethod
    def state():
        return np.random.get_state()[1].tobytes(), np.random.get_state()[2]


class TorchGenerator:
    seed = staticmethod(torch.manual_seed)
    array = staticmethod(torch.from_numpy)

    @staticmethod
    def state():
        return torch.get_rng_state().numpy().tobytes()


@pytest.fixture(params=[NumpyGenerator, TorchGenerator], ids=["numpy", "torch"])
def generator(request):
    """The library whose arrays are used, the other's generator being left alone."""
    own = request.param
    other = TorchGenerator if own is NumpyGenerator else NumpyGenerator
    before = other.state()
    kept = torch.get_rng_state(), np.random.get_state()
    yield own
    assert other.state() == before
    torch.set_rng_state(kept[0])
    np.random.set_state(kept[1])


def test_dropout_follows_the_generator_of_the_library(rng, generator):
    query, key, value = map(generator.array, checks.operands(rng, heads=2, layout="bhsd"))

    def two_calls():
        generator.seed(5)
        return [
            np.asarray(mfa.scaled_dot_product_attention(query, key, value, dropout_p=0.5)) for _ in range(2)
        ]

    first, second = two_calls()
    assert not np.array_equal(first, second)
    for result, expected in zip(two_calls(), (first, second), strict=True):
        assert checks.same_bits(result, expected)


def test_no_dropout_draws_nothing(rng, generator):
    operands = [generator.array(x) for x in checks.operands(rng, layout="bhsd")]
    before = generator.state()
    mfa.scaled_dot_product_attention(*operands, dropout_p=0)
    assert generator.state() == before
    mfa.scaled_dot_product_attention(*operands, dropout_p=0.1)
    assert generator.state() != before


def test_dropout_keeps_the_mean(generator):
    """Of equal weights and values that are 1, what remains is how many were kept."""
    generator.seed(0)
    query, key = np.zeros((4, 64, 8), np.float32), np.zeros((4, 1024, 8), np.float32)
    operands = [generator.array(x) for x in (query, key, np.ones((4, 1024, 1), np.float32))]
    out = np.asarray(mfa.scaled_dot_product_attention(*operands, dropout_p=0.25))
    kept = out * 0.75 * 1024
    np.testing.assert_allclose(kept, kept.round(), atol=0.01)
    assert abs(out.mean() - 1) < 0.01
    assert 0.005 < out.std() < 0.05


def test_dropout_differs_along_every_leading_axis(generator):
    operands = [generator.array(np.ones((2, 3, 2, 2, 40, 8), np.float32)) for _ in range(3)]
    generator.seed(1)
    out = np.asarray(mfa.scaled_dot_product_attention(*operands, dropout_p=0.5))
    slices = out.reshape(-1, 40, 8)
    assert len({piece.tobytes() for piece in slices}) == len(slices)
    generator.seed(1)
    first = mfa.scaled_dot_product_attention(*(x[0, 0] for x in operands), dropout_p=0.5)
    assert checks.same_bits(np.asarray(first), out[0, 0])
