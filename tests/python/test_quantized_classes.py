"""mfa.quantized: attention that quantises by a configuration."""

import copy
import pickle
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import torch
from support import backends

import mfa
from mfa.quantized import QuantizedAttention, QuantizedFlashAttention

DEVICE = "cpu" if backends.DEFAULT.is_cpu else "metal"
TOLERANCE = {"rtol": 2e-3, "atol": 2e-3}
SEED = {
    "query_precision": "fp16",
    "key_precision": "int8",
    "value_precision": "int4",
    "key_scale": 0.1,
    "key_zero_point": 128,
}


@pytest.fixture
def arrays(rng):
    """query, key, value in the layout that the class has."""
    return [rng.standard_normal((2, n, 4, 40), dtype=np.float32) for n in (20, 33, 33)]


def tensors(arrays, **options):
    """Those of a layer, heads first."""
    return [torch.from_numpy(array).transpose(1, 2).clone().requires_grad_(**options) for array in arrays]


def test_what_both_have_is_the_same():
    assert mfa.quantized.QuantizedTensor is mfa.QuantizedTensor
    assert mfa.quantized.quantize is mfa.quantize


def test_torch_is_not_imported():
    program = (
        "import sys, numpy, mfa.quantized\n"
        "one = numpy.ones((1, 2, 4, 8), numpy.float32)\n"
        "layer = mfa.quantized.QuantizedFlashAttention(enable_training=True)\n"
        "layer.scaled_dot_product_attention(one, one, one, is_training=True)\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# ------------------------------------------------------- the seed's examples


def test_mixed_precision_as_the_seed_has_it(arrays):
    query_tensor, key_tensor, value_tensor = (array.astype(np.float16) for array in arrays)
    qa = QuantizedAttention(device=DEVICE)
    output = qa.forward(query=query_tensor, key=key_tensor, value=value_tensor, config=SEED)
    key = mfa.quantize(key_tensor, "uint8", scale=0.1, zero_point=128)
    value = mfa.quantize(value_tensor, "int4")
    assert np.array_equal(output, mfa.attention(query_tensor, key, value))


def test_training_as_the_seed_has_it():
    class QuantizedMultiHeadAttention(torch.nn.Module):
        def __init__(self, embed_dim, num_heads):
            super().__init__()
            self.project = torch.nn.Linear(
                embed_dim, embed_dim
            )  # what the example has to train is left out there
            self.qfa = QuantizedFlashAttention(
                query_precision="fp16", key_precision="int8", value_precision="int4", enable_training=True
            )

        def forward(self, query, key, value):
            return self.qfa.scaled_dot_product_attention(
                self.project(query),
                key,
                self.project(value),
                is_training=self.training,
                return_gradients=True,
            )

    torch.manual_seed(1)
    model = QuantizedMultiHeadAttention(embed_dim=24, num_heads=12)
    optimizer = torch.optim.AdamW(model.parameters(), 0.02)
    query, key, value = torch.randn(3, 3, 20, 24).unbind()
    target = torch.zeros(3, 20, 24)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(query, key, value), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0], losses


# ------------------------------------------------------------ configurations


@pytest.mark.parametrize(
    ("config", "key", "value"),
    [
        (None, {}, {}),
        ({}, {}, {}),
        (
            {"key_precision": "uint4", "value_precision": "int4"},
            {"precision": "uint4"},
            {"precision": "int4"},
        ),
        ({"smooth_key": True}, {"smooth": True}, {}),
        (
            {"key_granularity": "channel", "value_granularity": "group32", "value_symmetric": False},
            {"granularity": "channel"},
            {"granularity": "group32", "symmetric": False},
        ),
        ({"value_scale": 0.1, "value_zero_point": 7}, {}, {"scale": 0.1, "zero_point": 7}),
        (
            {"value_precision": "int4", "value_scale": 0.1, "value_zero_point": 8},
            {},
            {"precision": "uint4", "scale": 0.1, "zero_point": 8},
        ),
    ],
)
def test_configuration_says_how_both_are_quantised(arrays, config, key, value):
    query = arrays[0]
    out = QuantizedAttention(DEVICE).forward(*arrays, config)
    codes = mfa.quantize(arrays[1], **key), mfa.quantize(arrays[2], **value)
    assert np.array_equal(out, mfa.attention(query, *codes))


