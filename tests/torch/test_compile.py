"""torch.compile and torch.export have the calls as operators, in whole graphs, forward and backward."""

import io

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._inductor.utils import fresh_cache

import mfa


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    torch.manual_seed(2)


def int32(*numbers):
    return torch.tensor(numbers, dtype=torch.int32)


STARTS = int32(0, 4, 8)
MASK = torch.arange(40).reshape(1, 5, 8)[..., :5] % 3 != 0
NEW = {"softmax_scale": 0.5, "softcap": 20.0, "window": (2, 0)}
FUNCTIONS = {
    "attention": lambda x: mfa.attention(x, x, x, causal=True, return_lse=True),
    "attention with options": lambda x: mfa.attention(x, x, x, layout="bhsd", alignment="top-left", **NEW),
    "attention with arrays": lambda x: mfa.attention(
        x, x, x, layout="bhsd", bias=x[0, 0, :, :5], mask=MASK, sinks=x[0, :, 0, 0], out_dtype=torch.float32
    ),
    "sparsity": lambda x: mfa.attention(x, x, x, sparsity=mfa.SparsityPattern.sliding_window(3)),
    "sdpa": lambda x: mfa.scaled_dot_product_attention(x, x, x, is_causal=True),
    "sdpa with a mask": lambda x: mfa.scaled_dot_product_attention(x, x, x, attn_mask=MASK, scale=0.3),
    "sdpa of grouped heads": lambda x: mfa.scaled_dot_product_attention(
        x, x[:, :2], x[:, 2:], enable_gqa=True
    ),
    "sdpa of three axes": lambda x: mfa.scaled_dot_product_attention(x[0], x, x[:1, :, :, :3]),
    "sdpa of five axes": lambda x: mfa.scaled_dot_product_attention(x[None], x[None], x[None]),
    "flash_attn_func": lambda x: mfa.flash_attn_func(x, x, x, causal=True, return_attn_probs=True),
    "flash_attn_qkvpacked_func": lambda x: mfa.flash_attn_qkvpacked_func(x.repeat(1, 1, 3, 1), num_heads_q=5),
    "flash_attn_varlen_func": lambda x: mfa.flash_attn_varlen_func(
        *[x.flatten(0, 1)] * 3, STARTS, STARTS, 4, 4, causal=True
    ),
}


def outcome(function, x):
    """Results, and the gradient of x."""
    x = x.detach().requires_grad_()
    results = function(x)
    results = results if isinstance(results, tuple) else (results,)
    loss = sum(one.square().sum() for one in results)
    return (*results, *torch.autograd.grad(loss, x))


