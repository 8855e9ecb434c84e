"""Gradients that torch's autograd asks mfa for."""

import gc
import re
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

import mfa
import mfa.torch

B, H, KV, N, S, D, DV = 2, 4, 2, 5, 6, 8, 3
LENGTHS = torch.zeros(2, dtype=torch.int32)
FIRST_USE = pytest.mark.filterwarnings("ignore:`torch.jit.script.* is deprecated:DeprecationWarning")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(1)


@pytest.fixture
def tensors():
    return [torch.randn(2, 4, 5, 8, requires_grad=True) for _ in range(3)]


def exact(query, key, value, bias=None, hidden=None, sinks=None, scale=None):
    """(out, lse) in float64 by the definition, heads first; a row that sees no key is 0 and -inf."""
    query, key, value = query.double(), key.double(), value.double()
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if bias is not None:
        scores = scores + bias.double()
    if hidden is not None:
        scores = scores.masked_fill(hidden, -torch.inf)
    logits = scores
    if sinks is not None:
        logits = torch.cat([scores, sinks.double()[:, None, None].expand(*scores.shape[:3], 1)], -1)
    most = logits.max(-1, keepdim=True).values.clamp_min(-1e300).detach()
    total = (logits - most).exp().sum(-1, keepdim=True)
    seen = total > 0
    weights = (scores - most).exp() / total.where(seen, 1)
    lse = most.squeeze(-1) + total.where(seen, 1).log().squeeze(-1)
    return weights @ value, lse.where(seen.squeeze(-1), -torch.inf)


def operands(dtype=torch.float32, kv=KV, dv=DV):
    shapes = (B, H, N, D), (B, kv, S, D), (B, kv, S, dv)
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def compare(actual, expected, inputs, tolerance=2e-5):
    """Results, and gradients of both with the same that come from behind."""
    weights = [torch.randn(one.shape, dtype=torch.float64) for one in expected]
    gradients = []
    for results in (actual, expected):
        loss = sum(
            (one.double() * weight)[one.isfinite()].sum()
            for one, weight in zip(results, weights, strict=True)
        )
        gradients.append(torch.autograd.grad(loss, inputs))
    for one, other in zip((*actual, *gradients[0]), (*expected, *gradients[1]), strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=tolerance, atol=tolerance)


def test_out_and_lse_have_gradients():
    inputs = operands()
    actual = mfa.attention(*inputs, layout="bhsd", return_lse=True)
    compare(actual, exact(*inputs), inputs)


def test_lse_alone_has_gradients():
    query, key, value = operands()
    _, lse = mfa.attention(query, key, value, layout="bhsd", return_lse=True)
    _, expected = exact(query, key, value)
    compare([lse], [expected], [query, key])
    _, lse = mfa.attention(query, key, value, layout="bhsd", return_lse=True)
    (nothing,) = torch.autograd.grad(lse.sum(), value)
    assert not nothing.any()


@pytest.mark.parametrize("layout", ["bshd", "bhsd"])
def test_lse_with_sinks_bias_and_rows_that_see_nothing(layout):
    inputs = operands()
    bias = torch.randn(H, 1, S, requires_grad=True)
    sinks = torch.randn(H, requires_grad=True)
    hidden = torch.rand(B, 1, N, S) < 0.5
    hidden[:, :, 2] = True
    for more in ((bias,), (bias, sinks)):
        keywords = dict(zip(("bias", "sinks"), more, strict=False))
        given = [x.transpose(1, 2) for x in inputs] if layout == "bshd" else inputs
        out, lse = mfa.attention(*given, layout=layout, mask=~hidden, return_lse=True, **keywords)
        if layout == "bshd":
            out = out.transpose(1, 2)
        compare([out, lse], exact(*inputs, hidden=hidden, **keywords), [*inputs, *more])


