"""Seven results of attention in Python, each compared with known values; or, with `bench`, two times."""

import sys
import time

import numpy as np

import mfa

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

    def attention(key: np.ndarray, value: np.ndarray, **keywords: object) -> np.ndarray:
        return mfa.attention(query, key, value, layout="bhsd", **keywords)

    causal = {"layout": "bhsd", "causal": "top-left"}
    out, logsumexp = mfa.attention(query, key, value, return_lse=True, **causal)
    gradients = mfa.attention_backward(dout, query, key, value, out, logsumexp, **causal)
    # Blocks of 4 rows, and the blocks of 2 keys that each sees.
    seen = np.array([[True, True, False, False], [True, False, True, True]])
    blocks = mfa.create_block_mask(
        lambda b, h, i, j: seen[i // 4, j // 2], None, None, 8, 8, BLOCK_SIZE=(4, 2)
    )
    scales = np.array([1 / 8, 1 / 4], np.float32).reshape(1, 2, 1, 1)
    key_codes, value_codes = (
        mfa.QuantizedTensor(stored, scales, rows=0, layout="bhsd") for stored in (codes(7, 3), codes(11, 5))
    )
    return {
        "forward": attention(key, value),
        "dq": gradients.dq,
        "dk": gradients.dk,
        "dv": gradients.dv,
        "window": attention(key, value, window=mfa.sliding_window(3), alignment="top-left"),
        "blocks": attention(key, value, block_mask=blocks),
        "quantised": attention(key_codes, value_codes),
    }


def check() -> None:
    for name, result in results().items():
        numbers = result[PRINTED]
        print(name, *(f"{number:.6f}" for number in numbers))
        if not np.allclose(numbers, KNOWN[name], rtol=0, atol=1e-5):
            raise SystemExit(f"{name}: {numbers}, expected {KNOWN[name]}")


def seconds_a_call(context: mfa.Context, shape: tuple[int, ...], calls: int) -> float:
    query, key, value, out = np.random.default_rng(0).standard_normal((4, *shape), np.float32)
    call = {"layout": "bhsd", "out": out, "context": context}
    mfa.attention(query, key, value, **call)  # the first call finds its workspace
    start = time.perf_counter()
    for _ in range(calls):
        mfa.attention(query, key, value, **call)
    return (time.perf_counter() - start) / calls


def bench() -> None:
    heads, rows, head_dim = 8, 1024, 64
    with mfa.Context() as context:
        seconds = min(seconds_a_call(context, (1, heads, rows, head_dim), 1) for _ in range(20))
    instructions = (2 * head_dim + 5) * heads * rows * rows
    print(
        f"forward 1x8x1024x64 float32: {seconds * 1e3:.2f} ms, {instructions / seconds / 1e9:.1f} GINSTRS/s"
    )
    with mfa.Context(num_threads=1) as context:
        seconds = seconds_a_call(context, (1, 1, 16, 64), 5000)
    print(f"call 1x1x16x64 float32: {seconds * 1e6:.2f} us")


if __name__ == "__main__":
    bench() if "bench" in sys.argv[1:] else check()
