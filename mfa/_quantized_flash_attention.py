"""mfa.quantized.QuantizedFlashAttention: a layer's attention, with gradients where torch records them."""

from typing import Any, Literal

from mfa import _keywords
from mfa._call import ForwardCall
from mfa._inputs import Inputs
from mfa._on_device import OnDevice
from mfa._quantized_config import QuantizedConfig, complete_config, keywords_of, parts_of, prepared
from mfa._sdpa import NAMES, draw_seed
from mfa._tensors import is_cast, is_compiled, is_tensor, is_traced

# The devices of tensors whose memory is not the CPU's, which makes the codes.
COPIED = ("mps",)
# Keywords that calls say themselves.
OF_CALLS = ("layout", "causal", "alignment", "mask", "softmax_scale", "dropout_p", "dropout_seed")


class QuantizedFlashAttention(OnDevice):
    """Drop-in for ``torch.nn.functional.scaled_dot_product_attention`` whose keys and values are quantised.

    Parameters
    ----------
    query_precision : {"fp16", "bf16", "fp32"} or None, default None
    key_precision, value_precision : {"int8", "uint8", "int4", "uint4", "fp16", ...}, default "int8"
        As in `QuantizedConfig`.
    enable_training : bool, default False
        Whether calls may be for training.
    device : {"auto", "cpu", "metal"}, default "auto"
    config : dict or None, default None
        What else `QuantizedConfig` has, but for what the calls say themselves.

    Raises
    ------
    TypeError, ValueError, mfa.MFAError
        As `QuantizedAttention`.

    Notes
    -----
    It works on any arrays; torch is not imported by it. Its methods may be called from any number of threads.
    """

    def __init__(
        self,
        query_precision: str | None = None,
        key_precision: str = "int8",
        value_precision: str = "int8",
        enable_training: bool = False,
        *,
        device: Literal["auto", "cpu", "metal"] = "auto",
        config: QuantizedConfig | None = None,
    ) -> None:
        complete_config(config)
        precisions = {
            "query_precision": query_precision,
            "key_precision": key_precision,
            "value_precision": value_precision,
        }
        for name in (*precisions, *OF_CALLS):
            if name in (config or {}):
                raise ValueError(f"config: has {name!r}, expected only what is no argument here")
        self.config = complete_config({**(config or {}), **precisions})
        self.literal, self.arrays = parts_of(self.config)
        self.enable_training = _keywords.flag(enable_training, "enable_training")
        super().__init__(device)

    def scaled_dot_product_attention(
        self,
        query: Any,
        key: Any,
        value: Any,
        attn_mask: Any = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
        *,
        is_training: bool = False,
        return_gradients: bool = False,
    ) -> Any:
        """`mfa.scaled_dot_product_attention` to quantised keys and values.

        Parameters
        ----------
        query, key, value, attn_mask, is_causal, scale, enable_gqa
            As for `mfa.scaled_dot_product_attention`, with at most 4 axes.
        dropout_p : float, default 0.0
            Likewise; only with ``is_training=True``.
        is_training : bool, default False
            Needs `enable_training`.
        return_gradients : bool, default False
            Of torch tensors: record the call, so that the result's ``backward()`` computes the gradients of
            query, key, value and a floating attn_mask, those of what the codes stand for (the
            straight-through estimator). What it keeps for that are the codes. Needs `enable_training`.

        Returns
        -------
        array (..., H, N, Dv)
            Of query's kind and, unless the configuration says another, dtype.

        Raises
        ------
        TypeError, ValueError, BufferError, MemoryError, mfa.MFAError
            As `mfa.scaled_dot_product_attention` and `mfa.quantize`.
        """
        is_causal = _keywords.flag(is_causal, "is_causal")
        for name, asked in (("is_training", is_training), ("return_gradients", return_gradients)):
            if _keywords.flag(asked, name) and not self.enable_training:
                raise ValueError(f"{name}: True, expected False, or enable_training=True before")
        if is_causal and attn_mask is not None:
            raise ValueError("attn_mask: given together with is_causal=True, expected None")
        if return_gradients:
            for array, name in ((query, "query"), (key, "key"), (value, "value")):
                if not is_tensor(array):
                    raise TypeError(f"return_gradients: True, expected False, or a torch tensor as {name}")
        dropout_p = _keywords.dropout_p(dropout_p)
        keywords = {
            "causal": "top-left" if is_causal else None,
            "softmax_scale": scale,
            "dropout_p": dropout_p if is_training else 0.0,
            "mask": attn_mask,
        }
        grouped = _keywords.flag(enable_gqa, "enable_gqa")
        return self.attend(query, key, value, keywords, grouped=grouped, recorded=return_gradients)

    def attend(self, query, key, value, keywords, *, grouped, recorded):
        """The result, where `keywords` of `mfa.attention` say what the configuration does not."""
        keywords = keywords_of(self.config) | {"layout": "bhsd", "alignment": "top-left"} | keywords
        options = {"grouped": grouped, "recorded": recorded}
        if is_tensor(query) and query.device.type in COPIED:
            from mfa.torch._quantized_copies import attend_copies  # torch is there, as a tensor is

            return attend_copies(self._attend, query, key, value, keywords, **options)
        return self._attend(query, key, value, keywords, **options)

    def _attend(self, query, key, value, keywords, *, grouped, recorded):
        if keywords["dropout_p"]:
            keywords["dropout_seed"] = draw_seed(query)
        if is_compiled() or is_traced(query, key, value, keywords):
            from mfa.torch._quantized_operators import trace

            return trace(self, query, key, value, keywords, grouped=grouped, recorded=recorded)
        if is_cast(query):
            from mfa.torch._autocast import cast_operands

            arrays = {"query": query, "key": key, "value": value}
            query, key, value = cast_operands(arrays, query.device.type).values()
        if recorded:
            from mfa.torch._quantized_autograd import record

            return record(query, key, value, self.config, keywords, grouped=grouped, context=self.context)
        query, key, value, dtype = prepared(query, key, value, self.config, "bhsd")
        inputs = Inputs(query, key, value, keywords, names=NAMES, loose=True, grouped=grouped)
        return ForwardCall(inputs, out_dtype=dtype).run(self.context)
