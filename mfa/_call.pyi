from collections.abc import Iterable
from typing import Any

from mfa._attention_keywords import Keywords
from mfa._context import Context
from mfa._gradients import Gradients
from mfa._inputs import Inputs
from mfa.reports import Plan

TO_RECORD: object

class Call:
    def plan(self, context: Context | None = None) -> Plan: ...

class ForwardCall(Call):
    def __init__(
        self, inputs: Inputs, *, out: Any = None, out_dtype: Any = None, return_lse: bool = False
    ) -> None: ...
    def run(self, context: Context | None = None) -> Any: ...

def attend(
    query: Any,
    key: Any,
    value: Any,
    keywords: Keywords,
    names: dict[str, str],
    loose: bool,
    grouped: bool,
    out: Any,
    out_dtype: Any,
    return_lse: Any,
    context: Context | None,
    does_torch_know: bool = False,
) -> Any: ...

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