def test_lse_of_packed_sequences():
    starts = torch.tensor([0, 2, 5], dtype=torch.int32)
    packed = [torch.randn(5, 2, 4, requires_grad=True) for _ in range(3)]
    out, lse = mfa.flash_attn_varlen_func(*packed, starts, starts, None, None, return_attn_probs=True)
    parts = [exact(*(x[i:j].transpose(0, 1)[None] for x in packed)) for i, j in ((0, 2), (2, 5))]
    expected = torch.cat([part[0] for part in parts], 2), torch.cat([part[1] for part in parts], 2)
    compare([out, lse], [expected[0][0].transpose(0, 1), expected[1][0]], packed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_gradients_have_the_dtypes_of_what_they_are_of(dtype):
    inputs = operands(dtype)
    bias = torch.randn(N, S, requires_grad=True)
    sinks = torch.randn(H, dtype=dtype, requires_grad=True)
    out = mfa.attention(*inputs, layout="bhsd", bias=bias, sinks=sinks)
    expected, _ = exact(*inputs, bias=bias, sinks=sinks)
    compare([out], [expected], [*inputs, bias, sinks], 2e-5 if dtype == torch.float32 else 0.04)


def test_results_wider_than_queries():
    inputs = operands(torch.bfloat16)
    out = mfa.attention(*inputs, layout="bhsd", out_dtype=torch.float32)
    assert out.dtype == torch.float32
    compare([out], [exact(*inputs)[0]], inputs, 0.04)


@pytest.mark.parametrize(
    "shapes",
    [
        ((1, 4, 5, 8), (2, 4, 6, 8), (2, 4, 6, 3)),
        ((2, 4, 5, 8), (1, 1, 6, 8), (2, 1, 6, 3)),
        ((4, 5, 8), (2, 1, 6, 8), (6, 3)),
        ((5, 8), (6, 8), (6, 3)),
    ],
    ids=str,
)
def test_broadcast_operands(shapes):
    inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
    out = mfa.scaled_dot_product_attention(*inputs)
    query, key, value = inputs
    expected = (query @ key.transpose(-1, -2) / D**0.5).softmax(-1) @ value
    assert out.shape == expected.shape
    compare([out], [expected], inputs)


def test_grouped_heads():
    inputs = operands()
    out = mfa.scaled_dot_product_attention(*inputs, enable_gqa=True)
    compare([out], [exact(*inputs)[0]], inputs)


@pytest.mark.parametrize("name", ["query", "key", "value"])
def test_strides_of_inputs_and_of_their_gradients(name):
    inputs = dict(zip(("query", "key", "value"), operands(kv=H, dv=D), strict=True))
    views = dict(inputs)
    views[name] = inputs[name].detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    given = list(views.values())
    out = mfa.scaled_dot_product_attention(**views)
    compare([out], [exact(*given)[0]], given)
    columns = out.detach().new_ones(()).expand(out.shape)  # as sum() has it
    assert torch.equal(
        *(
            torch.autograd.grad(mfa.scaled_dot_product_attention(**views), given[0], x)[0]
            for x in (columns, columns.contiguous())
        )
    )


@pytest.mark.parametrize("shape", [(0, 4, 5, 8), (2, 4, 0, 8)], ids=str)
def test_empty_operands(shape):
    inputs = [torch.randn(shape, requires_grad=True) for _ in range(3)]
    mfa.scaled_dot_product_attention(*inputs).sum().backward()
    assert all(x.grad.shape == shape for x in inputs)


def test_no_keys():
    query = torch.randn(1, 2, 3, 4, requires_grad=True)
    key = torch.randn(1, 2, 0, 4, requires_grad=True)
    out, lse = mfa.attention(query, key, key, layout="bhsd", return_lse=True)
    (out.sum() + lse.exp().sum()).backward()
    assert not out.any()
    assert lse.eq(-torch.inf).all()
    assert not query.grad.any()


@pytest.mark.parametrize("bias_shape", [(), (S,), (N, 1), (H, 1, S), (B, 1, N, S)], ids=str)
def test_a_floating_mask_has_gradients_in_its_own_shape(bias_shape):
    inputs = operands(kv=H)
    bias = torch.randn(bias_shape, requires_grad=True)
    out = mfa.scaled_dot_product_attention(*inputs, attn_mask=bias)
    compare([out], [exact(*inputs, bias=bias)[0]], [*inputs, bias], 1e-4)


def test_some_gradients_only():
    query, key, value = (x.detach() for x in operands())
    key.requires_grad_()
    out = mfa.attention(query, key, value, layout="bhsd")
    compare([out], [exact(query, key, value)[0]], [key])


def test_arrays_beside_a_query_that_requires_grad():
    query, key, value = operands()
    arrays = [x.detach().numpy() for x in (key, value)]
    for out in (
        mfa.attention(query, *arrays, layout="bhsd"),
        mfa.scaled_dot_product_attention(query, *arrays, enable_gqa=True),
    ):
        compare([out], [exact(query, key, value)[0]], [query])


def test_quantised_keys_beside_a_query_that_requires_grad():
    query = torch.randn(1, 2, 5, 32, requires_grad=True)
    key = mfa.quantize(torch.randn(1, 2, 6, 32), layout="bhsd")
    value = torch.randn(1, 2, 6, 32, requires_grad=True)
    out, lse = mfa.attention(query, key, value, layout="bhsd", return_lse=True)
    gradients = torch.autograd.grad(out.sum(), (query, value))
    arrays = query.detach(), key, value.detach(), out.detach(), lse.detach()
    expected = mfa.attention_backward(torch.ones(out.shape), *arrays, layout="bhsd")
    assert torch.equal(gradients[0], expected.dq)
    assert torch.equal(gradients[1], expected.dv)


def test_one_packed_array():
    qkv = torch.randn(2, 5, 3, 4, 8, requires_grad=True)
    out = mfa.flash_attn_qkvpacked_func(qkv, causal=True)
    q, k, v = (x.transpose(1, 2) for x in qkv.unbind(2))
    hidden = torch.ones(5, 5, dtype=torch.bool).triu(1)
    compare([out], [exact(q, k, v, hidden=hidden)[0].transpose(1, 2)], [qkv])


@pytest.mark.parametrize("mask", ["none", "bool", "floating"])
def test_five_axes(mask):
    query = torch.randn(2, 1, 2, 3, 4, requires_grad=True)
    key = torch.randn(3, 2, 5, 4, requires_grad=True)
    value = torch.randn(2, 1, 2, 5, 2, requires_grad=True)
    inputs, attn_mask = [query, key, value], None
    scores = query @ key.transpose(-1, -2) / 2
    if mask == "bool":
        attn_mask = torch.rand(2, 3, 1, 3, 5) < 0.8
        attn_mask[..., 0] = True
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif mask == "floating":
        attn_mask = torch.randn(3, 5, requires_grad=True)
        scores = scores + attn_mask
        inputs.append(attn_mask)
    out = mfa.scaled_dot_product_attention(query, key, value, attn_mask)
    compare([out], [scores.softmax(-1) @ value], inputs)


@pytest.mark.parametrize("leading", [(0, 2), (2, 0), (0,)], ids=str)
def test_five_axes_of_nothing(leading):
    query = torch.randn(*leading, 2, 3, 4, requires_grad=True)
    out = mfa.scaled_dot_product_attention(query, query, query[..., :1] if len(leading) > 1 else query)
    out.sum().backward()
    assert out.shape == (*query.shape[:-1], 1 if len(leading) > 1 else 4)
    assert query.grad.shape == query.shape


@pytest.mark.parametrize("shape", [(3, 1, 1, 5, 5), (1, 1, 1, 1, 5, 5)], ids=str)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_masks_of_five_axes_that_do_not_fit_are_named(shape, requires_grad):
    query = torch.randn(2, 3, 4, 5, 8, requires_grad=requires_grad)
    message = f"^attn_mask: shape {re.escape(str(shape))}, expected one that broadcasts to "
    with pytest.raises(ValueError, match=message + re.escape("(2, 3, 4, 5, 5)")):
        mfa.scaled_dot_product_attention(query, query, query, torch.zeros(shape))


@pytest.mark.parametrize("axes", [4, 5])
def test_dropout_is_the_same_with_and_without_gradients(axes):
    query = torch.randn(*[2] * (axes - 2), 6, 8, requires_grad=True)
    results = []
    for enabled in (True, False):
        torch.manual_seed(4)
        with torch.set_grad_enabled(enabled):
            results.append(mfa.scaled_dot_product_attention(query, query, query, dropout_p=0.5))
    assert torch.equal(*results)
    assert not torch.equal(results[0], mfa.scaled_dot_product_attention(query, query, query))


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_replay_dropout(tensors, reentrant):
    def block(*tensors):
        return mfa.scaled_dot_product_attention(*tensors, dropout_p=0.5) * 2

    results = []
    for run in (block, lambda *x: checkpoint(block, *x, use_reentrant=reentrant)):
        torch.manual_seed(5)
        out = run(*tensors)
        results.append((out, *backward(out, tensors)))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def backward(out, tensors):
    """As torch.autograd.grad(out.square().sum(), tensors), which reentrant checkpoints refuse."""
    for tensor in tensors:
        tensor.grad = None
    out.square().sum().backward()
    return [tensor.grad for tensor in tensors]


def test_hooks_of_saved_tensors_see_all_of_them(tensors):
    kept = []

    def pack(x):
        kept.append(x)
        return len(kept) - 1

    bias = torch.randn(5, 5, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, kept.__getitem__):
        out = mfa.attention(*tensors, layout="bhsd", bias=bias)
    assert [tuple(x.shape) for x in kept] == [(2, 4, 5, 8)] * 3 + [(5, 5), (2, 4, 5, 8), (2, 4, 5)]
    compare([out], [exact(*tensors, bias=bias)[0]], [*tensors, bias])


@pytest.mark.parametrize("number", range(4))
def test_what_was_saved_and_then_changed_is_noticed(tensors, number):
    inputs = [*tensors, torch.zeros(5, 5)]
    out = mfa.attention(*inputs[:3], layout="bhsd", bias=inputs[3])
    with torch.no_grad():
        inputs[number].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_backward_twice_needs_the_graph_kept(tensors):
    out = mfa.scaled_dot_product_attention(*tensors)
    first = torch.autograd.grad(out.sum(), tensors, retain_graph=True)
    second = torch.autograd.grad(out.sum(), tensors)
    assert all(map(torch.equal, first, second))
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        out.sum().backward()


def test_nothing_is_kept_after_backward(tensors):
    out = mfa.scaled_dot_product_attention(*tensors)
    graph = out.grad_fn
    out.sum().backward()
    with pytest.raises(RuntimeError, match="after they have already been freed"):
        _ = graph.saved_tensors


def weighted(*tensors):
    """Results with lse, of all that has gradients."""
    query, key, value, mask, sinks = tensors
    keywords = {"layout": "bhsd", "causal": "top-left", "mask": mask, "sinks": sinks, "softcap": 3.0}
    return mfa.attention(query, key, value, return_lse=True, **keywords)


BATCHED = {
    "is_grads_batched": lambda results, inputs, gradients, **options: torch.autograd.grad(
        results, inputs, gradients, is_grads_batched=True, retain_graph=True, **options
    ),
    "vmap": lambda results, inputs, gradients, **options: torch.vmap(
        lambda *one: torch.autograd.grad(results, inputs, one, retain_graph=True, **options)
    )(*gradients),
}


@FIRST_USE
@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("way", BATCHED)
def test_gradients_of_many_at_once(way, create_graph):
    inputs = [*operands(), torch.randn(N, S, requires_grad=True), torch.randn(H, requires_grad=True)]
    results = weighted(*inputs)
    gradients = [torch.randn(3, *one.shape) for one in results]
    actual = BATCHED[way](results, inputs, gradients, create_graph=create_graph)
    each = [
        torch.autograd.grad(results, inputs, one, retain_graph=True) for one in zip(*gradients, strict=True)
    ]
    for one, others in zip(actual, zip(*each, strict=True), strict=True):
        assert torch.equal(one, torch.stack(others))


@FIRST_USE
def test_second_derivatives_of_many_at_once_are_refused(tensors):
    out = mfa.scaled_dot_product_attention(*tensors)
    dout = torch.randn(3, *out.shape, requires_grad=True)
    (gradient,) = torch.autograd.grad(out, tensors[0], dout, is_grads_batched=True, create_graph=True)
    with pytest.raises(NotImplementedError, match=SECOND):
        gradient.sum().backward()


def test_gradients_of_many_at_once_beside_codes_are_refused(tensors):
    codes = mfa.quantize(tensors[1].detach(), "int8", layout="bhsd")
    out = mfa.scaled_dot_product_attention(tensors[0], codes, codes)
    with pytest.raises(TypeError, match=r"^key: QuantizedTensor, expected a tensor"):
        torch.autograd.grad(out, tensors[0], torch.ones(3, *out.shape), is_grads_batched=True)


SECOND = r"^query: a second derivative of attention is asked for, expected the first alone"


def test_a_graph_goes_without_the_garbage_collector(tensors):
    gc.disable()
    try:
        out = mfa.scaled_dot_product_attention(*tensors)
        torch.autograd.grad(out.sum(), tensors, create_graph=True)
        gone = [weakref.ref(x) for x in (out, out.grad_fn)]
        del out
        assert [one() for one in gone] == [None, None]
    finally:
        gc.enable()


def test_gradients_of_several_results_at_once():
    """As torch.autograd.functional.jacobian asks for them with vectorize=True."""
    inputs, sinks = operands(), torch.randn(H, requires_grad=True)
    mask, slopes = torch.randn(B, 1, N, S, requires_grad=True), torch.rand(H)
    options = {"layout": "bhsd", "causal": True, "alibi_slopes": slopes, "dropout_p": 0.3, "dropout_seed": 5}
    results = mfa.attention(*inputs, mask=mask, sinks=sinks, **options, return_lse=True)
    inputs = [*inputs, mask, sinks]
    for wanted in (results, results[:1], results[1:]):
        from_behind = [torch.randn(3, *one.shape) for one in wanted]
        actual = torch.autograd.grad(
            wanted, inputs, from_behind, is_grads_batched=True, retain_graph=True, allow_unused=True
        )
        each = [
            torch.autograd.grad(wanted, inputs, one, retain_graph=True, allow_unused=True)
            for one in zip(*from_behind, strict=True)
        ]
        for several, expected in zip(actual, zip(*each, strict=True), strict=True):
            torch.testing.assert_close(several, torch.stack(expected))


def test_second_derivatives_are_refused(tensors):
    query = tensors[0]
    (gradient,) = torch.autograd.grad(
        mfa.scaled_dot_product_attention(*tensors).sum(), query, create_graph=True
    )
    with pytest.raises(NotImplementedError, match=SECOND):
        (query.sum() + gradient.sum()).backward()
    with pytest.raises(NotImplementedError, match=SECOND):
        torch.func.grad(
            lambda q: torch.func.grad(lambda q: mfa.scaled_dot_product_attention(q, q, q).sum())(q).sum()
        )(query.detach())


@FIRST_USE
def test_forward_mode_is_refused_by_name(tensors):
    key = tensors[1].detach()
    message = r"^key: has a tangent, and forward-mode gradients are not computed here; expected key\.detach"

    def call(key):
        return mfa.scaled_dot_product_attention(tensors[0], key, tensors[2])

    with pytest.raises(ValueError, match=message):
        torch.func.jvp(call, (key,), (key,))
    with torch.autograd.forward_ad.dual_level(), pytest.raises(ValueError, match=message):
        call(torch.autograd.forward_ad.make_dual(key, key))


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("out", lambda x: mfa.attention(x, x, x, out=torch.zeros(x.shape))),
        ("alibi_slopes", lambda x: mfa.attention(x, x, x, alibi_slopes=torch.ones(5, requires_grad=True))),
        ("qv", lambda x: mfa.attention(x, x, x, qv=x.detach())),
        ("qv", lambda x: mfa.flash_attn_func(x, x, x, qv=x)),
        ("k", lambda x: mfa.flash_attn_with_kvcache(x, x, x, x.detach(), x.detach(), cache_seqlens=LENGTHS)),
        ("q_descale", lambda x: mfa.flash_attn_func(x, x, x, q_descale=torch.ones(2, 5))),
    ],
)
def test_what_has_no_gradients_is_refused_by_name(tensors, name, call):
    with pytest.raises(ValueError, match=rf"^{name}: .*expected"):
        call(tensors[0])


