"""Functions of PyTorch's and FlashAttention-3's: their signatures, and arguments that change no result."""

import inspect

import numpy as np
import pytest

import mfa
from mfa import flash_attn_interface

ONE = np.ones((1, 2, 1, 4), np.float32)
STARTS = np.array([0, 2], np.int32)

SIGNATURES = {
    mfa.scaled_dot_product_attention: (
        "(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False)"
    ),
    mfa.flash_attn_func: (
        "(q, k, v, softmax_scale=None, causal=False, qv=None, q_descale=None, k_descale=None, "
        "v_descale=None, window_size=(-1, -1), attention_chunk=0, softcap=0.0, num_splits=1, pack_gqa=None, "
        "deterministic=False, sm_margin=0, return_attn_probs=False)"
    ),
    mfa.flash_attn_qkvpacked_func: (
        "(qkv, softmax_scale=None, causal=False, q_descale=None, k_descale=None, v_descale=None, "
        "window_size=(-1, -1), attention_chunk=0, softcap=0.0, deterministic=False, num_heads_q=None, "
        "sm_margin=0, return_attn_probs=False)"
    ),
    mfa.flash_attn_varlen_func: (
        "(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, seqused_q=None, seqused_k=None, "
        "softmax_scale=None, causal=False, qv=None, q_descale=None, k_descale=None, v_descale=None, "
        "window_size=(-1, -1), attention_chunk=0, softcap=0.0, num_splits=1, pack_gqa=None, "
        "deterministic=False, sm_margin=0, return_attn_probs=False)"
    ),
    mfa.flash_attn_with_kvcache: (
        "(q, k_cache, v_cache, k=None, v=None, qv=None, rotary_cos=None, rotary_sin=None, "
        "cache_seqlens=None, cache_batch_idx=None, cache_leftpad=None, page_table=None, cu_seqlens_q=None, "
        "cu_seqlens_k_new=None, max_seqlen_q=None, rotary_seqlens=None, q_descale=None, k_descale=None, "
        "v_descale=None, softmax_scale=None, causal=False, window_size=(-1, -1), attention_chunk=0, "
        "softcap=0.0, rotary_interleaved=True, scheduler_metadata=None, num_splits=0, pack_gqa=None, "
        "sm_margin=0, return_softmax_lse=False)"
    ),
    mfa.flash_attn_combine: "(out_partial, lse_partial, out=None, out_dtype=None)",
    # FlashAttention-3 has torch.bfloat16, which is there only where torch is.
    mfa.get_scheduler_metadata: (
        "(batch_size, max_seqlen_q, max_seqlen_k, num_heads_q, num_heads_kv, headdim, cache_seqlens, "
        "qkv_dtype='bfloat16', headdim_v=None, cu_seqlens_q=None, cu_seqlens_k_new=None, "
        "cache_leftpad=None, page_size=None, max_seqlen_k_new=0, causal=False, window_size=(-1, -1), "
        "attention_chunk=0, has_softcap=False, num_splits=0, pack_gqa=None, sm_margin=0)"
    ),
}

TUNING = {"num_splits": [0, 1, 7], "pack_gqa": [None, True, False], "deterministic": [True], "sm_margin": [8]}
CALLS = {
    mfa.flash_attn_func: lambda **more: mfa.flash_attn_func(ONE, ONE, ONE, **more),
    mfa.flash_attn_qkvpacked_func: lambda **more: mfa.flash_attn_qkvpacked_func(
        np.stack([ONE] * 3, axis=2), **more
    ),
    mfa.flash_attn_varlen_func: lambda **more: mfa.flash_attn_varlen_func(
        ONE[0], ONE[0], ONE[0], STARTS, STARTS, 2, 2, **more
    ),
    mfa.flash_attn_with_kvcache: lambda **more: mfa.flash_attn_with_kvcache(ONE, ONE, ONE, **more),
}


def without_types(function):
    signature = inspect.signature(function)
    parameters = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=parameters, return_annotation=signature.empty))


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda function: function.__name__)
def test_signature_is_that_of_its_origin(function):
    assert without_types(function) == SIGNATURES[function]


@pytest.mark.parametrize(
    ("function", "name", "value"),
    [
        pytest.param(function, name, value, id=f"{function.__name__}-{name}-{value}")
        for function in CALLS
        for name in TUNING
        if name in inspect.signature(function).parameters
        for value in TUNING[name]
    ],
)
def test_tuning_changes_nothing(function, name, value):
    assert np.array_equal(CALLS[function](**{name: value}), CALLS[function]())
    assert name in function.__doc__ or "As for `mfa.flash_attn_func`" in function.__doc__


def test_the_interface_has_all_that_flash_attention_3_has():
    names = {function.__name__ for function in SIGNATURES if function is not mfa.scaled_dot_product_attention}
    assert set(flash_attn_interface.__all__) == names
    for name in names:
        assert getattr(flash_attn_interface, name) is getattr(mfa, name)


def test_code_for_flash_attention_3_runs_after_changing_its_import():
    source = (
        "from flash_attn_interface import flash_attn_func, flash_attn_with_kvcache\n"
        "out, softmax_lse = flash_attn_func(q, k, v, causal=True, return_attn_probs=True)\n"
        "cached, lse, *rest = flash_attn_with_kvcache(\n"
        "    q, k, v, cache_seqlens=2, causal=True, return_softmax_lse=True)\n"
    )
    names = {"q": ONE, "k": ONE, "v": ONE}
    exec(source.replace("flash_attn_interface", "mfa.flash_attn_interface"), names)
    assert np.array_equal(names["out"], names["cached"])
    assert np.array_equal(names["softmax_lse"], names["lse"])
