"""mfa.quantized.QuantizedAttention: attention that quantises its keys and values as a dictionary says."""

from typing import Any, Literal

from mfa import _keywords
from mfa._call import BackwardCall, ForwardCall
from mfa._gradients import Gradients
from mfa._inputs import Inputs
from mfa._on_device import OnDevice
from mfa._quantized_config import QuantizedConfig, complete_config, keywords_of, prepared


class QuantizedAttention(OnDevice):
    """Attention to keys and values that are quantised on the way, or before.

    Parameters
    ----------
    device : {"auto", "cpu", "metal"}, default "auto"
        The backend; "auto" is the process-wide context's.

    Raises
    ------
    TypeError, ValueError
        `device` is none of these.
    mfa.MFAError
        This machine has no such device.

    Notes
    -----
    Its methods may be called from any number of threads.

    Examples
    --------
    >>> import numpy
    >>> from mfa.quantized import QuantizedAttention
    >>> query = key = value = numpy.ones((1, 4, 2, 8), numpy.float16)
    >>> config = {"key_precision": "int8", "value_precision": "int4", "key_scale": 0.1, "key_zero_point": 128}
    >>> QuantizedAttention(device="cpu").forward(query=query, key=key, value=value, config=config).shape
    (1, 4, 2, 8)
    """

    def __init__(self, device: Literal["auto", "cpu", "metal"] = "auto") -> None:
        super().__init__(device)

    def forward(
        self,
        query: Any,
        key: Any,
        value: Any,
        config: QuantizedConfig | None = None,
        *,
        return_lse: bool = False,
    ) -> Any:
        """`mfa.attention` to quantised keys and values.

        Parameters
        ----------
        query : array (B, Nq, H, D) of float32, float16 or bfloat16
        key : array (B, Nkv, Hkv, D) of float32, float16 or bfloat16, or QuantizedTensor
        value : array (B, Nkv, Hkv, Dv), likewise
        config : dict or None, default None
            See `QuantizedConfig`. None quantises both to "int8", each row with a scale of its own.
        return_lse : bool, default False

        Returns
        -------
        out : array (B, Nq, H, Dv)
            Of query's kind and, unless `config` says another, dtype.
        lse : array (B, H, Nq) of float32
            With ``return_lse=True`` only.

        Raises
        ------
        TypeError, ValueError, BufferError, MemoryError, mfa.MFAError
            As `mfa.attention` and `mfa.quantize`; also for what `config` does not have.
        """
        config = complete_config(config)
        keywords = keywords_of(config)
        arrays = prepared(query, key, value, config, _layout(keywords))
        return ForwardCall(Inputs(*arrays[:3], keywords), out_dtype=arrays[3], return_lse=return_lse).run(
            self.context
        )

    def backward(
        self,
        grad_output: Any,
        query: Any,
        key: Any,
        value: Any,
        output: Any,
        logsumexp: Any,
        config: QuantizedConfig | None = None,
    ) -> Gradients:
        """`mfa.attention_backward` for what `forward` computed, in float32.

        Parameters
        ----------
        grad_output : array, shape as output
        query, key, value, config
            As `forward` was given them: keys and values are quantised again, to the same codes.
        output, logsumexp : arrays
            What `forward` returned with ``return_lse=True``.

        Returns
        -------
        Gradients
            dq, dk and dv of float32: of keys and values those of what their codes stand for, which is the
            straight-through estimator (Bengio et al., 2013).

        Raises
        ------
        TypeError, ValueError, BufferError, MemoryError, mfa.MFAError
            As `forward`.
        """
        config = complete_config(config)
        keywords = keywords_of(config)
        arrays = prepared(query, key, value, config, _layout(keywords))
        return BackwardCall(
            Inputs(*arrays[:3], keywords),
            grad_output,
            output,
            logsumexp,
            zero_clipped=config["zero_clipped"],
            out_dtype="float32",
        ).run(self.context)


def _layout(keywords):
    return "bhsd" if _keywords.heads_first(keywords["layout"]) else "bshd"
