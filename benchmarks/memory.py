"""Peak memory of a forward and a backward pass: by how much they raise the peak of a fresh process."""

import ctypes
import gc
import multiprocessing
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cases import Case, tiny
from benchmarks.contenders import CONTENDERS, Contender, Unavailable
from benchmarks.operands import gradient_operands

PROCESS = Path("/proc/self")
RESET_PEAK = "5"  # what clear_refs takes for it


@dataclass(frozen=True)
class Footprint:
    """What a contender took beside the operands, or the reason why that was not measured."""

    case: Case
    contender: str
    growth: int | None = None
    reason: str | None = None

    @property
    def beside_results(self) -> int:
        return self.growth - self.case.training_result_bytes


def measure(case: Case, contender: Contender, threads: int) -> Footprint:
    try:
        contender.prepare_training(case, threads)  # who has none needs no process
        refuse_without_proc()
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
            growth = fresh.submit(training_growth, contender.name, case, threads).result()
    except Unavailable as reason:
        return Footprint(case, contender.name, reason=str(reason))
    return Footprint(case, contender.name, growth)


def refuse_without_proc() -> None:
    if not (PROCESS / "clear_refs").exists():
        raise Unavailable("is not asked for its peak memory but on Linux")


def training_growth(name: str, case: Case, threads: int) -> int:
    contender = CONTENDERS[name]()
    contender.load(threads)
    warm_up = tiny(case)
    contender.prepare_training(warm_up, threads)(gradient_operands(warm_up))()  # starts threads, loads code
    return peak_growth(contender.prepare_training(case, threads)(gradient_operands(case)))


def peak_growth(call: Callable[[], Any]) -> int:
    """Bytes by which the call raises the peak resident set of this process."""
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)  # or the call is given memory that was free but resident before it
    (PROCESS / "clear_refs").write_text(RESET_PEAK, encoding="ascii")
    before = status_bytes("VmHWM")
    call()
    return status_bytes("VmHWM") - before


def status_bytes(field: str) -> int:
    text = (PROCESS / "status").read_text(encoding="ascii")
    return 1024 * int(re.search(rf"^{field}:\s+(\d+) kB$", text, flags=re.MULTILINE)[1])