def test_keywords_of_attention_go_with_it(arrays):
    query, key, value = (array.swapaxes(1, 2) for array in arrays)
    config = {"layout": "bhsd", "causal": True, "softmax_scale": 0.3, "compute_mode": "int8"}
    out, lse = QuantizedAttention(DEVICE).forward(query, key, value, config, return_lse=True)
    codes = [mfa.quantize(array, layout="bhsd") for array in (key, value)]
    expected = mfa.attention(query, *codes, return_lse=True, **config)
    assert np.array_equal(out, expected[0])
    assert np.array_equal(lse, expected[1])


@pytest.mark.parametrize(("name", "dtype"), [("fp16", np.float16), ("bfloat16", ml_dtypes.bfloat16)])
def test_queries_are_rounded_and_results_are_as_they_were(arrays, name, dtype):
    query, key, value = arrays
    attention = QuantizedAttention(DEVICE)
    out = attention.forward(query, key, value, {"query_precision": name})
    codes = mfa.quantize(key), mfa.quantize(value)
    assert np.array_equal(out, mfa.attention(query.astype(dtype), *codes, out_dtype="float32"))
    out = attention.forward(
        torch.from_numpy(query), key, value, {"query_precision": name, "output_precision": "bf16"}
    )
    assert out.dtype == torch.bfloat16


def test_floats_and_codes_are_taken_too(arrays):
    query, key, value = (array.astype(np.float16) for array in arrays)
    attention = QuantizedAttention(DEVICE)
    codes = mfa.quantize(value, "int4", "group32")
    out = attention.forward(query, key.astype(np.float32), codes, {"key_precision": "fp16"})
    assert np.array_equal(out, mfa.attention(query, key, codes))


def test_backward_is_that_of_what_codes_stand_for(arrays):
    query, key, value = arrays
    attention = QuantizedAttention(DEVICE)
    config = {"smooth_key": True, "value_scale": 0.01, "value_zero_point": 0, "causal": True}
    out, lse = attention.forward(query, key, value, config, return_lse=True)
    codes = mfa.quantize(key, smooth=True), mfa.quantize(value, scale=0.01, zero_point=0)
    dout = np.cos(out)
    plain = mfa.attention_backward(dout, query, *codes, out, lse, causal=True)
    found = attention.backward(dout, query, key, value, out, lse, config)
    for name in ("dq", "dk", "dv"):
        assert np.array_equal(getattr(found, name), getattr(plain, name))
    zeroed = attention.backward(dout, query, key, value, out, lse, config | {"zero_clipped": True}).dv
    assert not zeroed[np.abs(value) > 1.3].any()
    assert zeroed[np.abs(value) < 1.2].any()


# ----------------------------------------------------------------- the layer


@pytest.mark.parametrize("options", [{}, {"is_causal": True, "scale": 0.3}])
def test_layer_is_a_drop_in(arrays, options):
    query, key, value = tensors(arrays, requires_grad=False)
    layer = QuantizedFlashAttention(device=DEVICE)
    out = layer.scaled_dot_product_attention(query, key, value, **options)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, **options)
    assert out.dtype == torch.float32
    assert torch.linalg.norm(out - expected) < 0.02 * torch.linalg.norm(expected)
    mask = torch.ones(20, 33, dtype=torch.bool).tril()
    masked = layer.scaled_dot_product_attention(query, key, value, mask)
    causal = layer.scaled_dot_product_attention(query, key, value, is_causal=True)
    assert torch.allclose(masked, causal, **TOLERANCE)


