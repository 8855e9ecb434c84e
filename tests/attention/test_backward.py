"""The backward pass equals the float64 oracle, whatever is asked of it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import checks, strategies
from support.tools import require_module

import mfa

LAYOUT = {"layout": "bhsd"}
NAMES = mfa.Gradients._fields
ANY = pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
HALF = pytest.mark.parametrize("dtype", [checks.FLOAT16, checks.BFLOAT16], ids=str)


def operands(rng, **sizes):
    return checks.operands_and_dout(rng, **sizes, **LAYOUT)


@given(call=strategies.backward_calls())
def test_equals_the_oracle(context, call):
    checks.check_backward(context, *call.operands, **call.options)


@given(call=strategies.backward_calls())
def test_layout_in_memory_does_not_change_a_bit(context, call):
    gradients = checks.backward(context, *call.operands, **call.options)
    plain = call.contiguous()
    assert checks.same_gradient_bits(gradients, checks.backward(context, *plain.operands, **plain.options))


@given(call=strategies.backward_calls(), names=st.sets(st.sampled_from(NAMES)))
def test_a_gradient_is_the_same_without_the_others(context, call, names):
    whole = checks.backward(context, *call.operands, **call.options)
    names = {name for name in names if getattr(whole, name) is not None}
    some = checks.backward(context, *call.operands, **call.options, wanted=names)
    for name in NAMES:
        if name in names:
            assert checks.same_bits(getattr(some, name), getattr(whole, name)), name
        else:
            assert getattr(some, name) is None, name


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize("head_dim", strategies.each_dim(384, 512))
def test_every_head_dim(backend, context, rng, head_dim):
    for dtype, value_dim in strategies.each_type_and_value_dim(backend, head_dim):
        arrays = operands(
            rng,
            heads=2,
            query_length=13,
            key_length=70,
            head_dim=head_dim,
            value_dim=value_dim,
            dtype=dtype,
        )
        checks.check_backward(context, *arrays, causal="bottom-right", **LAYOUT)


@ANY
def test_lengths_around_block_edges(context, rng, dtype):
    for query_length in strategies.ROW_EDGES:
        arrays = operands(rng, query_length=query_length, key_length=33, head_dim=17, dtype=dtype)
        checks.check_backward(context, *arrays, **LAYOUT)
    for key_length in strategies.KEY_EDGES:
        arrays = operands(rng, query_length=13, key_length=key_length, head_dim=17, dtype=dtype)
        checks.check_backward(context, *arrays, **LAYOUT)


@ANY
@pytest.mark.parametrize("features", [{}, {"causal": "bottom-right"}, {"window": (90, 40)}], ids=str)
def test_many_blocks_of_rows_and_keys(context, rng, dtype, features):
    """One head, so that blocks of keys add into the same rows of dq."""
    arrays = operands(rng, query_length=205, key_length=801, head_dim=40, dtype=dtype)
    checks.check_backward(context, *arrays, **features, **LAYOUT)


@ANY
def test_one_of_everything(context, rng, dtype):
    """One key weighs 1 whatever its score: only value has a gradient, and it is dout."""
    dout, *inputs = operands(rng, query_length=1, key_length=1, head_dim=1, dtype=dtype)
    g = checks.check_backward(context, dout, *inputs, **LAYOUT)
    np.testing.assert_allclose(g.dv.astype(np.float32), dout.astype(np.float32), rtol=1e-6)


@ANY
@pytest.mark.parametrize(
    ("batch", "query_length", "key_length"), [(0, 5, 5), (2, 0, 5), (2, 5, 0), (0, 0, 0), (2, 0, 0)]
)
@pytest.mark.parametrize("causal", [None, "top-left", "bottom-right"])
def test_empty(context, rng, dtype, batch, query_length, key_length, causal):
    arrays = operands(
        rng, batch=batch, heads=2, query_length=query_length, key_length=key_length, dtype=dtype
    )
    bias = np.zeros((2, 1, key_length), np.float32)
    options = {"causal": causal, "bias": bias, "sinks": np.zeros(2, np.float32), **LAYOUT}
    g = checks.backward(context, *arrays, **options)
    for gradient, operand in zip(g, (*arrays[1:], bias, options["sinks"]), strict=True):
        assert gradient.shape == operand.shape
        assert not gradient.astype(np.float32).any()


@pytest.mark.parametrize("group", [1, 2, 3, 4, 7, 8, 16])
def test_grouped_heads_add_to_the_right_kv_head(context, rng, group):
    arrays = operands(rng, batch=2, heads=2 * group, kv_heads=2, query_length=5, key_length=40, head_dim=16)
    checks.check_backward(context, *arrays, **LAYOUT)


# ---------------------------------------------------------------- precisions


@ANY
@pytest.mark.parametrize("out_dtype", checks.DTYPES, ids=str)
@pytest.mark.parametrize("dout_dtype", checks.DTYPES, ids=str)
def test_dtypes(context, rng, dtype, out_dtype, dout_dtype):
    arrays = operands(
        rng, heads=2, query_length=33, key_length=65, head_dim=24, dtype=dtype, dout_dtype=dout_dtype
    )
    for forward_dtype in checks.DTYPES:
        options = {"out_dtype": out_dtype, "forward_dtype": forward_dtype, **LAYOUT}
        g = checks.check_backward(context, *arrays, **options)
        assert {x.dtype for x in g[:3]} == {out_dtype}


@HALF
def test_16_bit_gradients_are_float32_gradients_rounded(context, rng, dtype):
    arrays = operands(rng, heads=4, kv_heads=2, query_length=110, key_length=300, head_dim=40, dtype=dtype)
    wide = checks.backward(context, *arrays, out_dtype=np.float32, **LAYOUT)
    narrow = checks.backward(context, *arrays, **LAYOUT)
    for exact, rounded in zip(wide[:3], narrow[:3], strict=True):
        assert exact.dtype == checks.FLOAT32
        assert checks.same_bits(exact.astype(dtype), rounded)
        assert not (exact == rounded.astype(np.float32)).all()


@HALF
def test_weights_stay_float32_on_request(context, rng, dtype):
    arrays = operands(rng, query_length=48, key_length=300, head_dim=32, dtype=dtype)
    options = {"intermediate_precision": "float32", "out_dtype": np.float32, **LAYOUT}
    g = checks.check_backward(context, *arrays, forward_dtype=np.float32, **options)
    assert {x.dtype for x in g[:3]} == {checks.FLOAT32}


# ---------------------------------------------------------------- features one by one

BIAS_SHAPES = [
    (),
    (70,),
    (1,),
    (50, 70),
    (50, 1),
    (3, 1, 1),
    (1, 50, 70),
    (2, 1, 1, 70),
    (2, 3, 50, 70),
    (2, 3, 1, 1),
    (1, 1, 1, 1),
]


@pytest.mark.parametrize("shape", BIAS_SHAPES, ids=str)
@ANY
def test_gradient_of_a_broadcast_bias_is_summed(context, rng, shape, dtype):
    arrays = operands(rng, batch=2, heads=3, query_length=50, key_length=70, head_dim=8)
    bias = np.asarray(rng.standard_normal(shape)).astype(dtype)
    for options in ({"bias": bias}, {"mask": bias, "out_dtype": np.float32}):
        g = checks.check_backward(context, *arrays, **options, **LAYOUT)
        assert g.dbias.shape == shape
        assert g.dbias.dtype == (checks.FLOAT32 if "out_dtype" in options else dtype)


@ANY
def test_gradient_of_an_expanded_bias_is_not_summed(context, rng, dtype):
    """Strides of zero are how it lies in memory, not what it is."""
    arrays = operands(rng, batch=2, heads=3, query_length=20, key_length=70)
    row = rng.standard_normal((2, 1, 1, 70)).astype(dtype)
    g = checks.check_backward(context, *arrays, bias=np.broadcast_to(row, (2, 3, 20, 70)), **LAYOUT)
    assert g.dbias.shape == (2, 3, 20, 70)


@pytest.mark.parametrize("lengths", [(130, 500), (500, 130)], ids=str)
def test_bias_of_many_blocks(context, rng, lengths):
    query_length, key_length = lengths
    arrays = operands(rng, heads=2, query_length=query_length, key_length=key_length, head_dim=8)
    for shape in ((query_length, key_length), (query_length, 1), (key_length,), (2, 1, 1)):
        bias = rng.standard_normal(shape).astype(np.float32)
        checks.check_backward(context, *arrays, bias=bias, causal="bottom-right", **LAYOUT)


@ANY
@pytest.mark.parametrize("softcap", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("spread", [1, 30])
def test_softcap(context, rng, dtype, softcap, spread):
    dout, query, key, value = operands(rng, heads=2, query_length=21, key_length=80, dtype=dtype)
    query = query * np.array(spread, dtype)
    checks.check_backward(context, dout, query, key, value, softcap=softcap, **LAYOUT)


@ANY
@pytest.mark.parametrize("scale", [None, 0.0, 1.0, -0.25, 1e-3])
def test_softmax_scale(context, rng, dtype, scale):
    arrays = operands(rng, heads=2, query_length=21, key_length=80, dtype=dtype)
    g = checks.check_backward(context, *arrays, softmax_scale=scale, **LAYOUT)
    assert (scale == 0) == (not g.dq.astype(np.float32).any())


@pytest.mark.parametrize("alignment", ["top-left", "bottom-right"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", [(40, 40), (13, 150), (150, 13), (1, 50), (50, 1)], ids=str)
def test_causal_windows_and_alibi(context, rng, alignment, causal, lengths):
    query_length, key_length = lengths
    arrays = operands(rng, heads=2, query_length=query_length, key_length=key_length, head_dim=8)
    for window in ((-1, -1), (0, 0), (20, 1), (-1, 3), (64, -1)):
        options = {"causal": alignment if causal else None, "alignment": alignment, "window": window}
        checks.check_backward(context, *arrays, **options, **LAYOUT)
        slopes = np.array([0.5, -0.02], np.float32)
        checks.check_backward(context, *arrays, **options, alibi_slopes=slopes, **LAYOUT)


@ANY
def test_sinks(context, rng, dtype):
    arrays = operands(rng, batch=3, heads=4, kv_heads=2, query_length=119, key_length=70, dtype=dtype)
    sinks = np.array([-60, 0, 3, 60], np.float32)
    g = checks.check_backward(context, *arrays, sinks=sinks, **LAYOUT)
    assert g.dsinks.dtype == checks.FLOAT32
    g = checks.check_backward(context, *arrays, sinks=np.full(4, -np.inf, np.float32), **LAYOUT)
    assert not g.dsinks.any()


@ANY
@pytest.mark.parametrize("sinks", [None, [0.5, -3.0]], ids=str)
def test_rows_without_visible_key_have_and_add_nothing(context, rng, dtype, sinks):
    """Beside rows of the same tile that see keys."""
    arrays = operands(rng, heads=2, query_length=40, key_length=90, dtype=dtype)
    mask = np.ones((40, 1), bool)
    hidden = [0, 7, 8, 39]
    mask[hidden] = False
    sinks = None if sinks is None else np.array(sinks, np.float32)
    for options in ({"mask": mask}, {"bias": np.where(mask, 0, -np.inf).astype(dtype)}):
        g = checks.check_backward(context, *arrays, **options, sinks=sinks, **LAYOUT)
        assert not g.dq[:, :, hidden].astype(np.float32).any()
        rows_that_see = mask[:, 0]
        dout, query, key, value = arrays
        alone = checks.expected_gradients(
            dout[:, :, rows_that_see], query[:, :, rows_that_see], key, value, sinks=sinks, **LAYOUT
        )
        alone.assert_holds(g._replace(dq=g.dq[:, :, rows_that_see], dbias=None))


@ANY
def test_lowest_finite_bias_hides_like_minus_infinity(context, rng, dtype):
    """Masks are often written with finfo.min; beside ordinary scores their weights are exactly 0."""
    arrays = operands(rng, query_length=30, key_length=100, dtype=dtype)
    lowest = -65504 if dtype == np.float16 else -3.38e38
    hidden = np.zeros((30, 100), dtype)
    hidden[:, 37:60] = hidden[:10, 20:] = 1
    gradients = [
        checks.backward(context, *arrays, bias=np.where(hidden, value, 0).astype(dtype), **LAYOUT)
        for value in (lowest, -np.inf)
    ]
    for name in ("dq", "dk", "dv", "dbias"):
        low, infinite = (getattr(g, name).astype(np.float32) for g in gradients)
        assert np.isfinite(low).all()
        # Hidden rows at the edge of a tile are left out of its sums, which then round elsewhere.
        step = 4 * checks.tolerance.unit_roundoff(dtype)
        np.testing.assert_allclose(low, infinite, rtol=step, atol=step * np.abs(infinite).max())


# ---------------------------------------------------------------- memory


def test_packed_qkv_views(context, rng):
    """Query, key and value interleaved in one array, as a fused projection leaves them."""
    for dtype in checks.DTYPES:
        packed = rng.standard_normal((2, 70, 3, 3, 24)).astype(dtype)
        query, key, value = (packed[:, :, slot] for slot in range(3))
        dout = rng.standard_normal(query.shape).astype(dtype)
        checks.check_backward(context, dout, query, key, value, causal=True)


def test_operands_are_left_alone(context, rng):
    arrays = operands(rng, heads=2, query_length=30, key_length=40)
    bias, sinks = rng.standard_normal((30, 40)).astype(np.float32), np.zeros(2, np.float32)
    out, logsumexp = mfa.attention(
        *arrays[1:], bias=bias, sinks=sinks, return_lse=True, context=context, **LAYOUT
    )
    given = [*arrays, out, logsumexp, bias, sinks]
    copies = [x.copy() for x in given]
    mfa.attention_backward(*arrays, out, logsumexp, bias=bias, sinks=sinks, context=context, **LAYOUT)
    assert all(checks.same_bits(x, copy) for x, copy in zip(given, copies, strict=True))


# ---------------------------------------------------------------- PyTorch


@pytest.mark.parametrize("mask", ["none", "causal", "bool", "additive"])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_equals_torch_autograd(context, rng, mask, kv_heads):
    torch = require_module("torch", "pip install torch")
    dout, *inputs = operands(
        rng, batch=2, heads=4, kv_heads=kv_heads, query_length=60, key_length=75, head_dim=24
    )
    given = None
    if mask == "bool":
        given = rng.random((2, 1, 60, 75)) < 0.5
    elif mask == "additive":
        given = rng.standard_normal((60, 75)).astype(np.float32)
    tensors = [torch.from_numpy(x.astype(np.float64)).requires_grad_() for x in inputs]
    torch_mask = None if given is None else torch.from_numpy(given)
    if mask == "additive":
        torch_mask = torch_mask.double().requires_grad_()
        tensors.append(torch_mask)
    out = torch.nn.functional.scaled_dot_product_attention(
        *tensors[:3], attn_mask=torch_mask, is_causal=mask == "causal", enable_gqa=True
    )
    out.backward(torch.from_numpy(dout).double())
    causal = "top-left" if mask == "causal" else None
    g = checks.backward(context, dout, *inputs, mask=given, causal=causal, **LAYOUT)
    for name, tensor in zip(NAMES, tensors, strict=False):
        exact = tensor.grad.numpy()
        assert checks.tolerance.relative_error(getattr(g, name), exact) < 2e-6, name
