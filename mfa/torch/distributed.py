"""Attention over a sequence that lies on several processes: mfa on the ring of torch.distributed.

Keys and values go round; each process computes with what it has, and partial results are merged by their
logsumexps. Who sends what, and merging, are PyTorch's.
"""

import contextlib
from collections.abc import Generator
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.tensor.experimental import context_parallel as context_parallel_of_torch
from torch.distributed.tensor.experimental._context_parallel import _attention as ring

from mfa._attention import attention
from mfa._attention_backward import attention_backward
from mfa.torch import _flash_operators
from mfa.torch._aten_kernels import Kernels
from mfa.torch._autocast import cast_operands, ended
from mfa.torch._autograd import apply_last
from mfa.torch._counts import TALLY

ROWS = 2  # the axis of tensors with heads first


def ring_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    group: dist.ProcessGroup | None = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    load_balanced: bool = False,
    rotate: Literal["alltoall", "allgather"] = "alltoall",
) -> torch.Tensor:
    """Attention of this process' queries to the keys of all processes of a group.

    Parameters
    ----------
    query : tensor (B, H, N, D) of float32, float16 or bfloat16
        The rows that this process has; all have as many. On the CPU, or where else mfa takes tensors.
    key, value : tensor (B, Hkv, S, D), dtype as query
        H is a multiple of Hkv. S is N where `is_causal`; all processes have as many.
    group : ProcessGroup or None, default None
        Of any backend. None is the default group.
    is_causal : bool, default False
        A row sees those up to itself in the whole sequence.
    scale : float or None, default None
        None is ``1 / sqrt(D)``.
    load_balanced : bool, default False
        Of query, key and value each process has the rows that ``own_rows(..., load_balanced=True)`` names,
        with which all have as much to compute. With `is_causal` only. False: it has consecutive rows.
    rotate : {"alltoall", "allgather"}, default "alltoall"
        How keys and values go round: from neighbour to neighbour, or all to everyone at once, which takes the
        memory of all of them.

    Returns
    -------
    tensor (B, H, N, D)
        dtype as query, which autocast casts as it does for PyTorch's attention. Gradients of query, key and
        value are recorded; ``backward()`` sends as well, so all processes call it.

    Raises
    ------
    ValueError
        Lengths do not fit `is_causal` or `load_balanced`, `load_balanced` without `is_causal`, an unknown
        `rotate`, or what `mfa.attention` raises it for.

    Notes
    -----
    One thread of a process at a time: PyTorch's options of the ring are the process'. Partial results and
    sums are float32.

    Ring Attention (Liu et al., 2023), with the head-tail balance of ``torch.distributed``.
    """
    if rotate not in ("alltoall", "allgather"):
        raise ValueError(f"rotate: {rotate!r}, expected 'alltoall' or 'allgather'")
    if load_balanced and not is_causal:
        raise ValueError(
            "load_balanced: True, expected False without is_causal=True, where all rows are alike"
        )
    _require_four_axes(query, key, value)
    rows, keys = query.shape[ROWS], key.shape[ROWS]
    if is_causal and rows != keys:
        raise ValueError(f"key: {keys} rows, expected {rows} as query has, with is_causal=True")
    if load_balanced and rows % 2:
        raise ValueError(f"query: {rows} rows, expected an even number with load_balanced=True")
    group = dist.group.WORLD if group is None else group
    query, key, value = _autocast(query, key, value)
    with ended(query.device.type):
        if not keys:  # of which partial results cannot be merged
            return attention(query, key, value, layout="bhsd", softmax_scale=scale)
        return _Ring.apply(query, key, value, _Call(group, is_causal, scale, load_balanced, rotate))


def own_rows(
    length: int, group: dist.ProcessGroup | None = None, *, load_balanced: bool = False
) -> torch.Tensor:
    """Which rows of a sequence this process has.

    Parameters
    ----------
    length : int
        Of the whole sequence: a multiple of the number of processes, with `load_balanced` of twice that.
    group : ProcessGroup or None, default None
        None is the default group.
    load_balanced : bool, default False
        One piece from the front and one from the back, so that with a causal mask all processes have as much
        to compute. False: one piece.

    Returns
    -------
    tensor (length / processes) of int64
        On the CPU.

    Raises
    ------
    ValueError
        `length` cannot be divided.
    """
    rank, processes = dist.get_rank(group), dist.get_world_size(group)
    pieces = 2 * processes if load_balanced else processes
    if length % pieces:
        raise ValueError(f"length: {length}, expected a multiple of {pieces}")
    rows = torch.arange(length, device="cpu").reshape(pieces, -1)
    return torch.cat([rows[rank], rows[-1 - rank]]) if load_balanced else rows[rank]


