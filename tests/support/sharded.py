"""Processes that have a sequence between them: what the tests of mfa.torch.distributed start."""

import contextlib
import sys

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.device_mesh import init_device_mesh

import mfa.torch
from mfa.torch.distributed import context_parallel, own_rows, ring_attention

PROCESSES = 2
LENGTH = 16


def operands(kv_heads=4, dtype=torch.float32):
    """query, key, value and the gradient of the result, of the whole sequence."""
    torch.manual_seed(1)
    shapes = [(2, 4, LENGTH, 8), (2, kv_heads, LENGTH, 8), (2, kv_heads, LENGTH, 8), (2, 4, LENGTH, 8)]
    return [torch.randn(shape).to(dtype) for shape in shapes]


def outcome(function, query, key, value, dout):
    inputs = [x.detach().requires_grad_() for x in (query, key, value)]
    result = function(*inputs)
    return [result.detach(), *torch.autograd.grad(result, inputs, dout)]


def by_ring(whole, **options):
    rows = own_rows(LENGTH, load_balanced=options.get("load_balanced", False))
    return outcome(lambda *x: ring_attention(*x, **options), *(x[:, :, rows] for x in whole))


def by_context_parallel(whole, *, load_balanced=False, replacing=contextlib.nullcontext, **options):
    buffers = [x.clone() for x in whole]
    mesh = init_device_mesh("cpu", (PROCESSES,))
    before = F.scaled_dot_product_attention
    with (
        replacing(),
        context_parallel(mesh, buffers=buffers, buffer_seq_dims=[2] * 4, load_balance=load_balanced),
    ):
        results = outcome(lambda *x: F.scaled_dot_product_attention(*x, **options), *buffers)
    assert F.scaled_dot_product_attention is before
    assert all(map(torch.equal, buffers, whole))
    return results


# (who computes, of which operands, how, calls of mfa by process)
CAUSAL = {"is_causal": True}
BALANCED = CAUSAL | {"load_balanced": True}
CASES = {
    "ring": (by_ring, {}, {}, (2, 2)),
    "ring, scale": (by_ring, {}, {"scale": 0.2}, (2, 2)),
    "ring, all at once": (by_ring, {}, {"rotate": "allgather"}, (2, 2)),
    "ring, causal": (by_ring, {}, CAUSAL, (1, 2)),
    "ring, balanced": (by_ring, {}, BALANCED, (2, 2)),
    "ring, balanced, all at once": (by_ring, {}, BALANCED | {"rotate": "allgather"}, (2, 2)),
    "ring, grouped heads": (by_ring, {"kv_heads": 2}, BALANCED, (2, 2)),
    "ring, bfloat16": (by_ring, {"dtype": torch.bfloat16}, BALANCED, (2, 2)),
    "context_parallel": (by_context_parallel, {}, {}, (2, 2)),
    "context_parallel, causal": (by_context_parallel, {}, CAUSAL, (1, 2)),
    "context_parallel, balanced": (by_context_parallel, {}, BALANCED | {"scale": 0.2}, (2, 2)),
    "context_parallel, grouped heads": (
        by_context_parallel,
        {"kv_heads": 2},
        BALANCED | {"enable_gqa": True},
        (2, 2),
    ),
    "context_parallel in replace_sdpa": (
        by_context_parallel,
        {},
        BALANCED | {"replacing": mfa.torch.replace_sdpa},
        (2, 2),
    ),
}


def work(rank, store, folder):
    """What each process does: all cases, and all that it found into a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=PROCESSES)
    found = {}
    for name, (compute, made, options, _) in CASES.items():
        before = mfa.torch.sdpa_counts().mfa
        results = compute(operands(**made), **options)
        found[name] = results, mfa.torch.sdpa_counts().mfa - before
    query, key, value, _ = operands()
    found["no keys"] = ring_attention(query, key[:, :, :0], value[:, :, :0])
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    work(int(sys.argv[1]), *sys.argv[2:])
