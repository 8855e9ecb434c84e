"""Tiles of newer GPU families: right where a row of their table ends and the next begins."""

import pytest
from support.emulated import in_python

HEAD_DIMS = {
    "float16": (64, 65, 96, 97, 144, 145, 160, 161, 192, 193),
    "float32": (32, 48, 49, 64, 65, 96, 97, 112, 113),
}
CASES = [(dtype, head_dim, dtype) for dtype, head_dims in HEAD_DIMS.items() for head_dim in head_dims]
DOUT_STAGED_AS_FLOATS = [("float16", 64, "float32"), ("float16", 144, "float32")]

METAL_AGAINST_CPU = """
import sys, numpy, mfa
dtype, head_dim, dout_dtype = sys.argv[1], int(sys.argv[2]), sys.argv[3]
rng = numpy.random.default_rng(head_dim)
query = rng.standard_normal((1, 70, 2, head_dim)).astype(dtype)
key, value = rng.standard_normal((2, 1, 131, 1, head_dim)).astype(dtype)
dout = rng.standard_normal(query.shape).astype(dout_dtype)

def results(backend, **mask):
    context = mfa.Context(backend)
    out, lse = mfa.attention(query, key, value, return_lse=True, context=context, **mask)
    return out, lse, *mfa.attention_backward(dout, query, key, value, out, lse, context=context, **mask)[:3]

for mask in {}, {"causal": "bottom-right"}, {"window": (40, 3)}:
    for metal, cpu in zip(results("metal", **mask), results("cpu", **mask), strict=True):
        expected = cpu.astype(float)
        error = numpy.linalg.norm(metal - expected) / numpy.linalg.norm(expected)
        assert error < (3e-6 if dtype == "float32" else 2e-3), (mask, error)
"""


@pytest.mark.parametrize(("dtype", "head_dim", "dout_dtype"), CASES + DOUT_STAGED_AS_FLOATS)
def test_apple9_equals_the_cpu(library, dtype, head_dim, dout_dtype):
    settings = {"METAL_EMULATOR_GPU": "apple9", "METAL_EMULATOR_MODE": "checked"}
    done = in_python("-c", METAL_AGAINST_CPU, dtype, head_dim, dout_dtype, **settings)
    assert done.returncode == 0, done.stderr
