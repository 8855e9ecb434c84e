"""Models of Transformers compute with mfa what they compute with eager attention, and do compute with mfa."""

import pytest
import torch
import transformers
from support.transformer_models import DECODERS, ids, model

import mfa.transformers
from mfa.transformers import _attention

LAYERS = 2


@pytest.fixture
def calls(monkeypatch):
    """The keywords of each call that reached mfa."""
    calls, forward = [], _attention.forward

    def spy(query, key, value, keywords, **others):
        calls.append(keywords)
        return forward(query, key, value, keywords, **others)

    monkeypatch.setattr(_attention, "forward", spy)
    return calls


def padding(left=0, right=0, rows=9):
    """The first sequence padded, the second whole."""
    mask = torch.ones(2, rows, dtype=torch.int64)
    mask[0, :left] = 0
    mask[0, rows - right :] = 0
    return mask


def trained(network, compute):
    """What `compute` gives, and the gradients of all parameters of a sum of squares of it."""
    network.zero_grad()
    results = compute(network)
    sum((result**2).sum() for result in results).backward()
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return results, gradients


def require_same(network, compute):
    """Results and gradients with eager attention, then with mfa; what takes part is above rounding."""
    network.set_attn_implementation("eager")
    expected, expected_gradients = trained(network, compute)
    network.set_attn_implementation("mfa")
    actual, gradients = trained(network, compute)
    for one, other in zip(actual, expected, strict=True):
        assert (one - other).abs().max() <= 3e-6 * other.abs().max()
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        largest = expected_gradients[name].abs().max()
        assert (gradient - expected_gradients[name]).abs().max() <= 1e-5 * largest + 1e-6, name


@pytest.mark.parametrize(("left", "right"), [(0, 0), (3, 0), (0, 4)])
@pytest.mark.parametrize("name", DECODERS)
def test_decoders_have_the_logits_and_gradients_of_eager(name, left, right, calls):
    attention_mask = padding(left, right)

    def compute(network):
        logits = network(ids(), attention_mask=attention_mask).logits
        return [logits[attention_mask.bool()]]  # eager attends to all keys where there are none to see

    require_same(model(name), compute)
    assert len(calls) == LAYERS


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cache_implementation": "static", "disable_compile": True},
        {"use_cache": False},
        {"num_beams": 2},
    ],
    ids=["dynamic", "static", "uncached", "beams"],
)
@pytest.mark.parametrize("left", [0, 3])
@pytest.mark.parametrize("name", DECODERS)
def test_decoders_generate_the_tokens_of_eager(name, left, options, calls):
    network, new = model(name, eos_token_id=None), 12

    def generated():
        return network.generate(
            ids(), attention_mask=padding(left), max_new_tokens=new, do_sample=False, **options
        )

    expected = generated()
    assert not calls
    network.set_attn_implementation("mfa")
    assert torch.equal(generated(), expected)
    assert expected.shape[1] == 9 + new
    assert len(calls) == LAYERS * new


def test_inference_mode(calls):
    network = model("Gemma3ForCausalLM", eos_token_id=None)
    options = {"attention_mask": padding(3), "max_new_tokens": 4, "do_sample": False, "disable_compile": True}
    expected = network.generate(ids(), **options)
    network.set_attn_implementation("mfa")
    with torch.inference_mode():
        for cache in ("dynamic", "static"):
            assert torch.equal(network.generate(ids(), cache_implementation=cache, **options), expected)
    assert len(calls) == 2 * LAYERS * 4
    assert all(call["mask"] is None for call in calls)


def test_generated_masks_have_no_memory(calls):
    network = model("Gemma2ForCausalLM", eos_token_id=None)
    network.set_attn_implementation("mfa")
    for cache in ("dynamic", "static"):
        network.generate(
            ids(),
            attention_mask=padding(3),
            max_new_tokens=3,
            do_sample=False,
            cache_implementation=cache,
            disable_compile=True,
        )
    assert all(call["mask"] is None for call in calls)
    assert {"bottom-right"} == {call["causal"] for call in calls if call["leftpad_k"] is not None}


