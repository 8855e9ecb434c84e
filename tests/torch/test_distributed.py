"""Attention over a sequence of which two processes have the halves."""

import os
import re
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from support.sharded import CASES, LENGTH, PROCESSES, operands, outcome
from support.source_tree import ROOT
from torch.distributed.device_mesh import init_device_mesh

import mfa.torch
from mfa.torch import distributed
from mfa.torch.distributed import context_parallel, own_rows, ring_attention


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    command = [sys.executable, "-m", "support.sharded"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    processes = [
        subprocess.Popen([*command, str(rank), folder / "store", folder], env=env)
        for rank in range(PROCESSES)
    ]
    try:
        assert [process.wait(timeout=120) for process in processes] == [0] * PROCESSES
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / f"{rank}.pt") for rank in range(PROCESSES)]


def rows_of(rank, load_balanced):
    quarter = torch.arange(LENGTH).reshape(4, -1)
    return torch.cat(
        [quarter[rank], quarter[3 - rank]] if load_balanced else list(quarter.reshape(2, 2, -1)[rank])
    )


@pytest.mark.parametrize("rank", range(PROCESSES))
@pytest.mark.parametrize("case", CASES)
def test_results_and_gradients_are_those_of_one_process(found, case, rank):
    _, made, options, calls = CASES[case]
    results, counted = found[rank][case]
    whole = [x.double() for x in operands(**made)]
    expected = outcome(
        lambda *x: F.scaled_dot_product_attention(
            *x, is_causal=options.get("is_causal", False), scale=options.get("scale"), enable_gqa=True
        ),
        *whole,
    )
    rows = rows_of(rank, options.get("load_balanced", False))
    tolerance = 1e-5 if made.get("dtype") is None else 3e-2
    for actual, exact in zip(results, expected, strict=True):
        assert actual.dtype is made.get("dtype", torch.float32)
        torch.testing.assert_close(actual.double(), exact[:, :, rows], atol=tolerance, rtol=tolerance)
    assert counted == calls[rank]


@pytest.mark.parametrize("rank", range(PROCESSES))
def test_where_no_process_has_keys_all_is_zero(found, rank):
    assert not found[rank]["no keys"].any()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A group of this process."""
    store = tmp_path_factory.mktemp("alone") / "store"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_one_process_has_all_rows(alone):
    assert own_rows(4).tolist() == [0, 1, 2, 3]
    assert own_rows(4, load_balanced=True).tolist() == [0, 1, 2, 3]
    with torch.device("meta"):
        assert own_rows(4).device.type == "cpu"
    whole = operands()
    expected = outcome(mfa.torch.scaled_dot_product_attention, *whole)
    for actual, one in zip(outcome(ring_attention, *whole), expected, strict=True):
        torch.testing.assert_close(actual, one)


def test_autocast_casts_as_for_sdpa(alone):
    whole = operands()
    whole[3] = whole[3].bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        actual = outcome(ring_attention, *whole)
    halves = [x.bfloat16() for x in whole]
    for one, other in zip(actual, outcome(ring_attention, *halves), strict=True):
        assert torch.equal(one.bfloat16(), other)
    assert [x.dtype for x in actual] == [torch.bfloat16] + [torch.float32] * 3


def test_autocast_casts_in_context_parallel(alone):
    *whole, dout = operands()
    whole[2] = whole[2].bfloat16()
    mesh = init_device_mesh("cpu", (1,))
    with context_parallel(mesh, buffers=[X.clone()], buffer_seq_dims=[2], load_balance=False):
        with torch.autocast("cpu", torch.bfloat16):
            actual = outcome(F.scaled_dot_product_attention, *whole, dout.bfloat16())
        halves = [x.bfloat16() for x in (*whole, dout)]
        expected = outcome(F.scaled_dot_product_attention, *halves)
    assert [x.dtype for x in actual] == [torch.bfloat16, torch.float32, torch.float32, torch.bfloat16]
    assert all(torch.equal(one.bfloat16(), other) for one, other in zip(actual, expected, strict=True))


X = torch.ones(1, 2, 3, 4)
REFUSED = {
    "rotate: 'ring', expected 'alltoall' or 'allgather'": lambda: ring_attention(X, X, X, rotate="ring"),
    "load_balanced: True, expected False without is_causal=True, where all rows are alike": lambda: (
        ring_attention(X, X, X, load_balanced=True)
    ),
    "key: 2 rows, expected 3 as query has, with is_causal=True": lambda: ring_attention(
        X, X[:, :, :2], X[:, :, :2], is_causal=True
    ),
    "query: 3 rows, expected an even number with load_balanced=True": lambda: ring_attention(
        X, X, X, is_causal=True, load_balanced=True
    ),
    "value: 3 dimensions, expected 4": lambda: ring_attention(X, X, X[0]),
    "length: 3, expected a multiple of 2": lambda: own_rows(3, load_balanced=True),
    "key: 3 dimensions, expected 4": lambda: attend_in_context(key=X[0]),
    "value: head dimension 2, expected 4 as query has in context_parallel": lambda: attend_in_context(
        value=X[..., :2]
    ),
    "attn_mask: given, expected None in context_parallel": lambda: attend_in_context(attn_mask=X[..., :3]),
    "dropout_p: 0.5, expected 0.0 in context_parallel": lambda: attend_in_context(dropout_p=0.5),
    "key: 1 heads, expected 2 as query has, or enable_gqa=True": lambda: attend_in_context(key=X[:, :1]),
}


def attend_in_context(key=X, value=None, **options):
    mesh = init_device_mesh("cpu", (1,))
    with context_parallel(mesh, buffers=[X.clone()], buffer_seq_dims=[2], load_balance=False):
        F.scaled_dot_product_attention(X, key, key if value is None else value, **options)


@pytest.mark.parametrize("message", REFUSED)
def test_wrong_arguments_are_named(alone, message):
    before = F.scaled_dot_product_attention
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        REFUSED[message]()
    assert F.scaled_dot_product_attention is before


def test_what_is_yet_to_be_merged_is_float32():
    query, key, value, dout = operands(dtype=torch.bfloat16)
    out, logsumexp = distributed._partial(query, key, value, is_causal=True, scale=None)
    gradients = distributed._partial_backward(
        dout, query, key, value, out.bfloat16(), logsumexp, is_causal=True, scale=None
    )
    assert {x.dtype for x in (out, logsumexp, *gradients)} == {torch.float32}


def test_gradients_have_no_gradients(alone):
    query, key, value, dout = operands()
    query.requires_grad_()
    result = ring_attention(query, key, value)
    [gradient] = torch.autograd.grad(result, query, dout, create_graph=True)
    torch.testing.assert_close(gradient, outcome(ring_attention, query, key, value, dout)[1])
    with pytest.raises(NotImplementedError, match=r"^query: a second derivative of attention"):
        gradient.sum().backward()


def test_example_prints_tokens_and_memory():
    program = ROOT / "examples/python/context_parallel.py"
    done = subprocess.run(
        [sys.executable, program, "--tokens", "512", "--processes", "1", "2"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"(?m)^ +(\d+) +512 +(\d+) +\d+\.\d MiB$", done.stdout)
    assert rows == [("1", "512"), ("2", "256")]
    difference = float(re.search(r"Largest difference between them: (\S+)", done.stdout)[1])
    assert 0 < difference < 1e-5
