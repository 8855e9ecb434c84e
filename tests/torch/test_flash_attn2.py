"""mfa.flash_attn has FlashAttention-2's functions, with gradients."""

import inspect
import itertools
import re

import numpy as np
import pytest
import torch
from support import checks, oracle, tolerance
from torch._dynamo.testing import CompileCounterWithBackend

import mfa
from mfa import flash_attn
from mfa.flash_attn import flash_attn_interface

DTYPES = {torch.float32: checks.FLOAT32, torch.float16: checks.FLOAT16, torch.bfloat16: checks.BFLOAT16}
STARTS_Q = np.array([0, 5, 5, 6, 19], np.int32)
STARTS_K = np.array([0, 7, 12, 13, 30], np.int32)
LISTS = {"cu_seqlens_q": STARTS_Q, "cu_seqlens_k": STARTS_K}
WHERE = (torch.from_numpy(STARTS_Q), torch.from_numpy(STARTS_K), 13, 17)
SLOPES = np.array([0.5, 0.25, 0.125, 1.0], np.float32)
OPTIONS = [
    ({}, {}),
    ({"causal": True}, {"causal": "bottom-right"}),
    ({"softmax_scale": 0.3, "softcap": 2.0}, {"softmax_scale": 0.3, "softcap": 2.0}),
    ({"window_size": (3, 2)}, {"window": (3, 2)}),
    ({"window_size": (4, -1), "causal": True}, {"window": (4, -1), "causal": "bottom-right"}),
    ({"alibi_slopes": torch.from_numpy(SLOPES)}, {"alibi_slopes": SLOPES}),
]


def standard_normal(rng, dtype, *shape):
    return rng.standard_normal(shape).astype(DTYPES[dtype])


def tensor(array, dtype):
    """A leaf that requires grad."""
    return torch.from_numpy(array.astype(np.float32)).to(dtype).requires_grad_()


def array(tensor):
    return tensor.detach().float().numpy()


def run(function, tensors, dout):
    """What `function` returns of them, and their gradients."""
    out, lse, nothing = function(*tensors)
    assert nothing.numel() == 0
    assert out.dtype == nothing.dtype == tensors[0].dtype
    out.backward(torch.from_numpy(dout.astype(np.float32)).to(out.dtype))
    return (array(out), array(lse)), [array(x.grad) for x in tensors]


def assert_all_match(result, gradients, arrays, dout, **meaning):
    checks.assert_matches(result, checks.expected(*arrays, **meaning))
    whole = oracle.Gradients(*gradients, dbias=None, dsinks=None)
    checks.assert_gradients_match(whole, checks.expected_gradients(dout, *arrays, **meaning))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("options", "meaning"), OPTIONS, ids=str)
def test_batches(rng, dtype, options, meaning):
    shapes = ((2, 7, 4, 16), (2, 9, 2, 16), (2, 9, 2, 24), (2, 7, 4, 24))
    *arrays, dout = (standard_normal(rng, dtype, *shape) for shape in shapes)
    tensors = [tensor(x, dtype) for x in arrays]
    result, gradients = run(
        lambda *x: flash_attn.flash_attn_func(*x, return_attn_probs=True, **options), tensors, dout
    )
    assert_all_match(result, gradients, arrays, dout, **meaning)
    torch.testing.assert_close(array(flash_attn.flash_attn_func(*tensors, **options)), result[0])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("options", "meaning"), OPTIONS, ids=str)
def test_sequences(rng, dtype, options, meaning):
    shapes = ((20, 4, 16), (31, 2, 16), (31, 2, 24), (20, 4, 24))
    *arrays, dout = (standard_normal(rng, dtype, *shape) for shape in shapes)
    result, gradients = run(
        lambda *x: flash_attn.flash_attn_varlen_func(*x, *WHERE, return_attn_probs=True, **options),
        [tensor(x, dtype) for x in arrays],
        dout,
    )
    assert_all_match(result, gradients, arrays, dout, **LISTS, **meaning)
    assert not result[0][19].any()


