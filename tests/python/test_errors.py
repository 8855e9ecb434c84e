"""Every error of the Python layer: its type, and that its message names the argument, its value and what was
expected."""

import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

import mfa

SHAPE = (2, 5, 4, 8)
ONES = np.ones(SHAPE, np.float32)


def frozen(array):
    array.flags.writeable = False
    return array


ATTENTION = [
    # arrays
    ({"query": 3}, TypeError, "query: int, expected an array with the buffer protocol or DLPack"),
    ({"key": None}, TypeError, "key: NoneType, expected an array"),
    ({"value": [[1.0]]}, TypeError, "value: list, expected an array"),
    (
        {"query": ONES[0]},
        ValueError,
        r"^query: 3 dimensions, expected 4, \(batch, sequence, heads, head_dim\)$",
    ),
    (
        {"query": ONES[0], "layout": "bhsd"},
        ValueError,
        r"^query: 3 dimensions, expected 4, \(batch, heads, sequence, head_dim\)$",
    ),
    ({"key": ONES[None]}, ValueError, "key: 5 dimensions, expected at most 4"),
    ({"value": np.float32(1)}, ValueError, "value: 0 dimensions, expected 4"),
    ({"query": memoryview(b"abcd")}, TypeError, "query: dtype B, expected float32, float16 or bfloat16"),
    (
        {"query": torch.ones(SHAPE, dtype=torch.float64)},
        TypeError,
        r"^query: dtype float64, expected .* bfloat16, as query\.to\(torch\.float32\) has$",
    ),
    (
        {"query": torch.ones(SHAPE, dtype=torch.float8_e4m3fn)},
        TypeError,
        "^query: dtype float8_e4m3fn, expected float32, float16 or bfloat16$",
    ),
    ({"key": torch.ones(SHAPE, dtype=torch.int32)}, TypeError, "key: dtype int32, expected float32"),
    ({"key": torch.ones(SHAPE, dtype=torch.complex64)}, TypeError, "key: dtype complex64, expected float32"),
    ({"key": torch.ones(SHAPE, dtype=torch.bool)}, TypeError, "key: dtype bool, expected float32"),
    (
        {"key": ONES.astype(np.float64)},
        TypeError,
        r"^key: dtype float64, expected .* bfloat16, as key\.astype\(numpy\.float32\) has$",
    ),
    ({"key": ONES.astype(bool)}, TypeError, "key: dtype bool, expected float32, float16 or bfloat16"),
    ({"value": ONES.astype(np.uint16)}, TypeError, "value: dtype uint16, expected float32"),
    ({"value": ONES.astype(">f4")}, TypeError, "value: dtype >f4, expected .* in native byte order"),
    ({"value": ONES.astype(object)}, TypeError, "value: dtype object, expected float32"),
    ({"key": np.ma.masked_array(ONES)}, TypeError, "key: is a masked array, .*; expected a plain array"),
    # sizes and dtypes that disagree
    ({"key": ONES[:1]}, ValueError, r"^key: shape \(1, 5, 4, 8\), expected \(2, 5, 4, 8\)"),
    ({"key": ONES[:, :, :3]}, ValueError, "^key: 3 heads, expected a divisor of the 4 of query$"),
    (
        {"key": ONES[:, :4, :3], "value": ONES[:, :4, :3]},
        ValueError,
        r"^key: 3 heads, expected a divisor of the 4 of query \(heads are axis 2\)$",
    ),
    # heads first, as PyTorch has them: 4 heads of 5 and 3 rows
    (
        {
            "query": ONES.swapaxes(1, 2),
            "key": ONES[:, :3].swapaxes(1, 2),
            "value": ONES[:, :3].swapaxes(1, 2),
        },
        ValueError,
        r"^key: 3 heads, .* \(heads are axis 2; these shapes fit layout='bhsd'\)$",
    ),
    (
        {"key": ONES[:, :3, :2], "value": ONES[:, :3, :2], "layout": "bhsd"},
        ValueError,
        r"^key: 3 heads, .* \(heads are axis 1; these shapes fit layout='bshd'\)$",
    ),
    ({"key": ONES[..., :4]}, ValueError, r"^key: shape \(2, 5, 4, 4\), expected \(2, 5, 4, 8\)"),
    ({"value": ONES[:, :3]}, ValueError, r"^value: shape \(2, 3, 4, 8\), expected \(2, 5, 4, 8\)"),
    ({"key": ONES.astype(np.float16)}, ValueError, "^key: dtype float16, expected float32 as query has"),
    ({"query": ONES[..., :0]}, ValueError, "^query: head dimension 0, expected 1 or more"),
    ({"query": ONES[:, :, :0]}, ValueError, "^query: 0 heads, expected 1 or more"),
    ({"value": ONES[..., :0]}, ValueError, "^value: head dimension 0, expected 1 or more"),
    ({"value": ONES[:, :, :2]}, ValueError, r"^value: shape \(2, 5, 2, 8\), expected \(2, 5, 4, 8\)"),
    # scalars
    ({"layout": "sbhd"}, ValueError, "layout: 'sbhd', expected 'bshd' or 'bhsd'"),
    ({"layout": np.array("bshd")}, TypeError, "layout: array.*, expected 'bshd' or"),
    ({"intermediate_precision": np.ones(2)}, TypeError, "intermediate_precision: array.*, expected None or"),
    ({"layout": None}, TypeError, "layout: None, expected"),
    (
        {"causal": "bottom"},
        ValueError,
        "causal: 'bottom', expected None, a bool, 'top-left' or 'bottom-right'",
    ),
    ({"causal": 1}, ValueError, "causal: 1, expected"),
    ({"alignment": "left"}, ValueError, "alignment: 'left', expected None, 'top-left' or 'bottom-right'"),
    ({"alignment": True}, ValueError, "alignment: True, expected"),
    ({"causal": True, "alignment": "top-left"}, ValueError, "alignment: 'top-left', expected 'bottom-right'"),
    ({"window": 3}, TypeError, "window: 3, expected two integers"),
    ({"window": (1, 2, 3)}, TypeError, r"window: \(1, 2, 3\), expected two integers"),
    ({"window": (1.5, 0)}, TypeError, r"window: \(1\.5, 0\), expected two integers"),
    ({"window": (-2, 0)}, ValueError, r"window: \(-2, 0\), expected integers from 0 up, or -1"),
    ({"window": (0, 2**63)}, ValueError, r"window: \(0, 9223372036854775808\), expected integers"),
    ({"window": (True, False)}, TypeError, r"window: \(True, False\), expected two integers"),
    ({"window": (np.array([1]), 0)}, TypeError, "window: .*, expected two integers"),
    ({"softmax_scale": True}, TypeError, "softmax_scale: True, expected a real number"),
    ({"softmax_scale": np.ones(1)}, TypeError, "softmax_scale: array.*, expected a real number"),
    ({"softmax_scale": torch.ones(2)}, TypeError, "softmax_scale: tensor.*, expected a real number"),
    ({"softmax_scale": 10**400}, ValueError, "softmax_scale: beyond any float, expected a finite float32"),
    ({"softmax_scale": 10**9999}, ValueError, "softmax_scale: beyond any float, expected a finite float32"),
    ({"softmax_scale": "1"}, TypeError, "softmax_scale: '1', expected a real number"),
    ({"softmax_scale": 1j}, TypeError, "softmax_scale: 1j, expected a real number"),
    ({"softmax_scale": float("nan")}, ValueError, "softmax_scale: nan, expected a finite"),
    ({"softmax_scale": 1e39}, ValueError, r"softmax_scale: 1e\+39, expected a finite float32"),
    ({"softcap": None}, TypeError, "softcap: None, expected a real number"),
    ({"softcap": -1.0}, ValueError, r"softcap: -1\.0, expected 0 \(off\) or a positive number"),
    ({"softcap": 1e-60}, ValueError, "softcap: 1e-60, which is 0 in float32"),
    ({"softcap": np.ones(3)}, TypeError, "softcap: array.*, expected a real number"),
    ({"softcap": float("inf")}, ValueError, "softcap: inf, expected a finite"),
    (
        {"intermediate_precision": "float16"},
        ValueError,
        "intermediate_precision: 'float16', expected None or",
    ),
    ({"dropout_p": "half"}, TypeError, "dropout_p: 'half', expected a real number"),
    ({"dropout_p": True}, TypeError, "dropout_p: True, expected a real number"),
    ({"dropout_p": -0.1}, ValueError, r"dropout_p: -0\.1, expected at least 0 and less than 1"),
    ({"dropout_p": 1}, ValueError, r"dropout_p: 1\.0, expected at least 0 and less than 1"),
    ({"dropout_p": float("nan")}, ValueError, "dropout_p: nan, expected a finite"),
    ({"dropout_p": 1 - 1e-9}, ValueError, r"dropout_p: 0\.999999999, which is 1 in float32; expected less"),
    ({"dropout_seed": 1.0}, TypeError, r"dropout_seed: 1\.0, expected an integer"),
    ({"dropout_seed": None}, TypeError, "dropout_seed: None, expected an integer"),
    ({"dropout_seed": -1}, ValueError, "dropout_seed: -1, expected 0 to 18446744073709551615"),
    ({"dropout_offset": True}, TypeError, "dropout_offset: True, expected an integer"),
    ({"dropout_offset": 2**64}, ValueError, "dropout_offset: 18446744073709551616, expected 0 to"),
    ({"return_lse": 1}, TypeError, "return_lse: 1, expected a bool"),
    ({"context": "cpu"}, TypeError, r"^context: 'cpu', expected a mfa\.Context or None$"),
    ({"is_causal": True}, TypeError, "unexpected keyword argument 'is_causal', expected causal='top-left'"),
    ({"attn_mask": None}, TypeError, "unexpected keyword argument 'attn_mask', expected mask$"),
    ({"scale": 1.0}, TypeError, "unexpected keyword argument 'scale', expected softmax_scale$"),
    ({"softmax_scal": 1.0}, TypeError, "unexpected keyword argument 'softmax_scal', expected softmax_scale$"),
    ({"xyzzy": 1.0}, TypeError, "unexpected keyword argument 'xyzzy'$"),
    # masks and per-head numbers
    ({"mask": np.ones((5, 5), np.uint8)}, TypeError, "mask: dtype uint8, expected float32, .* or bool"),
    ({"mask": np.ones((1, 2, 4, 5, 5), bool)}, ValueError, "mask: 5 dimensions, expected at most 4"),
    (
        {"mask": np.ones((2, 5), bool), "query": ONES[:, :4]},
        ValueError,
        r"^mask: shape \(2, 5\), .* to \(2, 4, 4, 5\), as mask\[:, None, None, :\] does if",
    ),
    (
        {"mask": np.ones((5, 4), bool)},
        ValueError,
        r"^mask: shape \(5, 4\), expected one that broadcasts to \(2, 4, 5, 5\)",
    ),
    ({"mask": np.ones((3, 5, 5), np.float32)}, ValueError, r"^mask: shape \(3, 5, 5\), expected one that"),
    ({"bias": np.ones((2, 1, 4, 5), np.float32)}, ValueError, r"^bias: shape \(2, 1, 4, 5\), expected one"),
    ({"bias": np.ones((5, 5), bool)}, TypeError, "bias: dtype bool, expected float32, float16 or bfloat16"),
    (
        {"mask": ONES[0, :, 0, :5], "bias": ONES[0, :, 0, :5]},
        ValueError,
        "bias: given beside a floating mask, expected at most one",
    ),
    ({"alibi_slopes": [1.0] * 4}, TypeError, "alibi_slopes: list, expected an array"),
    ({"alibi_slopes": np.ones(4)}, TypeError, "alibi_slopes: dtype float64, expected float32"),
    ({"alibi_slopes": ONES}, ValueError, r"alibi_slopes: 4 dimensions, expected \(heads\) or"),
    (
        {"alibi_slopes": ONES[0, 0, :3, 0]},
        ValueError,
        r"^alibi_slopes: shape \(3,\), expected \(4,\) or \(2, 4\)",
    ),
    (
        {"alibi_slopes": np.ones((3, 4), np.float32)},
        ValueError,
        r"^alibi_slopes: shape \(3, 4\), expected \(4,\) or \(2, 4\)",
    ),
    ({"sinks": np.ones(4, np.int64)}, TypeError, "sinks: dtype int64, expected a floating one"),
    ({"sinks": np.ones((1, 4), np.float32)}, ValueError, r"sinks: 2 dimensions, expected \(heads\)"),
    (
        {"sinks": np.ones(5, np.float32)},
        ValueError,
        r"^sinks: shape \(5,\), expected \(4,\)",
    ),
    ({"sinks": np.ma.masked_array(np.ones(4))}, TypeError, "sinks: is a masked array"),
    ({"alibi_slopes": np.ma.masked_array(np.ones(4, "f"))}, TypeError, "alibi_slopes: is a masked array"),
    # results
    ({"out": frozen(ONES.copy())}, BufferError, "out: is read-only, expected writable memory"),
    ({"out": memoryview(bytes(ONES.nbytes)).cast("f", SHAPE)}, BufferError, "out: is read-only"),
    ({"out": ONES[0].copy()}, ValueError, "out: 3 dimensions, expected 4"),
    ({"out": ONES[:, :4].copy()}, ValueError, r"out: shape \(2, 4, 4, 8\), expected \(2, 5, 4, 8\)"),
    ({"out": ONES.astype(np.int32)}, TypeError, "out: dtype int32, expected float32"),
    ({"out": ONES}, ValueError, "out overlaps query in memory"),
    ({"out": np.broadcast_to(np.zeros((1, 1, 1, 1), np.float32), SHAPE)}, BufferError, "out: is read-only"),
    (
        {"out": np.lib.stride_tricks.as_strided(np.zeros(8, np.float32), SHAPE, (0, 0, 0, 4))},
        ValueError,
        "out: stride 0 of dimension . does not exceed",
    ),
    ({"out_dtype": "float64"}, TypeError, "out_dtype: 'float64', expected float32, float16 or bfloat16"),
    ({"out_dtype": ">f4" if sys.byteorder == "little" else "<f4"}, TypeError, "out_dtype: ..f4.*byte order"),
    ({"out_dtype": torch.int8}, TypeError, r"out_dtype: torch\.int8, expected"),
    ({"out_dtype": "half a float"}, TypeError, "out_dtype: 'half a float', expected"),
    (
        {"out": np.zeros(SHAPE, np.float32), "out_dtype": "float16"},
        ValueError,
        "out_dtype: float16, expected float32 as out has",
    ),
]


