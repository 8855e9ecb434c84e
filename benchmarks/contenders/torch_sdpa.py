from collections.abc import Callable
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np

from benchmarks.cases import Case
from benchmarks.contenders.base import Call, Contender, Unavailable, refuse_forced_isa
from benchmarks.operands import Operands

LONGEST_DENSE_MASK = 2048


class Torch(Contender):
    """Its scaled_dot_product_attention; a window is a mask for it."""

    name = "torch"

    def load(self, threads: int) -> str:
        import torch

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        return torch.__version__

    def prepare(self, case: Case, threads: int) -> Callable[[Operands], Call]:
        import torch

        refuse_forced_isa(case)
        keywords = {"is_causal": case.causal, "enable_gqa": case.kv_heads != case.heads}
        if case.window is not None:
            if case.key_length > LONGEST_DENSE_MASK:
                raise Unavailable("has no sliding window but as a mask of N x N")
            behind = torch.arange(case.query_length)[:, None] - torch.arange(case.key_length)
            keywords = {"attn_mask": (behind >= 0) & (behind < case.window)}
        attention = torch.nn.functional.scaled_dot_product_attention
        return lambda operands: partial(attention, *map(torch_tensor, operands), **keywords)

    def to_numpy(self, out: Any, case: Case) -> np.ndarray:
        return super().to_numpy(out.float().numpy(), case)


def torch_tensor(array: np.ndarray) -> Any:
    import torch

    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)