def agree(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        assert one.stride() == other.stride()
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiled_whole_and_equal_to_the_bit(name):
    x = torch.randn(2, 4, 5, 8)
    compiled = torch.compile(FUNCTIONS[name], backend="aot_eager", fullgraph=True)
    agree(outcome(compiled, x), outcome(FUNCTIONS[name], x))


@pytest.mark.parametrize("name", ["sdpa", "attention", "flash_attn_func"])
def test_one_graph_serves_all_lengths(name):
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(FUNCTIONS[name], backend=counter, fullgraph=True, dynamic=True)
    frames = []
    for shape in ((2, 4, 5, 8), (3, 4, 7, 8), (2, 6, 9, 8)):
        x = torch.randn(shape)
        agree(outcome(compiled, x), outcome(FUNCTIONS[name], x))
        frames.append(counter.frame_count)
    assert len(set(frames)) == 1


def test_models_with_transposed_heads():
    projection = torch.nn.Linear(12, 36)

    def model(x):
        q, k, v = (part.unflatten(-1, (3, 4)).transpose(1, 2) for part in projection(x).chunk(3, -1))
        return mfa.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)

    x = torch.randn(2, 5, 12)
    agree(outcome(torch.compile(model, backend="aot_eager", fullgraph=True), x), outcome(model, x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@fresh_cache()
def test_inductor_keeps_the_strides_that_results_follow():
    def model(x):
        q = (x * 2 + 1).transpose(1, 2)
        return mfa.scaled_dot_product_attention(q, x.transpose(1, 2), x.transpose(1, 2).cos()).sin()

    x = torch.randn(2, 5, 4, 8)
    actual, expected = outcome(torch.compile(model, fullgraph=True), x), outcome(model, x)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_dropout_is_drawn_anew_each_time():
    x = torch.ones(1, 2, 8, 8)

    def function(x):
        return mfa.scaled_dot_product_attention(x, x, x, dropout_p=0.5)

    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    results = []
    for run in (compiled, function):
        torch.manual_seed(3)
        results.append([run(x), run(x)])
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert not torch.equal(*results[0])


def test_dropout_of_the_backward_pass_is_that_of_the_forward_pass():
    value = torch.randn(1, 1, 6, 6, requires_grad=True)
    query = torch.randn(1, 1, 6, 6)

    def function(value):
        return mfa.scaled_dot_product_attention(query, query, value, dropout_p=0.5)

    out = torch.compile(function, backend="aot_eager", fullgraph=True)(value)
    # It is linear in value.
    (gradient,) = torch.autograd.grad(out, value, out.detach())
    torch.testing.assert_close((gradient * value).sum(), out.square().sum())


def test_autocast():
    def function(x):
        with torch.autocast("cpu", torch.bfloat16):
            return mfa.scaled_dot_product_attention(x, x, x)

    x = torch.randn(1, 2, 5, 8)
    actual = outcome(torch.compile(function, backend="aot_eager", fullgraph=True), x)
    expected = outcome(function, x)
    assert actual[0].dtype == torch.bfloat16
    assert actual[1].dtype == torch.float32
    agree(actual, expected)


def test_a_cache_is_written_where_it_lies():
    def step(q, cache, lengths, **keywords):
        out = mfa.flash_attn_with_kvcache(
            q, *cache, q * 2, q * 3, cache_seqlens=lengths, causal=True, **keywords
        )
        return out, lengths + q.shape[1]

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    angles = torch.rand(8, 4)
    rotary = {"rotary_cos": angles.cos(), "rotary_sin": angles.sin(), "rotary_interleaved": False}
    results = []
    for run in (compiled, step):
        torch.manual_seed(1)
        cache, lengths = torch.zeros(2, 2, 8, 3, 8), int32(0, 2)
        outs = []
        for rows in (3, 1, 1):
            out, lengths = run(torch.randn(2, rows, 3, 8), cache, lengths, **rotary)
            outs.append(out)
        results.append((*outs, cache, lengths))
    agree(*results)
    assert results[0][3].any()


def test_a_cache_of_pages_and_one_length():
    def step(q, k_cache, v_cache, table, rows):
        return mfa.flash_attn_with_kvcache(
            q, k_cache, v_cache, q, q, cache_seqlens=3, page_table=table, cache_batch_idx=rows
        )

    caches = []
    for run in (torch.compile(step, backend="aot_eager", fullgraph=True), step):
        torch.manual_seed(1)
        k_cache, v_cache = torch.randn(2, 4, 2, 3, 8)
        out = run(
            torch.randn(2, 1, 3, 8), k_cache, v_cache, int32(*range(4), 0, 0).reshape(3, 2), int32(1, 0)
        )
        caches.append((out, k_cache, v_cache))
    agree(*caches)


def test_the_backward_call_itself():
    def function(x):
        x = x.detach()
        out, lse = mfa.attention(x, x, x, causal=True, return_lse=True)
        return mfa.attention_backward(out, x, x, x, out, lse, dlse=lse, causal=True, wanted=("dq", "dv"))[
            :3:2
        ]

    x = torch.randn(2, 5, 3, 8)
    agree(torch.compile(function, backend="aot_eager", fullgraph=True)(x), function(x))


CONTEXT, BLOCKS = mfa.Context(), mfa.patterns.causal(4)
UNTRACED = {
    "context": lambda x: mfa.attention(x * 2, x, x, context=CONTEXT) + 1,
    "block_mask": lambda x: mfa.attention(x * 2, x, x, block_mask=BLOCKS) + 1,
    "out": lambda x: mfa.attention(x * 2, x, x, out=torch.empty(x.shape)) + 1,
    "backward": lambda x: mfa.attention_backward(x, x, x, x, x, x[..., 0].mT, context=CONTEXT).dq + 1,
}


@pytest.mark.parametrize("name", UNTRACED)
def test_what_no_program_can_have_interrupts_it_and_is_computed(name):
    x = torch.randn(1, 4, 2, 8)
    assert torch.equal(torch.compile(UNTRACED[name], backend="aot_eager")(x), UNTRACED[name](x))
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="mfa: context, block_mask, out and what is no"):
        torch.compile(UNTRACED[name], backend="aot_eager", fullgraph=True)(x)


class Model(torch.nn.Module):
    def forward(self, x):
        return mfa.scaled_dot_product_attention(x, x, x, is_causal=True)


@pytest.mark.parametrize("strict", [False, True])
def test_exported_programs_are_saved_loaded_and_differentiable(strict):
    x = torch.randn(2, 3, 5, 8)
    rows = torch.export.Dim("rows", min=2, max=64)
    program = torch.export.export(Model(), (x,), dynamic_shapes={"x": {2: rows}}, strict=strict)
    assert [node.target for node in program.graph.nodes if "mfa" in str(node.target)] == [
        torch.ops.mfa_1.attention.default
    ]
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for length in (5, 9):
        x = torch.randn(2, 3, length, 8)
        agree(outcome(loaded, x), outcome(Model(), x))


def test_a_compiled_transform():
    def function(x):
        return torch.func.vmap(torch.func.grad(lambda y: Model()(y[None]).square().sum()))(x)

    x = torch.randn(3, 2, 5, 8)
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), outcome(Model(), x)[1])
