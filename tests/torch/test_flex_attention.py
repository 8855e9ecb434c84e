"""mfa.flex_attention of tensors records gradients, those of what a score_mod uses among them."""

import functools
import gc
import weakref

import numpy as np
import pytest
import torch
from support import score_mods
from torch.nn.attention import flex_attention as flex
from torch.utils.checkpoint import checkpoint

import mfa
import mfa.torch
from mfa import _flex_call, _score_mods

BATCH, HEADS, ROWS, KEYS, DIM = 2, score_mods.HEADS, score_mods.ROWS, score_mods.KEYS, 8


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(3)


@pytest.fixture
def tensors():
    shapes = ((BATCH, HEADS, ROWS, DIM), *[(BATCH, 2, KEYS, DIM)] * 2)
    return [torch.randn(shape, requires_grad=True) for shape in shapes]


@pytest.fixture(params=["whole", "parts"])
def parts(request, monkeypatch):
    """Few scores at once, so that there are many tiles, or all."""
    if request.param == "parts":
        monkeypatch.setattr(_flex_call, "MOST_SCORES", 4000)
        monkeypatch.setattr(_flex_call, "MOST_BIASES", 4000)
        monkeypatch.setattr(_score_mods, "MOST_BIASES", 4000)


def visible(b, h, q_idx, kv_idx):
    return ((q_idx >= kv_idx - 20) & ((kv_idx + h) % 11 != 3) | (kv_idx < 2)) & (q_idx != 5)


BLOCK_MASK = mfa.create_block_mask(visible, None, HEADS, ROWS, KEYS, BLOCK_SIZE=(16, 8))
DENSE = torch.from_numpy(mfa.create_mask(visible, None, HEADS, ROWS, KEYS))


def definition(score_mod, query, key, value, dense=True):
    """(out, lse) in float64."""
    query, key, value = (x.double() for x in (query, key, value))
    group = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(group, dim=1) for x in (key, value))
    scores = query @ key.mT / query.shape[-1] ** 0.5
    indices = [torch.from_numpy(i) for i in np.ix_(*map(np.arange, scores.shape))]
    if score_mod is not None:
        scores = score_mod(scores, *indices).expand(scores.shape)
    scores = torch.where(torch.as_tensor(dense), scores.double(), -torch.inf)
    # Of a row that sees no key there is nothing to differentiate.
    some = (scores > -torch.inf).any(dim=-1, keepdim=True)
    scores = torch.where(some, scores, 0.0)
    out = torch.where(some, torch.softmax(scores, dim=-1) @ value, 0.0)
    return out, torch.where(some[..., 0], torch.logsumexp(scores, dim=-1), -torch.inf)


def loss_of(out, lse, weights):
    seen = torch.isfinite(lse)
    return (out * weights[0]).sum() + (lse * weights[1])[seen].sum()


def gradients_of(results, tensors):
    generator = torch.Generator().manual_seed(7)
    weights = [torch.randn(x.shape, generator=generator) for x in results]
    return torch.autograd.grad(loss_of(*results, weights), tensors, retain_graph=True, materialize_grads=True)


