"""mfa runs the attention of Diffusers' models, by its dispatcher and in U-Nets."""

import enum
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import diffusers
import pytest
import torch
import torch.nn.functional as F
from diffusers.models import attention_dispatch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn

import mfa.diffusers
import mfa.torch
from mfa.diffusers import _backend, _context_parallel, _enumeration

diffusers.utils.logging.set_verbosity_error()
REGISTRY = attention_dispatch._AttentionBackendRegistry


@pytest.fixture(autouse=True)
def default_backend():
    """Is PyTorch's function before and after each test; importing mfa.diffusers did not change it."""
    torch.manual_seed(4)
    assert REGISTRY.get_active_backend()[0] is AttentionBackendName.NATIVE
    yield
    REGISTRY.set_active_backend(AttentionBackendName.NATIVE)


@pytest.fixture
def calls(monkeypatch):
    """The shapes of the queries that reach mfa through the dispatcher."""
    shapes = []

    def counted(query, *arguments, **keywords):
        shapes.append(tuple(query.shape))
        return forward(query, *arguments, **keywords)

    forward = _backend.forward
    monkeypatch.setattr(_backend, "forward", counted)
    return shapes


@pytest.fixture
def flux():
    model = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=[4, 4, 8],
    )
    inputs = {
        "hidden_states": torch.randn(1, 16, 4),
        "encoder_hidden_states": torch.randn(1, 7, 32),
        "pooled_projections": torch.randn(1, 32),
        "timestep": torch.tensor([1.0]),
        "img_ids": torch.zeros(16, 3),
        "txt_ids": torch.zeros(7, 3),
        "return_dict": False,
    }
    return model, inputs


def run(model, inputs):
    """The result, and the gradients of all parameters that have one."""
    (out,) = model(**inputs)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(out.square().sum(), parameters, allow_unused=True)
    return [out.detach(), *(gradient for gradient in gradients if gradient is not None)]


def test_transformer_equals_that_with_torch(flux, calls):
    expected = run(*flux)
    assert not calls
    flux[0].set_attention_backend("mfa")
    actual = run(*flux)
    assert calls == [(1, 23, 2, 16)] * 2
    assert len(actual) == len(expected) > 20
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)
    flux[0].set_attention_backend("native")
    run(*flux)
    assert len(calls) == 2


def test_transformer_under_the_context_manager(flux, calls):
    expected = run(*flux)
    with diffusers.attention_backend("mfa"):
        actual = run(*flux)
    assert len(calls) == 2
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)
    run(*flux)
    assert len(calls) == 2


def test_transformer_compiled_in_one_graph(flux):
    torch._dynamo.reset()
    model, inputs = flux
    expected = run(model, inputs)
    model.set_attention_backend("mfa")
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(run(compiled, inputs), expected, atol=1e-5, rtol=1e-4)
    with torch.profiler.profile() as profile:
        run(compiled, inputs)
    counts = {event.key: event.count for event in profile.key_averages() if event.key.startswith("mfa_")}
    assert sorted(counts.values()) == [2, 2]


def test_transformer_in_half_precision(flux, calls):
    model, inputs = flux
    expected = run(model, inputs)[0]
    model.bfloat16().set_attention_backend("mfa")
    inputs = {
        name: x.bfloat16() if isinstance(x, torch.Tensor) and x.is_floating_point() else x
        for name, x in inputs.items()
    }
    actual = run(model, inputs)[0]
    assert actual.dtype == torch.bfloat16
    assert len(calls) == 2
    torch.testing.assert_close(actual.float(), expected, atol=0.05, rtol=0.05)


def test_unet_by_replacing_sdpa():
    model = diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    inputs = {
        "sample": torch.randn(2, 4, 8, 8),
        "timestep": 1,
        "encoder_hidden_states": torch.randn(2, 5, 16),
        "encoder_attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
        "return_dict": False,
    }
    expected = run(model, inputs)
    with mfa.torch.replace_sdpa(strict=True) as replaced:
        actual = run(model, inputs)
    assert replaced.counts == (8, 0, {})
    assert len(actual) == len(expected) > 50
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