@contextlib.contextmanager
def context_parallel(
    mesh: dist.device_mesh.DeviceMesh,
    *,
    buffers: list[torch.Tensor] | None = None,
    buffer_seq_dims: list[int] | None = None,
    no_restore_buffers: set[torch.Tensor] | None = None,
    load_balance: bool = True,
) -> Generator[None, None, None]:
    """``torch.distributed.tensor.experimental.context_parallel`` where mfa runs attention.

    In it, ``torch.nn.functional.scaled_dot_product_attention`` is that of the whole sequence, though each
    process has its rows only. PyTorch's own has no attention for that on a CPU.

    Parameters
    ----------
    mesh : DeviceMesh
        Of one dimension.
    buffers, buffer_seq_dims, no_restore_buffers
        As PyTorch's takes them: `buffers` have only this process' rows inside of the with statement.
    load_balance : bool, default True
        Rows are dealt out so that with a causal mask all processes have as much to compute. Attention without
        ``is_causal=True`` is an error then.

    Notes
    -----
    ``backward()`` belongs into the with statement. As in PyTorch the function is replaced by name: what was
    imported as ``from torch.nn.functional import scaled_dot_product_attention`` before is not.
    There is neither a mask nor dropout, and Dv is D. For one thread at a time.
    """
    of_torch = F.scaled_dot_product_attention
    with (
        _options(load_balance, ring._cp_options.rotate_method),
        Kernels(_flash_operators.on_devices(OF_RING)),
    ):
        F.scaled_dot_product_attention = scaled_dot_product_attention
        try:
            with context_parallel_of_torch(
                mesh,
                buffers=buffers,
                buffer_seq_dims=buffer_seq_dims,
                no_restore_buffers=no_restore_buffers,
            ):
                yield
        finally:
            F.scaled_dot_product_attention = of_torch


OF_RING = ("_scaled_dot_product_flash_attention", "_scaled_dot_product_flash_attention_backward")


# By this name PyTorch puts its own in front of it.
def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    if attn_mask is not None:
        raise ValueError("attn_mask: given, expected None in context_parallel")
    if dropout_p:
        raise ValueError(f"dropout_p: {dropout_p}, expected 0.0 in context_parallel")
    _require_four_axes(query, key, value)
    if query.shape[3] != value.shape[3]:
        expected = f"expected {query.shape[3]} as query has in context_parallel"
        raise ValueError(f"value: head dimension {value.shape[3]}, {expected}")
    if query.shape[1] != key.shape[1] and not enable_gqa:
        expected = f"expected {query.shape[1]} as query has, or enable_gqa=True"
        raise ValueError(f"key: {key.shape[1]} heads, {expected}")
    return torch.ops.aten._scaled_dot_product_flash_attention(
        *_autocast(query, key, value), is_causal=is_causal, scale=scale
    )[0]


def _require_four_axes(query, key, value):
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor.ndim != 4:
            raise ValueError(f"{name}: {tensor.ndim} dimensions, expected 4")


def _autocast(query, key, value):
    """What autocast makes of them before PyTorch's attention; it has no rule for the operators of rings."""
    device_type = query.device.type
    if not torch.is_autocast_enabled(device_type):
        return query, key, value
    return cast_operands({"query": query, "key": key, "value": value}, device_type).values()


class _Call:
    """What a call has that is no tensor."""

    def __init__(self, group, is_causal, scale, load_balanced, rotate):
        self.group, self.is_causal, self.scale = group, is_causal, scale
        self.load_balanced, self.rotate = load_balanced, rotate

    def options(self):
        methods = {"alltoall": ring._RotateMethod.ALL_TO_ALL, "allgather": ring._RotateMethod.ALL_GATHER}
        return _options(self.load_balanced, methods[self.rotate])


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query, key, value, call):
        with call.options():
            out, logsumexp, *_ = ring._templated_ring_attention(
                *(call.group, ROWS, _partial, query, key, value), is_causal=call.is_causal, scale=call.scale
            )
        out = out.to(query.dtype)
        ctx.save_for_backward(query, key, value, out, logsumexp)
        ctx.call = call
        return out

    @staticmethod
    def backward(ctx: Any, dout):
        saved = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return _gradients(ctx.call, dout, saved)
        return apply_last(lambda: _gradients(ctx.call, dout, saved), dout, *saved)


def _gradients(call, dout, saved):
    """What `_Ring.backward` returns."""
    with call.options():
        gradients = ring._templated_ring_attention_backward(
            *(call.group, ROWS, _partial_backward, dout, "dout", *saved),
            is_causal=call.is_causal,
            scale=call.scale,
        )
    return *gradients[:3], None


def _partial(query, key, value, is_causal, scale):
    """(result, logsumexp) of some keys, in float32 as they are yet to be merged."""
    TALLY.add_mfa()
    return attention(
        query,
        key,
        value,
        layout="bhsd",
        causal="top-left" if is_causal else None,
        softmax_scale=scale,
        out_dtype="float32",
        return_lse=True,
    )


def _partial_backward(dout, query, key, value, out, logsumexp, is_causal, scale):
    """The same keys' part in the gradients, of the result and the logsumexp of all keys."""
    return attention_backward(
        dout,
        query,
        key,
        value,
        out,
        logsumexp,
        layout="bhsd",
        causal="top-left" if is_causal else None,
        softmax_scale=scale,
        out_dtype="float32",
        wanted=("dq", "dk", "dv"),
    )[:3]


@contextlib.contextmanager
def _options(load_balance, rotate_method):
    """PyTorch's options of the ring, until the end of the with statement."""
    options = ring._cp_options
    before = options.enable_load_balance, options.rotate_method
    options.enable_load_balance, options.rotate_method = load_balance, rotate_method
    try:
        yield
    finally:
        options.enable_load_balance, options.rotate_method = before
