"""Others that compute attention, where they are installed: calls over the arrays that mfa is given."""

import importlib.util
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy

from mfa._messages import because
from mfa.reports import ContextInfo

Call = Callable[[], Any]
Make = Callable[..., Call | None]
CAUSAL, WINDOW = "causal", "window"


def of(info: ContextInfo) -> dict[str, Make | str]:
    """Those to compare a context with, by name: what makes their calls, or why there are none."""
    if info.backend == "metal":
        return {"torch mps": load_torch("mps", info)}
    return {"NumPy": textbook, "torch": load_torch("cpu", info)}


def seen_pairs(length: int, options: dict[str, Any]) -> numpy.ndarray | None:
    """Bool (N, N) of a causal mask or sliding window; None for all pairs."""
    if not options:
        return None
    behind = numpy.arange(length)[:, None] - numpy.arange(length)
    return (behind >= 0) & (behind <= options.get(WINDOW, (length, 0))[0])


def textbook(query: Any, key: Any, value: Any, options: dict[str, Any]) -> Call | None:
    """With all scores at once; none but of float32, as BLAS has nothing shorter."""
    if query.dtype != numpy.float32:
        return None
    group = query.shape[1] // key.shape[1]
    key, value = (numpy.repeat(x, group, axis=1) for x in (key, value))
    seen = seen_pairs(query.shape[2], options)
    scale = numpy.float32(query.shape[3] ** -0.5)
    hidden = None if seen is None else numpy.where(seen, numpy.float32(0), -numpy.float32(numpy.inf))

    def call() -> numpy.ndarray:
        weights = (query * scale) @ key.swapaxes(2, 3)
        if hidden is not None:
            weights += hidden
        weights -= weights.max(axis=3, keepdims=True)
        numpy.exp(weights, out=weights)
        return weights @ value / weights.sum(axis=3, keepdims=True)

    return call


def load_torch(device: str, info: ContextInfo) -> Make | str:
    """PyTorch's scaled_dot_product_attention, on the device's tensors."""
    if importlib.util.find_spec("torch") is None:
        return "is not installed"
    try:
        import torch
    except (ImportError, OSError) as error:  # it is installed, and broken
        return f"cannot be imported: {because(error)}"
    if device == "mps" and not torch.backends.mps.is_available():
        return "has no mps here"
    if device == "cpu":
        torch.set_num_threads(info.num_threads)

    def tensor(array: numpy.ndarray) -> Any:
        if array.dtype == ml_dtypes.bfloat16:
            return torch.from_numpy(array.view(numpy.uint16)).view(torch.bfloat16).to(device)
        return torch.from_numpy(array).to(device)

    def make(query: Any, key: Any, value: Any, options: dict[str, Any]) -> Call:
        keywords = {"is_causal": CAUSAL in options, "enable_gqa": query.shape[1] != key.shape[1]}
        if WINDOW in options:
            seen = torch.from_numpy(seen_pairs(query.shape[2], options)).to(device)
            keywords |= {"is_causal": False, "attn_mask": seen}
        operands = [tensor(array) for array in (query, key, value)]

        def call() -> Any:
            with torch.no_grad():
                out = torch.nn.functional.scaled_dot_product_attention(*operands, **keywords)
            if device == "mps":
                torch.mps.synchronize()
            return out

        return call

    return make