def cases(table):
    return [
        pytest.param(*case, id=f"{'-'.join(map(str, case[0]))}-{index}") for index, case in enumerate(table)
    ]


@pytest.mark.parametrize("function", [mfa.attention, mfa.plan])
@pytest.mark.parametrize(("arguments", "error", "message"), cases(ATTENTION))
def test_attention(function, arguments, error, message):
    with pytest.raises(error, match=message):
        function(**{"query": ONES, "key": ONES, "value": ONES, **arguments})


def test_plan():
    with pytest.raises(TypeError, match="backward: 1, expected a bool"):
        mfa.plan(ONES, ONES, ONES, backward=1)


LSE = np.zeros((2, 4, 5), np.float32)
SQUARE = np.zeros((5, 5), np.float32)

BACKWARD = [
    *(case for case in ATTENTION if not {"out", "return_lse"} & set(case[0])),
    ({"dout": None}, TypeError, "^dout: NoneType, expected an array with the buffer protocol or DLPack"),
    ({"dout": ONES[0]}, ValueError, "^dout: 3 dimensions, expected 4"),
    ({"dout": ONES.astype(int)}, TypeError, "^dout: dtype int64, expected float32, float16 or bfloat16"),
    ({"dout": ONES[:, :3]}, ValueError, r"^dout: shape \(2, 3, 4, 8\), expected \(2, 5, 4, 8\)"),
    (
        {"dout": ONES[:, :3], "layout": "bhsd"},
        ValueError,
        r"^dout: shape \(2, 3, 4, 8\), expected \(2, 5, 4, 8\)",
    ),
    ({"value": ONES[..., :3]}, ValueError, r"^dout: shape \(2, 5, 4, 8\), expected \(2, 5, 4, 3\)"),
    ({"dout": np.ma.masked_array(ONES)}, TypeError, "^dout: is a masked array"),
    ({"out": None}, TypeError, "^out: NoneType, expected an array with the buffer protocol or DLPack"),
    ({"out": ONES.astype(bool)}, TypeError, "^out: dtype bool, expected float32, float16 or bfloat16"),
    ({"out": ONES[:, :, :2]}, ValueError, r"^out: shape \(2, 5, 2, 8\), expected \(2, 5, 4, 8\)"),
    ({"lse": None}, TypeError, "^lse: NoneType, expected an array with the buffer protocol or DLPack"),
    ({"lse": LSE[0]}, ValueError, r"^lse: 2 dimensions, expected 3, \(batch, heads, sequence\)$"),
    ({"lse": LSE[..., None]}, ValueError, "^lse: 4 dimensions, expected 3"),
    ({"lse": LSE.swapaxes(1, 2)}, ValueError, r"^lse: shape \(2, 5, 4\), expected \(2, 4, 5\)"),
    ({"lse": LSE, "layout": "bhsd"}, ValueError, r"^lse: shape \(2, 4, 5\), expected \(2, 5, 4\)"),
    ({"lse": LSE.astype(np.float16)}, TypeError, "^lse: dtype float16, expected float32$"),
    (
        {"lse": LSE.astype(np.float64)},
        TypeError,
        r"^lse: dtype float64, expected float32, as lse\.astype\(numpy\.float32\) has$",
    ),
    ({"lse": torch.zeros(2, 4, 5).bfloat16()}, TypeError, "^lse: dtype bfloat16, expected float32$"),
    ({"lse": LSE > 0}, TypeError, "^lse: dtype bool, expected float32$"),
    ({"dlse": 1.0}, TypeError, "^dlse: float, expected an array with the buffer protocol or DLPack"),
    ({"dlse": LSE[0]}, ValueError, "^dlse: 2 dimensions, expected 3"),
    ({"dlse": LSE.swapaxes(1, 2)}, ValueError, r"^dlse: shape \(2, 5, 4\), expected \(2, 4, 5\)"),
    ({"dlse": LSE.astype(np.float64)}, TypeError, "^dlse: dtype float64, expected float32, as dlse"),
    (
        {"wanted": "dq"},
        TypeError,
        "^wanted: 'dq', expected None or some of 'dq', 'dk', 'dv', 'dbias', 'dsinks'",
    ),
    ({"wanted": 3}, TypeError, "^wanted: 3, expected None or some of 'dq'"),
    ({"wanted": ["dq", "query"]}, ValueError, "^wanted: names 'query', expected None or some of 'dq'"),
    ({"wanted": [["dq"]]}, ValueError, r"^wanted: names \['dq'\], expected None or some of 'dq'"),
    ({"wanted": ["dbias"]}, ValueError, "^wanted: 'dbias', expected bias or a floating mask to go with it"),
    ({"wanted": ["dbias"], "mask": SQUARE == 0}, ValueError, "^wanted: 'dbias', expected bias or a floating"),
    ({"wanted": {"dsinks"}, "bias": SQUARE}, ValueError, "^wanted: 'dsinks', expected sinks to go with it"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), cases(BACKWARD))