def test_continuing_a_conversation(calls):
    """More than one row behind a cache, longer than the window."""
    for cache in ("DynamicCache", "StaticCache"):
        results = []
        for implementation in ("eager", "mfa"):
            network = model("Gemma3ForCausalLM")
            network.set_attn_implementation(implementation)
            options = {"config": network.config} | ({"max_cache_len": 16} if cache == "StaticCache" else {})
            past = getattr(transformers, cache)(**options)
            mask = padding(3)
            with torch.no_grad():
                network(ids(), attention_mask=mask, cache=past)
                mask = torch.cat([mask, torch.ones(2, 5, dtype=torch.int64)], 1)
                results.append(network(ids(5), attention_mask=mask, cache=past).logits)
        torch.testing.assert_close(*results)
    assert len(calls) == 2 * 2 * LAYERS


@pytest.mark.parametrize("right", [0, 4])
@pytest.mark.parametrize("name", ["BertForMaskedLM", "ModernBertModel"])
def test_encoders(name, right, calls):
    attention_mask = padding(right=right)
    network = model(name)

    def compute(network):
        return [network(ids(), attention_mask=attention_mask)[0][attention_mask.bool()]]

    require_same(network, compute)
    assert len(calls) == LAYERS
    assert all((call["seqused_k"] is not None) == bool(right) for call in calls)
    assert all(call["causal"] is None and call["mask"] is None for call in calls)
    assert (calls[-1]["window"] != (-1, -1)) == (name == "ModernBertModel")


@pytest.mark.parametrize("right", [0, 4])
def test_t5_learns_its_relative_bias(right, calls):
    network = model("T5ForConditionalGeneration")
    attention_mask = padding(right=right)

    def compute(network):
        outputs = network(ids(), attention_mask=attention_mask, labels=ids(6))
        return [outputs.loss, outputs.logits]

    require_same(network, compute)
    assert len(calls) == 3 * LAYERS
    assert all(call["bias"] is not None for call in calls)
    bias = network.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    assert bias.grad.abs().max() > 1e-3


def test_t5_generates(calls):
    network = model("T5ForConditionalGeneration")
    network.generation_config.eos_token_id = None
    results = []
    for implementation in ("eager", "mfa"):
        network.set_attn_implementation(implementation)
        results.append(
            network.generate(ids(), attention_mask=padding(right=4), max_new_tokens=8, do_sample=False)
        )
    assert torch.equal(*results)
    assert len(calls) == LAYERS + 2 * LAYERS * 8


def test_whisper(calls):
    features = torch.randn(2, 8, 40, generator=torch.Generator().manual_seed(1))

    def compute(network):
        return [network(input_features=features, decoder_input_ids=ids(6)).last_hidden_state]

    require_same(model("WhisperModel"), compute)
    assert len(calls) == 3 * LAYERS


@pytest.mark.parametrize("name", ["ViTModel", "CLIPVisionModel"])
def test_vision(name, calls):
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    require_same(model(name), lambda network: [network(pixel_values=pixels).last_hidden_state])
    assert len(calls) == LAYERS
    assert all(call["causal"] is None for call in calls)


PACKED_LENGTHS = [4, 1, 6]
POSITIONS = torch.cat([torch.arange(length) for length in PACKED_LENGTHS])[None]
STARTS = [0, 4, 5, 11]


@pytest.mark.parametrize("name", DECODERS)
def test_sequences_packed_by_a_collator_do_not_see_each_other(name, calls):
    network = model(name)
    parts = ids(11, batch=1).split(PACKED_LENGTHS, 1)
    alone = torch.cat([network(part).logits for part in parts], 1)
    network.set_attn_implementation("mfa")
    collator = transformers.DataCollatorWithFlattening(return_flash_attn_kwargs=True)
    batch = collator([{"input_ids": part[0].tolist()} for part in parts])
    packed = network(**batch | {"labels": None}, use_cache=False).logits
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-5)
    assert [call["cu_seqlens_q"].tolist() for call in calls] == [STARTS] * LAYERS
    assert all(call["mask"] is None for call in calls)