@pytest.mark.parametrize("shapes", [(4, 4, 4), (3, 3, 3), (2, 2, 2), (4, 3, 2), (2, 4, 3)])
@pytest.mark.parametrize("key_precision", ["int8", "fp32"])
def test_gradients_are_those_of_what_codes_stand_for(arrays, shapes, key_precision):
    """Of heads and batches that are broadcast, the sums."""
    given = tensors(arrays, requires_grad=False)
    given = [
        array[(0,) * (4 - ndim)].clone().requires_grad_() for array, ndim in zip(given, shapes, strict=True)
    ]
    layer = QuantizedFlashAttention(None, key_precision, enable_training=True, device=DEVICE)
    out = layer.scaled_dot_product_attention(*given, is_training=True, return_gradients=True)
    plain = layer.scaled_dot_product_attention(*(array.detach() for array in given))
    assert torch.equal(out, plain)
    dout = torch.cos(out.detach())
    found = torch.autograd.grad(out, given, dout)

    floats = [array.detach().clone().requires_grad_() for array in given]
    with torch.no_grad():
        for array in floats[1 + (key_precision == "fp32") :]:
            array.copy_(torch.from_numpy(mfa.quantize(array, layout="bhsd").dequantize()))
    expected = torch.nn.functional.scaled_dot_product_attention(*floats)
    for gradient, wanted in zip(found, torch.autograd.grad(expected, floats, dout), strict=True):
        assert gradient.shape == wanted.shape
        assert torch.allclose(gradient, wanted, **TOLERANCE)


def test_layers_multiply_integers_where_asked(arrays):
    layer = QuantizedFlashAttention(config={"compute_mode": "int8"})
    query, key, value = tensors(arrays, requires_grad=False)
    codes = mfa.quantize(key, layout="bhsd"), mfa.quantize(value, layout="bhsd")
    found = layer.scaled_dot_product_attention(query, key, value)
    assert torch.equal(found, mfa.attention(query, *codes, layout="bhsd", compute_mode="int8"))
    assert not torch.equal(found, mfa.attention(query, *codes, layout="bhsd"))