def test_packed_arrays_have_packed_gradients(rng):
    qkv = standard_normal(rng, torch.float32, 2, 6, 3, 4, 8)
    q, k, v = np.moveaxis(qkv, 2, 0)
    dout = standard_normal(rng, torch.float32, 2, 6, 4, 8)
    options = {"causal": True, "return_attn_probs": True}
    result, (dqkv,) = run(
        lambda x: flash_attn.flash_attn_qkvpacked_func(x, **options), [tensor(qkv, torch.float32)], dout
    )
    assert_all_match(result, np.moveaxis(dqkv, 2, 0), (q, k, v), dout, causal="bottom-right")
    result, (dq, dkv) = run(
        lambda *x: flash_attn.flash_attn_kvpacked_func(*x, **options),
        [tensor(q, torch.float32), tensor(qkv[:, :, 1:], torch.float32)],
        dout,
    )
    assert_all_match(result, [dq, *np.moveaxis(dkv, 2, 0)], (q, k, v), dout, causal="bottom-right")


def test_packed_sequences_have_packed_gradients(rng):
    qkv = standard_normal(rng, torch.float32, 19, 3, 4, 8)
    q, k, v = np.moveaxis(qkv, 1, 0)
    dout = standard_normal(rng, torch.float32, 19, 4, 8)
    meaning = {"cu_seqlens_q": STARTS_Q, "cu_seqlens_k": STARTS_Q, "causal": "bottom-right"}
    starts = torch.from_numpy(STARTS_Q)
    options = {"causal": True, "return_attn_probs": True}
    result, (dqkv,) = run(
        lambda x: flash_attn.flash_attn_varlen_qkvpacked_func(x, starts, 13, **options),
        [tensor(qkv, torch.float32)],
        dout,
    )
    assert_all_match(result, np.moveaxis(dqkv, 1, 0), (q, k, v), dout, **meaning)
    result, (dq, dkv) = run(
        lambda *x: flash_attn.flash_attn_varlen_kvpacked_func(*x, starts, starts, 13, 13, **options),
        [tensor(q, torch.float32), tensor(qkv[:, 1:], torch.float32)],
        dout,
    )
    assert_all_match(result, [dq, *np.moveaxis(dkv, 1, 0)], (q, k, v), dout, **meaning)


def seed_after(number):
    """What a call draws after torch.manual_seed(number), which is done again."""
    torch.manual_seed(number)
    seed = torch.randint(2**63 - 1, (), dtype=torch.int64).item()
    torch.manual_seed(number)
    return seed


def test_dropout_follows_torchs_generator(rng):
    shapes = ((2, 7, 4, 8), (2, 9, 2, 8), (2, 9, 2, 8), (2, 7, 4, 8))
    *arrays, dout = (standard_normal(rng, torch.float32, *shape) for shape in shapes)
    seed = seed_after(5)
    result, gradients = run(
        lambda *x: flash_attn.flash_attn_func(*x, 0.25, return_attn_probs=True),
        [tensor(x, torch.float32) for x in arrays],
        dout,
    )
    assert_all_match(result, gradients, arrays, dout, dropout_p=0.25, dropout_seed=seed)
    before = torch.get_rng_state()
    flash_attn.flash_attn_func(*map(torch.from_numpy, arrays))
    assert torch.equal(torch.get_rng_state(), before)


def test_checkpointing_drops_the_same_weights(rng):
    q = tensor(standard_normal(rng, torch.float32, 1, 16, 2, 8), torch.float32)

    def attention(x):
        return flash_attn.flash_attn_func(x, x, x, 0.5)

    torch.manual_seed(3)
    (expected,) = torch.autograd.grad(attention(q).square().sum(), q)
    for use_reentrant in (False, True):
        torch.manual_seed(3)
        out = torch.utils.checkpoint.checkpoint(attention, q, use_reentrant=use_reentrant)
        out.square().sum().backward()
        torch.testing.assert_close(q.grad, expected)
        q.grad = None


def pages_of(rows, starts, page_size):
    """Sequences of packed rows as pages, all but the last page before any other, and their table."""
    table = np.full((len(starts) - 1, 3), -1, np.int32)
    pages = []
    for sequence, (start, stop) in enumerate(itertools.pairwise(starts)):
        for place, first in enumerate(range(start, stop, page_size)):
            page = np.full((page_size, *rows.shape[1:]), np.nan, rows.dtype)
            page[: stop - first] = rows[first : min(first + page_size, stop)]
            table[sequence, place] = len(pages)
            pages.append(page)
    return torch.from_numpy(np.stack(pages)), torch.from_numpy(table)


