"""The dictionary that says how a call's keys and values are quantised, and what becomes of arrays by it."""

import numbers
import re
import sys
from typing import Any

import numpy

from mfa import _keywords
from mfa._attention_keywords import DEFAULTS, Keywords
from mfa._dtypes import wrong_dtype
from mfa._memory import as_ndarray, known
from mfa._messages import shown
from mfa._quantize import quantize
from mfa._quantized_tensor import CODES, FLOATS, QuantizedTensor
from mfa._tensors import is_tensor

FLOATING = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
DTYPES = {dtype.name: dtype for dtype in FLOATS.values()}
# Arguments of quantize() of which keys and values each have their own.
QUANTIZING = ("scale", "zero_point", "granularity", "symmetric")
# Of quantize(): at the beginning, or where one argument is said to go with another.
IN_MESSAGES = re.compile(rf"(^|\b(?:as|beside|expected|without) )(x|smooth|{'|'.join(QUANTIZING)})\b")


class QuantizedConfig(Keywords, total=False):
    """What `QuantizedAttention` takes as `config`; keywords of `mfa.attention` besides.

    `k_new` and `v_new` are for caches, which are QuantizedTensors as key and value.

    Attributes
    ----------
    query_precision : {"fp16", "bf16", "fp32"} or None, default None
        What queries are rounded to. None is their own dtype. NumPy's names are taken too.
    key_precision, value_precision : {"int8", "uint8", "int4", "uint4", "fp16", ...}, default "int8"
        Floating ones are not quantised, and have to be that of the queries.
    output_precision : {"fp16", "bf16", "fp32"} or None, default None
        Of the result. None is the dtype in which the query was given.
    key_scale, key_zero_point, value_scale, value_zero_point
        As `scale` and `zero_point` of `mfa.quantize`; None finds them. Zero points from 128 up make "int8"
        "uint8", those from 8 up "int4" "uint4".
    key_granularity, key_symmetric, value_granularity, value_symmetric
        As for `mfa.quantize`.
    smooth_key : bool, default False
        As `smooth` of `mfa.quantize`.
    zero_clipped : bool, default False
        As for `mfa.attention_backward`.
    """

    query_precision: str | None
    key_precision: str
    value_precision: str
    output_precision: str | None
    key_scale: Any
    key_zero_point: Any
    key_granularity: Any
    key_symmetric: bool | None
    value_scale: Any
    value_zero_point: Any
    value_granularity: Any
    value_symmetric: bool | None
    smooth_key: bool
    zero_clipped: bool


OWN = dict.fromkeys(name for name in QuantizedConfig.__annotations__ if name not in DEFAULTS) | {
    "key_precision": "int8",
    "value_precision": "int8",
    "smooth_key": False,
    "zero_clipped": False,
}


# What of it may be arrays, and the types of what is not.
ARRAYS = ("key_scale", "key_zero_point", "value_scale", "value_zero_point")
PLAIN = (int, float, type(None))


def complete_config(config):
    """`config` with the defaults of what it does not say, checked as far as that needs no arrays."""
    if config is None:
        config = {}
    if not isinstance(config, dict):
        raise TypeError(f"config: {shown(config)}, expected None or a dict")
    for name in config:
        if name not in OWN and name not in DEFAULTS:
            names = ", ".join(map(repr, OWN))
            raise ValueError(f"config: has {shown(name)}, expected {names}, or keywords of mfa.attention")
    config = OWN | config
    for name in ("query_precision", "output_precision"):
        config[name] = None if config[name] is None else _precision(config[name], name, FLOATING)
    for name in ("key_precision", "value_precision"):
        config[name] = _precision(config[name], name, (*CODES, *FLOATING))
    for name in ("smooth_key", "zero_clipped"):
        _keywords.flag(config[name], name)
    return config


