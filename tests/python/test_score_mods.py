"""What mfa.flex_attention does with score_mods: it finds out what they are, and never guesses."""

import numpy as np
import pytest
from support import oracle, score_mods
from support.tools import require_module

import mfa
from mfa import _flex_call, _score_mods

torch = require_module("torch", "pip install torch")
flex = require_module("torch.nn.attention.flex_attention", "pip install torch")

CASES = {f"NumPy {name}": case for name, case in score_mods.NUMPY.items()}
IN_PARTS = ("-bias", " bias", " documents", " product", " softcap and bias")
CASES |= {f"torch {name}": case for name, case in score_mods.TORCH.items()}


@pytest.fixture
def arrays(rng):
    shapes = ((3, score_mods.HEADS, score_mods.ROWS, 8), *[(3, 2, score_mods.KEYS, 8)] * 2)
    return [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]


@pytest.fixture
def in_parts(monkeypatch):
    """Few scores at once, so that there are many tiles."""
    monkeypatch.setattr(_flex_call, "MOST_SCORES", 1000)
    monkeypatch.setattr(_flex_call, "MOST_BIASES", 1000)
    monkeypatch.setattr(_score_mods, "MOST_BIASES", 1000)


def visible(b, h, q_idx, kv_idx):
    return (q_idx >= kv_idx - 20) & ((kv_idx + h) % 11 != 3) | (kv_idx < 2)


BLOCK_MASK = mfa.create_block_mask(visible, None, 4, score_mods.ROWS, score_mods.KEYS, BLOCK_SIZE=(16, 8))
DENSE = mfa.create_mask(visible, None, 4, score_mods.ROWS, score_mods.KEYS)


def modified(score_mod, scores):
    """score_mod pair by pair, by PyTorch's own rule for what it is given."""
    shape = scores.shape
    indices = np.ix_(*map(np.arange, shape))
    if score_mod in [case[0] for case in score_mods.NUMPY.values()]:
        return np.broadcast_to(score_mod(scores, *indices), shape)
    indices = [torch.from_numpy(np.broadcast_to(i, shape).reshape(-1)) for i in indices]
    each = [score_mod(s, *at) for s, *at in zip(torch.from_numpy(scores.reshape(-1)), *indices, strict=True)]
    return torch.stack(each).numpy().reshape(shape)


def expected(score_mod, query, key, value, dense):
    key, value = (np.repeat(x, 2, axis=1) for x in (key, value))
    scores = query.astype(np.float64) @ key.swapaxes(-1, -2).astype(np.float64) / np.sqrt(8)
    with np.errstate(invalid="ignore"):
        scores = np.where(dense, modified(score_mod, scores), -np.inf)
    ones = np.zeros((*query.shape[:3], 1))
    return oracle.attention(
        ones, np.zeros((*key.shape[:3], 1)), value, softmax_scale=0.0, additive_mask=scores
    )