def test_attention_backward(arguments, error, message):
    given = {"dout": ONES, "query": ONES, "key": ONES, "value": ONES, "out": ONES, "lse": LSE}
    with pytest.raises(error, match=message):
        mfa.attention_backward(**{**given, **arguments})


FIVE_AXES = np.ones((3, *SHAPE), np.float32)
EMPTY_AXIS = np.ones((0, *SHAPE), np.float32)

SDPA = [
    ({"query": ONES[0, 0, 0]}, ValueError, "query: 1 dimensions, expected 2 to 4"),
    ({"key": ONES[0, 0, 0], "query": ONES[None]}, ValueError, "key: 1 dimensions, expected at least 2"),
    ({"key": ONES[:, :2], "value": ONES[:, :2]}, ValueError, "key: 2 heads, expected 5 as query has"),
    ({"value": ONES[:, :2]}, ValueError, "value: 2 heads, expected 5 as query has, or enable_gqa=True"),
    (
        {"key": ONES[:, :3], "enable_gqa": True},
        ValueError,
        "key: 3 heads, expected a divisor of the 5 of query",
    ),
    (
        {"query": np.ones((3, *SHAPE), np.float32), "key": np.ones((2, *SHAPE), np.float32)},
        ValueError,
        r"query, key, value: leading axes \(3, 2\), \(2, 2\), \(1, 2\), expected some that broadcast",
    ),
    (
        {"query": np.ones((3, 5, 4, 8), np.float32)},
        ValueError,
        r"^key: shape \(2, 5, 4, 8\), expected \(3, 5, 4, 8\)",
    ),
    ({"query": FIVE_AXES, "key": FIVE_AXES.astype(np.float16)}, ValueError, "^key: dtype float16, expected"),
    ({"query": EMPTY_AXIS, "key": EMPTY_AXIS.astype(int)}, TypeError, "^key: dtype int64, expected float32"),
    ({"query": EMPTY_AXIS, "value": EMPTY_AXIS.astype(np.float16)}, ValueError, "^value: dtype float16"),
    ({"query": FIVE_AXES, "key": np.ma.masked_array(ONES)}, TypeError, "^key: is a masked array"),
    (
        {"query": EMPTY_AXIS, "attn_mask": np.ones((4, 3), bool)},
        ValueError,
        r"^attn_mask: shape \(4, 3\), expected one that broadcasts to \(0, 2, 5, 4, 4\)",
    ),
    ({"query": FIVE_AXES, "attn_mask": np.ones((4, 4), int)}, TypeError, "^attn_mask: dtype int64, expected"),
    (
        {"query": FIVE_AXES, "attn_mask": np.ma.masked_array(np.ones((4, 4), bool))},
        TypeError,
        "^attn_mask: is a masked array",
    ),
    ({"attn_mask": np.ones((4, 3), bool)}, ValueError, r"^attn_mask: shape \(4, 3\), .* to \(2, 5, 4, 4\)"),
    ({"attn_mask": np.ones((4, 4), np.int8)}, TypeError, "attn_mask: dtype int8, expected"),
    ({"attn_mask": np.ones((4, 4), bool), "is_causal": True}, ValueError, "attn_mask: .*is_causal=True"),
    ({"is_causal": "yes"}, TypeError, "is_causal: 'yes', expected a bool"),
    ({"enable_gqa": 1}, TypeError, "enable_gqa: 1, expected a bool"),
    ({"scale": "x"}, TypeError, "scale: 'x', expected a real number"),
    ({"dropout_p": "x"}, TypeError, "dropout_p: 'x', expected a real number"),
    ({"dropout_p": 1}, ValueError, r"dropout_p: 1\.0, expected at least 0 and less than 1"),
    ({"dropout_p": -1.0}, ValueError, r"dropout_p: -1\.0, expected at least 0 and less than 1"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), SDPA, ids=range(len(SDPA)))