def test_heads_share_keys_where_asked(arrays):
    query, key, value = tensors(arrays, requires_grad=True)
    layer = QuantizedFlashAttention(enable_training=True, device=DEVICE)
    grouped = [query, *(array[:, :2] for array in (key, value))]
    out = layer.scaled_dot_product_attention(*grouped, enable_gqa=True, return_gradients=True)
    out.sum().backward()
    assert key.grad[:, :2].any()
    assert not key.grad[:, 2:].any()
    with pytest.raises(ValueError, match=r"^key: 2 heads, expected 4 as query has, or enable_gqa=True"):
        layer.scaled_dot_product_attention(*grouped, return_gradients=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masks_have_gradients(arrays, dtype):
    query, key, value = tensors(arrays, requires_grad=False)
    mask = torch.randn(4, 1, 33, dtype=dtype, requires_grad=True)
    layer = QuantizedFlashAttention(enable_training=True, device=DEVICE)
    out = layer.scaled_dot_product_attention(query, key, value, mask, return_gradients=True)
    (found,) = torch.autograd.grad(out.cos().sum(), mask)
    codes = (torch.from_numpy(mfa.quantize(array, layout="bhsd").dequantize()) for array in (key, value))
    expected = torch.nn.functional.scaled_dot_product_attention(query, *codes, mask.float())
    (wanted,) = torch.autograd.grad(expected.cos().sum(), mask)
    assert found.dtype == dtype
    assert torch.allclose(found.float(), wanted.float(), rtol=0.02, atol=2e-3)


def test_gradients_have_the_dtypes_of_what_they_are_of(arrays):
    query, key, value = tensors(arrays, requires_grad=False)
    query = query.requires_grad_()
    value = value.half().requires_grad_()
    layer = QuantizedFlashAttention("fp16", enable_training=True, device=DEVICE)
    out = layer.scaled_dot_product_attention(query, key, value, return_gradients=True)
    assert out.dtype == torch.float32
    out.sum().backward()
    assert (query.grad.dtype, key.grad, value.grad.dtype) == (torch.float32, None, torch.float16)


def test_dropout_is_for_training_alone(arrays):
    given = tensors(arrays, requires_grad=True)
    layer = QuantizedFlashAttention(enable_training=True, device=DEVICE)
    plain = layer.scaled_dot_product_attention(*given, return_gradients=True)
    assert torch.equal(
        layer.scaled_dot_product_attention(*given, dropout_p=0.5, return_gradients=True), plain
    )
    torch.manual_seed(3)
    dropped = layer.scaled_dot_product_attention(
        *given, dropout_p=0.5, is_training=True, return_gradients=True
    )
    assert not torch.equal(dropped, plain)
    # The same weights are dropped again: the gradient of values is linear in the weights.
    dv = torch.autograd.grad(dropped.sum(), given[2])[0]
    assert torch.allclose((dv * given[2]).sum(), dropped.sum(), rtol=0.02)


@pytest.mark.parametrize("made_anew", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_layers_are_copied_with_the_models_that_they_are_in(arrays, made_anew, device):
    layer = QuantizedFlashAttention(
        "fp16", value_precision="int4", device=device, config={"smooth_key": True}
    )
    copied = made_anew(layer)
    query, key, value = tensors(arrays, requires_grad=False)
    found = copied.scaled_dot_product_attention(query, key, value)
    assert torch.equal(found, layer.scaled_dot_product_attention(query, key, value))
    assert (copied.context is None) == (device == "auto")


# ------------------------------------------------------------------- errors


def forward(config):
    one = np.ones((1, 4, 2, 8), np.float32)
    return QuantizedAttention("cpu").forward(one, one, one, config)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: QuantizedAttention(device="tpu"),
            ValueError,
            "device: 'tpu', expected 'auto', 'cpu' or 'metal'",
        ),
        (lambda: QuantizedAttention(device=None), TypeError, "device: None, expected 'auto'"),
        (lambda: forward([]), TypeError, r"config: \[\], expected None or a dict"),
        (
            lambda: forward({"key_presicion": "int8"}),
            ValueError,
            "config: has 'key_presicion', expected 'query_pre",
        ),
        (
            lambda: forward({"query_precision": "int8"}),
            ValueError,
            "query_precision: 'int8', expected 'fp16', 'bf16'",
        ),
        (
            lambda: forward({"key_precision": "fp64"}),
            ValueError,
            "key_precision: 'fp64', expected 'int8', .*'fp32'",
        ),
        (lambda: forward({"value_precision": None}), TypeError, "value_precision: None, expected 'int8'"),
        (lambda: forward({"value_scale": -1}), ValueError, "value_scale: -1, expected a positive number"),
        (
            lambda: forward({"key_zero_point": 3}),
            ValueError,
            "key_zero_point: given, expected None without key_scale",
        ),
        (
            lambda: forward({"key_scale": 0.1, "key_zero_point": 256}),
            ValueError,
            "key_zero_point: 256, expected 0 to 255",
        ),
        (
            lambda: forward({"value_granularity": "row"}),
            ValueError,
            "value_granularity: 'row', expected 'tensor'",
        ),
        (lambda: forward({"smooth_key": 1}), TypeError, "smooth_key: 1, expected a bool"),
        (lambda: forward({"zero_clipped": 1}), TypeError, "zero_clipped: 1, expected a bool"),
        (lambda: forward({"causal": 3}), ValueError, "causal: 3, expected"),
        (
            lambda: forward({"key_precision": "fp16", "key_scale": 1.0}),
            ValueError,
            "key_scale: given, expected None for float16",
        ),
        (
            lambda: forward({"key_precision": "fp16"}),
            ValueError,
            "key: dtype float16, expected float32 as query has",
        ),
        (
            lambda: QuantizedAttention("cpu").forward(*[np.full((1, 4, 2, 8), np.nan, np.float32)] * 3),
            ValueError,
            r"key\[0, 0, 0, 0\]: nan, expected a finite number",
        ),
        (
            lambda: QuantizedAttention("cpu").forward(
                *[np.ones((1, 4, 2, 8), dtype) for dtype in (np.float32, np.float64, np.float32)]
            ),
            TypeError,
            "key: dtype float64, expected float32",
        ),
        (
            lambda: QuantizedAttention("cpu").forward(
                *[np.ones((1, 4, 2, 8), dtype) for dtype in (np.float64, np.float32, np.float32)]
            ),
            TypeError,
            "query: dtype float64, expected float32",
        ),
        (
            lambda: QuantizedAttention("cpu").forward(
                *[np.ones((1, 4, 2, 8), dtype) for dtype in (np.float16, np.int32, np.float16)],
                {"key_precision": "fp16"},
            ),
            TypeError,
            "key: dtype int32, expected float32",
        ),
        (
            lambda: forward({"smooth_key": True, "key_scale": 0.1}),
            ValueError,
            "smooth_key: True, expected False beside key_scale$",
        ),
        (
            lambda: forward({"key_scale": 0.1, "key_zero_point": 1, "key_symmetric": True}),
            ValueError,
            "key_zero_point: given, expected None beside key_symmetric=True$",
        ),
        (
            lambda: forward({"value_scale": torch.ones(1, 4, 2, 1, device="meta")}),
            BufferError,
            "value_scale: on device meta, expected cpu$",
        ),
        (
            lambda: forward({"k_new": np.ones((1, 1, 2, 8), np.float32)}),
            ValueError,
            "k_new: given, expected None, or a QuantizedTensor as key$",
        ),
        (
            lambda: QuantizedFlashAttention(config={"key_precision": "int4"}),
            ValueError,
            "config: has 'key_precision', expected only what is no argument here",
        ),
        (lambda: QuantizedFlashAttention("int8"), ValueError, "query_precision: 'int8', expected 'fp16'"),
        (
            lambda: QuantizedFlashAttention(enable_training=1),
            TypeError,
            "enable_training: 1, expected a bool",
        ),
    ],
)
def test_what_is_wrong_is_named(call, error, message):
    with pytest.raises(error, match=f"^{message}"):
        call()