@pytest.mark.parametrize("name", DECODERS)
def test_positions_say_where_sequences_begin(name, calls):
    """To those models whose masks are made with them, as of eager attention."""

    def compute(network):
        return [network(ids(11, batch=1), position_ids=POSITIONS, use_cache=False).logits]

    require_same(model(name), compute)
    starts = [None if call["cu_seqlens_q"] is None else call["cu_seqlens_q"].tolist() for call in calls]
    assert starts == [None if name == "GptOssForCausalLM" else STARTS] * LAYERS
    assert all(call["mask"] is None for call in calls)


def test_lists_of_a_packed_batch_count_without_a_mask(calls):
    """A model that makes none, or one whose positions do not say where sequences begin."""
    network = model("MistralForCausalLM")
    network.set_attn_implementation("mfa")
    tokens = ids(9, batch=1)
    starts = torch.tensor([0, 7, 9], dtype=torch.int32)
    lists = {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts, "max_length_q": 7, "max_length_k": 7}
    network(tokens, use_cache=False, **lists)
    assert [(call["cu_seqlens_q"].tolist(), call["window"]) for call in calls] == [([0, 7, 9], (3, -1))] * 2
    calls.clear()
    network.set_attn_implementation("mfa")
    module, query = network.model.layers[0].self_attn, torch.randn(1, 4, 9, 8)
    for width, is_causal, window in ((None, None, (-1, -1)), (3, None, (2, -1)), (3, False, (2, 2))):
        _attention.attention(
            module, query, query, query, None, sliding_window=width, is_causal=is_causal, **lists
        )
        assert calls[-1]["window"] == window
        assert calls[-1]["causal"] == (None if is_causal is False else "bottom-right")


def test_bfloat16_is_computed_in_bfloat16(tmp_path, calls):
    network = model("LlamaForCausalLM")
    expected = network(ids()).logits
    network.save_pretrained(tmp_path)
    loaded = type(network).from_pretrained(tmp_path, dtype=torch.bfloat16, attn_implementation="mfa")
    logits = loaded(ids()).logits
    assert logits.dtype == torch.bfloat16
    assert (logits - expected).abs().max() < 0.05 * expected.abs().max()
    assert len(calls) == LAYERS


def test_autocast(monkeypatch):
    """Rotary embeddings leave query and key in float32 beside a value that is not."""
    dtypes, forward = [], _attention.forward

    def spy(query, key, value, *arguments, **keywords):
        out = forward(query, key, value, *arguments, **keywords)
        dtypes.append((query.dtype, value.dtype, out.dtype))
        return out

    monkeypatch.setattr(_attention, "forward", spy)
    network = model("LlamaForCausalLM")
    expected = network(ids()).logits
    network.set_attn_implementation("mfa")
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(ids()).logits
    logits.sum().backward()
    assert dtypes == [(torch.float32, torch.bfloat16, torch.bfloat16)] * LAYERS
    assert (logits - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_layers_drop_the_same_weights_again(reentrant, calls):
    network = model("LlamaForCausalLM", dropout=0.5).train()
    network.set_attn_implementation("mfa")

    def compute(network):
        torch.manual_seed(3)
        return [network(ids(), attention_mask=padding(3), use_cache=False).logits]

    results, expected = trained(network, compute)
    assert len(calls) == LAYERS
    assert all(call["dropout_p"] == 0.5 for call in calls)
    expected = {name: gradient.clone() for name, gradient in expected.items()}
    network.activation_checkpointing_enable({"use_reentrant": reentrant})
    again, gradients = trained(network, compute)
    assert len(calls) == 3 * LAYERS
    torch.testing.assert_close(again, results)
    torch.testing.assert_close(gradients, expected)
    with torch.no_grad():
        assert not torch.equal(network(ids()).logits, network(ids()).logits)


def attended(mask, **keywords):
    torch.manual_seed(1)
    module = torch.nn.Module()
    query, key = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 6, 8)
    return mfa.transformers.attention(module, query, key, key, mask, **keywords)[0]


