"""What a GPU leaves open: the order of threads, what fast functions round to, what memory holds at first."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.emulated import in_python

# Each pass with each feature that has code of its own. Prints a digest of all bits, and the largest distance
# from the CPU in units of rounding.
PROGRAM = """
import hashlib, json
import numpy as np
import mfa

rng = np.random.default_rng(1)
metal, cpu = mfa.Context("metal"), mfa.Context("cpu")

def draw(dtype, heads, *shape):
    return rng.standard_normal((2, heads, *shape)).astype(dtype)

def calls():
    for dtype in (np.float32, np.float16):
        for rows, keys, dim, value_dim in ((37, 83, 40, 24), (2, 300, 40, 24), (40, 40, 264, 72)):
            operands = draw(dtype, 4, rows, dim), draw(dtype, 2, keys, dim), draw(dtype, 2, keys, value_dim)
            dout = draw(dtype, 4, rows, value_dim)
            for options in ({}, {"causal": "bottom-right", "sinks": np.ones(4, np.float32)},
                            {"bias": rng.standard_normal((4, 1, keys)).astype(dtype), "window": (30, 20),
                             "dropout_p": 0.2, "softcap": 5.0, "mask": rng.random((rows, keys)) < 0.7}):
                yield dout, operands, {**options, "layout": "bhsd"}

def numbers(*values):
    return np.array(values, np.int32)

def sequence_calls():
    packed = {"cu_seqlens_q": numbers(0, 37, 37, 50), "cu_seqlens_k": numbers(0, 60, 61, 83),
              "seqused_k": numbers(50, 0, 22), "causal": "bottom-right", "sinks": np.ones(4, np.float32)}
    paged = {"page_table": rng.permutation(12).astype(np.int32).reshape(3, 4), "attention_chunk": 9,
             "seqused_k": numbers(50, 3, 64), "leftpad_k": numbers(0, 3, 5), "causal": "bottom-right"}
    for options, q_shape, k_shape in (
        (packed, (60,), (90,)), (paged, (3, 37), (12, 16)), (paged, (3, 2), (12, 16))
    ):
        operands = [rng.standard_normal((*shape, heads, 40)).astype(np.float32)
                    for shape, heads in ((q_shape, 4), (k_shape, 2), (k_shape, 2))]
        yield rng.standard_normal(operands[0].shape).astype(np.float32), operands, options

def block_calls():
    for rows, size in (37, (16, 24)), (37, 7), (2, 16):
        mask = mfa.create_block_mask(
            lambda b, h, row, key: (row // 7 + key // 9 + h) % 3 != 0, None, 4, rows, 83, BLOCK_SIZE=size)
        operands = [rng.standard_normal((2, *shape, 40)).astype(np.float32)
                    for shape in ((rows, 4), (83, 2), (83, 2))]
        dout = rng.standard_normal(operands[0].shape).astype(np.float32)
        yield dout, operands, {"block_mask": mask}
        yield dout, operands, {"block_mask": mask, "softcap": 5.0, "dropout_p": 0.2, "causal": "bottom-right"}

def run(context, dout, operands, options):
    out, lse = mfa.attention(*operands, **options, return_lse=True, context=context)
    gradients = mfa.attention_backward(dout, *operands, out, lse, **options, context=context)
    return [np.asarray(x, np.float32) for x in (out, lse, *gradients) if x is not None]

digest, worst = hashlib.sha256(), 0.0
for dout, operands, options in (*calls(), *sequence_calls(), *block_calls()):
    ours, theirs = (run(context, dout, operands, options) for context in (metal, cpu))
    unit = 2.0**-24 if operands[0].dtype == np.float32 else 2.0**-11
    for x, y in zip(ours, theirs):
        digest.update(x.tobytes())
        finite = np.isfinite(y)
        assert np.array_equal(np.isfinite(x), finite)
        scale = max(np.abs(y[finite]).max(initial=0), 1)
        worst = max(worst, float(np.abs(x - y)[finite].max(initial=0) / scale / unit))
print(json.dumps({"bits": digest.hexdigest(), "worst": worst}))
"""

ORDERS = (
    {"METAL_EMULATOR_ORDER": "fifo"},
    {"METAL_EMULATOR_ORDER": "reverse"},
    {"METAL_EMULATOR_ORDER": "lifo"},
    {"METAL_EMULATOR_ORDER": "random", "METAL_EMULATOR_SEED": "1"},
    {"METAL_EMULATOR_ORDER": "random", "METAL_EMULATOR_SEED": "2"},
    {"METAL_EMULATOR_FILL": "unwritten"},
)


def run(**settings):
    done = in_python("-c", PROGRAM, **settings)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


CHECKED = {"METAL_EMULATOR_MODE": "checked", "METAL_EMULATOR_FILL": "unwritten"}


@pytest.fixture(scope="module")
def runs(library):
    """The usual run, and one where every access is checked: side by side, as compiling takes longest."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda settings: run(**settings), ({}, CHECKED)))


@pytest.fixture(scope="module")
def usual(runs):
    return runs[0]


def test_equals_the_cpu(usual):
    assert usual["worst"] < 25


@pytest.mark.parametrize("settings", ORDERS[1:], ids=lambda settings: "-".join(settings.values()))
def test_order_of_threads_does_not_change_a_bit(usual, settings):
    assert run(**settings)["bits"] == usual["bits"]


def test_no_fault_where_every_access_is_checked(runs):
    """Races, bounds, uninitialised and stale reads, divergent barriers: any of them fails the call."""
    for checked in runs[1], run(**CHECKED, METAL_EMULATOR_ORDER="reverse"):
        assert checked["worst"] < 25


def test_inexact_fast_functions_cost_no_more_than_rounding(usual):
    """fast::exp2 within 4 units in the last place, as a GPU's may be."""
    perturbed = run(METAL_EMULATOR_FAST_ULPS="4", METAL_EMULATOR_SEED="3")
    assert perturbed["bits"] != usual["bits"]
    assert perturbed["worst"] < 35
