"""mfa.torch.quantized: modules that quantise keys and values, against torch's and against float64."""

import copy
import pickle

import pytest
import torch
from support import backends
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

import mfa
from mfa.torch.quantized import QuantizedFlashAttention, QuantizedMultiHeadAttention

DEVICE = "cpu" if backends.DEFAULT.is_cpu else "metal"
FLOATS = {"key_precision": "fp32", "value_precision": "fp32"}
CLOSE = {"rtol": 2e-4, "atol": 2e-5}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(5)


@pytest.fixture
def heads():
    """query, key, value as a layer has them, which all require grad."""
    return [torch.randn(2, n, 4, 40).transpose(1, 2).requires_grad_() for n in (20, 33, 33)]


def attention_of_what_codes_stand_for(query, key, value, precision, **options):
    """torch's in float64, and the arrays that it is of: query, and what codes of the others stand for."""
    key, value = (
        torch.from_numpy(mfa.quantize(array.detach(), precision, layout="bhsd").dequantize())
        for array in (key, value)
    )
    arrays = [array.detach().double().requires_grad_() for array in (query, key, value)]
    return scaled_dot_product_attention(*arrays, **options), arrays


# ----------------------------------------------------------------- the layer


@pytest.mark.parametrize("precision", ["int8", "int4", "uint8"])
@pytest.mark.parametrize("options", [{}, {"is_causal": True, "scale": 0.3}, {"attn_mask": "some"}])
def test_layer_and_its_gradients_are_those_of_what_codes_stand_for(heads, precision, options):
    if "attn_mask" in options:
        options = {"attn_mask": torch.rand(20, 33) < 0.7}
    layer = QuantizedFlashAttention(None, precision, precision, device=DEVICE)
    out = layer(*heads, **options)
    expected, arrays = attention_of_what_codes_stand_for(*heads, precision, **options)
    assert torch.allclose(out.double(), expected, **CLOSE)
    dout = torch.randn_like(out)
    found = torch.autograd.grad(out, heads, dout)
    for gradient, wanted in zip(found, torch.autograd.grad(expected, arrays, dout.double()), strict=True):
        assert torch.allclose(gradient.double(), wanted, **CLOSE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_and_results_have_the_dtype_of_what_they_are_of(heads, dtype):
    heads = [array.detach().to(dtype).requires_grad_() for array in heads]
    out = QuantizedFlashAttention(device=DEVICE)(*heads)
    out.float().square().sum().backward()
    assert {array.dtype for array in (out, *(array.grad for array in heads))} == {dtype}


def test_weights_are_dropped_in_training_mode_alone(heads):
    layer = QuantizedFlashAttention(device=DEVICE)
    plain = layer(*heads)
    dropped = layer(*heads, dropout_p=0.5)
    assert not torch.equal(plain, dropped)
    assert torch.equal(layer.eval()(*heads, dropout_p=0.5), plain)
    assert layer(*heads, dropout_p=0.5).requires_grad


def test_a_mask_alone_may_have_a_gradient(heads):
    mask = torch.zeros(20, 33, requires_grad=True)
    QuantizedFlashAttention(device=DEVICE)(*(array.detach() for array in heads), mask).cos().sum().backward()
    assert mask.grad.any()
    module = QuantizedMultiHeadAttention(24, 4, batch_first=True, backend=DEVICE).requires_grad_(False)
    x, mask = torch.randn(2, 6, 24), torch.zeros(6, 6, requires_grad=True)
    module(x, x, x, attn_mask=mask).cos().sum().backward()
    assert mask.grad.any()


def test_nothing_is_recorded_where_nothing_is_to_be(heads):
    layer = QuantizedFlashAttention(device=DEVICE)
    with torch.no_grad():
        assert not layer(*heads).requires_grad
    assert not layer(*(array.detach() for array in heads)).requires_grad
    with pytest.raises(ValueError, match=r"^key: requires grad, and gradients are not recorded here"):
        QuantizedFlashAttention(enable_training=False, device=DEVICE)(*heads)


def test_checkpointing_drops_the_same_weights_again(heads):
    layer = QuantizedFlashAttention(device=DEVICE)
    found = []
    for call in (
        layer,
        lambda *args: checkpoint(layer, *args, use_reentrant=False),
        lambda *args: checkpoint(layer, *args, use_reentrant=True),
    ):
        torch.manual_seed(9)
        call(*heads, None, 0.5).cos().sum().backward()
        found.append([array.grad for array in heads])
        for array in heads:
            array.grad = None
    for gradients in found[1:]:
        assert all(map(torch.equal, gradients, found[0]))


def test_what_is_kept_for_the_backward_pass_is_smaller(heads):
    """Codes of keys and values are, and not these themselves."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.shape), lambda _: None):
        QuantizedFlashAttention(device=DEVICE)(*heads)
    assert kept
    assert heads[1].shape not in kept


def test_as_the_seed_calls_it(heads):
    layer = QuantizedFlashAttention(
        query_precision="fp16", key_precision="int8", value_precision="int4", enable_training=True
    )
    out = layer.scaled_dot_product_attention(*heads, is_training=True, return_gradients=True)
    out.sum().backward()
    assert all(array.grad.isfinite().all() for array in heads)
    assert torch.equal(out, layer(*heads))


def test_tensors_of_a_gpu_are_copied_and_results_are_there(heads, monkeypatch):
    """With the CPU for the GPU that is not here, from which copies are what they are of."""
    layer = QuantizedFlashAttention(device=DEVICE)
    mask = torch.randn(20, 33, requires_grad=True)
    arrays = [*heads, mask]
    expected = layer(*arrays)
    wanted = torch.autograd.grad(expected.cos().sum(), arrays)
    copied = []
    cpu = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: copied.append(tensor) or cpu(tensor))
    monkeypatch.setattr("mfa._quantized_flash_attention.COPIED", ("cpu",))
    out = layer(*arrays)
    assert [id(array) for array in copied] == [id(array) for array in arrays]
    assert torch.equal(out, expected)
    assert all(map(torch.equal, torch.autograd.grad(out.cos().sum(), arrays), wanted))
    with pytest.raises(BufferError, match=r"^attn_mask: on device meta, expected cpu as query"):
        layer(*heads, mask.to("meta"))


# --------------------------------------------------------- multi-head attention


def both(*args, **options):
    """torch's module, and ours of the same parameters that does not quantise."""
    torch_module = torch.nn.MultiheadAttention(*args, **options)
    for parameter in torch_module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    module = QuantizedMultiHeadAttention(*args, **options, **FLOATS, backend=DEVICE)
    module.load_state_dict(torch_module.state_dict())
    return torch_module, module


MODULES = {
    "plain": {},
    "batch first": {"batch_first": True},
    "no bias": {"bias": False},
    "other widths": {"kdim": 10, "vdim": 14},
    "own keys": {"add_bias_kv": True},
    "zero key": {"add_zero_attn": True},
    "both": {"add_bias_kv": True, "add_zero_attn": True, "batch_first": True},
}


@pytest.mark.parametrize("options", MODULES.values(), ids=MODULES)
@pytest.mark.parametrize(
    "masks", ["", "padding", "attn", "padding attn", "float", "padding float", "per head"]
)
def test_floats_are_as_torch_has_them(options, masks):
    """Results and gradients of inputs and of every parameter."""
    torch_module, module = both(24, 4, **options)
    arrays = [
        torch.randn(rows, 3, width)
        for rows, width in ((5, 24), (7, options.get("kdim", 24)), (7, options.get("vdim", 24)))
    ]
    if options.get("batch_first"):
        arrays = [array.transpose(0, 1) for array in arrays]
    said = {}
    if "padding" in masks:
        said["key_padding_mask"] = torch.arange(7) >= torch.tensor([[7], [4], [1]])
    if "attn" in masks:
        said["attn_mask"] = torch.rand(5, 7).tril(2) == 0
    if "float" in masks:
        said["attn_mask"] = torch.randn(5, 7)
    if "per head" in masks:
        said["attn_mask"] = (torch.rand(12, 5, 7) < 0.3).logical_and(torch.arange(7) > 0)
    found = []
    for layer in (torch_module, module):
        given = [array.clone().requires_grad_() for array in arrays]
        if masks == "padding float" and layer is torch_module:  # it wants both of a kind
            floating = torch.zeros(3, 7).masked_fill(said["key_padding_mask"], -torch.inf)
            out, weights = layer(*given, **said | {"key_padding_mask": floating}, need_weights=False)
        else:
            out, weights = layer(*given, **said, need_weights=False)
        assert weights is None
        found.append([out, *torch.autograd.grad(out.sin().sum(), [*given, *layer.parameters()])])
    for ours, torchs in zip(found[1], found[0], strict=True):
        assert torch.allclose(ours, torchs, **CLOSE)


def test_state_dicts_are_exchanged_both_ways():
    ours = QuantizedMultiHeadAttention(24, 4, kdim=10)
    torchs = torch.nn.MultiheadAttention(24, 4, kdim=10)
    torchs.load_state_dict(ours.state_dict())
    ours.load_state_dict(torchs.state_dict())
    assert ours.state_dict().keys() == torchs.state_dict().keys()


@pytest.mark.parametrize("has_padding", [False, True])
def test_causal_needs_no_mask_and_one_changes_nothing(has_padding):
    torch_module, module = both(24, 4, batch_first=True)
    x = torch.randn(2, 6, 24)
    mask = torch.ones(6, 6, dtype=torch.bool).triu(1)
    said = {"key_padding_mask": torch.arange(6) >= torch.tensor([[6], [4]])} if has_padding else {}
    expected = torch_module(x, x, x, attn_mask=mask, is_causal=True, **said)[0]
    assert torch.allclose(module(x, x, x, is_causal=True, **said), expected, **CLOSE)
    assert torch.allclose(module(x, x, x, attn_mask=mask, is_causal=True, **said), expected, **CLOSE)
    torch_module, module = both(24, 4, batch_first=True, add_bias_kv=True)
    expected = torch_module(x, x, x, attn_mask=mask, is_causal=True, **said)[0]
    assert torch.allclose(module(x, x, x, attn_mask=mask, is_causal=True, **said), expected, **CLOSE)


@pytest.mark.parametrize("options", [{}, {"batch_first": True}, {"add_bias_kv": True}])
def test_one_sequence_without_a_batch(options):
    torch_module, module = both(24, 4, **options)
    query, key = torch.randn(5, 24), torch.randn(7, 24)
    said = {"key_padding_mask": torch.arange(7) > 4, "attn_mask": torch.rand(4, 5, 7) < 0.3}
    out = module(query, key, key, **said)
    assert out.shape == (5, 24)
    assert torch.allclose(out, torch_module(query, key, key, **said, need_weights=False)[0], **CLOSE)


def test_rows_that_see_no_key_are_zero_before_they_are_projected():
    module = QuantizedMultiHeadAttention(24, 4, batch_first=True, backend=DEVICE)
    x = torch.randn(1, 3, 24, requires_grad=True)
    out = module(x, x, x, key_padding_mask=torch.ones(1, 3, dtype=torch.bool))
    assert torch.equal(out, module.out_proj.bias.expand(1, 3, 24))
    out.sum().backward()
    assert not x.grad.any()


def test_codes_are_close_to_floats_and_fewer_bits_less_so():
    torch_module = torch.nn.MultiheadAttention(64, 4, batch_first=True)
    x = torch.randn(2, 50, 64)
    expected = torch_module(x, x, x, need_weights=False)[0]
    errors = []
    for precision in ("int8", "int4"):
        module = QuantizedMultiHeadAttention(
            64, 4, batch_first=True, key_precision=precision, value_precision=precision, backend=DEVICE
        )
        module.load_state_dict(torch_module.state_dict())
        errors.append((torch.linalg.norm(module(x, x, x) - expected) / torch.linalg.norm(expected)).item())
    assert 0 < errors[0] < 0.01 < errors[1] < 0.2, errors


def test_trains_as_the_seed_has_it():
    model = QuantizedMultiHeadAttention(
        embed_dim=24, num_heads=12, query_precision="fp16", value_precision="int4", batch_first=True
    )
    optimizer = torch.optim.AdamW(model.parameters(), 0.02)
    query, key, value = torch.randn(3, 3, 20, 24).unbind()
    target = torch.zeros(3, 20, 24)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(query, key, value), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0], losses
    assert not any(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_projections_of_keys_and_values_are_not_kept():
    """Nor is what keeps them the memory of those of queries."""

    def bytes_kept(**options):
        module = QuantizedMultiHeadAttention(64, 4, batch_first=True, backend=DEVICE, **options)
        x = torch.randn(2, 30, 64)
        kept = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: kept.update({tensor.data_ptr(): tensor.untyped_storage()}), lambda _: None
        ):
            module(x, x, x)
        return sum({memory.data_ptr(): memory.nbytes() for memory in kept.values()}.values())

    assert bytes_kept(**FLOATS) - bytes_kept() >= 2 * 4 * 2 * 30 * 64


