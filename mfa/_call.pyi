from typing import Any

from mfa._context import Context
from mfa._gradients import Gradients
from mfa._inputs import Inputs
from mfa.reports import Plan

class Call:
    def plan(self, context: Context) -> Plan: ...

class ForwardCall(Call):
    def __new__(
        cls, inputs: Inputs, *, out: Any = None, out_precision: int = -1, want_logsumexp: bool = False
    ) -> ForwardCall: ...
    def run(self, context: Context) -> Any: ...

class BackwardCall(Call):
    def __new__(
        cls,
        inputs: Inputs,
        dout: Any,
        out: Any,
        lse: Any,
        *,
        out_precision: int = -1,
        wanted: frozenset[str] | None = None,
    ) -> BackwardCall: ...
    def run(self, context: Context) -> Gradients: ...
