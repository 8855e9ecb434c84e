"""Plans of the Metal backend name the GPU family, every kernel and its tiles, before anything is compiled."""

import pytest
from support.emulated import in_python

PLAN = """
import sys, numpy, mfa
queries, dtype, head_dim, options = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), eval(sys.argv[4])
q = numpy.zeros((1, queries, 8, head_dim), dtype)
k = numpy.zeros((1, 4096, 2, head_dim), dtype)
plan = mfa.plan(q, k, k.copy(), context=mfa.Context("metal"), **options)
print(plan.backend, plan.isa, f"{plan.tile_queries}x{plan.tile_keys}", plan.key_splits, plan.kernel, sep="|")
"""
LENGTHS = "dict(seqused_q=numpy.zeros(1, 'i4'))"
BLOCKS = "dict(block_mask=mfa.create_block_mask(lambda b, h, q, k: q >= k, None, None, {}, 4096))"
NEW_ROWS = "numpy.zeros((1, 1, 2, 64), 'f2')"
ANGLES = "numpy.zeros((4001, 32), 'f4')"
APPENDED = (
    f"dict(seqused_k=numpy.full(1, 4000, 'i4'), k_new={NEW_ROWS}, v_new={NEW_ROWS},"
    f" rotary_cos={ANGLES}, rotary_sin={ANGLES})"
)
EVERY_GRADIENT = "dict(backward=True, bias=numpy.zeros((4096, 4096), 'f4'), sinks=numpy.zeros(8, 'f4'))"


@pytest.mark.parametrize(
    ("gpu", "queries", "dtype", "head_dim", "options", "expected"),
    [
        ("apple7", 4096, "float16", 64, "{}", "64x32|1|forward_FP16_d64x64"),
        ("apple9", 4096, "float16", 96, "{}", "64x64|1|forward_FP16_d96x96"),
        ("apple7", 4096, "float32", 100, "{}", "64x16|1|forward_FP32_d104x104"),
        ("apple7", 1, "float16", 64, "{}", "8x32|16|decode+combine_FP16_d64x64"),
        ("apple9", 1, "float16", 100, "{}", "8x32|16|decode+combine_FP16_d112x112"),
        ("apple7", 512, "float16", 64, BLOCKS.format(512), "64x32|1|blocks+forward_FP16_d64x64"),
        ("apple7", 1, "float16", 64, BLOCKS.format(1), "8x32|16|blocks+decode+combine_FP16_d64x64"),
        ("apple7", 512, "float16", 64, BLOCKS.format(512).replace("dict(", "dict(backward=True, "),
         "32x32|1|backward_FP16 prepare blocks query:32x32 key:32x32"),
        ("apple7", 4096, "float16", 64, "dict(backward=True)",
         "32x32|1|backward_FP16 prepare query:32x32 key:32x32"),
        ("apple9", 4096, "float16", 64, "dict(backward=True)",
         "32x64|1|backward_FP16 prepare query:32x64 key:64x32"),
        ("apple7", 4096, "float32", 256, EVERY_GRADIENT,
         "32x8|1|backward_FP32 prepare query:32x8 key:16x32 bias:32x8 sinks"),
        ("apple7", 4096, "float16", 200, EVERY_GRADIENT,
         "32x16|1|backward_FP16 prepare query:32x16 key:32x32 bias:32x16 sinks"),
        ("apple7", 4096, "float16", 64, LENGTHS, "64x32|1|fill+forward_FP16_d64x64"),
        ("apple7", 1, "float16", 64, LENGTHS, "8x32|16|decode+combine_FP16_d64x64"),
        ("apple7", 1, "float16", 64, APPENDED, "8x32|16|append+rotate+decode+combine_FP16_d64x64"),
        ("apple7", 4096, "float16", 64, f"{LENGTHS} | dict(backward=True)",
         "32x32|1|backward_FP16 fill prepare query:32x32 key:32x32"),
    ],
)  # fmt: skip
def test_plan_names_every_kernel_and_its_tiles(library, gpu, queries, dtype, head_dim, options, expected):
    done = in_python("-c", PLAN, queries, dtype, head_dim, options, METAL_EMULATOR_GPU=gpu)
    assert done.stdout == f"metal|{gpu}|{expected}\n", done.stderr