def test_sequences_in_pages(rng):
    q, k, v = (standard_normal(rng, torch.float32, *shape) for shape in ((19, 4, 8), (30, 2, 8), (30, 2, 8)))
    (k_pages, table), (v_pages, _) = (pages_of(x, STARTS_K, 6) for x in (k, v))
    q = torch.from_numpy(q)
    out = flash_attn.flash_attn_varlen_func(q, k_pages, v_pages, *WHERE, causal=True, block_table=table)
    k, v = map(torch.from_numpy, (k, v))
    torch.testing.assert_close(out, flash_attn.flash_attn_varlen_func(q, k, v, *WHERE, causal=True))
    for wrong, message in (
        ([0, 7, 6, 13, 30], "cu_seqlens_k[2]: 6, expected at least 7, the number before it"),
        ([1, 7, 12, 13, 30], "cu_seqlens_k[0]: 1, expected 0"),
    ):
        starts = torch.tensor(wrong, dtype=torch.int32)
        with pytest.raises(ValueError, match=re.escape(message)):
            flash_attn.flash_attn_varlen_func(
                q, k_pages, v_pages, WHERE[0], starts, 13, 17, block_table=table
            )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"causal": True, "rotary_interleaved": False},
        {"cache_leftpad": torch.tensor([1, 0], dtype=torch.int32)},
        {"cache_batch_idx": torch.tensor([2, 0], dtype=torch.int32)},
        {"window_size": (2, 1), "softmax_scale": 0.3, "softcap": 2.0, "num_splits": 3},
    ],
    ids=str,
)
def test_cache_is_appended_to(options):
    """As FlashAttention-3's function does it, but for the order of arguments."""
    q, k, v = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 2, 8), torch.randn(2, 3, 2, 8)
    angles = torch.rand(12, 4)
    caches = torch.randn(2, 3, 10, 2, 8)
    if "cache_batch_idx" not in options:
        caches = caches[:, :2].clone()
    others = caches.clone()
    lengths = torch.tensor([2, 5], dtype=torch.int32)
    out, lse = flash_attn.flash_attn_with_kvcache(
        q, *caches, k, v, angles.cos(), angles.sin(), lengths, **options, return_softmax_lse=True
    )
    expected, expected_lse = mfa.flash_attn_with_kvcache(
        q,
        *others,
        k,
        v,
        rotary_cos=angles.cos(),
        rotary_sin=angles.sin(),
        cache_seqlens=lengths,
        **options,
        return_softmax_lse=True,
    )
    torch.testing.assert_close((out, lse, caches), (expected, expected_lse, others))


def test_cache_with_slopes_and_pages():
    q, caches = torch.randn(2, 3, 4, 8), torch.randn(2, 2, 10, 2, 8)
    slopes = torch.from_numpy(SLOPES)
    out = flash_attn.flash_attn_with_kvcache(q, *caches, cache_seqlens=8, causal=True, alibi_slopes=slopes)
    expected = flash_attn.flash_attn_func(q, *caches[:, :, :8], causal=True, alibi_slopes=slopes)
    torch.testing.assert_close(out, expected)

    table = torch.tensor([[1], [0]], dtype=torch.int32)
    paged = flash_attn.flash_attn_with_kvcache(
        q, *caches.flip(1), cache_seqlens=8, block_table=table, causal=True, alibi_slopes=slopes
    )
    torch.testing.assert_close(paged, expected)


@pytest.mark.parametrize("dropout_p", [0.0, 0.5])
def test_passes_over_batches(rng, dropout_p):
    """With a backward pass of the caller's, as ring attention has one."""
    shapes = ((2, 7, 4, 8), (2, 9, 2, 8), (2, 9, 2, 8), (2, 7, 4, 8))
    *arrays, dout = (standard_normal(rng, torch.float32, *shape) for shape in shapes)
    q, k, v, dout_ = map(torch.from_numpy, (*arrays, dout))
    seed = seed_after(4)
    options = (dropout_p, 0.3, True, 5, -1, 0.0, None)
    out, lse, nothing, rng_state = flash_attn_interface._flash_attn_forward(q, k, v, *options, False)
    assert nothing.shape == (0,)
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty(v.shape, dtype=torch.float64)
    delta = flash_attn_interface._wrapped_flash_attn_backward(
        dout_, q, k, v, out, lse, dq, dk, dv, *options, False, rng_state
    )
    meaning = {"softmax_scale": 0.3, "causal": "bottom-right", "window": (5, -1)}
    if dropout_p:
        meaning |= {"dropout_p": dropout_p, "dropout_seed": seed}
    assert_all_match((array(out), array(lse)), map(array, (dq, dk, dv)), arrays, dout, **meaning)
    torch.testing.assert_close(delta, (dout_ * out).sum(-1).transpose(1, 2))


