"""What a NaN or an infinity in an operand of the backward pass reaches, and what it must not reach.

Where `out` itself is not finite for rows near the operand, as the forward pass allows within its tile, only
distant rows and keys are held to be finite.
"""

import numpy as np
import pytest
from support import checks

LAYOUT = {"layout": "bhsd"}
ANY = pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
BAD = pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=str)


def operands(rng, **sizes):
    return checks.operands_and_dout(rng, **sizes, **LAYOUT)


def is_nan(gradient):
    """Bool (N,): rows or keys of the only head of which every element is NaN."""
    return np.isnan(gradient[0, 0].astype(np.float32)).all(axis=-1)


def is_finite(gradient):
    return np.isfinite(gradient[0, 0].astype(np.float32)).all(axis=-1)


@ANY
@BAD
@pytest.mark.parametrize("hide", ["mask", "bias", "causal", "window"])
@pytest.mark.parametrize("seen", [1, 20, 33])
def test_padding_after_the_last_visible_key_is_not_read(context, rng, dtype, bad, hide, seen):
    """Of odd and even length: kernels that multiply keys in pairs meet pairs of which one key is padding."""
    dout, query, key, value = operands(rng, heads=2, query_length=seen, key_length=100, dtype=dtype)
    visible = np.arange(100) < seen
    options = {
        "mask": {"mask": visible},
        "bias": {"bias": np.where(visible, 0, -np.inf).astype(np.float32)},
        "causal": {"causal": "top-left"},
        "window": {"window": (-1, 0), "alignment": "top-left"},
    }[hide]
    key[:, :, ~visible] = value[:, :, ~visible] = bad
    g = checks.check_backward(context, dout, query, key, value, **options, **LAYOUT)
    for gradient in (g.dk, g.dv):
        assert not gradient[:, :, ~visible].astype(np.float32).any()


@ANY
def test_tiles_that_no_row_sees_are_not_read(context, rng, dtype):
    """However large a tile is: the mask hides 2048 keys, of which the middle 1024 are NaN."""
    dout, query, key, value = operands(rng, query_length=40, key_length=3072, dtype=dtype)
    seen = (np.arange(3072) < 512) | (np.arange(3072) >= 2560)
    key[:, :, 1024:2048] = value[:, :, 1024:2048] = np.nan
    for options in ({"mask": seen}, {"bias": np.where(seen, 0, -np.inf).astype(dtype)}):
        checks.check_backward(context, dout, query, key, value, **options, **LAYOUT)
    dout, query = (x[:, :, :1].repeat(200, axis=2) for x in (dout, query))
    key[:, :, :2048] = value[:, :, :2048] = np.nan
    keys = slice(2048, None)
    options = {"window": (100, 0), "alignment": "bottom-right", **LAYOUT}
    g = checks.backward(context, dout, query, key, value, **options)
    reference = checks.expected_gradients(dout, query, key[:, :, keys], value[:, :, keys], **options)
    reference.assert_holds(g._replace(dk=g.dk[:, :, keys], dv=g.dv[:, :, keys]))
    assert not g.dk[:, :, :2048].astype(np.float32).any()


@ANY
@pytest.mark.parametrize("operand", ["dout", "query"])
def test_nan_row_reaches_the_keys_that_it_sees(context, rng, dtype, operand):
    dout, query, key, value = operands(rng, query_length=1500, key_length=1500, head_dim=8, dtype=dtype)
    {"dout": dout, "query": query}[operand][0, 0, 700] = np.nan
    g = checks.backward(context, dout, query, key, value, window=(10, 10), **LAYOUT)
    near, far = np.arange(690, 711), np.r_[:100, 1300:1500]
    assert is_nan(g.dq)[700]
    assert is_nan(g.dk)[near].all()
    assert is_nan(g.dv)[near].all()
    for gradient in g[:3]:
        assert is_finite(gradient)[far].all()


@ANY
@pytest.mark.parametrize("operand", ["key", "value"])
def test_nan_key_or_value_reaches_the_rows_that_see_it(context, rng, dtype, operand):
    dout, query, key, value = operands(rng, query_length=1500, key_length=1500, head_dim=8, dtype=dtype)
    {"key": key, "value": value}[operand][0, 0, 700] = np.nan
    g = checks.backward(context, dout, query, key, value, window=(10, 10), **LAYOUT)
    near, far = np.arange(690, 711), np.r_[:100, 1300:1500]
    assert is_nan(g.dq)[near].all()
    assert is_nan(g.dk)[700]
    assert is_nan(g.dv)[700] == (operand == "key")  # a value has no part in its own gradient
    for gradient in g[:3]:
        assert is_finite(gradient)[far].all()


@ANY
def test_nan_bias_reaches_its_row_and_keys(context, rng, dtype):
    arrays = operands(rng, query_length=40, key_length=90)
    bias = rng.standard_normal((40, 90)).astype(dtype)
    bias[11, 80] = np.nan
    g = checks.backward(context, *arrays, bias=bias, **LAYOUT)
    assert is_nan(g.dq)[11]
    assert np.isnan(g.dbias[11].astype(np.float32)).all()
    assert is_nan(g.dk).all()
    assert is_nan(g.dv).all()
    others = np.delete(np.arange(40), 11)
    assert np.isfinite(g.dbias[others].astype(np.float32)).all()
    assert is_finite(g.dq)[others].all()


