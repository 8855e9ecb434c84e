import os
from collections.abc import Callable
from functools import partial

from benchmarks.cases import Case
from benchmarks.contenders.base import Call, Unavailable, refuse_forced_isa
from benchmarks.contenders.torch_sdpa import Torch, torch_tensor
from benchmarks.operands import Operands
from benchmarks.peak import FOLDER


class FlexAttention(Torch):
    """torch's, compiled by its C++ backend."""

    name = "flex_attention"

    def load(self, threads: int) -> str:
        self.failure: str | None = None  # trying to compile takes long, so it fails once
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(FOLDER / "inductor"))
        return super().load(threads)

    def prepare(self, case: Case, threads: int) -> Callable[[Operands], Call]:
        import torch
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        refuse_forced_isa(case)
        if case.window is None:
            raise Unavailable("is timed on sliding windows only")
        if self.failure:
            raise Unavailable(self.failure)
        window = case.window

        def seen(batch, head, query, key):
            return (key <= query) & (query - key < window)

        block_mask = create_block_mask(seen, None, None, case.query_length, case.key_length, device="cpu")
        torch.compiler.reset()  # or a second shape would be compiled for shapes in general
        compiled = torch.compile(flex_attention, dynamic=False)

        def bind(operands: Operands) -> Call:
            call = partial(compiled, *map(torch_tensor, operands), block_mask=block_mask)
            try:
                call()
            except RuntimeError as error:  # the base of what torch._dynamo and torch._inductor raise
                self.failure = f"could not be compiled: {str(error).strip().splitlines()[0]}"
                raise Unavailable(self.failure) from error
            return call

        return bind
