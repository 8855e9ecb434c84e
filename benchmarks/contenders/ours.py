from collections.abc import Callable
from functools import partial

import numpy as np

import mfa
from benchmarks.cases import Case
from benchmarks.contenders.base import Call, Contender, output_shape
from benchmarks.operands import DTYPES, Operands


class Mfa(Contender):
    name = "mfa"

    def load(self, threads: int) -> str:
        del threads  # each context has its own
        self.contexts: dict[str, mfa.Context] = {}
        return mfa.__version__

    def prepare(self, case: Case, threads: int) -> Callable[[Operands], Call]:
        keywords = {"layout": "bhsd", "context": self.context(case.cpu_isa, threads)}
        if case.masked:
            keywords["causal"] = "top-left"
        if case.window is not None:
            keywords["window"] = mfa.sliding_window(case.window)
        out = np.empty(output_shape(case), DTYPES[case.dtype])
        return lambda operands: partial(mfa.attention, *operands, out=out, **keywords)

    def context(self, cpu_isa: str, threads: int) -> mfa.Context:
        if cpu_isa not in self.contexts:
            self.contexts[cpu_isa] = mfa.Context(num_threads=threads, cpu_isa=cpu_isa)
        return self.contexts[cpu_isa]
