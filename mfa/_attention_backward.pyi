# Arrays are Any: NumPy's, torch's, and whatever else has the buffer protocol or DLPack.

from collections.abc import Iterable
from typing import Any, Literal

from mfa._context import Context
from mfa._gradients import Gradients

def attention_backward(
    dout: Any,
    query: Any,
    key: Any,
    value: Any,
    out: Any,
    lse: Any,
    *,
    layout: Literal["bshd", "bhsd"] = "bshd",
    causal: Literal["top-left", "bottom-right"] | bool | None = None,
    alignment: Literal["top-left", "bottom-right"] | None = None,
    window: tuple[int, int] = (-1, -1),
    softmax_scale: float | None = None,
    softcap: float = 0.0,
    mask: Any = None,
    bias: Any = None,
    alibi_slopes: Any = None,
    sinks: Any = None,
    dropout_p: float = 0.0,
    dropout_seed: int = 0,
    dropout_offset: int = 0,
    intermediate_precision: Literal["float32"] | None = None,
    out_dtype: Any = None,
    context: Context | None = None,
    wanted: Iterable[Literal["dq", "dk", "dv", "dbias", "dsinks"]] | None = None,
) -> Gradients: ...