def test_names_of_the_caller(tensors):
    with pytest.raises(ValueError, match=r"^k: shape"):
        mfa.flash_attn_func(tensors[0], tensors[1][..., :4], tensors[2])
    with pytest.raises(ValueError, match=r"^key: 3 heads, expected 4 as query has, or enable_gqa=True"):
        mfa.scaled_dot_product_attention(tensors[0], tensors[1][:, :3], tensors[2])
    with pytest.raises(ValueError, match=r"^value: 1 dimensions, expected 2 to 4"):
        mfa.scaled_dot_product_attention(tensors[0], tensors[1], tensors[2][0, 0, 0])


def test_a_tensor_beside_an_array_as_query_is_refused_by_name(tensors):
    array = np.ones((2, 4, 5, 8), np.float32)
    with pytest.raises(ValueError, match=r"^key: requires grad.*expected key\.detach\(\)"):
        mfa.attention(array, tensors[1], array)
    with pytest.raises(ValueError, match=r"^key: requires grad.*expected key\.detach\(\)"):
        mfa.attention(memoryview(array), tensors[1], array)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_is_that_of_torch(tensors, dtype):
    results = []
    for function in (mfa.scaled_dot_product_attention, F.scaled_dot_product_attention):
        with torch.autocast("cpu", dtype):
            out = function(*tensors)
        results.append((out, *torch.autograd.grad(out.float().square().sum(), tensors)))
    for one, other in zip(*results, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.06)
    assert results[0][0].dtype == dtype