def test_passes_over_sequences(rng):
    shapes = ((20, 4, 8), (31, 2, 8), (31, 2, 8), (20, 4, 8))
    *arrays, dout = (standard_normal(rng, torch.float32, *shape) for shape in shapes)
    q, k, v, dout_ = map(torch.from_numpy, (*arrays, dout))
    out, lse, _, rng_state = flash_attn_interface._flash_attn_varlen_forward(q, k, v, *WHERE, 0.0, None, True)
    dk = torch.full_like(k, torch.nan)
    flash_attn_interface._flash_attn_varlen_backward(
        dout_, q, k, v, out, lse, None, dk, None, *WHERE, 0.0, None, True, -1, -1, 0.0, None, True, rng_state
    )
    meaning = {**LISTS, "causal": "bottom-right"}
    checks.assert_matches((array(out), array(lse)), checks.expected(*arrays, **meaning))
    expected = checks.expected_gradients(dout, *arrays, **meaning)
    tolerance.assert_within(array(dk).swapaxes(0, 1)[None], expected.exact.dk, expected.bound.dk, what="dk")

    used = np.array([7, 3, 0, 2], np.int32)
    out, lse, *_ = flash_attn_interface._flash_attn_varlen_forward(
        q, k, v, *WHERE, 0.0, None, True, seqused_k=torch.from_numpy(used)
    )
    expected = checks.expected(*arrays, **meaning, seqused_k=used)
    checks.assert_matches((array(out), array(lse)), expected)


def test_passes_record_nothing(rng):
    q = tensor(standard_normal(rng, torch.float32, 1, 4, 2, 8), torch.float32)
    out, lse, *_ = flash_attn_interface._flash_attn_forward(
        q, q, q, 0.0, None, False, -1, -1, 0.0, None, True
    )
    assert not out.requires_grad
    assert not lse.requires_grad


def test_dropped_weights_need_their_state(rng):
    q = torch.randn(1, 4, 2, 8)
    out, lse, *_ = flash_attn_interface._flash_attn_forward(
        q, q, q, 0.5, None, False, -1, -1, 0.0, None, True
    )
    with pytest.raises(ValueError, match=r"^rng_state: None, expected what the forward pass returned"):
        flash_attn_interface._flash_attn_backward(
            q, q, q, q, out, lse, q, q, q, 0.5, None, False, -1, -1, 0.0, None, True
        )


def test_gradients_are_written_into_nothing_of_another_shape():
    """Though torch would spread them over it."""
    q = torch.randn(1, 4, 2, 8)
    options = (0.0, None, False, -1, -1, 0.0, None)
    out, lse, *_ = flash_attn_interface._flash_attn_forward(q, q, q, *options, False)
    with pytest.raises(ValueError, match=r"^dk: shape \(2, 4, 2, 8\), expected \(1, 4, 2, 8\)$"):
        flash_attn_interface._flash_attn_backward(
            q, q, q, q, out, lse, None, q.new_zeros(2, 4, 2, 8), None, *options, False
        )


def test_other_arrays_are_taken(rng):
    qkv = standard_normal(rng, torch.float32, 1, 4, 3, 2, 8)
    result = flash_attn.flash_attn_qkvpacked_func(qkv, causal=True, return_attn_probs=True)
    assert all(type(x) is np.ndarray for x in result)
    expected = flash_attn.flash_attn_qkvpacked_func(torch.from_numpy(qkv), causal=True)
    np.testing.assert_array_equal(result[0], expected.numpy())


def test_no_row_and_no_key():
    q = torch.zeros(1, 0, 2, 8, requires_grad=True)
    k = torch.zeros(1, 3, 2, 8, requires_grad=True)
    flash_attn.flash_attn_func(q, k, k).sum().backward()
    assert q.grad.shape == q.shape
    assert not k.grad.any()
    out = flash_attn.flash_attn_func(k, q, q)
    assert out.shape == k.shape
    assert not out.any()