def test_scaled_dot_product_attention(arguments, error, message):
    with pytest.raises(error, match=message):
        mfa.scaled_dot_product_attention(**{"query": ONES, "key": ONES, "value": ONES, **arguments})


FLASH = [
    ({"q": ONES[0]}, ValueError, "^q: 3 dimensions, expected 4"),
    ({"k": ONES[:, :, :3]}, ValueError, "^k: 3 heads, expected a divisor of the 4 of q"),
    ({"v": ONES[:, :2]}, ValueError, r"^v: shape \(2, 2, 4, 8\), expected \(2, 5, 4, 8\)"),
    ({"v": ONES.astype(np.float16)}, ValueError, "^v: dtype float16, expected float32 as q has"),
    ({"causal": "top-left"}, TypeError, "causal: 'top-left', expected a bool"),
    ({"window_size": (None, None)}, TypeError, r"window_size: \(None, None\), expected two integers"),
    ({"window_size": (-3, 0)}, ValueError, r"window_size: \(-3, 0\), expected integers"),
    ({"softcap": -2.0}, ValueError, r"softcap: -2\.0, expected 0"),
    ({"return_attn_probs": None}, TypeError, "return_attn_probs: None, expected a bool"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), FLASH, ids=range(len(FLASH)))
def test_flash_attn_func(arguments, error, message):
    with pytest.raises(error, match=message):
        mfa.flash_attn_func(**{"q": ONES, "k": ONES, "v": ONES, **arguments})