B, N, S, H, HKV, D, DV = 2, 5, 7, 4, 2, 8, 6
CASES = {
    "plain": {},
    "causal": {"is_causal": True},
    "scale": {"scale": 0.3},
    "bool mask of keys": {"attn_mask": torch.arange(S) < torch.tensor([[S], [3]])},
    "floating mask of keys": {"attn_mask": torch.randn(B, S)},
    "bool mask": {"attn_mask": torch.rand(B, 1, N, S) > 0.3},
    "floating mask": {"attn_mask": torch.randn(H, N, S)},
    "mask of all rows": {"attn_mask": torch.rand(N, S) > 0.3},
}


def exact(query, key, value, attn_mask=None, is_causal=False, scale=None):
    """The result and logsumexp of (batch, rows, heads, dim), in float64."""
    q, k, v = (x.double().transpose(1, 2) for x in (query, key, value))
    k, v = (x.repeat_interleave(H // HKV, 1) for x in (k, v))
    scores = (q @ k.mT) * (D**-0.5 if scale is None else scale)
    if attn_mask is not None:
        mask = attn_mask[:, None, None] if attn_mask.shape == (B, S) else attn_mask
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    if is_causal:
        scores = scores.masked_fill(torch.ones(N, S).triu(1).bool(), -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2), scores.logsumexp(-1).transpose(1, 2)


@pytest.fixture
def tensors():
    shapes = ((B, N, H, D), (B, S, HKV, D), (B, S, HKV, DV))
    return [torch.randn(shape, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("case", CASES)
def test_function_with_gradients(tensors, case, calls):
    mask = CASES[case].get("attn_mask")
    operands = list(tensors)
    if mask is not None and mask.is_floating_point():
        mask = mask.clone().requires_grad_()
        operands.append(mask)
    arguments = CASES[case] | {"attn_mask": mask}
    out, lse = dispatch_attention_fn(
        *tensors,
        **arguments,
        enable_gqa=True,
        backend=mfa.diffusers.BACKEND,
        attention_kwargs={"return_lse": True},
    )
    assert len(calls) == 1
    expected, expected_lse = exact(*tensors, **arguments)
    torch.testing.assert_close(out, expected.float())
    torch.testing.assert_close(lse, expected_lse.float())
    dout = torch.randn_like(out)
    gradients = torch.autograd.grad(out, operands, dout)
    torch.testing.assert_close(
        gradients, torch.autograd.grad(expected, operands, dout.double()), atol=2e-6, rtol=1e-4
    )


def test_result_is_made_for_the_merge_of_heads(tensors):
    out = dispatch_attention_fn(*tensors, enable_gqa=True, backend="mfa")
    assert out.shape == (B, N, H, DV)
    assert out.is_contiguous()


def test_views_of_a_fused_projection_are_taken(calls):
    qkv = torch.randn(B, N, 3, H, D)
    query, key, value = qkv.unbind(2)
    out = dispatch_attention_fn(query, key, value, backend="mfa")
    expected = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (query, key, value)))
    torch.testing.assert_close(out, expected.transpose(1, 2))
    assert len(calls) == 1


def test_dropout_follows_torchs_generator(tensors):
    query = tensors[0].detach()
    torch.manual_seed(6)
    seed = torch.randint(2**63 - 1, (), dtype=torch.int64).item()
    expected = mfa.attention(query, query, query, dropout_p=0.5, dropout_seed=seed)
    torch.manual_seed(6)
    out = dispatch_attention_fn(query, query, query, dropout_p=0.5, backend="mfa")
    assert torch.equal(out, expected)
    assert not torch.equal(out, dispatch_attention_fn(query, query, query, dropout_p=0.5, backend="mfa"))


def test_a_row_without_keys_is_zero(tensors):
    mask = torch.zeros(B, S, dtype=torch.bool)
    mask[0, 2] = True
    out = dispatch_attention_fn(*tensors, attn_mask=mask, enable_gqa=True, backend="mfa")
    assert not out[1].any()
    out.sum().backward()
    assert not any(x.grad.isnan().any() for x in tensors)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attn_mask": torch.ones(N, S), "is_causal": True}, "attn_mask: given together with is_causal=True"),
        ({"attn_mask": torch.ones(3, S)}, "attn_mask: shape (3, 7), expected"),
        ({"scale": "1"}, "scale: '1', expected a real number"),
        ({"dropout_p": 1.0}, "dropout_p: 1.0, expected at least 0 and less than 1"),
        ({"enable_gqa": False}, "key: 2 heads, expected"),
        ({"is_causal": 1}, "is_causal: 1, expected a bool"),
    ],
    ids=str,
)
def test_errors_name_the_argument(tensors, arguments, message):
    with pytest.raises((TypeError, ValueError), match="^" + re.escape(message)):
        dispatch_attention_fn(*tensors, **{"enable_gqa": True, **arguments}, backend="mfa")


