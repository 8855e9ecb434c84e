"""What the machine can do at best, measured next to what is held against it: peak.c, compiled when needed."""

import ctypes
import os
import shlex
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

SOURCE = Path(__file__).with_name("peak.c")
FOLDER = SOURCE.parent.parent / "build" / "benchmarks"
COMPUTE_SECONDS = 0.01
TRIES = 3  # the best counts: a limit is what the machine can do when nobody disturbs it
READ_BYTES = 512 * 2**20
ALIGNMENT = 64
FMA = ("avx512 fma", "avx2 fma", "neon fma", "portable multiply-add")  # best first
BFLOAT16 = ("avx512 vdpbf16ps", "neon bfmmla")


@cache
def library() -> ctypes.CDLL:
    compiled = FOLDER / "peak.so"
    if not compiled.exists() or compiled.stat().st_mtime < SOURCE.stat().st_mtime:
        FOLDER.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=FOLDER) as scratch:  # two runs may compile at once
            output = Path(scratch) / compiled.name
            command = [*shlex.split(os.environ.get("CC", "cc")), "-O3", "-std=gnu11", "-fPIC", "-shared"]
            subprocess.run([*command, "-pthread", str(SOURCE), "-o", str(output), "-lm"], check=True)
            output.replace(compiled)
    loaded = ctypes.CDLL(str(compiled))
    loaded.bench_has.argtypes = [ctypes.c_char_p]
    loaded.bench_has.restype = ctypes.c_bool
    loaded.bench_compute.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_double]
    loaded.bench_compute.restype = ctypes.c_double
    loaded.bench_read.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    loaded.bench_read.restype = ctypes.c_double
    return loaded


def kernel_for(dtype: str, cpu_isa: str) -> str | None:
    """Name of the machine's fastest multiply-add for `dtype`, of `cpu_isa` if forced; None without any."""
    names = (*BFLOAT16, *FMA) if dtype == "bfloat16" else FMA
    for name in names:
        if cpu_isa in ("auto", name.split()[0]) and library().bench_has(name.encode()):
            return name
    return None


class ComputePeak:
    """Floating-point operations per second."""

    def __init__(self, kernel: str, threads: int):
        self.kernel = kernel
        self.threads = threads

    def measure(self) -> float:
        kernel = self.kernel.encode()
        rates = [library().bench_compute(kernel, self.threads, COMPUTE_SECONDS) for _ in range(TRIES)]
        if min(rates) < 0:
            raise RuntimeError(f"peak.c could not run {self.kernel} on {self.threads} threads")
        return max(rates)


class ReadBandwidth:
    """Bytes read from memory per second."""

    def __init__(self, threads: int):
        self.threads = threads
        self.memory = np.ones(READ_BYTES + ALIGNMENT, np.uint8)  # ones, for untouched zeros need no memory
        self.address = self.memory.ctypes.data + -self.memory.ctypes.data % ALIGNMENT

    def measure(self) -> float:
        rates = [library().bench_read(self.address, READ_BYTES, self.threads) for _ in range(TRIES)]
        if min(rates) < 0:
            raise RuntimeError(f"peak.c could not read on {self.threads} threads")
        return max(rates)
