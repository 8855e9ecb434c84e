"""How keys and values are quantised, by the original's numbers."""

import functools

from mfa.torch.quantized import QuantizedFlashAttention

QUANT_NONE = 0
QUANT_INT8 = 3
QUANT_INT4 = 4
QUANT_TENSOR_WISE = 0
QUANT_BLOCK_WISE = 2
PRECISIONS = {QUANT_INT8: "int8", QUANT_INT4: "int4"}
GRANULARITIES = {QUANT_TENSOR_WISE: "tensor", QUANT_BLOCK_WISE: "block64"}


def known(value, name, choices):
    if isinstance(value, bool) or value not in choices:
        raise ValueError(f"{name}: {value!r}, expected {' or '.join(map(str, choices))}")
    return choices[value]


@functools.lru_cache(maxsize=64)
def layer(key_precision, value_precision, *config):
    """A module that quantises so; `config` is pairs of names and values."""
    return QuantizedFlashAttention(None, key_precision, value_precision, config=dict(config))


def layer_of_mode(precision, block_mode):
    """The one for numbers of a precision and of what shares a scale."""
    precision = known(precision, "target_precision", PRECISIONS)
    granularity = known(block_mode, "quant_mode", GRANULARITIES)
    return layer(precision, precision, ("key_granularity", granularity), ("value_granularity", granularity))