class Context:
    """Stands for what autograd gives a function."""

    def save_for_backward(self, *tensors):
        self.saved_tensors = tensors


def test_parts_of_the_keys_merge(tensors):
    """As Diffusers' ring attention calls both passes: gradients of a part from the merged results."""
    query, *rest = tensors
    expected, expected_lse = (x.detach().float() for x in exact(*tensors))
    dout = torch.randn_like(expected)
    gradients = torch.autograd.grad(exact(*tensors)[0], tensors, dout.double())
    context, parts = Context(), [slice(0, 3), slice(3, S)]
    results = []
    for part in parts:
        key, value = (x[:, part] for x in rest)
        out, lse = _context_parallel.forward_op(
            context, query, key, value, None, 0.0, False, None, True, True, _save_ctx=part.start == 0
        )
        assert not out.requires_grad
        results.append((out, lse))
    (out, lse), (other, other_lse) = results
    weight = torch.sigmoid(other_lse - lse)[..., None]
    torch.testing.assert_close(out + weight * (other - out), expected)
    torch.testing.assert_close(torch.logaddexp(lse, other_lse), expected_lse)
    dq = torch.zeros_like(query)
    for part in parts:
        key, value = (x[:, part] for x in rest)
        dquery, dkey, dvalue = _context_parallel.backward_op(
            context, dout, query=query, key=key, value=value, out=expected, lse=expected_lse
        )
        dq += dquery
        torch.testing.assert_close([dkey, dvalue], [x[:, part] for x in gradients[1:]], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(dq, gradients[0], atol=1e-5, rtol=1e-4)
    with pytest.raises(
        ValueError, match=r"^dropout_p: 0\.5, expected 0 where attention is context-parallel$"
    ):
        _context_parallel.forward_op(context, *tensors, None, 0.5)


ENUMERATION = """
import copy, enum, pickle

class Name(str, enum.Enum):
    FLASH = "flash"
    NATIVE = "native"

member = with_member(Name, "MFA", "mfa")
assert member is Name("mfa") is Name["MFA"] is Name.MFA is with_member(Name, "MFA", "mfa")
assert [x.value for x in Name] == [x.value for x in Name.__members__.values()] == ["flash", "native", "mfa"]
assert member in Name and member == "mfa" and {member: 1}["mfa"] == 1
assert (member.name, member.value, repr(member)) == ("MFA", "mfa", "<Name.MFA: 'mfa'>")
assert str(member) == str(Name.FLASH).replace("FLASH", "MFA")
assert copy.deepcopy(member) is pickle.loads(pickle.dumps(member)) is member
try:
    Name("other")
except ValueError:
    print("done")
"""


def test_enumerations_of_each_python():
    """Those that are here. What a member is made of differs between them."""
    program = Path(_enumeration.__file__).read_text() + ENUMERATION
    names = [sys.executable, *(f"python3.{minor}" for minor in range(10, 16))]
    found = {os.path.realpath(path) for path in map(shutil.which, names) if path}
    tried = 0
    for path in found:
        # Some are mere names of what a version manager would have to install.
        if subprocess.run([path, "-c", ""], capture_output=True).returncode == 0:
            done = subprocess.run([path, "-c", program], capture_output=True, text=True)
            assert done.stdout == "done\n", f"{path}: {done.stderr}"
            tried += 1
    assert tried > 0


class DeafMeta(enum.EnumMeta):
    def __call__(cls, value):
        return cls.NATIVE


class Deaf(str, enum.Enum, metaclass=DeafMeta):
    NATIVE = "native"


def test_enumeration_that_does_not_find_its_member():
    with pytest.raises(RuntimeError, match=r"^Deaf has no member MFA = 'mfa' after it was added$"):
        _enumeration.with_member(Deaf, "MFA", "mfa")
