"""score_mods as people write them, for NumPy's arrays and torch's, with what mfa.flex_plan calls each."""

import numpy as np
import torch

HEADS, ROWS, KEYS = 4, 70, 90
RNG = np.random.default_rng(12)
SLOPES = RNG.random(HEADS, dtype=np.float32)
TABLE = RNG.standard_normal((HEADS, ROWS + KEYS), dtype=np.float32)
BIAS = RNG.standard_normal((HEADS, ROWS, KEYS), dtype=np.float32)
KEY_BIAS = RNG.standard_normal((3, KEYS), dtype=np.float32)
DOCUMENTS = np.sort(RNG.integers(0, 4, 200))


def forms(xp, array):
    """name: (function, what it is found to be), over the functions `xp` and arrays made by `array`."""
    slopes, table, bias, key_bias, documents = map(array, (SLOPES, TABLE, BIAS, KEY_BIAS, DOCUMENTS))
    where, tanh, inf = xp.where, xp.tanh, float("inf")
    return {
        "identity": (lambda s, b, h, q, k: s, "none"),
        "scale": (lambda s, b, h, q, k: -(2 * s) / 3, "scale"),
        "softcap": (lambda s, b, h, q, k: 20 * tanh(s / 20), "softcap"),
        "negative softcap": (lambda s, b, h, q, k: tanh(s * 0.3) * -5, "softcap"),
        "alibi": (lambda s, b, h, q, k: s - slopes[h] * abs(q - k), "alibi"),
        "slope": (lambda s, b, h, q, k: s + slopes[h] * (k - q), "relative"),
        "relative": (lambda s, b, h, q, k: s + table[h, q - k + KEYS], "relative"),
        "shifted": (lambda s, b, h, q, k: s + table[0, (q + 3) - (k - 2)], "relative"),
        "causal": (lambda s, b, h, q, k: where(q >= k, s, -inf), "causal"),
        "window": (lambda s, b, h, q, k: where((q - k <= 8) & (k - q < 3), s, -inf), "window"),
        "causal alibi": (lambda s, b, h, q, k: where(k > q, -inf, s + slopes[h] * (k - q)), "causal + alibi"),
        "holes": (lambda s, b, h, q, k: where((q - k) % 3 == 0, s, -inf), "relative"),
        "near": (lambda s, b, h, q, k: s - where(abs(q - k) < 5, 0, abs(q - k) * 0.5), "relative"),
        "less": (lambda s, b, h, q, k: where(q > k, s, s - 1), "relative"),
        "bias": (lambda s, b, h, q, k: s + bias[h, q, k], "bias"),
        "keys": (lambda s, b, h, q, k: key_bias[b, k] + s, "bias"),
        "heads": (lambda s, b, h, q, k: slopes[h] - s, "scale + bias"),
        "constant": (lambda s, b, h, q, k: s + 1.5, "bias"),
        "documents": (lambda s, b, h, q, k: where(documents[q] == documents[k], s, -inf), "bias"),
        "product": (lambda s, b, h, q, k: s + (bias[h, q, :5] * bias[h, k % ROWS, :5]).sum(-1), "bias"),
        "softcap and bias": (lambda s, b, h, q, k: 7 * tanh(s / 7) + bias[h, q, k], "softcap + bias"),
        "softcap of a bias": (lambda s, b, h, q, k: 7 * tanh((s + bias[h, q, k]) / 7), "generic"),
        "square": (lambda s, b, h, q, k: s * s, "generic"),
        "temperature": (lambda s, b, h, q, k: s * slopes[h], "generic"),
        "choice": (lambda s, b, h, q, k: where(q > k, s, 2 * s), "generic"),
        "by value": (lambda s, b, h, q, k: where(s > 0, s, s / 2), "generic"),
        "number": (lambda s, b, h, q, k: where(q > k, s, 0.25), "generic"),
        "without score": (lambda s, b, h, q, k: bias[h, q, k] + 0 * q, "generic"),
    }


def added_in_place(score, b, h, q_idx, kv_idx):
    total = torch.zeros(()) * (b + h + q_idx + kv_idx)
    total.add_(score)
    return score + total


NUMPY = forms(np, np.asarray)
TORCH = {
    **forms(torch, torch.from_numpy),
    "methods": (lambda s, b, h, q, k: (s / 9).tanh().mul(9).masked_fill(k > q, -float("inf")), "generic"),
    "masked": (lambda s, b, h, q, k: s.masked_fill(k > q, -float("inf")), "causal"),
    "torch functions": (
        lambda s, b, h, q, k: torch.add(torch.mul(s, 2.0), torch.neg(k - q)),
        "scale + relative",
    ),
    "in place": (added_in_place, "generic"),
    "reducing": (lambda s, b, h, q, k: s + (torch.from_numpy(BIAS)[h, q, :5] * 1.0).sum(), "generic"),
}