def parts_of(config):
    """What it says beside keywords of `mfa.attention`: text for `ast.literal_eval`, and arrays by name."""
    said = {name: config[name] for name in OWN if config[name] is not OWN[name]}
    said = {name: value.item() if isinstance(value, numpy.generic) else value for name, value in said.items()}
    arrays = {name: said.pop(name) for name in ARRAYS if not isinstance(said.get(name), PLAIN)}
    return repr(said), arrays


def keywords_of(config):
    """What of `config` is said to `mfa.attention`."""
    return DEFAULTS | {name: config[name] for name in DEFAULTS if name in config}


def prepared(query, key, value, config, layout):
    """query, key and value in the precisions that `config` says, and the name of the result's dtype."""
    query = _floats(query, "query")
    dtype = config["output_precision"] or _dtype_name(query)
    key, value = _stored(key, "key", config, layout), _stored(value, "value", config, layout)
    return rounded(query, config), key, value, dtype


def rounded(query, config):
    """A query, NumPy's or torch's, in the precision of queries."""
    return query if config["query_precision"] is None else _cast(query, config["query_precision"])


def as_precise(array, name, config):
    """Keys or values that are not quantised, in their precision."""
    return _cast(array, config[f"{name}_precision"])


def _precision(value, name, accepted):
    """The name that NumPy or `mfa.quantize` has for it."""
    text = _keywords.text_of(value)
    long = FLOATING.get(text, text)
    if long not in (FLOATING.get(other, other) for other in accepted):
        error = TypeError if text is None else ValueError
        raise error(f"{name}: {shown(value)}, expected {', '.join(map(repr, accepted))}")
    return long


def _dtype_name(array):
    return str(array.dtype).removeprefix("torch.")


def _floats(array, name):
    """An array that has a precision, NumPy's or torch's."""
    array = known(array, name)
    dtype = _dtype_name(array)
    if dtype not in DTYPES:
        raise TypeError(wrong_dtype(name, array, array.dtype, "float32, float16 or bfloat16"))
    return array


def _cast(array, name):
    if is_tensor(array):
        return array.to(getattr(sys.modules["torch"], name))
    return array.astype(DTYPES[name], copy=False)


def quantizing(name, config):
    """The precision of keys or values, and what `quantize` is told besides."""
    given = {argument: config[f"{name}_{argument}"] for argument in QUANTIZING}
    return _signed_as(given["zero_point"], config[f"{name}_precision"]), given


def is_smooth(name, config):
    return name == "key" and config["smooth_key"]


def _stored(array, name, config, layout):
    """A key or value as its precision says."""
    precision, given = quantizing(name, config)
    if type(array) is QuantizedTensor:
        _refuse(name, given, "a QuantizedTensor")
        return array
    array = _floats(array, name)
    if config.get("k_new") is not None:
        raise ValueError(f"k_new: given, expected None, or a QuantizedTensor as {name}")
    if precision in DTYPES:
        _refuse(name, given, precision)
        return _cast(array, precision)
    array = as_ndarray(array, name)
    try:
        return quantize(array, precision, layout=layout, smooth=is_smooth(name, config), **given)
    except (TypeError, ValueError, BufferError) as error:
        raise type(error)(_of_config(str(error), name)) from None


def _of_config(message, name):
    """What quantize() says of its arguments, by the names that these have in a configuration."""

    def renamed(match):
        return match[1] + {"x": name, "smooth": f"smooth_{name}"}.get(match[2], f"{name}_{match[2]}")

    return IN_MESSAGES.sub(renamed, message)


def _signed_as(zero_point, precision):
    """Zero points that no signed code can be are those of unsigned ones."""
    half = {"int8": 128, "int4": 8}.get(precision)
    if half is not None and isinstance(zero_point, numbers.Integral) and zero_point >= half:
        return f"u{precision}"
    return precision


def _refuse(name, given, what):
    for argument, value in given.items():
        if value is not None:
            raise ValueError(f"{name}_{argument}: given, expected None for {what}")
