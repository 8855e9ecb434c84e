"""Quantised attention where torch traces, compiles, exports or transforms it: the same as without."""

import hashlib

import numpy as np
import pytest
import torch
from torch.func import grad, vmap
from torch.library import opcheck

from mfa.torch._quantized_operators import quantized_attention, quantized_attention_backward
from mfa.torch._schema import NAMESPACE
from mfa.torch.quantized import QuantizedFlashAttention, QuantizedMultiHeadAttention

CONFIGS = {
    "int8": {},
    "int4 smooth": {"key_precision": "int4", "value_precision": "int4", "config": {"smooth_key": True}},
    "grouped": {"config": {"key_granularity": "channel", "value_granularity": (0, 32)}},
    "static": {
        "key_precision": "uint8",
        "config": {"key_scale": np.float32(0.03), "key_zero_point": 128, "zero_clipped": True},
    },
    "float keys": {"key_precision": "fp32"},
    "rounded queries": {"query_precision": "fp16", "config": {"output_precision": "bf16"}},
    "integers": {"config": {"compute_mode": "int8"}},
    "window": {"config": {"window": (3, 0), "softcap": 20.0}},
}


@pytest.fixture(autouse=True)
def fresh():
    torch.manual_seed(5)
    torch._dynamo.reset()


def heads(*, rows_first=True, requires_grad=True):
    arrays = [torch.randn(2, n, 4, 40) for n in (20, 33, 33)]
    arrays = [array.transpose(1, 2) for array in arrays]
    if not rows_first:
        arrays = [array.contiguous() for array in arrays]
    return [array.requires_grad_(requires_grad) for array in arrays]


def both_ways(call, arrays):
    """The result and the gradients of what requires grad."""
    out = call(*arrays)
    wanted = [array for array in arrays if isinstance(array, torch.Tensor) and array.requires_grad]
    return [out, *torch.autograd.grad(out.float().cos().sum(), wanted)]


def assert_same(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)
        assert (ours.dtype, ours.stride()) == (theirs.dtype, theirs.stride())


def test_a_schema_keeps_the_name_that_programs_on_disk_call_it_by():
    """As the other operators: NAMESPACE in mfa/torch/_schema.py goes with what the schemas are."""
    schemas = "".join(
        str(operator._schema) for operator in (quantized_attention, quantized_attention_backward)
    )
    assert (NAMESPACE, hashlib.sha256(schemas.encode()).hexdigest()[:16]) == ("mfa_1", "dbd80a50a45265f9")


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("rows_first", [False, True])
def test_compiled_layers_are_as_eager_ones(config, rows_first):
    layer = QuantizedFlashAttention(**config)
    arrays = heads(rows_first=rows_first)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_same(both_ways(compiled, arrays), both_ways(layer, arrays))


def test_compiled_layers_take_masks_and_have_their_gradients():
    layer = QuantizedFlashAttention()
    arrays = [*heads(), torch.randn(4, 1, 33, requires_grad=True)]
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_same(both_ways(compiled, arrays), both_ways(layer, arrays))


def test_compiled_layers_are_causal_and_scaled():
    def call(*arrays):
        return layer(*arrays, is_causal=True, scale=0.3)

    layer = QuantizedFlashAttention()
    arrays = heads()
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    assert_same(both_ways(compiled, arrays), both_ways(call, arrays))


def test_scales_that_are_tensors_go_with_a_compiled_layer():
    config = {"key_scale": torch.rand(2, 4, 33, 1) * 0.01 + 0.02, "key_granularity": "token"}
    layer = QuantizedFlashAttention(config=config)
    arrays = heads()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_same(both_ways(compiled, arrays), both_ways(layer, arrays))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from torch's own inductor
def test_a_compiled_module_trains_as_an_eager_one(backend):
    module = QuantizedMultiHeadAttention(24, 4, batch_first=True, value_precision="int4")
    x = torch.randn(2, 6, 24, requires_grad=True)
    padding = torch.arange(6) >= torch.tensor([[6], [4]])

    def gradients(call):
        out = call(x, x, x, key_padding_mask=padding)
        return [out, *torch.autograd.grad(out.sin().sum(), [x, *module.parameters()])]

    compiled = torch.compile(module, fullgraph=True, backend=backend)
    for found, expected in zip(gradients(compiled), gradients(module), strict=True):
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's own, where a program goes on
def test_what_no_program_can_have_interrupts_it():
    arrays = heads()
    layer = QuantizedFlashAttention(device="cpu")
    compiled = torch.compile(lambda *args: 2 * layer(*args), backend="aot_eager")
    assert_same(both_ways(compiled, arrays), both_ways(lambda *args: 2 * layer(*args), arrays))


@pytest.mark.parametrize("dtypes", [("bfloat16", "float32", "float32"), ("float32", "bfloat16", "float16")])
def test_operands_may_differ_in_dtype(dtypes):
    arrays = [
        array.detach().to(getattr(torch, dtype)).requires_grad_()
        for array, dtype in zip(heads(), dtypes, strict=True)
    ]
    layer = QuantizedFlashAttention()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    expected = both_ways(layer, arrays)
    assert [str(gradient.dtype) for gradient in expected[1:]] == [f"torch.{dtype}" for dtype in dtypes]
    assert_same(both_ways(compiled, arrays), expected)


def test_a_program_keeps_codes_for_its_backward_pass():
    kept = []
    arrays = heads()
    compiled = torch.compile(QuantizedFlashAttention(), fullgraph=True, backend="aot_eager")
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor), lambda _: None):
        compiled(*arrays)
    assert [tensor.dtype for tensor in kept].count(torch.int8) == 2
    assert arrays[1].shape not in [tensor.shape for tensor in kept if tensor.is_floating_point()]


