"""Processes that have a sequence between them: what tests/torch/test_diffusers_parallel.py starts."""

import sys

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig
from diffusers.models._modeling_parallel import ParallelConfig
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch.distributed.device_mesh import init_device_mesh

import mfa.diffusers
from mfa.diffusers import _context_parallel

PROCESSES = 2
LENGTH = 12
CASES = {
    "ring": ({"ring_degree": 2}, {}),
    "ring, scale": ({"ring_degree": 2}, {"scale": 0.2}),
    "ulysses": ({"ulysses_degree": 2}, {}),
}


def operands():
    """query, key, value and the gradient of the result, (batch, rows, heads, dim) of the whole sequence."""
    torch.manual_seed(1)
    return [torch.randn(2, LENGTH, 4, 8) for _ in range(4)]


def outcome(function, query, key, value, dout):
    inputs = [x.detach().clone().requires_grad_() for x in (query, key, value)]
    result = function(*inputs)
    return [result.detach(), *torch.autograd.grad(result, inputs, dout)]


def work(rank, store, folder):
    """What each process does: all cases, and all that it found into a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=PROCESSES)
    calls = []
    forward = _context_parallel.forward

    def counted(*arguments, **keywords):
        calls.append(arguments)
        return forward(*arguments, **keywords)

    _context_parallel.forward = counted
    found = {}
    for name, (degrees, options) in CASES.items():
        config = ParallelConfig(context_parallel_config=ContextParallelConfig(**degrees))
        context = config.context_parallel_config
        mesh = init_device_mesh("cpu", context.mesh_shape, mesh_dim_names=context.mesh_dim_names)
        config.setup(rank, PROCESSES, torch.device("cpu"), mesh=mesh)
        calls.clear()
        results = outcome(
            lambda *x, config=config, options=options: dispatch_attention_fn(
                *x, **options, backend=mfa.diffusers.BACKEND, parallel_config=config
            ),
            *(x.chunk(PROCESSES, 1)[rank] for x in operands()),
        )
        found[name] = results, len(calls)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    work(int(sys.argv[1]), *sys.argv[2:])