def test_masks_of_the_user():
    visible = torch.rand(2, 1, 5, 6, generator=torch.Generator().manual_seed(2)) > 0.4
    additive = torch.zeros(visible.shape).masked_fill(~visible, -torch.inf)
    torch.testing.assert_close(attended(visible), attended(additive))
    bias = torch.randn(1, 4, 5, 6)
    torch.testing.assert_close(attended(visible, position_bias=bias), attended(additive, position_bias=bias))
    assert not torch.equal(attended(visible), attended(None, is_causal=False))


def test_none_is_causal_from_the_first_key():
    """Whatever lies behind the keys of the rows has not been written yet."""
    first = torch.ones(5, 6, dtype=torch.bool).tril()
    torch.testing.assert_close(attended(None), attended(first))
    bias = torch.randn(1, 4, 5, 6)
    torch.testing.assert_close(attended(None, position_bias=bias), attended(first, position_bias=bias))
    everything = torch.ones(5, 6, dtype=torch.bool)
    torch.testing.assert_close(attended(None, is_causal=False), attended(everything))


def test_result_has_heads_inside_rows():
    result = attended(None)
    assert result.shape == (2, 5, 4, 8)
    assert result.is_contiguous()


def test_a_batch_of_one_goes_with_any():
    module, query, key = torch.nn.Module(), torch.randn(1, 4, 5, 8), torch.randn(3, 4, 6, 8)
    result, weights = mfa.transformers.attention(module, query, key, key, None, is_causal=False)
    again, _ = mfa.transformers.attention(module, query.repeat(3, 1, 1, 1), key, key, None, is_causal=False)
    assert weights is None
    assert torch.equal(result, again)


@pytest.mark.parametrize(
    ("name", "implementation", "others"),
    [
        ("indices", "mfa", {}),
        ("block_indices", "mfa", {}),
        ("sinks", "mfa", {}),
        ("sinks", "sdpa", {}),
        ("indices", "sdpa", {"read_index": None}),
    ],
)
def test_what_is_in_no_mask_is_not_ignored(name, implementation, others):
    """Keys that a model chose, and sinks of each row; a continuous batch has a mask that is not read."""
    network = model("LlamaForCausalLM")
    network.set_attn_implementation(implementation)
    module, query = network.model.layers[0].self_attn, torch.randn(1, 4, 5, 8)
    with pytest.raises(ValueError, match=f"{name}: given, expected None"):
        mfa.transformers.attention(module, query, query, query, None, **{name: torch.zeros(1)}, **others)


def test_keys_that_a_model_chose_are_in_the_mask_for_sdpa():
    network = model("LlamaForCausalLM")
    network.set_attn_implementation("sdpa")
    module, query = network.model.layers[0].self_attn, torch.randn(1, 4, 5, 8)
    mask = torch.rand(1, 1, 5, 5) < 0.5
    result, _ = mfa.transformers.attention(module, query, query, query, mask, indices=torch.zeros(1))
    assert torch.equal(result, mfa.transformers.attention(module, query, query, query, mask)[0])


def test_weights_are_not_there():
    with pytest.raises(
        ValueError, match=r'output_attentions: True, expected False.* attn_implementation="eager"'
    ):
        attended(None, output_attentions=True)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"mask": torch.ones(5, 7, dtype=torch.bool)}, "attention_mask: "),
        ({"mask": torch.ones(5, 6, dtype=torch.int64)}, "attention_mask: "),
        ({"mask": None, "softcap": -1.0}, "softcap: "),
        ({"mask": None, "scaling": "1"}, "scaling: "),
        ({"mask": None, "dropout": 2.0}, "dropout_p: "),
        ({"mask": None, "s_aux": torch.zeros(3)}, "s_aux: "),
        ({"mask": None, "is_causal": False, "position_bias": torch.zeros(5, 7)}, "position_bias: "),
    ],
)
def test_errors_name_the_argument(keywords, message):
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        attended(**keywords)


def test_lists_beside_a_bias_are_refused():
    starts = torch.tensor([0, 5], dtype=torch.int32)
    with pytest.raises(ValueError, match="position_bias: given beside cu_seq_lens_q, expected None"):
        attended(None, position_bias=torch.zeros(5, 6), cu_seq_lens_q=starts, cu_seq_lens_k=starts)
