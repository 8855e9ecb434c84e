"""Planted bugs of memory are caught: out of bounds, unwritten, stale."""

import numpy as np
import pytest
from metal_emulator.driver import At, Bytes
from metal_emulator.tests.toys import (
    EVERY_MODE,
    EVERY_ORDER,
    HEADER,
    TOYS,
    caught,
    planted,
    run_matmul,
    shape,
)


def test_reads_out_of_bounds(emulator, memory):
    source = planted("    if (i < shape.columns)\n        to[i]", "    to[i]")
    buffers = {0: memory(np.ones(60, np.float32)), 1: memory((64,)), 2: shape(columns=60)}
    with caught(
        "out of bounds",
        "thread 28 .*lane 28",
        "reads buffer 0 'from' at offset 240",
        "program_source:1[0-9]$",
    ):
        emulator.compile(source).pipeline("copy").run(buffers, 2, 32)


def test_writes_out_of_bounds(emulator, memory):
    buffers = {0: memory(np.ones(64, np.float32)), 1: memory((60,)), 2: shape(columns=61)}
    with caught("out of bounds", "writes buffer 1 'to' at offset 240"):
        emulator.compile(TOYS).pipeline("copy").run(buffers, 2, 32)
    with caught("out of bounds", "next to buffer 1"):
        emulator.compile(TOYS, mode="fast").pipeline("copy").run(buffers, 2, 32)


def test_the_fast_build_has_guard_pages(emulator, memory):
    source, result = memory(np.ones(64, np.float32)), memory((4096,))
    with caught("out of bounds", "touches buffer 0 'from' at offset 256", "program_source:"):
        emulator.compile(TOYS, mode="fast").pipeline("copy").run(
            {0: source, 1: result, 2: shape(columns=4096)}, 128, 32
        )


def test_offsets_move_the_pointer_but_not_the_bounds(emulator, memory):
    source, result = memory(np.arange(64, dtype=np.float32)), memory((64,))
    copy = emulator.compile(TOYS).pipeline("copy")
    copy.run({0: At(source, 128), 1: result, 2: shape(columns=32)}, 1, 32)
    np.testing.assert_array_equal(result[:32], source[32:])
    with caught("out of bounds", "reads buffer 0 'from' at offset 256"):
        copy.run({0: At(source, 128), 1: result, 2: shape(columns=33)}, 2, 32)


def test_declared_extents_narrow_a_buffer(emulator, memory):
    whole, result = memory(np.ones(64, np.float32)), memory((64,))
    copy = emulator.compile(TOYS).pipeline("copy")
    emulator.declare_extent(whole[:40])
    try:
        with caught("out of bounds", "reads buffer 0 'from' at offset 160"):
            copy.run({0: whole, 1: result, 2: shape(columns=41)}, 2, 32)
    finally:
        emulator.withdraw_extent(whole[:40])
    copy.run({0: whole, 1: result, 2: shape(columns=41)}, 2, 32)


def test_an_argument_that_is_not_bound(emulator, memory):
    with caught("out of bounds", "reads an argument that is not bound, at offset 0"):
        emulator.compile(TOYS).pipeline("copy").run({1: memory((4,)), 2: shape(columns=4)}, 1, 32)


def test_writes_to_bytes_are_refused(emulator, memory):
    buffers = {0: memory(np.ones(4, np.float32)), 1: Bytes(np.zeros(4, np.float32)), 2: shape(columns=4)}
    with caught("read only", "writes bytes 1 'to'"):
        emulator.compile(TOYS).pipeline("copy").run(buffers, 1, 32)


@EVERY_MODE
def test_threadgroup_memory_out_of_bounds(emulator, memory, mode):
    buffers = {0: memory(np.ones(64, np.float32)), 1: memory((64,))}
    with caught("out of bounds", "threadgroup memory 0 'tile'"):
        emulator.compile(TOYS, mode=mode).pipeline("transpose").run(buffers, 1, (8, 8), threadgroup={0: 240})


@EVERY_MODE
def test_threadgroup_variables_out_of_bounds(emulator, memory, mode):
    source = planted("partial[32]", "partial[2]")
    buffers = {0: memory(np.ones(128, np.float32)), 1: memory((1,)), 2: shape(columns=128)}
    with caught("out of bounds", "threadgroup memory 'partial' at offset 8"):
        emulator.compile(source, mode=mode).pipeline("row_sum").run(buffers, 1, 128)


def test_unwritten_device_memory(emulator, memory):
    source = memory((64,))
    source[:40] = np.nan  # NaN that somebody wrote is a value
    with caught("unwritten", "reads buffer 0 'from' at offset 160"):
        emulator.compile(TOYS).pipeline("copy").run(
            {0: source, 1: memory((64,)), 2: shape(columns=41)}, 2, 32
        )
    emulator.compile(TOYS).pipeline("copy").run({0: source, 1: memory((64,)), 2: shape(columns=40)}, 2, 32)


@pytest.mark.parametrize(
    ("kind", "dtype"), [("uchar", np.uint8), ("half", np.float16), ("float", np.float32)]
)
def test_a_host_write_of_any_size_counts(emulator, memory, kind, dtype):
    text = f"""{HEADER}
kernel void k(device const {kind} *a [[buffer(0)]], device float *b [[buffer(1)]],
              uint i [[thread_position_in_grid]]) {{ b[i] = a[i]; }}"""
    source = memory((50,), dtype)
    source[:] = np.arange(50)
    k = emulator.compile(text).pipeline("k")
    k.run({0: source, 1: memory((50,))}, 1, 50)
    with caught("unwritten"):
        k.run({0: memory((50,), dtype), 1: memory((50,))}, 1, 50)