def kvcache(qkv):
    """Of what has no gradients."""
    cache = torch.zeros(2, 12, 4, 8)
    k, v = qkv.detach()[:, :, 1], qkv.detach()[:, :, 2]
    out = flash_attn.flash_attn_with_kvcache(k, cache, cache.clone(), k, v, cache_seqlens=3, causal=True)
    return qkv[:, :, 0] * out + cache[:, 3:9]


STARTS = torch.tensor([0, 2, 6], dtype=torch.int32)
TABLE = torch.tensor([[1, 0], [0, 1]], dtype=torch.int32)
COMPILED = {
    "batches": lambda x: flash_attn.flash_attn_func(*x.unbind(2), alibi_slopes=torch.from_numpy(SLOPES)),
    "packed batches": lambda x: flash_attn.flash_attn_qkvpacked_func(x, 0.5, return_attn_probs=True)[0],
    "packed sequences": lambda x: flash_attn.flash_attn_varlen_qkvpacked_func(x[0], STARTS, 4, causal=True),
    "sequences in pages": lambda x: flash_attn.flash_attn_varlen_func(
        x[0, :, 0], x[:, :, 1], x[:, :, 2], STARTS, STARTS, 4, 4, block_table=TABLE
    ),
    "cache": kvcache,
    "forward pass": lambda x: (
        x[:, :, 0]
        * flash_attn_interface._flash_attn_forward(*x.unbind(2), 0.0, None, True, -1, -1, 0.0, None, False)[0]
    ),
}


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_in_one_graph(name):
    torch._dynamo.reset()
    qkv = torch.randn(2, 6, 3, 4, 8, requires_grad=True)
    torch.manual_seed(2)
    expected = COMPILED[name](qkv)
    dout = torch.randn_like(expected)
    compiled = torch.compile(COMPILED[name], fullgraph=True, backend="aot_eager")
    torch.manual_seed(2)
    with torch.profiler.profile() as profile:
        out = compiled(qkv)
        gradients = torch.autograd.grad(out, qkv, dout)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, qkv, dout))
    assert any(re.match(r"mfa_\w+::attention", event.key) for event in profile.key_averages())


@pytest.mark.parametrize("module", [flash_attn, mfa], ids=["2", "3"])
def test_compiled_once_for_sequences_of_any_length(module):
    """Of which the longest is a number that torch.compile knows by a symbol."""
    torch._dynamo.reset()
    compiler = CompileCounterWithBackend("aot_eager")

    def attention(x, starts, longest):
        return module.flash_attn_varlen_func(x, x, x, starts, starts, longest, longest, causal=True)

    compiled = torch.compile(attention, fullgraph=True, backend=compiler)
    for starts in ([0, 2, 5], [0, 0, 7], [0, 9, 10], [0, 4, 8]):
        starts = torch.tensor(starts, dtype=torch.int32)
        arguments = torch.randn(int(starts[-1]), 2, 8), starts, int(starts.diff().max())
        torch.testing.assert_close(compiled(*arguments), attention(*arguments))
    assert compiler.frame_count == 2, "of the first lengths, and of all others"


@pytest.mark.parametrize("dropout_p", [0.0, 0.5])
def test_both_passes_compiled_in_one_graph(dropout_p):
    torch._dynamo.reset()
    operands = [torch.randn(2, 6, 4, 8) for _ in range(4)]
    options = (dropout_p, None, True, -1, -1, 0.0, None)

    def passes(q, k, v, dout):
        out, lse, _, state = flash_attn_interface._flash_attn_forward(q, k, v, *options, False)
        results = [torch.empty_like(x) for x in (q, k, v)]
        sums = flash_attn_interface._flash_attn_backward(
            dout, q, k, v, out, lse, *results, *options, False, state
        )
        return out, lse, state, *results, sums

    compiled = torch.compile(passes, fullgraph=True, backend="aot_eager")
    torch.manual_seed(3)
    expected = passes(*operands)
    torch.manual_seed(3)
    torch.testing.assert_close(compiled(*operands), expected)


def test_passes_of_tensors_without_memory():
    with torch._subclasses.FakeTensorMode():
        q = torch.empty(2, 6, 4, 8)
        out, lse, _, state = flash_attn_interface._flash_attn_forward(
            q, q, q, 0.5, None, False, -1, -1, 0.0, None, False
        )
    assert (out.shape, lse.shape, state.shape) == ((2, 6, 4, 8), (2, 4, 6), (2,))


