"""mfa where Transformers knows attention by the name "sdpa"."""

import pytest
import torch
import transformers
from support.transformer_models import ids, model

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


def registered():
    return (
        transformers.AttentionInterface()["sdpa"],
        transformers.AttentionMaskInterface()["sdpa"],
    )


def test_sdpa_is_mfa_inside_and_what_it_was_outside(calls):
    network, before = model("LlamaForCausalLM"), registered()
    network.set_attn_implementation("sdpa")
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1, 1]] * 2)
    expected = network(ids(), attention_mask=mask).logits
    assert not calls
    with mfa.transformers.replace_sdpa():
        with mfa.transformers.replace_sdpa():
            pass
        actual = network(ids(), attention_mask=mask).logits
    assert len(calls) == LAYERS
    assert all(call["leftpad_k"].tolist() == [2, 2] for call in calls)
    torch.testing.assert_close(actual[:, 2:], expected[:, 2:], atol=1e-5, rtol=1e-5)
    assert registered() == before


def test_until_the_last_is_removed():
    before = registered()
    one, other = mfa.transformers.replace_sdpa(), mfa.transformers.replace_sdpa()
    inside = (mfa.transformers.attention, mfa.transformers.attention_mask)
    one.remove()
    one.remove()
    assert registered() == inside
    other.remove()
    assert registered() == before
    with pytest.raises(RuntimeError, match="replace_sdpa: removed already"), one:
        pass


REQUESTS = [ids(n, batch=1)[0].tolist() for n in (9, 3, 14)]
CONFIG = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}


@pytest.mark.parametrize(
    "name", ["LlamaForCausalLM", "MistralForCausalLM", "Gemma2ForCausalLM", "GptOssForCausalLM"]
)
def test_batches_are_continuous(name, calls):
    network = model(name, eos_token_id=None)
    network.generation_config.eos_token_id = None
    expected = [
        network.generate(torch.tensor([request]), **CONFIG)[0, len(request) :].tolist()
        for request in REQUESTS
    ]
    network.set_attn_implementation("mfa")
    with mfa.transformers.continuous_batching(network):
        outputs = network.generate_batch(
            REQUESTS,
            generation_config=transformers.GenerationConfig(**CONFIG, eos_token_id=-1),
            continuous_batching_config=transformers.ContinuousBatchingConfig(
                page_size=16, num_blocks=64, max_batch_tokens=64, auto_switch_to_flash=False
            ),
            progress_bar=False,
        )
    assert [output.generated_tokens for output in outputs.values()] == expected
    assert len(calls) >= LAYERS * CONFIG["max_new_tokens"]
    assert all(call["cu_seqlens_q"] is not None and call["mask"] is None for call in calls)
    assert {call["window"] for call in calls} >= {(3, -1) if name != "LlamaForCausalLM" else (-1, -1)}
    assert network.config._attn_implementation == "mfa"


def test_names_come_back_after_an_error():
    network, before = model("Gemma2ForCausalLM"), registered()

    def fail():
        with mfa.transformers.continuous_batching(network):
            raise KeyError(network.config._attn_implementation)

    with pytest.raises(KeyError, match="sdpa"):
        fail()
    assert network.config._attn_implementation == "eager"
    assert registered() == before