def assert_gradients(score_mod, tensors, others=(), block_mask=None, dense=True):
    results = mfa.flex_attention(*tensors, score_mod, block_mask, enable_gqa=True, return_lse=True)
    expected = definition(score_mod, *tensors, dense)
    for one, other in zip(results, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-3, atol=1e-4)
    wanted = [x for x in (*tensors, *others) if x.requires_grad]
    for one, other in zip(gradients_of(results, wanted), gradients_of(expected, wanted), strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    return results[0]


FORMS = {name: case for name, (case, _) in score_mods.TORCH.items() if name != "reducing"}


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("score_mod", [None, *FORMS.values()], ids=["none", *FORMS])
def test_gradients_of_each_form(score_mod, tensors):
    """Of lse too, with a row that sees no key."""
    assert_gradients(score_mod, [x[1:] for x in tensors], block_mask=BLOCK_MASK, dense=DENSE)


TABLE = torch.randn(HEADS, ROWS + KEYS, requires_grad=True)
SLOPES = torch.rand(HEADS, requires_grad=True)
NUMBER = torch.tensor(3.0, requires_grad=True)
BY_BATCH = torch.randn(BATCH, KEYS, requires_grad=True)
BIAS = torch.randn(HEADS, ROWS, KEYS, requires_grad=True)
LEARNED = {
    "relative": ("relative", TABLE, lambda s, b, h, q, k: s + TABLE[h, q - k + KEYS]),
    "relative for all": ("relative", TABLE, lambda s, b, h, q, k: s + TABLE[0, q - k + KEYS]),
    "causal relative": (
        "causal + relative",
        TABLE,
        lambda s, b, h, q, k: torch.where(q >= k, s + TABLE[h, q - k], -torch.inf),
    ),
    "window relative": (
        "window + relative",
        TABLE,
        lambda s, b, h, q, k: (s + TABLE[h, q - k + KEYS]).masked_fill((q - k).abs() > 40, -torch.inf),
    ),
    "alibi": ("alibi", SLOPES, lambda s, b, h, q, k: s - SLOPES[h] * (q - k).abs()),
    "softcap and relative": (
        "softcap + relative",
        TABLE,
        lambda s, b, h, q, k: 2 * torch.tanh(s / 2) + TABLE[h, q - k + KEYS],
    ),
    "bias": ("bias", BIAS, lambda s, b, h, q, k: s + BIAS[h, q, k]),
    "bias for all heads": ("bias", BIAS, lambda s, b, h, q, k: s + BIAS[1, q, k]),
    "bias of keys": ("bias", BY_BATCH, lambda s, b, h, q, k: s + BY_BATCH[b, k]),
    "bias of heads": ("bias", SLOPES, lambda s, b, h, q, k: s + SLOPES[h]),
    "constant": ("bias", NUMBER, lambda s, b, h, q, k: s + NUMBER),
    "product": ("bias", TABLE, lambda s, b, h, q, k: s + TABLE[h, q] * TABLE[h, k + ROWS]),
    "scale": ("scale", NUMBER, lambda s, b, h, q, k: s * NUMBER),
    "softcap": ("softcap", NUMBER, lambda s, b, h, q, k: NUMBER * torch.tanh(s / NUMBER)),
    "temperature": ("generic", SLOPES, lambda s, b, h, q, k: s * SLOPES[h]),
    "inside of a softcap": ("generic", BIAS, lambda s, b, h, q, k: torch.tanh(s + BIAS[h, q, k])),
    "unused": ("none", NUMBER, lambda s, b, h, q, k: s + 0 * (NUMBER > 0)),
}


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize(("name", "learned", "score_mod"), LEARNED.values(), ids=LEARNED)
def test_gradients_of_what_a_score_mod_uses(name, learned, score_mod, tensors):
    assert mfa.flex_plan(*(x.detach() for x in tensors), score_mod, enable_gqa=True).score_mod == name
    tensors = [x[:1] for x in tensors] if learned is not BY_BATCH else tensors
    assert_gradients(score_mod, tensors, [learned])
    assert_gradients(score_mod, tensors, [learned], block_mask=BLOCK_MASK, dense=DENSE)


@pytest.mark.parametrize("name", ["relative", "bias", "temperature"])
def test_of_the_score_mod_alone(name, tensors):
    """Nothing else requires grad."""
    _, learned, score_mod = LEARNED[name]
    out = assert_gradients(score_mod, [x.detach() for x in tensors], [learned])
    assert out.requires_grad


@pytest.mark.parametrize(("rows", "keys"), [(90, 20), (20, 90)])
def test_rows_of_a_window_beyond_all_keys(rows, keys, monkeypatch):
    monkeypatch.setattr(_flex_call, "MOST_BIASES", 200)
    tensors = [torch.randn(1, 2, n, DIM, requires_grad=True) for n in (rows, keys, keys)]
    table = torch.randn(2, 180, requires_grad=True)
    for left, right in ((5, 3), (0, 0), (30, 200), (200, 4)):

        def score_mod(s, b, h, q, k, left=left, right=right):
            return torch.where((q - k <= left) & (k - q <= right), s + table[h, q - k + 90], -torch.inf)

        assert_gradients(score_mod, tensors, [table])


@pytest.mark.usefixtures("parts")
def test_tensor_made_of_another_that_is_used_too(tensors):
    table = torch.randn(HEADS, KEYS, requires_grad=True)
    twice = table * 2
    assert_gradients(lambda s, b, h, q, k: s + table[h, q] * twice[h, k], tensors, [table, twice])


@pytest.mark.usefixtures("parts")
def test_score_mod_that_uses_query_itself(tensors):
    query = tensors[0]
    embedding = torch.randn(KEYS, DIM, requires_grad=True)
    assert_gradients(lambda s, b, h, q, k: s + (query[b, h, q] * embedding[k]).sum(-1), tensors, [embedding])


class Learned(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(ROWS + KEYS, HEADS)

    def forward(self, score, b, h, q_idx, kv_idx):
        return score + self.table.weight[q_idx - kv_idx + KEYS, h]


def with_default(score, b, h, q_idx, kv_idx, table=TABLE):
    return score + table[h, q_idx - kv_idx + KEYS]


def with_more(table, score, b, h, q_idx, kv_idx):
    return score + table[h, q_idx - kv_idx + KEYS]


def test_found_wherever_a_score_mod_has_them(tensors):
    module = Learned()
    assert_gradients(module, tensors, module.parameters())
    assert_gradients(with_default, tensors, [TABLE])
    assert_gradients(functools.partial(with_more, TABLE), tensors, [TABLE])
    assert_gradients(lambda s, b, h, q, k: s + torch.stack([TABLE[0], TABLE[1]])[h % 2, k], tensors, [TABLE])


def of_one_pair(score, b, h, q_idx, kv_idx):
    """It takes scalars only, as PyTorch gives it."""
    return torch.stack([score, score + SLOPES[h].reshape(())]).sum()


def test_function_of_single_pairs(tensors):
    results = mfa.flex_attention(*tensors, of_one_pair, enable_gqa=True, return_lse=True)
    expected = definition(lambda s, b, h, q, k: 2 * s + SLOPES[h], *tensors)
    wanted = [*tensors, SLOPES]
    for one, other in zip(gradients_of(results, wanted), gradients_of(expected, wanted), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("place", range(3))
def test_only_what_requires_grad_has_one(place, tensors):
    wanted = tensors[place]
    for score_mod in (None, lambda s, b, h, q, k: s * s):
        arrays = [x if x is wanted else x.detach() for x in tensors]
        assert_gradients(score_mod, arrays)


@pytest.mark.parametrize("score_mod", [None, lambda s, b, h, q, k: s * s], ids=["none", "generic"])
def test_one_batch_of_keys_has_the_sum_of_its_gradients(score_mod, tensors):
    arrays = [tensors[0], *(x.detach()[:1].requires_grad_() for x in tensors[1:])]
    assert_gradients(score_mod, arrays)


@pytest.mark.parametrize(
    "score_mod", [None, lambda s, b, h, q, k: s * s + TABLE[h, k]], ids=["none", "generic"]
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dtypes(dtype, score_mod, tensors):
    arrays = [x.detach().to(dtype).requires_grad_() for x in tensors]
    results = mfa.flex_attention(*arrays, score_mod, enable_gqa=True, return_lse=True)
    assert [x.dtype for x in results] == [dtype, torch.float32]
    wanted = [*arrays, TABLE] if score_mod else arrays
    expected = gradients_of(definition(score_mod, *arrays), wanted)
    for one, other in zip(gradients_of(results, wanted), expected, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.05 * other.abs().max().item())


@pytest.mark.parametrize("score_mod", [None, lambda s, b, h, q, k: s * s], ids=["none", "generic"])
def test_result_and_gradients_lie_as_query_does(score_mod, tensors):
    query = tensors[0].detach().transpose(1, 2).contiguous().requires_grad_()
    out = mfa.flex_attention(query.transpose(1, 2), *tensors[1:], score_mod, enable_gqa=True)
    assert out.transpose(1, 2).is_contiguous()
    out.sum().backward()
    assert query.grad.is_contiguous()
    assert mfa.flex_attention(*tensors, score_mod, enable_gqa=True).is_contiguous()


@pytest.mark.parametrize("lengths", [(0, 5), (5, 0)])
def test_nothing_to_attend_to(lengths):
    query, key = (torch.randn(1, 2, n, 8, requires_grad=True) for n in lengths)
    for score_mod in (None, lambda s, b, h, q, k: s * s):
        mfa.flex_attention(query, key, key, score_mod).sum().backward()
        assert not query.grad.any()
        assert not key.grad.any()


def test_auxiliary_outputs(tensors):
    for score_mod in (None, LEARNED["bias"][2]):
        request = flex.AuxRequest(lse=True, max_scores=True)
        out, aux = mfa.flex_attention(*tensors, score_mod, enable_gqa=True, return_aux=request)
        assert out.requires_grad
        assert aux.lse.requires_grad
        assert not aux.max_scores.requires_grad
        [alone] = torch.autograd.grad(aux.lse.sum(), tensors[:1])
        expected = torch.autograd.grad(definition(score_mod, *tensors)[1].sum(), tensors[:1])
        torch.testing.assert_close(alone, expected[0], rtol=1e-3, atol=1e-4)


def test_block_mask_of_pytorch(tensors):
    block_mask = flex.create_block_mask(visible, None, HEADS, ROWS, KEYS, device="cpu", BLOCK_SIZE=16)
    assert_gradients(LEARNED["relative"][2], tensors, [TABLE], block_mask=block_mask, dense=DENSE)


def test_keys_that_are_codes(tensors):
    query = tensors[0]
    codes = [mfa.quantize(x.detach(), layout="bhsd") for x in tensors[1:]]
    for score_mod in (None, LEARNED["temperature"][2]):
        out, lse = mfa.flex_attention(query, *codes, score_mod, enable_gqa=True, return_lse=True)
        [gradient] = torch.autograd.grad(out.sum(), query, retain_graph=True)
        wanted = mfa.flex_attention_backward(
            torch.ones_like(out),
            query.detach(),
            *codes,
            out.detach(),
            lse.detach(),
            score_mod,
            enable_gqa=True,
        )
        torch.testing.assert_close(gradient, wanted.dq)


@pytest.mark.parametrize("name", ["relative", "temperature"])
def test_nothing_is_recorded_without_grad_mode(name, tensors):
    _, _, score_mod = LEARNED[name]
    with torch.no_grad():
        assert not mfa.flex_attention(*tensors, score_mod, enable_gqa=True).requires_grad
    plain = [x.detach() for x in tensors]
    assert not mfa.flex_attention(*plain, lambda s, b, h, q, k: s * s, enable_gqa=True).requires_grad


@pytest.mark.parametrize("score_mod", [None, LEARNED["relative"][2]], ids=["none", "relative"])
def test_autocast_is_pytorchs(score_mod, tensors):
    with torch.autocast("cpu", torch.bfloat16):
        out = mfa.flex_attention(*tensors, score_mod, enable_gqa=True)
        with torch.no_grad():
            assert mfa.flex_attention(*tensors, score_mod, enable_gqa=True).dtype == torch.bfloat16
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert all(x.grad.dtype == torch.float32 for x in tensors)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", ["alibi", "temperature"])
def test_checkpoint_computes_it_again(reentrant, name, tensors):
    _, learned, score_mod = LEARNED[name]
    wanted = [*tensors, learned]

    def attention(*arrays):
        return mfa.flex_attention(*arrays, score_mod, enable_gqa=True)

    expected = torch.autograd.grad(attention(*tensors).square().sum(), wanted)
    for tensor in wanted:
        tensor.grad = None
    checkpoint(attention, *tensors, use_reentrant=reentrant).square().sum().backward()
    for tensor, one in zip(wanted, expected, strict=True):
        assert torch.equal(tensor.grad, one)
        tensor.grad = None


@pytest.mark.parametrize("name", ["alibi", "temperature"])
def test_hooks_of_saved_tensors_see_them(name, tensors):
    packed = []

    def pack(tensor):
        packed.append(tensor.shape)
        return tensor.clone()

    _, learned, score_mod = LEARNED[name]
    wanted = [*tensors, learned]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = mfa.flex_attention(*tensors, score_mod, enable_gqa=True)
    assert {x.shape for x in wanted} <= set(packed)
    expected = torch.autograd.grad(mfa.flex_attention(*tensors, score_mod, enable_gqa=True).sum(), wanted)
    for one, other in zip(torch.autograd.grad(out.sum(), wanted), expected, strict=True):
        assert torch.equal(one, other)


def test_what_changed_since_is_an_error(tensors):
    slopes = torch.rand(HEADS, requires_grad=True)
    for tensor in (tensors[1], slopes):
        out = mfa.flex_attention(*tensors, lambda s, b, h, q, k: s * slopes[h], enable_gqa=True)
        with torch.no_grad():
            tensor.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            out.sum().backward()


def test_no_gradients_of_gradients(tensors):
    for score_mod in (None, LEARNED["relative"][2], LEARNED["temperature"][2]):
        out = mfa.flex_attention(*tensors, score_mod, enable_gqa=True)
        [gradient] = torch.autograd.grad(out.sum(), tensors[:1], create_graph=True)
        torch.testing.assert_close(gradient, torch.autograd.grad(out.sum(), tensors[:1])[0])
        with pytest.raises(NotImplementedError, match="a second derivative of attention"):
            (tensors[0].sum() + gradient.sum()).backward()


# What torch's own first use of forward mode says.
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_forward_mode_is_refused_by_name(tensors):
    with torch.autograd.forward_ad.dual_level():
        key = torch.autograd.forward_ad.make_dual(tensors[1].detach(), tensors[1].detach())
        with pytest.raises(ValueError, match=r"^key: has a tangent"):
            mfa.flex_attention(tensors[0], key, tensors[2], enable_gqa=True)


def test_what_it_kept_goes_with_the_result(tensors):
    key = tensors[1].detach().clone().requires_grad_()
    kept = weakref.ref(key)
    out = mfa.flex_attention(tensors[0], key, tensors[2], LEARNED["relative"][2], enable_gqa=True)
    del key, out
    gc.collect()
    assert kept() is None


def square(score, b, h, q_idx, kv_idx):
    return np.square(score)


def test_generic_function_of_numpy_is_refused_before_it_runs(tensors):
    with pytest.raises(NotImplementedError, match="score_mod: square has no derivative"):
        mfa.flex_attention(*tensors, square, enable_gqa=True)
    with torch.no_grad():
        mfa.flex_attention(*tensors, square, enable_gqa=True)


def test_gradients_are_of_tensors(tensors):
    arrays = [x.detach().numpy() for x in tensors]
    _, _, score_mod = LEARNED["relative"]
    with pytest.raises(ValueError, match="score_mod: uses a tensor that requires grad"):
        mfa.flex_attention(*arrays, score_mod, enable_gqa=True)
    with torch.no_grad():
        out = mfa.flex_attention(*arrays, score_mod, enable_gqa=True)
    assert isinstance(out, np.ndarray)
    with pytest.raises(ValueError, match="key: requires grad"):
        mfa.flex_attention(arrays[0], *tensors[1:], enable_gqa=True)


@pytest.mark.parametrize("name", ["relative", "causal relative", "bias", "constant", "temperature"])
def test_default_device_is_for_tensors_of_the_caller(name, tensors):
    _, learned, score_mod = LEARNED[name]
    with torch.device("meta"):
        out = mfa.flex_attention(*(x[:1] for x in tensors), score_mod, enable_gqa=True)
        gradients = torch.autograd.grad(out.sum(), [*tensors, learned])
    assert {x.device.type for x in (out, *gradients)} == {"cpu"}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_refused_by_name(tensors):
    nested = torch.nested.nested_tensor([x.detach() for x in tensors[0]])
    with pytest.raises(BufferError, match=r"^query: "):
        mfa.flex_attention(nested, *tensors[1:], enable_gqa=True)


def test_gradients_of_many_at_once_are_refused(tensors):
    out = mfa.flex_attention(*tensors, enable_gqa=True)
    with pytest.raises(NotImplementedError, match=r"^query: gradients of many results at once"):
        torch.autograd.grad(out, tensors[0], torch.ones(2, *out.shape), is_grads_batched=True)


def test_transforms_of_torch_func_are_refused(tensors):
    with pytest.raises(TypeError, match="query: a tensor that torch is tracing or transforming"):
        torch.func.grad(lambda q: mfa.flex_attention(q, *tensors[1:], enable_gqa=True).sum())(tensors[0])


# Under pytest warnings that the compiler hides are errors.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_compiled_code_calls_it_between_two_graphs(tensors):
    weight = torch.randn(DIM, DIM, requires_grad=True)
    graphs = []

    def backend(module, inputs):
        graphs.append(module)
        return module.forward

    def layer(query, key, value, factor):
        out = mfa.flex_attention(
            query @ weight,
            key,
            value,
            lambda s, b, h, q, k: s + factor * TABLE[h, q - k + KEYS],
            enable_gqa=True,
        )
        return (out @ weight).sum()

    wanted = [*tensors, weight, TABLE]
    compiled = torch.compile(layer, backend=backend)
    for factor in (0.5, 2.0):
        expected = torch.autograd.grad(layer(*tensors, factor), wanted)
        for one, other in zip(torch.autograd.grad(compiled(*tensors, factor), wanted), expected, strict=True):
            torch.testing.assert_close(one, other)
    operations = [
        node.target for module in graphs for node in module.graph.nodes if node.op == "call_function"
    ]
    assert len(graphs) <= 4  # before and after, perhaps once more for another factor
    assert operations
    with pytest.raises(torch._dynamo.exc.Unsupported, match="a score_mod is a function, which no operator"):
        torch.compile(layer, backend="eager", fullgraph=True)(*tensors, 0.5)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_compiling_the_function_itself_changes_nothing(tensors):
    compiled = torch.compile(mfa.flex_attention, backend="eager")
    _, learned, score_mod = LEARNED["relative"]
    wanted = [*tensors, learned]
    expected = torch.autograd.grad(mfa.flex_attention(*tensors, score_mod, enable_gqa=True).sum(), wanted)
    found = torch.autograd.grad(compiled(*tensors, score_mod, enable_gqa=True).sum(), wanted)
    assert all(map(torch.equal, found, expected))


def test_torch_namespace_has_the_same_function():
    assert mfa.torch.flex_attention is mfa.flex_attention