def test_transforms_of_torch_func():
    qkv = torch.randn(2, 6, 3, 4, 8, requires_grad=True)

    def loss(x):
        return flash_attn.flash_attn_qkvpacked_func(x, causal=True).square().sum()

    (expected,) = torch.autograd.grad(loss(qkv), qkv)
    torch.testing.assert_close(torch.func.grad(loss)(qkv.detach()), expected)
    each = torch.func.vmap(torch.func.grad(loss))(qkv.detach()[:, None])
    torch.testing.assert_close(each[:, 0], expected)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (
            "flash_attn_func",
            {"q": (1, 4, 2, 8), "k": (1, 4, 2, 6)},
            "k: shape (1, 4, 2, 6), expected (1, 4, 2, 8)",
        ),
        ("flash_attn_func", {"window_size": (1, 2, 3)}, "window_size: (1, 2, 3), expected two integers"),
        ("flash_attn_func", {"dropout_p": 1.0}, "dropout_p: 1.0, expected at least 0 and less than 1"),
        ("flash_attn_func", {"causal": 1}, "causal: 1, expected a bool"),
        ("flash_attn_func", {"return_attn_probs": 1}, "return_attn_probs: 1, expected a bool"),
        (
            "flash_attn_kvpacked_func",
            {"kv": (1, 4, 3, 2, 8)},
            "kv: shape (1, 4, 3, 2, 8), expected 2 on axis 2",
        ),
        ("flash_attn_qkvpacked_func", {"qkv": (1, 4, 2, 8)}, "qkv: 4 dimensions, expected 5"),
        ("flash_attn_varlen_qkvpacked_func", {"qkv": (4, 3, 2, 8), "cu_seqlens": None}, "cu_seqlens: None"),
    ],
    ids=str,
)
def test_errors_name_the_argument(function, arguments, message):
    function = getattr(flash_attn, function)
    needed = {"q": (1, 4, 2, 8), "k": (1, 4, 2, 8), "v": (1, 4, 2, 8), "max_seqlen": 4}
    names = inspect.signature(function).parameters
    arguments = {name: value for name, value in needed.items() if name in names} | arguments
    arguments = {
        name: torch.zeros(value) if name in ("q", "k", "v", "kv", "qkv") else value
        for name, value in arguments.items()
    }
    with pytest.raises((TypeError, ValueError), match="^" + re.escape(message)):
        function(**arguments)


TAIL = "softmax_scale causal window_size softcap alibi_slopes deterministic return_attn_probs"


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("flash_attn_func", f"q k v dropout_p {TAIL}"),
        ("flash_attn_kvpacked_func", f"q kv dropout_p {TAIL}"),
        ("flash_attn_qkvpacked_func", f"qkv dropout_p {TAIL}"),
        (
            "flash_attn_varlen_func",
            f"q k v cu_seqlens_q cu_seqlens_k max_seqlen_q max_seqlen_k dropout_p {TAIL} block_table",
        ),
        (
            "flash_attn_varlen_kvpacked_func",
            f"q kv cu_seqlens_q cu_seqlens_k max_seqlen_q max_seqlen_k dropout_p {TAIL}",
        ),
        ("flash_attn_varlen_qkvpacked_func", f"qkv cu_seqlens max_seqlen dropout_p {TAIL}"),
        (
            "flash_attn_with_kvcache",
            "q k_cache v_cache k v rotary_cos rotary_sin cache_seqlens cache_batch_idx cache_leftpad "
            "block_table softmax_scale causal window_size softcap rotary_interleaved alibi_slopes num_splits "
            "return_softmax_lse",
        ),
        (
            "_flash_attn_forward",
            "q k v dropout_p softmax_scale causal window_size_left window_size_right softcap alibi_slopes "
            "return_softmax",
        ),
        (
            "_flash_attn_backward",
            "dout q k v out softmax_lse dq dk dv dropout_p softmax_scale causal window_size_left "
            "window_size_right softcap alibi_slopes deterministic rng_state",
        ),
    ],
)
def test_parameters_are_in_the_order_of_2_8(name, parameters):
    """Of https://github.com/Dao-AILab/flash-attention/blob/v2.8.3/flash_attn/flash_attn_interface.py"""
    function = getattr(flash_attn_interface, name)
    assert list(inspect.signature(function).parameters) == parameters.split()