@pytest.mark.parametrize(
    ("width", "error", "message"),
    [
        (0, ValueError, "width: 0, expected 1 or more"),
        (2.0, TypeError, r"width: 2\.0, expected an integer"),
        (True, TypeError, "width: True, expected an integer"),
    ],
)
def test_sliding_window(width, error, message):
    with pytest.raises(error, match=message):
        mfa.sliding_window(width)


def test_sliding_window_counts_its_own_key():
    assert mfa.sliding_window(np.int64(4)) == (3, 0)
    value = np.arange(5, dtype=np.float32).reshape(1, 5, 1, 1) * ONES
    assert np.array_equal(mfa.attention(ONES, ONES, value, window=mfa.sliding_window(1)), value)


def test_failed_call_leaves_out_alone():
    out = np.full(SHAPE, 7, np.float32)
    with pytest.raises(ValueError, match="sinks: shape"):
        mfa.attention(ONES, ONES, ONES, sinks=np.ones(5, np.float32), out=out)
    assert (out == 7).all()


def test_numpy_truth_values_are_bools():
    operands = np.random.default_rng(0).standard_normal((3, *SHAPE), np.float32)
    expected = mfa.attention(*operands, causal=True)
    assert np.array_equal(mfa.attention(*operands, causal=np.True_), expected)
    assert np.array_equal(mfa.flash_attn_func(*operands, causal=np.True_), expected)
    assert np.array_equal(mfa.attention(*operands, causal=np.False_), mfa.attention(*operands))


