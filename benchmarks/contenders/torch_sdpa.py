from collections.abc import Callable
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np

from benchmarks.cases import Case
from benchmarks.contenders.base import Call, Contender, Unavailable, refuse_forced_isa
from benchmarks.operands import GradientOperands, Operands
from benchmarks.patterns import pairs_seen

LONGEST_DENSE_MASK = 2048
LONGEST_PATTERN = 4096
FLASH_ON_CPU = "ScaledDotProductFlashAttentionForCpuBackward"


class Torch(Contender):
    """Its scaled_dot_product_attention; a window and blocks are a mask for it."""

    name = "torch"

    def load(self, threads: int) -> str:
        import torch

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        return torch.__version__

    def prepare(self, case: Case, threads: int) -> Callable[[Operands], Call]:
        del threads  # see load
        attention = self.attention(case)
        return lambda operands: partial(attention, *map(torch_tensor, operands))

    def prepare_backward(self, case: Case, threads: int) -> Callable[[GradientOperands], Call]:
        import torch

        del threads
        attention = self.attention(case)

        def bind(operands: GradientOperands) -> Call:
            leaves = torch_leaves(operands)
            with torch.enable_grad():
                out = attention(*leaves)
            self.check_graph(case, out)
            return partial(torch.autograd.grad, out, leaves, torch_tensor(operands.dout), retain_graph=True)

        return bind

    def prepare_training(self, case: Case, threads: int) -> Callable[[GradientOperands], Call]:
        import torch

        del threads
        attention = self.attention(case)

        def bind(operands: GradientOperands) -> Call:
            leaves, dout = torch_leaves(operands), torch_tensor(operands.dout)

            def call() -> Any:
                with torch.enable_grad():
                    out = attention(*leaves)
                self.check_graph(case, out)
                return torch.autograd.grad(out, leaves, dout)

            return call

        return bind

    def attention(self, case: Case) -> Callable[..., Any]:
        """Of query, key, value and perhaps a bias."""
        import torch

        refuse_forced_isa(case)
        keywords = {
            "is_causal": case.causal,
            "enable_gqa": case.kv_heads != case.heads,
            "dropout_p": case.dropout_p,
        }
        if case.pattern is not None:
            if case.key_length > LONGEST_PATTERN:
                raise Unavailable("has no sparse attention but as a mask of N x N")
            rows = np.arange(case.query_length)
            keywords["attn_mask"] = torch.from_numpy(
                pairs_seen(case.pattern, case.block, rows, case.key_length)
            )
        if case.window is not None:
            if case.key_length > LONGEST_DENSE_MASK:
                raise Unavailable("has no sliding window but as a mask of N x N")
            behind = torch.arange(case.query_length)[:, None] - torch.arange(case.key_length)
            keywords |= {"is_causal": False, "attn_mask": (behind >= 0) & (behind < case.window)}
        return partial(torch.nn.functional.scaled_dot_product_attention, **keywords)

    def check_graph(self, case: Case, out: Any) -> None:
        """Its fused kernel has neither dropout nor the gradient of a bias; all else must not miss it."""
        fused = not case.dropout_p and not case.bias
        if fused and out.grad_fn.name().rstrip("0123456789") != FLASH_ON_CPU:
            raise Unavailable(f"built {out.grad_fn.name()}, not {FLASH_ON_CPU}")

    def to_numpy(self, out: Any, case: Case) -> np.ndarray:
        return super().to_numpy(out.float().numpy(), case)

    def gradients_to_numpy(self, gradients: Any) -> list[np.ndarray]:
        return [gradient.float().numpy() for gradient in gradients]


def torch_leaves(operands: GradientOperands) -> list[Any]:
    return [torch_tensor(array).requires_grad_() for array in operands.inputs]


def torch_tensor(array: np.ndarray) -> Any:
    import torch

    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)
