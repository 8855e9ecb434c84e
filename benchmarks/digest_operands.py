"""Operands of the problems in digest_problems.py, made from a problem's description alone."""

import hashlib
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from benchmarks.digest_problems import Problem

NUMPY_DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
BIAS_AXES = {  # of batch, heads, queries and keys, those along which it is given
    "full": (0, 1, 2, 3),
    "keys": (3,),
    "batch-keys": (0, 3),
    "rows": (0, 2),
    "heads": (1,),
    "scores": (2, 3),
    "scalar": (),
}
HIDDEN = 0.2  # share of the keys that padding hides


@dataclass(frozen=True)
class Call:
    """What attention is given, and what it writes to where that is not packed."""

    query: np.ndarray
    key: np.ndarray
    value: np.ndarray
    dout: np.ndarray
    options: dict[str, Any]
    out: np.ndarray | None
    out_memory: np.ndarray | None  # all of it, between the elements of `out` too


def generator(problem: Problem) -> np.random.Generator:
    digest = hashlib.sha256(problem.description.encode()).digest()
    return np.random.default_rng(int.from_bytes(digest))


def place(values: np.ndarray, memory: str) -> tuple[np.ndarray, np.ndarray]:
    """`values`, of 4 axes, laid out as `memory` says, and the array that it is a view of."""
    if memory == "transposed":  # rows next to each other, not columns
        base = np.ascontiguousarray(values.swapaxes(1, 3))
        return base.swapaxes(1, 3), base
    if memory == "every-other":
        base = np.full((*values.shape[:-1], 2 * values.shape[-1]), 77, values.dtype)
        view = base[..., ::2]
    elif memory == "reversed":
        base = np.empty_like(values)
        view = base[:, ::-1, :, ::-1]
    elif memory == "interleaved":  # as the parts of packed query, key and value
        batch, rows, heads, dim = values.shape
        base = np.full((batch, rows, 3, heads, dim), 77, values.dtype)
        view = base[:, :, 1]
    else:
        base = view = np.ascontiguousarray(values)
    view[...] = values
    return view, base


def operand(
    rng: np.random.Generator, shape: tuple[int, ...], problem: Problem, spread: float = 1.0
) -> np.ndarray:
    values = (spread * rng.standard_normal(shape)).astype(NUMPY_DTYPES[problem.dtype])
    if problem.memory == "shared":  # one batch and one head for all
        return np.broadcast_to(values[:1, :, :1], shape)
    return place(values, problem.memory)[0]


def bool_mask(rng: np.random.Generator, problem: Problem) -> np.ndarray:
    batch, heads, queries, keys = problem.batch, problem.heads, problem.queries, problem.keys
    hidden = round(HIDDEN * keys)
    if problem.mask == "padding":
        return np.broadcast_to(np.arange(keys) < keys - hidden, (batch, 1, 1, keys)).copy()
    if problem.mask == "left-padding":
        return np.broadcast_to(np.arange(keys) >= hidden, (batch, 1, 1, keys)).copy()
    if problem.mask == "rows":  # some see nothing
        return rng.random((batch, 1, queries, 1)) < 0.7
    shape = (queries, keys) if problem.mask == "scores" else (batch, heads, queries, keys)
    return rng.random(shape) < 0.6


def bias(rng: np.random.Generator, problem: Problem) -> np.ndarray:
    sizes = (problem.batch, problem.heads, problem.queries, problem.keys)
    shape = tuple(size if axis in BIAS_AXES[problem.bias] else 1 for axis, size in enumerate(sizes))
    values = rng.standard_normal(shape).astype(NUMPY_DTYPES[problem.bias_dtype])
    hidden = round(HIDDEN * shape[3])
    if problem.bias_hides == "end":
        values[..., shape[3] - hidden :] = -np.inf
    elif problem.bias_hides == "start":
        values[..., :hidden] = -np.inf
    elif problem.bias_hides == "rows":
        values[:, :, 1::3] = -np.inf
    elif problem.bias_hides == "scattered":
        values[rng.random(shape) < 0.3] = -np.inf
    return values[0, 0] if problem.bias == "scores" else values


def poison(arrays: dict[str, np.ndarray], problem: Problem) -> None:
    """Puts what is not finite where `problem.poison` says: in the middle, or in keys that padding hides."""
    if problem.poison == "hidden":
        hidden = round(HIDDEN * problem.keys)
        for name in ("key", "value"):
            arrays[name][:, problem.keys - hidden :] = np.nan
        return
    number, _, name = problem.poison.rpartition("-")
    array = arrays[name]
    array[tuple(size // 2 for size in array.shape)] = float(number.replace("minus-", "-"))


def operands_of(problem: Problem) -> Call:
    rng = generator(problem)
    batch, heads, dim = problem.batch, problem.heads, problem.head_dim
    arrays = {
        "query": operand(rng, (batch, problem.queries, heads, dim), problem, problem.spread),
        "key": operand(rng, (batch, problem.keys, problem.key_heads, dim), problem, problem.spread),
        "value": operand(rng, (batch, problem.keys, problem.key_heads, problem.values), problem),
        "dout": operand(rng, (batch, problem.queries, heads, problem.values), problem),
    }
    options = {
        "layout": problem.layout,
        "causal": problem.causal,
        "alignment": problem.alignment,
        "window": problem.window,
        "softmax_scale": problem.softmax_scale,
        "softcap": problem.softcap,
        "intermediate_precision": "float32" if problem.exact_weights else None,
    }
    if problem.dropout_p:
        seed, offset = (int(word) for word in rng.integers(2**63, size=2))
        options |= {"dropout_p": problem.dropout_p, "dropout_seed": seed, "dropout_offset": offset}
    if problem.mask:
        options["mask"] = bool_mask(rng, problem)
    if problem.bias:
        options["bias"] = arrays["bias"] = bias(rng, problem)
    if problem.alibi:
        sizes = (batch, heads) if problem.alibi == "batch" else (heads,)
        options["alibi_slopes"] = rng.uniform(0.0, 0.5, sizes).astype(np.float32)
    if problem.sinks:
        options["sinks"] = rng.standard_normal(heads).astype(np.float32)
    if problem.poison:
        poison(arrays, problem)
    out = out_memory = None
    if problem.memory not in {"packed", "shared"}:
        shape = (batch, problem.queries, heads, problem.values)
        filler = np.full(shape, 77, NUMPY_DTYPES[problem.out_dtype or problem.dtype])
        out, out_memory = place(filler, problem.memory)
    if problem.layout == "bhsd":
        arrays |= {name: arrays[name].swapaxes(1, 2) for name in ("query", "key", "value", "dout")}
        out = None if out is None else out.swapaxes(1, 2)
    return Call(arrays["query"], arrays["key"], arrays["value"], arrays["dout"], options, out, out_memory)
