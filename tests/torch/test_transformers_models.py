"""Models that compute attention themselves, or know eager masks alone, get these."""

import warnings

import pytest
import torch
import transformers
from support.transformer_models import COMMON, ids

import mfa.transformers
from mfa.transformers import _attention, _models

SIZES = {"vocab_size": 97, "hidden_size": 32, "n_layer": 2, "n_head": 4}
ENCODER_AND_DECODER = {"vocab_size": 97, "d_model": 32, "encoder_layers": 1, "decoder_layers": 2} | {
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "pad_token_id": 0,
}
# Two that have their own, causal and not, and one that has not.
MODELS = {
    "BloomForCausalLM": lambda: transformers.BloomConfig(**SIZES, pad_token_id=0),
    "MPNetModel": lambda: transformers.MPNetConfig(**COMMON),
    "LlamaForCausalLM": lambda: transformers.LlamaConfig(**COMMON),
}


@pytest.fixture(autouse=True)
def fresh():
    _models.look_for_own_attention.cache_clear()
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def loaded(name, implementation):
    """As from_pretrained makes it, which does not ask whether the model can."""
    config = MODELS[name]()
    config._attn_implementation = implementation
    torch.manual_seed(5)
    return getattr(transformers, name)(config).eval()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("right", [0, 4])
@pytest.mark.parametrize("name", ["BloomForCausalLM", "MPNetModel"])
@torch.no_grad()
def test_they_compute_what_they_do_with_eager_attention(name, right, compiled):
    mask = torch.ones(2, 9, dtype=torch.int64)
    mask[0, 9 - right :] = 0
    expected = loaded(name, "eager")(ids(), attention_mask=mask)[0]
    network = loaded(name, "mfa")
    if compiled:
        network = torch.compile(network, backend="eager")
    with pytest.warns(
        UserWarning, match=f'{name[:5]}.* computes attention itself: attn_implementation="mfa"'
    ):
        found = network(ids(), attention_mask=mask)[0]
    assert torch.equal(found[mask.bool()], expected[mask.bool()])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network(ids(), attention_mask=mask)


def test_others_are_not_mistaken_for_them(monkeypatch):
    network = loaded("LlamaForCausalLM", "mfa")

    class Mine(transformers.LlamaForCausalLM):
        """Of a module whose source cannot be read, as a notebook's."""

    Mine.__module__ = "__nowhere__"
    monkeypatch.setattr(mfa.transformers._mask, "eager_mask", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network(ids())
        Mine(network.config)(ids())


def test_by_the_name_of_pytorchs_attention_they_get_masks_for_that():
    config = transformers.FalconConfig(**{**COMMON, "num_hidden_layers": 1, "attn_implementation": "sdpa"})
    network = transformers.FalconForCausalLM(config).eval()
    mask = torch.ones(2, 9, dtype=torch.int64)
    mask[0, :3] = 0
    expected = network(ids(), attention_mask=mask).logits[mask.bool()]
    with mfa.transformers.replace_sdpa(), warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(network(ids(), attention_mask=mask).logits[mask.bool()], expected)


FOR_EAGER_MASKS = {
    # No word of causality, and has none.
    "SplinterModel": lambda: transformers.SplinterConfig(**COMMON),
    # Has it, and says that it has not.
    "BigBirdPegasusModel": lambda: transformers.BigBirdPegasusConfig(
        attention_type="original_full", max_position_embeddings=64, **ENCODER_AND_DECODER
    ),
    # Routes tokens by the mask.
    "NllbMoeModel": lambda: transformers.NllbMoeConfig(
        num_experts=2, encoder_sparse_step=1, decoder_sparse_step=1, **ENCODER_AND_DECODER
    ),
}


@pytest.mark.parametrize("right", [0, 4])
@pytest.mark.parametrize(
    ("name", "compiled"), [("SplinterModel", True), *((name, False) for name in FOR_EAGER_MASKS)]
)
@torch.no_grad()
def test_models_for_eager_masks_get_them(name, right, compiled, monkeypatch):
    calls, forward = [], _attention.forward
    monkeypatch.setattr(_attention, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    mask = torch.ones(2, 9, dtype=torch.int64)
    mask[0, 9 - right :] = 0
    torch.manual_seed(5)
    network = getattr(transformers, name)(FOR_EAGER_MASKS[name]()).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    inputs = {"input_ids": ids(), "attention_mask": mask}
    if name != "SplinterModel":
        inputs["decoder_input_ids"] = ids(6)
    network.set_attn_implementation("eager")
    expected = network(**inputs)[0]
    network.set_attn_implementation("mfa")
    found = (torch.compile(network, backend="eager") if compiled else network)(**inputs)[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert calls
