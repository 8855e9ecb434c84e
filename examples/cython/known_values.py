"""Seven results of attention from Cython, each compared with known values; or, with `bench`, two times."""

import sys
import time

import numpy as np
from cyattention import Attention, Context, Quantised

SHAPE = (1, 2, 8, 8)
PRINTED = (0, 1, 5, slice(0, 4))
KNOWN = {
    "forward": (0.222707, -0.012910, -0.264847, 0.097707),
    "dq": (0.034121, -0.116048, 0.024352, -0.027352),
    "dk": (0.044962, 0.017408, -0.049931, 0.036372),
    "dv": (-0.047868, -0.027844, 0.124267, 0.276377),
    "window": (-0.101362, -0.108237, 0.523638, -0.226362),
    "blocks": (0.510920, -0.239080, -0.331950, 0.385920),
    "quantised": (0.509885, -0.074666, -0.655668, 0.259885),
}


def codes(step: int, shift: int) -> np.ndarray:
    return ((step * np.arange(np.prod(SHAPE)) + shift) % 17 - 8).astype(np.int8).reshape(SHAPE)


def elements(step: int, shift: int) -> np.ndarray:
    return codes(step, shift).astype(np.float32) / 8


def results() -> dict[str, np.ndarray]:
    query, key, value, dout = elements(5, 0), elements(7, 3), elements(11, 5), elements(3, 1)
    # Row block 0 sees key blocks 0 and 1, row block 1 sees 0, 2 and 3.
    counts = np.array([2, 3], np.int32).reshape(1, 1, 2, 1)
    indices = np.array([[0, 1, 0], [0, 2, 3]], np.int32).reshape(1, 1, 2, 3)
    scales = np.array([1 / 8, 1 / 4], np.float32)
    attentions = {
        "forward": Attention(query, key, value),
        "window": Attention(query, key, value, window=(2, 0)),
        "blocks": Attention(query, key, value, blocks=(4, 2, counts, indices)),
        "quantised": Attention(query, Quantised(codes(7, 3), scales), Quantised(codes(11, 5), scales)),
    }
    found = {name: np.empty(SHAPE, np.float32) for name in KNOWN}
    with Context() as context:
        for name, attention in attentions.items():
            attention.forward(context, found[name])
        causal = Attention(query, key, value, causal=True)
        out, logsumexp = np.empty(SHAPE, np.float32), np.empty((*SHAPE[:3], 1), np.float32)
        causal.forward(context, out, logsumexp)
        causal.backward(context, dout, out, logsumexp, found["dq"], found["dk"], found["dv"])
    return found


def check() -> None:
    for name, result in results().items():
        numbers = result[PRINTED]
        print(name, *(f"{number:.6f}" for number in numbers))
        if not np.allclose(numbers, KNOWN[name], rtol=0, atol=1e-5):
            raise SystemExit(f"{name}: {numbers}, expected {KNOWN[name]}")


def seconds_a_call(context: Context, shape: tuple[int, ...], calls: int) -> float:
    """All calls in one loop of the module's, which has the same query and result again and again."""
    query, key, value = np.random.default_rng(0).standard_normal((3, *shape), np.float32)
    out = np.empty(shape, np.float32)
    attention = Attention(query, key, value)
    queries, outs = (
        np.lib.stride_tricks.as_strided(array, (calls, *shape), (0, *array.strides)) for array in (query, out)
    )
    attention.forward(context, out)  # the first call finds its workspace
    start = time.perf_counter()
    attention.forward_each(context, queries, outs)
    return (time.perf_counter() - start) / calls


def bench() -> None:
    heads, rows, head_dim = 8, 1024, 64
    with Context() as context:
        seconds = min(seconds_a_call(context, (1, heads, rows, head_dim), 1) for _ in range(20))
    instructions = (2 * head_dim + 5) * heads * rows * rows
    print(
        f"forward 1x8x1024x64 float32: {seconds * 1e3:.2f} ms, {instructions / seconds / 1e9:.1f} GINSTRS/s"
    )
    with Context(threads=1) as context:
        seconds = seconds_a_call(context, (1, 1, 16, 64), 5000)
    print(f"call 1x1x16x64 float32: {seconds * 1e6:.2f} us")


if __name__ == "__main__":
    bench() if "bench" in sys.argv[1:] else check()
