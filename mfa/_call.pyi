from typing import Any

import numpy as np

from mfa._context import Context
from mfa.reports import Plan

class AttentionCall:
    def __new__(
        cls,
        query: Any,
        key: Any,
        value: Any,
        *,
        heads_first: bool,
        loose: bool = False,
        grouped: bool = True,
        causal: bool = False,
        alignment: int,
        window_left: int = -1,
        window_right: int = -1,
        softmax_scale: float | None = None,
        softcap: float = 0.0,
        mask: Any = None,
        bias: Any = None,
        alibi_slopes: np.ndarray | None = None,
        sinks: np.ndarray | None = None,
        intermediate_precision: int = -1,
        out: Any = None,
        out_precision: int = -1,
        want_logsumexp: bool = False,
        planning: bool = False,
        names: tuple[str, str, str, str] = ("query", "key", "value", "mask"),
    ) -> AttentionCall: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def out(self) -> Any: ...
    @property
    def logsumexp(self) -> Any: ...
    def run(self, context: Context) -> None: ...
    def plan(self, context: Context) -> Plan: ...
