"""``plan``: how a call would run, or why it would not."""

from dataclasses import asdict
from typing import Any

import numpy

from mfa._attention import plan
from mfa._command.arrays import DTYPES
from mfa._command.shapes import Shape
from mfa._command.terminal import entry, heading
from mfa._context import Context
from mfa._quantized_tensor import QuantizedTensor

CODES = ("int8", "uint8", "int4", "uint4")
KIB = 2**10
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def collect(
    shape: Shape, dtype: str, codes: str | None, context: Context, backward: bool, **options: Any
) -> dict[str, Any]:
    """The plan of a call over arrays of that shape, for which there is no memory."""
    query = stand_in(shape.query, DTYPES[dtype])
    key, value = (
        stand_in(sizes, DTYPES[dtype]) if codes is None else stand_in_codes(sizes, codes)
        for sizes in (shape.key, shape.value)
    )
    found = plan(query, key, value, layout="bhsd", context=context, backward=backward, **options)
    scores = shape.batch * shape.heads * shape.queries * shape.keys
    return {"shape": str(shape), "dtype": dtype, **asdict(found), "scores_bytes": 4 * scores}


def stand_in(shape: tuple[int, ...], dtype: Any) -> numpy.ndarray:
    """One row that is all rows."""
    return numpy.broadcast_to(numpy.zeros(shape[-1:], dtype), shape)


def stand_in_codes(shape: tuple[int, ...], precision: str) -> QuantizedTensor:
    """With a scale for each row."""
    halved = precision in ("int4", "uint4")
    columns = -(-shape[-1] // 2) if halved else shape[-1]
    data = stand_in((*shape[:-1], columns), numpy.int8 if precision == "int8" else numpy.uint8)
    scales = stand_in((*shape[:-1], 1), numpy.float32)
    zero_points = stand_in(scales.shape, numpy.int32) if precision.startswith("uint") else None
    return QuantizedTensor(data, scales, zero_points, precision=precision, layout="bhsd", shape=shape)


def show(document: dict[str, Any]) -> None:
    heading(f"{document['shape']} {document['dtype']}")
    if document["status"]:
        entry("refused", f"status {document['status']}: {document['reason']}")
        return
    threads = document["num_threads"]
    entry("backend", document["backend"] + (f", as {document['reason']}" if document["fallback"] else ""))
    entry("isa", document["isa"])
    entry("kernel", document["kernel"])
    entry("tiles", f"{document['tile_queries']} queries x {document['tile_keys']} keys")
    entry("parts of keys", str(document["key_splits"]))
    entry("threads", f"{threads} at the most")
    entry("workspace", size(document["workspace_bytes"]))
    entry("scores", f"{size(document['scores_bytes'])}, if they were kept")


def size(count: int) -> str:
    """A number of bytes for people."""
    amount, unit = float(count), 0
    while amount >= KIB and unit + 1 < len(UNITS):
        amount, unit = amount / KIB, unit + 1
    return f"{count} bytes" if unit == 0 else f"{amount:.1f} {UNITS[unit]}"