@pytest.mark.parametrize("has_padding", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_torchs_layers_use_it_in_their_fast_path_too(monkeypatch, training, has_padding):
    torch_layer = torch.nn.TransformerEncoderLayer(24, 4, 32, dropout=0.0, batch_first=True)
    layer = copy.deepcopy(torch_layer)
    layer.self_attn = QuantizedMultiHeadAttention(24, 4, batch_first=True, backend=DEVICE, **FLOATS)
    layer.load_state_dict(torch_layer.state_dict())
    encoders = [
        torch.nn.TransformerEncoder(each, 2, enable_nested_tensor=False).train(training)
        for each in (torch_layer, layer)
    ]
    calls = []
    attend = mfa.quantized.QuantizedFlashAttention.attend
    monkeypatch.setattr(
        mfa.quantized.QuantizedFlashAttention,
        "attend",
        lambda *args, **options: calls.append(1) or attend(*args, **options),
    )
    x = torch.randn(2, 5, 24)
    padding = torch.arange(5) >= torch.tensor([[5], [3]]) if has_padding else None
    with torch.set_grad_enabled(training):
        expected, found = (encoder(x, src_key_padding_mask=padding) for encoder in encoders)
    assert len(calls) == 2
    assert torch.allclose(found[0], expected[0], **CLOSE)
    assert torch.allclose(found[1, :3], expected[1, :3], **CLOSE)


def test_weights_are_dropped_while_a_module_trains():
    module = QuantizedMultiHeadAttention(24, 4, dropout=0.5, batch_first=True, backend=DEVICE)
    x = torch.randn(2, 6, 24)
    assert not torch.equal(module(x, x, x), module(x, x, x))
    module.eval()
    assert torch.equal(module(x, x, x), module(x, x, x))


def test_autocast_makes_attention_of_the_lower_precision():
    module = QuantizedMultiHeadAttention(24, 4, batch_first=True, backend=DEVICE)
    x = torch.randn(2, 6, 24)
    with torch.autocast("cpu", torch.bfloat16):
        out = module(x, x, x)
    assert out.dtype == torch.bfloat16
    assert torch.allclose(out.float(), module(x, x, x), rtol=0.1, atol=0.02)
    out.float().sum().backward()
    assert module.in_proj_weight.grad.dtype == torch.float32


@pytest.mark.parametrize("made_anew", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_modules_are_copied(made_anew):
    module = QuantizedMultiHeadAttention(24, 4, batch_first=True, config={"smooth_key": True})
    x = torch.randn(2, 6, 24)
    assert torch.equal(made_anew(module)(x, x, x), module(x, x, x))


def test_modules_say_what_they_are():
    module = QuantizedMultiHeadAttention(24, 4, query_precision="fp16", value_precision="int4")
    assert "query_precision='float16', key_precision='int8', value_precision='int4'" in repr(module)


# ------------------------------------------------------------------- errors


X = torch.ones(2, 6, 24)
LAYER = QuantizedMultiHeadAttention(24, 4, batch_first=True)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda: QuantizedMultiHeadAttention(0, 4), ValueError, "embed_dim: 0, expected at least 1"),
        (lambda: QuantizedMultiHeadAttention(24, 4.0), TypeError, "num_heads: 4.0, expected an integer"),
        (
            lambda: QuantizedMultiHeadAttention(24, 5),
            ValueError,
            "embed_dim: 24, expected a multiple of num_heads, 5",
        ),
        (
            lambda: QuantizedMultiHeadAttention(24, 4, dropout=1.0),
            ValueError,
            "dropout: 1.0, expected at least 0 and less than 1",
        ),
        (
            lambda: QuantizedMultiHeadAttention(24, 4, config={"causal": True}),
            ValueError,
            "config: has 'causal', expected only what is no argument here",
        ),
        (
            lambda: QuantizedFlashAttention(key_precision="int3"),
            ValueError,
            "key_precision: 'int3', expected 'int8'",
        ),
        (lambda: LAYER(X, X, X, need_weights=True), ValueError, "need_weights: True, expected False or None"),
        (lambda: LAYER(X, X, X, need_weights=1), TypeError, "need_weights: 1, expected a bool"),
        (lambda: LAYER(X, X, X, is_causal=1), TypeError, "is_causal: 1, expected a bool"),
        (lambda: LAYER(X[0, 0], X, X), ValueError, "query: 1 dimensions, expected 2 or 3"),
        (lambda: LAYER(X, X[0], X), ValueError, "key: 2 dimensions, expected 3 as query has"),
        (lambda: LAYER(X, X, X.numpy()), TypeError, "value: .*, expected a tensor"),
        (
            lambda: LAYER(X, X, X, attn_mask=torch.ones(6, 5)),
            ValueError,
            r"attn_mask: shape \(6, 5\), expected \(6, 6\) or \(8, 6, 6\)",
        ),
        (
            lambda: LAYER(X, X, X, key_padding_mask=torch.ones(6, 2)),
            ValueError,
            r"key_padding_mask: shape \(6, 2\), expected \(2, 6\)",
        ),
        (
            lambda: QuantizedMultiHeadAttention(24, 4, add_zero_attn=True)(X, X, X, is_causal=True),
            ValueError,
            "is_causal: True, expected False, or attn_mask too, beside",
        ),
        (
            lambda: QuantizedMultiHeadAttention(24, 4, dtype=torch.float64)(*[X.double()] * 3),
            TypeError,
            "query: dtype float64, expected float32",
        ),
        (lambda: LAYER(X, X, X * torch.nan), ValueError, r"value\[0, 0, 0, 0\]: nan, expected a finite"),
    ],
)
def test_what_is_wrong_is_named(wrong, error, message):
    with pytest.raises(error, match=f"^{message}"):
        wrong()
