from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import mfa
from benchmarks.cases import Case
from benchmarks.contenders.base import Call, Contender, output_shape
from benchmarks.operands import DTYPES, GradientOperands, Operands
from benchmarks.patterns import block_lists


class Mfa(Contender):
    name = "mfa"

    def load(self, threads: int) -> str:
        del threads  # each context has its own
        self.contexts: dict[str, mfa.Context] = {}
        return mfa.__version__

    def prepare(self, case: Case, threads: int) -> Callable[[Operands], Call]:
        keywords = self.keywords(case, threads)
        out = np.empty(output_shape(case), DTYPES[case.dtype])
        return lambda operands: partial(mfa.attention, *operands, out=out, **keywords)

    def prepare_backward(self, case: Case, threads: int) -> Callable[[GradientOperands], Call]:
        keywords = self.keywords(case, threads)

        def bind(operands: GradientOperands) -> Call:
            inputs = (operands.query, operands.key, operands.value)
            forward = mfa.attention(*inputs, bias=operands.bias, return_lse=True, **keywords)
            return partial(
                mfa.attention_backward, operands.dout, *inputs, *forward, bias=operands.bias, **keywords
            )

        return bind

    def prepare_training(self, case: Case, threads: int) -> Callable[[GradientOperands], Call]:
        bind_backward = self.prepare_backward(case, threads)
        return lambda operands: lambda: bind_backward(operands)()

    def keywords(self, case: Case, threads: int) -> dict[str, Any]:
        keywords = {"layout": "bhsd", "context": self.context(case.cpu_isa, threads)}
        if case.pattern is not None:
            lists = block_lists(case.pattern, -(-case.query_length // case.block))
            lengths = case.query_length, case.key_length
            keywords["block_mask"] = mfa.BlockMask.from_kv_blocks(
                *lists, BLOCK_SIZE=case.block, seq_lengths=lengths
            )
        elif case.masked:
            keywords["causal"] = "top-left"
        if case.window is not None:
            keywords["window"] = mfa.sliding_window(case.window)
        if case.dropout_p:
            keywords["dropout_p"] = case.dropout_p
        return keywords

    def context(self, cpu_isa: str, threads: int) -> mfa.Context:
        if cpu_isa not in self.contexts:
            self.contexts[cpu_isa] = mfa.Context(num_threads=threads, cpu_isa=cpu_isa)
        return self.contexts[cpu_isa]


def weights_kept(case: Case, operands: GradientOperands) -> np.ndarray:
    """Which weights dropout left, (B, H, Nq, Nkv): with the identity for values, attention returns them."""
    query, key = (array.astype(np.float32) for array in (operands.query, operands.key))
    identity = np.eye(case.key_length, dtype=np.float32)
    value = np.broadcast_to(identity, (case.batch, case.kv_heads, *identity.shape))
    return mfa.attention(query, key, value, layout="bhsd", dropout_p=case.dropout_p) != 0