def test_autocast_leaves_caches_as_they_are():
    cache, new = torch.zeros(1, 4, 1, 8), torch.randn(1, 1, 1, 8)
    with torch.autocast("cpu", torch.bfloat16):
        out = mfa.flash_attn_with_kvcache(new, cache, cache.clone(), new, new, cache_seqlens=0)
    assert out.dtype == torch.float32
    assert torch.equal(cache[:, :1], new)


def test_autocast_of_no_other_device_matters(tensors):
    with torch.autocast("mps", torch.float16, enabled=False):
        assert mfa.scaled_dot_product_attention(*tensors).dtype == torch.float32


def test_result_lies_as_query_does(tensors):
    rows_first = tensors[0].detach().transpose(1, 2).contiguous().transpose(1, 2)
    result = mfa.scaled_dot_product_attention(rows_first, *tensors[1:])
    assert result.transpose(1, 2).is_contiguous()
    assert mfa.scaled_dot_product_attention(*tensors).is_contiguous()


def test_inference_tensors_and_modes(tensors):
    with torch.inference_mode():
        assert not mfa.scaled_dot_product_attention(*tensors).requires_grad
    with torch.no_grad():
        assert not mfa.scaled_dot_product_attention(*tensors).requires_grad
    assert mfa.scaled_dot_product_attention(*tensors).requires_grad
