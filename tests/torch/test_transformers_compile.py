"""Models whose attention is mfa's under torch.compile and torch.export."""

import pytest
import torch
import transformers
from support.transformer_models import ids, model

import mfa.transformers

# One layer is what there is to compile of each, where the kinds of layers do not matter.
SMALL = {
    "LlamaForCausalLM": {"num_hidden_layers": 1},
    "Gemma3ForCausalLM": {"num_hidden_layers": 1, "layer_types": ["sliding_attention"]},
    "GptOssForCausalLM": {"num_hidden_layers": 1, "layer_types": ["sliding_attention"]},
    "T5ForConditionalGeneration": {"num_layers": 1},
}


def small(name, **changed):
    return model(name, **SMALL[name] | changed)


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Graphs:
    """A backend that keeps what it is given."""

    def __init__(self):
        self.graphs = []

    def __call__(self, graph, inputs):
        self.graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    def __deepcopy__(self, memo):
        return self  # CompileConfig copies what it has

    @property
    def calls(self):
        """Of mfa's operators, in all graphs."""
        return sum(len(calls_of(graph.graph)) for graph in self.graphs)


def calls_of(graph):
    return [
        node
        for node in graph.nodes
        if isinstance(node.target, torch._ops.OpOverload) and node.target.namespace.startswith("mfa")
    ]


def padding(left=3, rows=9):
    mask = torch.ones(2, rows, dtype=torch.int64)
    mask[0, :left] = 0
    return mask


def gradients(network):
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", ["GptOssForCausalLM", "T5ForConditionalGeneration"])
def test_training(name):
    is_t5 = name.startswith("T5")
    mask = padding()
    # A token behind padding is foretold from no keys at all.
    labels = ids().masked_fill(mask.roll(1, 1) * mask == 0, -100)
    inputs = {"labels": ids(6)} if is_t5 else {"labels": labels, "use_cache": False}
    expected, compiled = small(name), small(name)
    expected(ids(), attention_mask=mask, **inputs).loss.backward()
    compiled.set_attn_implementation("mfa")
    graphs = Graphs()
    torch.compile(compiled, backend=graphs, fullgraph=True)(
        ids(), attention_mask=mask, **inputs
    ).loss.backward()
    assert graphs.calls == 3 if is_t5 else 1
    actual = gradients(compiled)
    for parameter, gradient in gradients(expected).items():
        assert (actual[parameter] - gradient).abs().max() <= 1e-5 * gradient.abs().max() + 1e-6, parameter


def test_dropout_is_drawn_in_each_run():
    network = small("LlamaForCausalLM", dropout=0.5).train()
    network.set_attn_implementation("mfa")
    graphs = Graphs()
    compiled = torch.compile(network, backend=graphs, fullgraph=True)
    logits = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        logits.append(compiled(ids(), use_cache=False).logits)
    assert torch.equal(logits[0], logits[2])
    assert not torch.equal(logits[0], logits[1])
    assert graphs.calls == 1


def test_steps_over_a_static_cache():
    """The prompt is not compiled, and the mask of a step is made outside of what is."""
    network = model("Gemma3ForCausalLM", eos_token_id=None)
    options = {"max_new_tokens": 5, "do_sample": False, "attention_mask": padding()}
    expected = network.generate(ids(), **options)
    network.set_attn_implementation("mfa")
    graphs = Graphs()
    config = transformers.CompileConfig(fullgraph=True, backend=graphs, mode=None)
    config._compile_all_devices = True
    actual = network.generate(ids(), cache_implementation="static", compile_config=config, **options)
    assert torch.equal(actual, expected)
    assert graphs.calls >= 2


def test_layers_that_are_compiled_alone():
    """A mask without memory is made outside of them; what is compiled for one is not taken for the next."""
    expected, network = small("Gemma3ForCausalLM"), small("Gemma3ForCausalLM")
    network.set_attn_implementation("mfa")
    graphs = Graphs()
    for layer in network.model.layers:
        layer.forward = torch.compile(layer.forward, backend=graphs, fullgraph=True)
    for left in (3, 5, 0):
        mask = padding(left)
        with torch.no_grad():
            actual = network(ids(), attention_mask=mask, use_cache=False).logits
            reference = expected(ids(), attention_mask=mask, use_cache=False).logits
        torch.testing.assert_close(actual[mask > 0], reference[mask > 0], atol=1e-5, rtol=1e-5)
    assert graphs.calls >= 1


def test_lists_of_packed_sequences():
    module = torch.nn.Module()
    query, key = torch.randn(1, 4, 9, 8), torch.randn(1, 2, 9, 8)
    starts = torch.tensor([0, 4, 9], dtype=torch.int32)
    lists = {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts}
    graphs = Graphs()

    def attend(query, key):
        return mfa.transformers.attention(module, query, key, key, None, sliding_window=3, **lists)[0]

    compiled = torch.compile(attend, backend=graphs, fullgraph=True)
    torch.testing.assert_close(compiled(query, key), attend(query, key))
    assert graphs.calls == 1


def test_export():
    expected, network = small("LlamaForCausalLM"), small("LlamaForCausalLM")
    network.set_attn_implementation("mfa")
    mask = padding()
    inputs = {"attention_mask": mask, "use_cache": False}
    with torch.no_grad():
        program = torch.export.export(network, (ids(),), inputs)
        actual = program.module()(ids(), **inputs).logits
    assert len(calls_of(program.graph)) == 1
    reference = expected(ids(), **inputs).logits
    torch.testing.assert_close(actual[mask > 0], reference[mask > 0], atol=1e-5, rtol=1e-5)
