"""Memory of quantised keys and values, and of training with them: the peak of a fresh process."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from rich.table import Table

import mfa
from benchmarks.cases import MIB
from benchmarks.memory import peak_growth, refuse_without_proc
from benchmarks.quantized import LAYOUT, Storage, normal, stored

SHAPE = (1, 8, 4096, 64)
TINY_SHAPE = (1, 2, 40, 16)
LEAST_SAVED = 0.25
CLAIMS = {"float16": "50 %", "int8": "25 %", "int4": "12.5 %"}
TRAINED = (Storage("float16"), Storage("float16", "int8"), Storage("bfloat16", "int8", compute_mode="int8"))


def store_table(shape: tuple[int, ...]) -> tuple[Table, list[dict]]:
    """Bytes of keys and values over those of float32."""
    table = Table("keys and values", title="quantized bytes", title_justify="left")
    for column in ("bytes an element", "of float32", "the seed's claim"):
        table.add_column(column, justify="right", no_wrap=True)
    values, records = normal("float32", *shape), []
    choices = [Storage("float16"), *(Storage("", "int8", each) for each in ("token", "channel", "block64"))]
    choices += [Storage("", "int4", each) for each in ("token", "group32")]
    for storage in choices:
        each = stored(values, storage).nbytes / values.size
        name = storage.precision or storage.query_dtype
        label = f"{storage.precision} {storage.granularity}" if storage.precision else name
        table.add_row(label, f"{each:.3f}", f"{each / 4:.1%}", CLAIMS[name])
        records.append({"storage": label, "bytes": each, "claim": CLAIMS[name]})
    return table, records


def train(storage: Storage, shape: tuple[int, ...]) -> int:
    """One step, operands and all; bytes that are kept from the forward to the backward pass."""
    generator = np.random.default_rng(0)
    query, dout = (normal(storage.query_dtype, *shape, seed=seed) for seed in range(2))
    if storage.precision is None:
        key, value = (normal(storage.query_dtype, *shape, seed=seed) for seed in (2, 3))
    else:  # made as codes: no float key or value is ever there
        key, value = (
            mfa.QuantizedTensor(
                generator.integers(-127, 128, shape, np.int8),
                np.full((*shape[:3], 1), 0.02, np.float32),
                precision="int8", rows=1, layout=LAYOUT,
            )
            for _ in range(2)
        )  # fmt: skip
    keywords = {"layout": LAYOUT}
    if storage.precision is not None:
        keywords["compute_mode"] = storage.compute_mode
    out, lse = mfa.attention(query, key, value, return_lse=True, **keywords)
    mfa.attention_backward(dout, query, key, value, out, lse, **keywords)
    return sum(kept.nbytes for kept in (query, key, value, out, lse))


def training_bytes(storage: Storage, shape: tuple[int, ...]) -> tuple[int, int]:
    """At the peak, and between the passes."""
    train(storage, TINY_SHAPE)  # starts threads, loads code
    kept = []
    return peak_growth(lambda: kept.append(train(storage, shape))), kept[0]


def training_table(shape: tuple[int, ...]) -> tuple[Table, list[dict]]:
    refuse_without_proc()
    table = Table("forward and backward", title=f"quantized training {shape}", title_justify="left")
    columns = (
        "peak MiB",
        "less than float16",
        "target",
        "",
        "the seed's claim",
        "between passes MiB",
        "less",
    )
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    peaks, kept, records = {}, {}, []
    for storage in TRAINED:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
            peaks[storage], kept[storage] = fresh.submit(training_bytes, storage, shape).result()
        saved = 1 - peaks[storage] / max(peaks[TRAINED[0]], 1)
        cells = ("", "", "", "", f"{kept[storage] / MIB:.1f}", "")
        if storage.precision is not None:
            met = "met" if saved >= LEAST_SAVED else "not met"
            less = f"{1 - kept[storage] / kept[TRAINED[0]]:.1%}"
            cells = (f"{saved:.1%}", f">= {LEAST_SAVED:.0%}", met, "25 to 40 %", cells[4], less)
        table.add_row(storage.name, f"{peaks[storage] / MIB:.1f}", *cells)
        records.append(
            {
                "storage": storage.name,
                "peak_bytes": peaks[storage],
                "kept_bytes": kept[storage],
                "saved": saved,
            }
        )
    return table, records