def test_unwritten_threadgroup_memory(emulator, memory):
    source = planted(
        "    if (lane == 0)\n        partial[simdgroup] = sum;",
        "    if (lane == 0 && simdgroup == 0)\n        partial[simdgroup] = sum;",
    )
    buffers = {0: memory(np.ones(64, np.float32)), 1: memory((1,)), 2: shape(columns=64)}
    with caught("unwritten", "reads threadgroup memory 'partial' at offset 4"):
        emulator.compile(source).pipeline("row_sum").run(buffers, 1, 64)
    emulator.compile(source, mode="fast").pipeline("row_sum").run(buffers, 1, 64)
    assert np.isnan(buffers[1][0])


def test_threadgroup_memory_does_not_survive_into_the_next_threadgroup(emulator, memory):
    source = planted(
        "    if (lane == 0)\n        partial[simdgroup] = sum;",
        "    if (lane == 0 && row == 0)\n        partial[simdgroup] = sum;",
    )
    buffers = {0: memory(np.ones(128, np.float32)), 1: memory((2,)), 2: shape(columns=64)}
    with caught("unwritten", "partial"):
        emulator.compile(source).pipeline("row_sum").run(buffers, 2, 64)


def test_unset_variables_are_nan(emulator, memory):
    source = planted("simdgroup_matrix<float, 8, 8> sum(0.0f);", "simdgroup_matrix<float, 8, 8> sum;")
    result, _ = run_matmul(emulator, memory, source)
    assert np.isnan(result).all()


NOT_ZEROED = """                right[i] = b[(start + i / 8) * shape.columns + column];
            else
                right[i] = T(0);
"""


@EVERY_ORDER
def test_stale_data_in_a_tail_tile(emulator, memory, order):
    source = planted(NOT_ZEROED, NOT_ZEROED.split("            else")[0])
    with caught("stale", "reads threadgroup memory 'right'", "left from an earlier pass", "program_source:"):
        run_matmul(emulator, memory, source, order=order, sizes=(8, 8, 20))


TILES = f"""{HEADER}
kernel void tiles(device const float *from [[buffer(0)]], device float *to [[buffer(1)]],
                  constant uint &rows [[buffer(2)]], uint i [[thread_index_in_threadgroup]]) {{
    threadgroup float tile[4][32];
    if (i >= 24)
        for (int row = 0; row < 4; ++row)
            tile[row][i] = 0; // padding, once
    float sum = 0;
    for (uint first = 0; first < rows; first += 4) {{
        BARRIER
        if (i < 24) {{
            if (first + 4 <= rows) {{
                for (int row = 0; row < 4; ++row)
                    tile[row][i] = from[24 * (first + row) + i];
            }} else {{
                for (int row = 0; row < 4; ++row)
                    if (first + row < rows)
                        tile[row][i] = from[24 * (first + row) + i];
                    else
                        tile[row][i] = 0; // tail
            }}
        }}
        BARRIER
        for (int row = 0; row < 4; ++row)
            sum += tile[row][31 - i];
    }}
    to[i] = sum;
}}"""
TAIL = """                    else
                        tile[row][i] = 0; // tail
"""


@pytest.mark.parametrize("barrier", ["threadgroup_barrier", "simdgroup_barrier"])
def test_stale_data_where_the_tail_has_stores_of_its_own(emulator, memory, barrier):
    text = TILES.replace("BARRIER", f"{barrier}(mem_flags::mem_threadgroup);")
    assert text.count(TAIL) == 1
    source, result = memory(np.arange(10 * 24, dtype=np.float32).reshape(10, 24)), memory((32,))
    buffers = {0: source, 1: result, 2: Bytes(np.uint32(10))}
    emulator.compile(text).pipeline("tiles").run(buffers, 1, 32)
    np.testing.assert_array_equal(result, np.pad(source.sum(0), (0, 8))[::-1])
    with caught("stale", "reads threadgroup memory 'tile' at offset"):
        emulator.compile(text.replace(TAIL, "")).pipeline("tiles").run(buffers, 1, 32)


def test_two_buffers_in_turn_are_not_stale(emulator, memory):
    text = f"""{HEADER}
kernel void k(device const float *a [[buffer(0)]], device float *b [[buffer(1)]],
              uint i [[thread_index_in_threadgroup]]) {{
    threadgroup float tile[2][32];
    float sum = 0;
    tile[0][i] = a[i];
    for (int step = 0; step < 6; ++step) {{
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (step < 5)
            tile[(step + 1) % 2][i] = a[32 * (step + 1) + i];
        sum += tile[step % 2][31 - i];
    }}
    b[i] = sum;
}}"""
    source, result = memory(np.arange(6 * 32, dtype=np.float32)), memory((32,))
    emulator.compile(text).pipeline("k").run({0: source, 1: result}, 1, 32)
    np.testing.assert_array_equal(result, source.reshape(6, 32).sum(0)[::-1])


def test_a_scan_in_place_may_say_so(emulator, memory):
    text = f"""{HEADER}
kernel void k(device float *b [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {{
    threadgroup float sums[32];
    sums[i] = 1;
    for (uint distance = 1; distance < 32; distance *= 2) {{
        threadgroup_barrier(mem_flags::mem_threadgroup);
        const float other = i >= distance ? sums[i - distance] : 0.0f;
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (i >= distance)
            sums[i] += other;
    }}
    b[i] = sums[i];
}}"""
    result = memory((32,))
    pipeline = emulator.compile(text).pipeline("k")
    with caught("stale"):
        pipeline.run({0: result}, 1, 32)
    pipeline.run({0: result}, 1, 32, allow_stale=True)
    np.testing.assert_array_equal(result, np.arange(1, 33))
