"""The gradient of the logsumexp, which comes into the backward pass beside that of the output.

The laws of test_backward.py, test_sequences.py and test_isa.py draw one, too.
"""

import numpy as np
import pytest
import torch
from support import checks

import mfa

ANY = pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
LAYOUT = {"layout": "bhsd"}


def operands(rng, **sizes):
    """dout, query, key, value and dlse."""
    arrays = checks.operands_and_dout(rng, **sizes, **LAYOUT)
    return *arrays, rng.standard_normal(arrays[0].shape[:3], np.float32)


@ANY
def test_equals_the_oracle_beside_everything(context, rng, dtype):
    *arrays, dlse = operands(rng, batch=2, heads=4, kv_heads=2, query_length=37, key_length=150, dtype=dtype)
    options = {
        "causal": "bottom-right",
        "window": (90, -1),
        "softcap": 3.0,
        "bias": rng.standard_normal((4, 1, 150)).astype(dtype),
        "alibi_slopes": np.array([0.1, -0.05, 0, 0.3], np.float32),
        "sinks": np.array([-1, 0, 2, 5], np.float32),
        "dropout_p": 0.3,
    }
    g = checks.check_backward(context, *arrays, dlse=dlse, **options, **LAYOUT)
    without = checks.backward(context, *arrays, **options, **LAYOUT)
    assert checks.same_bits(g.dv, without.dv)
    for name in ("dq", "dk", "dbias", "dsinks"):
        assert not np.allclose(getattr(g, name), getattr(without, name), rtol=0.1), name


@ANY
def test_a_logsumexp_alone(context, rng, dtype):
    """Without a gradient of the output, weights are those of the logsumexp: dk sums them times queries."""
    dout, query, key, value, dlse = operands(rng, heads=2, query_length=30, key_length=70, dtype=dtype)
    dout[:] = 0
    g = checks.check_backward(context, dout, query, key, value, dlse=dlse, **LAYOUT)
    tensors = [torch.from_numpy(x.astype(np.float64)).requires_grad_() for x in (query, key)]
    scores = tensors[0] @ tensors[1].transpose(-1, -2) / query.shape[-1] ** 0.5
    scores.logsumexp(-1).backward(torch.from_numpy(dlse).double())
    for gradient, tensor in zip(g, tensors, strict=False):
        np.testing.assert_allclose(gradient.astype(np.float64), tensor.grad, rtol=0.05, atol=0.05)
    assert not g.dv.astype(np.float32).any()


@ANY
def test_rows_that_see_no_key_are_ignored(context, rng, dtype):
    *arrays, dlse = operands(rng, heads=2, query_length=40, key_length=90, dtype=dtype)
    mask = np.ones((40, 1), bool)
    hidden = [0, 7, 8, 39]
    mask[hidden] = False
    dlse[:, :, hidden] = np.nan
    for options in ({"mask": mask}, {"bias": np.where(mask, 0, -np.inf).astype(dtype)}):
        g = checks.check_backward(context, *arrays, dlse=dlse, **options, **LAYOUT)
        assert not g.dq[:, :, hidden].astype(np.float32).any()


def test_rows_that_see_a_sink_alone(context, rng):
    """Their logsumexp is the sink, and its gradient the sink's."""
    *arrays, dlse = operands(rng, batch=2, heads=2, query_length=20, key_length=30)
    sinks = np.array([0.5, -2], np.float32)
    options = {"mask": np.zeros((20, 1), bool), "sinks": sinks, **LAYOUT}
    g = checks.backward(context, *arrays, dlse=dlse, **options)
    np.testing.assert_allclose(g.dsinks, dlse.sum(axis=(0, 2)), rtol=1e-5, atol=1e-5)
    assert not any(gradient.any() for gradient in g[:3])
    g = checks.backward(context, *arrays, dlse=dlse, **options | {"sinks": np.full(2, -np.inf, np.float32)})
    assert not g.dsinks.any()


@ANY
def test_delta_does_not_hold_it(context, rng, dtype):
    dout, query, key, value, dlse = operands(rng, heads=2, query_length=40, key_length=70, dtype=dtype)
    options = {"out_dtype": "float32", "context": context, **LAYOUT}
    out, lse = mfa.attention(query, key, value, return_lse=True, context=context, **LAYOUT)
    delta, plain = np.full((2, 1, 2, 40), np.nan, np.float32)
    mfa.attention_backward(dout, query, key, value, out, lse, delta=plain, **options)
    written = mfa.attention_backward(dout, query, key, value, out, lse, delta=delta, dlse=dlse, **options)
    assert checks.same_bits(delta, plain)
    read = mfa.attention_backward(dout, query, key, value, None, lse, delta=delta, dlse=dlse, **options)
    assert checks.same_gradient_bits(read, written)
    less = mfa.attention_backward(dout, query, key, value, None, lse, delta=delta - dlse, **options)
    assert checks.same_gradient_bits(less, written)


def test_nan_reaches_what_its_row_sees(context, rng):
    *arrays, dlse = operands(rng, query_length=60, key_length=60)
    dlse[0, 0, 20] = np.nan
    g = checks.backward(context, *arrays, dlse=dlse, window=(5, 0), **LAYOUT)
    rows = np.isnan(g.dq[0, 0]).all(axis=-1)
    assert np.flatnonzero(rows).tolist() == [20]
    assert np.flatnonzero(np.isnan(g.dk[0, 0]).all(axis=-1)).tolist() == list(range(15, 21))
    assert np.isfinite(g.dv).all()
    assert np.isfinite(g.dq[0, 0, ~rows]).all()


@pytest.mark.parametrize("precision", ["int8", "uint4"])
def test_of_codes(context, rng, precision):
    dout, query, key, value, dlse = operands(rng, heads=4, kv_heads=2, query_length=20, key_length=64)
    codes = [mfa.quantize(x, precision, layout="bhsd") for x in (key, value)]
    options = {"context": context, **LAYOUT}
    out, lse = mfa.attention(query, *codes, return_lse=True, **options)
    g = mfa.attention_backward(dout, query, *codes, out, lse, dlse=dlse, **options)
    floats = [tensor.dequantize() for tensor in codes]
    expected = mfa.attention_backward(dout, query, *floats, out, lse, dlse=dlse, **options)
    for gradient, wanted in zip(g[:3], expected[:3], strict=True):
        np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-5)


def test_of_no_rows(context):
    empty, keys = np.ones((1, 2, 0, 8), np.float32), np.ones((1, 2, 3, 8), np.float32)
    sums = np.ones((1, 2, 0), np.float32)
    g = mfa.attention_backward(empty, empty, keys, keys, empty, sums, dlse=sums, context=context, **LAYOUT)
    assert not g.dk.any()