def test_nan_sink_reaches_everything_of_its_head(context, rng):
    arrays = operands(rng, heads=2, query_length=20, key_length=40)
    g = checks.backward(context, *arrays, sinks=np.array([np.nan, 0], np.float32), **LAYOUT)
    for gradient in (*g[:3], g.dsinks[None]):
        assert np.isnan(gradient[:, 0]).all()
        assert np.isfinite(gradient[:, 1]).all()


@ANY
def test_batches_and_heads_do_not_meet(context, rng, dtype):
    arrays = operands(rng, batch=2, heads=4, kv_heads=2, query_length=50, key_length=60, dtype=dtype)
    bias = np.zeros((2, 4, 50, 60), np.float32)
    clean = checks.backward(context, *arrays, bias=bias, **LAYOUT)
    for operand in arrays:
        broken = [x.copy() if x is operand else x for x in arrays]
        next(x for x, y in zip(broken, arrays, strict=True) if x is not y)[1, -1] = np.nan
        g = checks.backward(context, *broken, bias=bias, **LAYOUT)
        for gradient, expected in zip(g[:4], clean[:4], strict=True):
            assert checks.same_bits(gradient[0], expected[0])
            half = gradient.shape[1] // 2
            assert checks.same_bits(gradient[1, :half], expected[1, :half])


@ANY
@pytest.mark.parametrize("operand", ["dout", "query", "key", "value"])
@pytest.mark.parametrize("huge", [1e4, np.inf], ids=str)
def test_huge_operands_end(context, rng, dtype, operand, huge):
    """Whatever they give, the call returns, and the next one is none the worse."""
    arrays = dict(
        zip(
            ("dout", "query", "key", "value"),
            operands(rng, heads=2, query_length=130, key_length=400, dtype=dtype),
            strict=True,
        )
    )
    before = checks.backward(context, *arrays.values(), **LAYOUT)
    changed = {**arrays, operand: (arrays[operand] * np.float32(huge)).astype(dtype)}
    with np.errstate(over="ignore"):
        checks.backward(context, *changed.values(), softcap=3.0, dropout_p=0.1, **LAYOUT)
    assert checks.same_gradient_bits(checks.backward(context, *arrays.values(), **LAYOUT), before)


@ANY
def test_float32_extremes_end(context, rng, dtype):
    dout, query, key, value = operands(rng, query_length=20, key_length=40, dtype=dtype)
    if dtype != checks.FLOAT16:
        query[0, 0, 3] = key[0, 0, 5] = value[0, 0, 7] = dout[0, 0, 9] = 3e38
    for options in ({}, {"softmax_scale": 3e38}, {"softcap": 1e-39}, {"softmax_scale": -1e-45}):
        checks.backward(context, dout, query, key, value, **options, **LAYOUT)


@ANY
def test_hidden_bias_is_not_read(context, rng, dtype):
    """NaN in the bias where the bool mask, the causal mask or the window hides the key."""
    arrays = operands(rng, heads=2, query_length=60, key_length=60)
    bias = rng.standard_normal((60, 60)).astype(dtype)
    nan = np.array(np.nan, dtype)
    visible = rng.random((60, 60)) < 0.5
    for options, seen in (({"mask": visible}, visible), ({"causal": "top-left"}, np.tri(60, dtype=bool))):
        g = checks.check_backward(context, *arrays, **options, bias=np.where(seen, bias, nan), **LAYOUT)
        assert not g.dbias[~seen].astype(np.float32).any()


@pytest.mark.parametrize("head_dim", [16, 40, 64, 96, 128])
@pytest.mark.parametrize(
    "features", [{}, {"softcap": 5.0}, {"softmax_scale": -0.3}], ids=lambda x: " ".join(x)
)
def test_a_product_that_overflows_to_minus_infinity_adds_nothing(context, rng, head_dim, features):
    """Its key has no weight in the forward pass, so the answer is that of hiding it."""
    shape = {"query_length": 3, "key_length": 5, "head_dim": head_dim, **LAYOUT}
    dout, query, key, value = checks.operands_and_dout(rng, dtype=checks.FLOAT32, **shape)
    query[..., 0], key[..., 0] = 1e20, 0
    hidden = np.array([True, False, True, True, True])
    key[:, :, 1, 0] = -1e20 if features.get("softmax_scale", 1) > 0 else 1e20
    if "softcap" in features:
        hidden[:] = True  # softcap makes a finite score of it
    gradients = checks.backward(context, dout, query, key, value, **LAYOUT, **features)
    expected = checks.backward(context, dout, query, key, value, mask=hidden, **LAYOUT, **features)
    for actual, wanted in zip(gradients[:3], expected[:3], strict=True):
        assert np.isfinite(wanted).all()
        np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


def test_dout_of_a_row_that_sees_no_key_does_not_reach_the_sinks(context, rng):
    shape = {"query_length": 4, "key_length": 4, "head_dim": 16, **LAYOUT}
    dout, query, key, value = checks.operands_and_dout(rng, dtype=checks.FLOAT32, **shape)
    mask = np.ones((4, 4), bool)
    mask[2] = False
    options = {"mask": mask, "sinks": np.zeros(1, np.float32), **LAYOUT}
    expected = checks.backward(context, dout, query, key, value, **options)
    dout[:, :, 2] = np.nan
    gradients = checks.backward(context, dout, query, key, value, **options)
    assert checks.same_bits(gradients.dsinks, expected.dsinks)