@pytest.mark.parametrize(
    ("training", "arguments", "error", "message"),
    [
        (
            False,
            {"is_training": True},
            ValueError,
            "is_training: True, expected False, or enable_training=True",
        ),
        (
            False,
            {"return_gradients": True},
            ValueError,
            "return_gradients: True, expected False, or enable_training",
        ),
        (True, {"return_gradients": 1}, TypeError, "return_gradients: 1, expected a bool"),
        (True, {}, ValueError, "key: requires grad, and gradients are not recorded here"),
        (
            True,
            {"return_gradients": True, "key": np.ones((1, 2, 4, 8), np.float32)},
            TypeError,
            "return_gradients: True, expected False, or a torch tensor as key",
        ),
        (
            True,
            {"is_causal": True, "attn_mask": torch.ones(4, 4)},
            ValueError,
            "attn_mask: given together with",
        ),
        (True, {"dropout_p": 1.5}, ValueError, "dropout_p: 1.5, expected at least 0 and less than 1"),
        (
            True,
            {"return_gradients": True, "query": torch.ones(1, 2, 4, 8, dtype=torch.int32)},
            TypeError,
            "query: dtype int32, expected float32",
        ),
        (
            True,
            {"return_gradients": True, "query": torch.ones(1, 1, 2, 4, 8)},
            ValueError,
            "query: 5 dimensions, expected 2 to 4",
        ),
    ],
)
def test_what_is_wrong_with_a_layers_call_is_named(training, arguments, error, message):
    layer = QuantizedFlashAttention(enable_training=training, device="cpu")
    one = torch.ones(1, 2, 4, 8, requires_grad=training)
    with pytest.raises(error, match=f"^{message}"):
        layer.scaled_dot_product_attention(**{"query": one, "key": one, "value": one} | arguments)
