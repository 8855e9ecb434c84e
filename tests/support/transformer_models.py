"""Small random models of Transformers, and what they compute."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers

transformers.logging.set_verbosity_error()
torch.set_num_threads(1)

COMMON = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = COMMON | {"num_key_value_heads": 2}
HYBRID = {
    "head_dim": 8,
    "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention"],
}
VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 16,
    "patch_size": 4,
}
CONFIGS = {
    "LlamaForCausalLM": ("LlamaConfig", GROUPED),
    "Gemma2ForCausalLM": (
        "Gemma2Config",
        GROUPED | {"head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 8},
    ),
    "Gemma3ForCausalLM": ("Gemma3TextConfig", GROUPED | HYBRID),
    "GptOssForCausalLM": (
        "GptOssConfig",
        GROUPED | HYBRID | {"num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "Qwen3ForCausalLM": ("Qwen3Config", GROUPED | {"head_dim": 8}),
    "MistralForCausalLM": ("MistralConfig", GROUPED | {"sliding_window": 4}),
    "Llama4ForCausalLM": (
        "Llama4TextConfig",
        GROUPED
        | {"head_dim": 8, "attention_chunk_size": 4, "layer_types": ["chunked_attention", "full_attention"]}
        | {"num_local_experts": 2, "intermediate_size_mlp": 64, "no_rope_layers": [1, 0]},
    ),
    "GPT2LMHeadModel": (
        "GPT2Config",
        {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "pad_token_id": 0}
        | {"bos_token_id": 1, "eos_token_id": 2},
    ),
    "BertForMaskedLM": ("BertConfig", COMMON),
    "ModernBertModel": (
        "ModernBertConfig",
        COMMON
        | {"local_attention": 4, "global_attn_every_n_layers": 2, "cls_token_id": 1, "sep_token_id": 2},
    ),
    "T5ForConditionalGeneration": (
        "T5Config",
        {"vocab_size": 97, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
        | {"pad_token_id": 0, "decoder_start_token_id": 0, "eos_token_id": 1},
    ),
    "WhisperModel": (
        "WhisperConfig",
        {"vocab_size": 97, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2}
        | {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64}
        | {"decoder_ffn_dim": 64, "num_mel_bins": 8, "max_source_positions": 20, "max_target_positions": 20}
        | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1},
    ),
    "ViTModel": ("ViTConfig", VISION),
    "CLIPVisionModel": ("CLIPVisionConfig", VISION),
}
DECODERS = [name for name in CONFIGS if name.endswith(("CausalLM", "LMHeadModel"))]


def model(name, dropout=0.0, **changed):
    """One in eval mode, of weights that make every layer count; the same for the same arguments."""
    config_name, options = CONFIGS[name]
    config = getattr(transformers, config_name)(**options | changed)
    for option in ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob", "dropout_rate"):
        if hasattr(config, option):
            setattr(config, option, dropout)
    config._attn_implementation = "eager"
    with torch.random.fork_rng():
        torch.manual_seed(7)
        made = getattr(transformers, name)(config).eval()
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return made


def ids(rows=9, batch=2):
    with torch.random.fork_rng():
        torch.manual_seed(rows)
        return torch.randint(3, 97, (batch, rows))
