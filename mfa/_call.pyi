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
        heads_first: bool,
        loose: bool,
        grouped: bool,
        causal: bool,
        alignment: int,
        window_left: int,
        window_right: int,
        softmax_scale: float | None,
        softcap: float,
        mask_name: str,
        mask: Any,
        bias: Any,
        alibi_slopes: np.ndarray | None,
        sinks: np.ndarray | None,
        intermediate_precision: int,
        out: Any,
        out_precision: int,
        want_logsumexp: bool,
    ) -> AttentionCall: ...
    @property
    def out(self) -> Any: ...
    @property
    def logsumexp(self) -> Any: ...
    def run(self, context: Context) -> None: ...
    def plan(self, context: Context) -> Plan: ...