def test_numpy_scalars_are_numbers():
    expected = mfa.attention(ONES, ONES, ONES, softmax_scale=0.5, window=(2, 1), causal=True)
    result = mfa.attention(
        ONES,
        ONES,
        ONES,
        softmax_scale=np.float64(0.5),
        window=(np.int32(2), np.int64(1)),
        causal="bottom-right",
    )
    assert np.array_equal(result, expected)


# ---------------------------------------------------------------- the error gate


def test_device_not_supported_is_mfa_error():
    isa = "neon" if subprocess.check_output(["uname", "-m"], text=True).strip() == "x86_64" else "avx2"
    with pytest.raises(mfa.MFAError, match=isa) as caught:
        mfa.Context("cpu", cpu_isa=isa)
    assert caught.value.code == 3
    assert isinstance(caught.value, RuntimeError)
    assert str(caught.value) == caught.value.args[0]


def wide_operands(head_dim):
    """One row of that many numbers, all of which are the same one in memory."""
    row = np.broadcast_to(np.float32(1), (1, 1, 1, head_dim))
    return row, row, np.ones((1, 1, 1, 4), np.float32)


def test_head_dim_beyond_every_kernel_is_unsupported():
    operands = wide_operands(2**20 + 1)
    with mfa.Context("cpu") as context:
        with pytest.raises(mfa.MFAError, match="1048577") as caught:
            mfa.attention(*operands, context=context)
        plan = mfa.plan(*operands, context=context)
    assert caught.value.code == 6
    assert plan.status == 6
    assert plan.reason == str(caught.value)