def test_one_program_for_all_sizes():
    layer = QuantizedFlashAttention(value_precision="int4")
    programs = []

    def backend(graph, inputs):
        programs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=backend)
    counts = []
    for rows in (5, 9, 30):
        arrays = [torch.randn(3, 2, rows, 8, requires_grad=True) for _ in range(3)]
        assert_same(both_ways(compiled, arrays), both_ways(layer, arrays))
        counts.append(len(programs))
    assert counts == [counts[0]] * 3


def test_compiled_programs_drop_other_weights_each_time():
    layer = QuantizedFlashAttention()
    compiled = torch.compile(lambda *args: layer(*args, None, 0.5), fullgraph=True, backend="aot_eager")
    arrays = heads()
    first = compiled(*arrays)
    assert not torch.equal(first, compiled(*arrays))
    out = compiled(*arrays)
    (dv,) = torch.autograd.grad(out.sum(), arrays[2:])
    # The same weights are dropped again: the gradient of values is linear in the weights.
    assert torch.allclose((dv * arrays[2]).sum(), out.sum(), rtol=0.02, atol=0.5)


@pytest.mark.parametrize("strict", [False, True])
def test_exported_modules_run(strict):
    module = QuantizedMultiHeadAttention(24, 4, batch_first=True).eval()
    x = torch.randn(2, 6, 24)
    program = torch.export.export(module, (x, x, x), strict=strict)
    assert [node for node in program.graph.nodes if node.target is quantized_attention]
    assert torch.allclose(program.module()(x, x, x), module(x, x, x), atol=1e-6)


def test_transforms_of_torch_func():
    layer = QuantizedFlashAttention()
    arrays = heads()
    expected = both_ways(layer, arrays)[1:]
    query, key, value = (array.detach() for array in arrays)

    def loss(query, key, value):
        return layer(query, key, value).cos().sum()

    for found, wanted in zip(grad(loss, (0, 1, 2))(query, key, value), expected, strict=True):
        assert torch.allclose(found, wanted, atol=1e-6)
    for found, wanted in zip(vmap(grad(loss, (0, 1, 2)))(query, key, value), expected, strict=True):
        assert torch.allclose(found, wanted, atol=1e-6)


def test_autocast_casts_a_layer_in_a_program_and_outside():
    layer = QuantizedFlashAttention()
    arrays = heads()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = both_ways(compiled, arrays), both_ways(layer, arrays)
    assert expected[0].dtype == torch.bfloat16
    assert {gradient.dtype for gradient in expected[1:]} == {torch.float32}
    assert_same(found, expected)
    assert_same([expected[0]], [layer(*(array.bfloat16() for array in arrays))])


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ("", None),
        ("{'value_precision': 'int4', 'smooth_key': True}", None),
        ("{'key_precision': 'uint8', 'value_granularity': (8, 32), 'value_symmetric': False}", None),
        ("{'key_precision': 'int8', 'key_scale': 0.03, 'key_zero_point': 128}", None),
        ("{'value_precision': 'float32', 'key_granularity': 'token'}", torch.full((2, 4, 33, 1), 0.03)),
    ],
)
def test_operators_are_what_they_say(config, scale):
    query, key, value = heads()
    options = {"layout": "bhsd", "dropout_p": 0.3, "dropout_seed": 3}
    mask = torch.randn(4, 20, 33)
    given = {**options, "config": config, "key_scale": scale}
    opcheck(quantized_attention, (query, key, value), {**given, "mask": mask})
    with torch.no_grad():
        out, lse, *codes = quantized_attention(query, key, value, **given)
    query, key, value = (
        array.detach() if array is query or not part.numel() else None
        for array, part in ((query, out), (key, codes[0]), (value, codes[4]))
    )
    floats = torch.float32, torch.float32
    rows = out, lse, torch.randn_like(lse), "dq dk dv"
    arguments = (torch.randn_like(out), query, key, value, *floats, *codes, *rows)
    opcheck(quantized_attention_backward, arguments, {**options, "config": config})


def test_the_logsumexp_of_the_operator_has_gradients():
    query, key, value = heads()
    lse = quantized_attention(query, key, value, layout="bhsd")[1]
    found = torch.autograd.grad(lse.sum(), query)[0]
    step = torch.randn_like(query)
    near = quantized_attention((query + 1e-2 * step).detach(), key.detach(), value.detach(), layout="bhsd")[1]
    far = quantized_attention((query - 1e-2 * step).detach(), key.detach(), value.detach(), layout="bhsd")[1]
    assert torch.allclose((found * step).sum(), (near - far).sum() / 2e-2, rtol=1e-2)


def test_second_derivatives_are_refused():
    arrays = heads()
    layer = QuantizedFlashAttention()
    for call in (layer, torch.compile(layer, fullgraph=True, backend="eager")):
        first = torch.autograd.grad(call(*arrays).cos().sum(), arrays[0], create_graph=True)[0]
        with pytest.raises(NotImplementedError, match=r"^query: a second derivative of attention is asked"):
            first.sum().backward()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cpu"}, "device: 'cpu', expected 'auto' where torch traces or transforms the call"),
        (
            {"config": {"rotary_cos": torch.ones(33, 4)}},
            "rotary_cos: given, expected None where torch traces or transforms the call",
        ),
    ],
)
def test_what_no_program_can_have_is_named(options, message):
    layer = QuantizedFlashAttention(**options)
    with pytest.raises(TypeError, match=f"^{message}"):
        vmap(layer)(*(array[:, None] for array in heads(requires_grad=False)))
