"""Every argument that would change the result and is not implemented: refused unless at its default."""

import inspect

import numpy as np
import pytest

import mfa

ONE = np.ones((1, 2, 1, 4), np.float32)
SCALE = np.ones((1, 1), np.float32)

NOT_IMPLEMENTED = [
    (mfa.flash_attn_func, "qv", [ONE, 0]),
    (mfa.flash_attn_func, "q_descale", [SCALE, 1.0]),
    (mfa.flash_attn_func, "k_descale", [SCALE, 1.0]),
    (mfa.flash_attn_func, "v_descale", [SCALE, 1.0]),
    (mfa.flash_attn_func, "attention_chunk", [1, -1, np.ones(2)]),
]

ONLY_TUNING = [
    (mfa.flash_attn_func, "num_splits", [0, 1, 7]),
    (mfa.flash_attn_func, "pack_gqa", [None, True, False]),
    (mfa.flash_attn_func, "deterministic", [True, False]),
    (mfa.flash_attn_func, "sm_margin", [0, 8]),
]

IMPLEMENTED = {
    mfa.scaled_dot_product_attention: "query key value attn_mask dropout_p is_causal scale enable_gqa",
    mfa.flash_attn_func: "q k v softmax_scale causal window_size softcap return_attn_probs",
}


def cases(table):
    return [
        pytest.param(function, name, value, id=f"{function.__name__}-{name}-{index}")
        for function, name, values in table
        for index, value in enumerate(values)
    ]


@pytest.mark.parametrize(("function", "name", "value"), cases(NOT_IMPLEMENTED))
def test_refused_by_name(function, name, value):
    with pytest.raises(
        NotImplementedError, match=rf"^{name}: .*mfa\.{function.__name__}.*expected its default"
    ):
        function(ONE, ONE, ONE, **{name: value})


@pytest.mark.parametrize(("function", "name"), [(function, name) for function, name, _ in NOT_IMPLEMENTED])
def test_default_is_accepted(function, name):
    default = inspect.signature(function).parameters[name].default
    assert np.array_equal(function(ONE, ONE, ONE, **{name: default}), function(ONE, ONE, ONE))


@pytest.mark.parametrize(("function", "name", "value"), cases(ONLY_TUNING))
def test_tuning_changes_nothing(function, name, value):
    assert np.array_equal(function(ONE, ONE, ONE, **{name: value}), function(ONE, ONE, ONE))
    assert name in function.__doc__


@pytest.mark.parametrize("function", IMPLEMENTED)
def test_every_argument_is_accounted_for(function):
    listed = IMPLEMENTED[function].split()
    listed += [name for owner, name, _ in NOT_IMPLEMENTED + ONLY_TUNING if owner is function]
    assert sorted(listed) == sorted(inspect.signature(function).parameters)


def without_types(function):
    signature = inspect.signature(function)
    parameters = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=parameters, return_annotation=signature.empty))


def test_signatures_are_those_of_their_origins():
    assert without_types(mfa.scaled_dot_product_attention) == (
        "(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False)"
    )
    assert without_types(mfa.flash_attn_func) == (
        "(q, k, v, softmax_scale=None, causal=False, qv=None, q_descale=None, k_descale=None, "
        "v_descale=None, window_size=(-1, -1), attention_chunk=0, softcap=0.0, num_splits=1, pack_gqa=None, "
        "deterministic=False, sm_margin=0, return_attn_probs=False)"
    )