def test_head_dim_beyond_every_backward_kernel_is_unsupported():
    query, key, value = wide_operands(2**20 + 1)
    with mfa.Context("cpu") as context:
        with pytest.raises(mfa.MFAError, match="1048577") as caught:
            mfa.attention_backward(
                value, query, key, value, value, np.zeros((1, 1, 1), np.float32), context=context
            )
        plan = mfa.plan(query, key, value, backward=True, context=context)
    assert caught.value.code == 6
    assert plan.status == 6
    assert plan.reason == str(caught.value)


@pytest.mark.cpu
def test_absent_backend_is_mfa_error():
    with pytest.raises(mfa.MFAError, match="metal") as caught:
        mfa.Context("metal")
    assert caught.value.code == 3
    assert not mfa.is_device_supported()


def test_mfa_error_pickles():
    error = pickle.loads(pickle.dumps(mfa.MFAError("no such kernel", 6)))
    assert (str(error), error.code) == ("no such kernel", 6)


def test_exhausted_memory_is_memory_error():
    with mfa.Context() as context, pytest.raises(MemoryError, match="4611686018427387904"):
        mfa.Buffer(context, 2**62)


def test_message_belongs_to_the_failing_call():
    for head_dim in (2**20 + 1, 2**20 + 2):
        with pytest.raises(mfa.MFAError, match=str(head_dim)):
            mfa.attention(*wide_operands(head_dim))


def test_environment_is_checked_and_named():
    code = "import mfa, numpy; a = numpy.ones((1, 1, 1, 1), 'f'); mfa.attention(a, a, a)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**subprocess.os.environ, "MFA_BACKEND": "cpu", "MFA_NUM_THREADS": "many"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert re.search(r"ValueError: .*MFA_NUM_THREADS.*many", done.stderr)