def assert_equals_definition(score_mod, arrays, block_mask=None):
    out, lse = mfa.flex_attention(*arrays, score_mod, block_mask, enable_gqa=True, return_lse=True)
    dense = True if block_mask is None else DENSE
    expected_out, expected_lse = expected(score_mod, *arrays, dense)
    np.testing.assert_allclose(out, expected_out, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(lse, expected_lse, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("score_mod", "name"), score_mods.NUMPY.values(), ids=score_mods.NUMPY)
@pytest.mark.parametrize("block_mask", [None, BLOCK_MASK], ids=["all", "block_mask"])
def test_is_found_and_equals_the_definition(score_mod, name, block_mask, arrays):
    assert mfa.flex_plan(*arrays, score_mod, block_mask, enable_gqa=True).score_mod == name
    assert_equals_definition(score_mod, arrays, block_mask)


@pytest.mark.parametrize(("score_mod", "name"), CASES.values(), ids=CASES)
@pytest.mark.usefixtures("in_parts")
def test_in_parts(score_mod, name, arrays, request):
    plan = mfa.flex_plan(*arrays, score_mod, BLOCK_MASK, enable_gqa=True)
    assert plan.score_mod == name
    assert (plan.calls > 1) == (name == "generic" or request.node.callspec.id.endswith(IN_PARTS))
    arrays = [x[:1] for x in arrays]
    if score_mod in [case[0] for case in score_mods.NUMPY.values()]:
        assert_equals_definition(score_mod, arrays, BLOCK_MASK)


@pytest.mark.parametrize(("score_mod", "name"), score_mods.TORCH.values(), ids=score_mods.TORCH)
def test_of_torch_is_what_pytorch_makes(score_mod, name, arrays, monkeypatch):
    monkeypatch.setattr(flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    tensors = [torch.from_numpy(x) for x in arrays]
    block_mask = flex.create_block_mask(
        visible, None, 4, score_mods.ROWS, score_mods.KEYS, device="cpu", BLOCK_SIZE=16
    )
    aux = flex.AuxRequest(lse=True)
    out, (lse, _) = mfa.flex_attention(*tensors, score_mod, block_mask, enable_gqa=True, return_aux=aux)
    wanted, wanted_aux = flex.flex_attention(*tensors, score_mod, block_mask, enable_gqa=True, return_aux=aux)
    torch.testing.assert_close(out, wanted, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(lse, wanted_aux.lse, rtol=1e-4, atol=1e-5)
    assert mfa.flex_plan(*tensors, score_mod, block_mask, enable_gqa=True).score_mod == name


@pytest.mark.parametrize(
    "score_mod",
    [lambda s, b, h, q, k: s * 1e39, lambda s, b, h, q, k: 1e-50 * torch.tanh(s / 1e-50)],
    ids=["scale", "softcap"],
)
def test_what_float32_has_no_number_for_is_asked_for(score_mod, arrays, monkeypatch):
    tensors = [torch.from_numpy(x) for x in arrays]
    assert mfa.flex_plan(*tensors, score_mod, enable_gqa=True).score_mod == "generic"
    monkeypatch.setattr(flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    out = mfa.flex_attention(*tensors, score_mod, enable_gqa=True)
    wanted = flex.flex_attention(*tensors, score_mod, enable_gqa=True)
    torch.testing.assert_close(out, wanted, rtol=1e-3, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("parts", [False, True], ids=["whole", "parts"])
def test_bias_that_reduces_indices_is_found_out(parts, arrays, request):
    """Of single indices it is another."""
    if parts:
        request.getfixturevalue("in_parts")
    with pytest.raises(ValueError, match="its results are not each of one pair alone"):
        mfa.flex_attention(*arrays, lambda s, b, h, q, k: s + 3.0 * (k > k.min() + 50), enable_gqa=True)


def test_relative_bias_takes_memory_linear_in_the_lengths():
    shape = (1, 2, 4096, 4096)
    form = _score_mods.recognised(lambda s, b, h, q, k: s + np.sin((h + 1) * 0.1 * (q - k)), shape)
    assert form.name == "relative"
    assert form.bias.shape == shape
    assert form.bias.strides[1:] == (8191 * 4, -4, 4)


def test_large_bias_comes_in_parts():
    form = _score_mods.recognised(lambda s, b, h, q, k: s + q * k, (1, 1, 8192, 8192))
    assert form.bias is None
    assert form.bias_of is not None


@pytest.mark.parametrize(
    ("score_mod", "error", "message"),
    [
        (3, TypeError, "score_mod: 3, expected a function"),
        (lambda score: score, TypeError, "score_mod: <lambda> failed: TypeError"),
        (lambda s, b, h, q, k: {}[s.shape], ValueError, "score_mod: <lambda> failed: KeyError"),
        (lambda s, b, h, q, k: "word", TypeError, "score_mod: <lambda> failed: TypeError: returned"),
        (
            lambda s, b, h, q, k: np.zeros((3, 5, 7)),
            ValueError,
            "score_mod: <lambda> failed: ValueError: returned",
        ),
    ],
    ids=["no function", "arguments", "raises", "text", "shape"],
)
def test_wrong_score_mod_is_named(score_mod, error, message, arrays):
    with pytest.raises(error, match=message):
        mfa.flex_attention(*arrays, score_mod, enable_gqa=True)


def differentiable(score_mod, query, key, value, dout, dlse, dense):
    """The gradients that torch computes of the definition, in float64."""
    query, key, value = (torch.from_numpy(x).double().requires_grad_() for x in (query, key, value))
    keys, values = (x.repeat_interleave(2, dim=1) for x in (key, value))
    scores = query @ keys.mT / np.sqrt(8)
    indices = [torch.from_numpy(i) for i in np.ix_(*map(np.arange, scores.shape))]
    scores = score_mod(scores, *indices).double().masked_fill(~torch.from_numpy(dense), -np.inf)
    weights = torch.softmax(scores, -1).nan_to_num()
    loss = (weights @ values * torch.from_numpy(dout)).sum()
    loss = loss + (torch.logsumexp(scores, -1) * torch.from_numpy(dlse)).sum()
    return torch.autograd.grad(loss, (query, key, value), materialize_grads=True)


GRADIENTS = {name: case for name, case in score_mods.TORCH.items() if name != "reducing"}


@pytest.mark.parametrize("parts", [False, True], ids=["whole", "parts"])
@pytest.mark.parametrize(("score_mod", "name"), GRADIENTS.values(), ids=GRADIENTS)
def test_gradients(score_mod, name, parts, arrays, rng, request):
    if parts:
        request.getfixturevalue("in_parts")
    arrays = [x[:2] for x in arrays]
    out, lse = mfa.flex_attention(*arrays, score_mod, BLOCK_MASK, enable_gqa=True, return_lse=True)
    dout = rng.standard_normal(out.shape, dtype=np.float32)
    dlse = rng.standard_normal(lse.shape, dtype=np.float32)
    gradients = mfa.flex_attention_backward(
        dout, *arrays, out, lse, score_mod, BLOCK_MASK, enable_gqa=True, dlse=dlse
    )
    wanted = differentiable(score_mod, *arrays, dout, dlse, np.concatenate([DENSE, DENSE]))
    for one, other in zip(gradients[:3], wanted, strict=True):
        np.testing.assert_allclose(one, other.numpy(), rtol=1e-3, atol=1e-4)
    assert gradients.dbias is None


def test_generic_of_numpy_has_no_gradients(arrays):
    def square(score, b, h, q_idx, kv_idx):
        return np.asarray(score) ** 2

    out, lse = mfa.flex_attention(*arrays, square, enable_gqa=True, return_lse=True)
    with pytest.raises(NotImplementedError, match="score_mod: square has no derivative"):
        mfa.flex_attention_backward(out, *arrays, out, lse, square, enable_gqa=True)
