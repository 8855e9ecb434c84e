import math
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.cases import Case
from benchmarks.contenders.base import (
    Call,
    Contender,
    Unavailable,
    refuse_forced_isa,
    refuse_window,
)
from benchmarks.operands import Operands

MOST_FLOP_WITHOUT_GPU = 1.5e8


class Mlx(Contender):
    name = "MLX"
    why_no_backward = "has no backward pass but together with the forward one"

    def load(self, threads: int) -> str:
        del threads  # it decides for itself
        import mlx.core

        return mlx.core.__version__

    def prepare(self, case: Case, threads: int) -> Callable[[Operands], Call]:
        import mlx.core

        refuse_forced_isa(case)
        refuse_window(case)
        if mlx.core.default_device().type == mlx.core.cpu and case.flop > MOST_FLOP_WITHOUT_GPU:
            raise Unavailable("is timed on small problems only where it has no GPU")
        dtype = getattr(mlx.core, case.dtype)
        keywords = {"scale": 1 / math.sqrt(case.head_dim), "mask": "causal" if case.causal else None}

        def bind(operands: Operands) -> Call:
            arrays = [mlx.core.array(operand.astype(np.float32)).astype(dtype) for operand in operands]
            mlx.core.eval(arrays)

            def call() -> Any:
                out = mlx.core.fast.scaled_dot_product_attention(*arrays, **keywords)
                mlx.core.eval(out)  # it is lazy
                return out

            return call

        return bind

    def to_numpy(self, out: Any, case: Case) -> np.ndarray:
        import mlx.core

        return super().to_numpy(np.array(out.astype(mlx.core.float32)), case)
