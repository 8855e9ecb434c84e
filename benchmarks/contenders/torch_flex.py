import os
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.cases import Case
from benchmarks.contenders.base import Call, Unavailable, refuse_forced_isa
from benchmarks.contenders.torch_sdpa import Torch
from benchmarks.operands import GradientOperands, Operands
from benchmarks.patterns import block_lists
from benchmarks.peak import FOLDER


class FlexAttention(Torch):
    """torch's, compiled by its C++ backend."""

    name = "flex_attention"

    def load(self, threads: int) -> str:
        self.failures: dict[str, str] = {}  # trying to compile takes long, so a pass fails once
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(FOLDER / "inductor"))
        return super().load(threads)

    def prepare(self, case: Case, threads: int) -> Callable[[Operands], Call]:
        return self.compiled_once("forward", super().prepare(case, threads))

    def prepare_backward(self, case: Case, threads: int) -> Callable[[GradientOperands], Call]:
        return self.compiled_once("backward", super().prepare_backward(case, threads))

    def compiled_once(self, name: str, bind: Callable[[Any], Call]) -> Callable[[Any], Call]:
        """`bind` of a pass, which calls what it returns once, for that is when torch compiles."""
        if name in self.failures:
            raise Unavailable(self.failures[name])

        def bind_compiled(operands: Any) -> Call:
            try:
                call = bind(operands)
                call()
            except RuntimeError as error:  # the base of what torch._dynamo and torch._inductor raise
                told = str(error).strip().splitlines()[0].rstrip(".")
                self.failures[name] = f"could not be compiled: {told}"
                raise Unavailable(self.failures[name]) from error
            return call

        return bind_compiled

    def attention(self, case: Case) -> Callable[..., Any]:
        import torch
        from torch.nn.attention.flex_attention import flex_attention

        refuse_forced_isa(case)
        block_mask = self.block_mask(case)
        torch.compiler.reset()  # or a second shape would be compiled for shapes in general
        return partial(torch.compile(flex_attention, dynamic=False), block_mask=block_mask)

    def block_mask(self, case: Case) -> Any:
        import torch
        from torch.nn.attention.flex_attention import BlockMask, create_block_mask

        lengths = case.query_length, case.key_length
        if case.pattern is not None:
            lists = map(torch.from_numpy, block_lists(case.pattern, -(-case.query_length // case.block)))
            return BlockMask.from_kv_blocks(*lists, BLOCK_SIZE=case.block, seq_lengths=lengths)
        if case.window is None:
            raise Unavailable("is timed on sliding windows and sparse attention only")
        window = case.window

        def seen(batch, head, query, key):
            return (key <= query) & (query - key < window)

        return create_block_mask(seen, None, None, *lengths, device="cpu")

    def check_graph(self, case: Case, out: Any) -> None:
        """It has a kernel of its own."""
