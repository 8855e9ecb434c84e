from collections.abc import Iterable
from typing import Any

from mfa._context import Context
from mfa._gradients import Gradients
from mfa._inputs import Inputs
from mfa.reports import Plan

class Call:
    def plan(self, context: Context | None = None) -> Plan: ...

class ForwardCall(Call):
    def __new__(
        cls, inputs: Inputs, *, out: Any = None, out_dtype: Any = None, return_lse: bool = False
    ) -> ForwardCall: ...
    def run(self, context: Context | None = None) -> Any: ...

class BackwardCall(Call):
    def __new__(
        cls,
        inputs: Inputs,
        dout: Any,
        out: Any,
        lse: Any,
        *,
        delta: Any = None,
        dlse: Any = None,
        zero_clipped: bool = False,
        out_dtype: Any = None,
        wanted: Iterable[str] | None = None,
    ) -> BackwardCall: ...
    def run(self, context: Context | None = None) -> Gradients: ...
