"""Planted bugs of order are caught: missing barriers and races."""

import numpy as np
import pytest
from metal_emulator import driver
from metal_emulator.driver import At, Fault
from metal_emulator.tests.toys import EVERY_ORDER, TOYS, caught, planted, run_matmul, shape

FILLED = "        threadgroup_barrier(mem_flags::mem_threadgroup); // filled\n"
USED = "        threadgroup_barrier(mem_flags::mem_threadgroup); // used\n"
STORED = "    simdgroup_store(sum, product, 8);\n    simdgroup_barrier(mem_flags::mem_threadgroup);\n"


@EVERY_ORDER
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (FILLED, ""),
        (USED, ""),
        (STORED, "    simdgroup_store(sum, product, 8);\n"),
        (FILLED, FILLED.replace("mem_threadgroup)", "mem_none)")),
        (FILLED, FILLED.replace("mem_threadgroup)", "mem_device)")),
    ],
    ids=["filled", "used", "stored", "orders nothing", "orders other memory"],
)
def test_a_removed_barrier(emulator, memory, order, old, new):
    with pytest.raises(Fault) as fault:
        run_matmul(emulator, memory, planted(old, new), order=order)
    # Whoever reads first reads what is not there yet, or what is still to be overwritten.
    assert fault.value.kind in ("race", "unwritten", "stale")
    assert "threadgroup memory" in str(fault.value)
    assert "program_source:" in str(fault.value)


def test_a_removed_barrier_shows_in_the_fast_build_under_some_order(emulator, memory):
    load = "    tile[at.y * 8 + at.x] = from[at.y * 8 + at.x];\n"
    source = planted(load + "    threadgroup_barrier(mem_flags::mem_threadgroup);\n", load)
    transpose = emulator.compile(source, mode="fast").pipeline("transpose")
    values, result = memory(np.arange(64, dtype=np.float32).reshape(8, 8)), memory((8, 8))
    wrong = 0
    for order in driver.ORDERS:
        transpose.run({0: values, 1: result}, 1, (8, 8), threadgroup={0: 256}, order=order)
        wrong += not np.array_equal(result, values.T)
    assert wrong > 0


def test_simdgroup_barriers_do_not_order_other_simdgroups(emulator, memory):
    source = planted(
        "    threadgroup_barrier(mem_flags::mem_threadgroup);\n    to[at.y",
        "    simdgroup_barrier(mem_flags::mem_threadgroup);\n    to[at.y",
    )
    buffers = {0: memory(np.ones(64, np.float32)), 1: memory((64,))}
    with pytest.raises(Fault) as fault:
        emulator.compile(source).pipeline("transpose").run(buffers, 1, (8, 8), threadgroup={0: 256})
    assert fault.value.kind in ("race", "unwritten")


@EVERY_ORDER
def test_a_race_between_threadgroups(emulator, memory, order):
    # One column too many: the values are right, whoever writes last.
    source = planted(
        "            c[row * shape.columns + column] = product[i];",
        "            c[row * shape.columns + min(column, 6u)] = product[i];",
    )
    with caught("race", "writes buffer 2 'c'", "written at program_source:", "with nothing to order them"):
        run_matmul(emulator, memory, source, order=order, sizes=(8, 16, 8))


@EVERY_ORDER
def test_threadgroups_that_read_what_another_writes(emulator, memory, order):
    buffer = memory(np.zeros(48, np.float32))
    with caught("race", "of another threadgroup"):
        emulator.compile(TOYS).pipeline("copy").run(
            {0: At(buffer, 64), 1: buffer, 2: shape(columns=32)}, 2, 16, order=order
        )


def test_counting_without_atomics_races(emulator, memory):
    source = planted("device atomic_uint *counts", "device uint *counts").replace(
        "atomic_fetch_add_explicit(&counts[from[i]], 1u, memory_order_relaxed);", "counts[from[i]] += 1;"
    )
    buffers = {0: memory(np.zeros(64, np.uint32)), 1: memory(np.zeros(1, np.uint32))}
    with caught("race", "buffer 1 'counts' at offset 0"):
        emulator.compile(source).pipeline("histogram").run(buffers, 1, 64)
