"""Times attention next to its peers on the cases of the project's target table."""

import argparse
import os
import sys
from pathlib import Path

from benchmarks.cases import GROUPS, QUANTIZED, TORCH

RESULTS = Path(__file__).resolve().parent.parent / "build" / "benchmarks" / "results.json"
BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def available_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}, expected 1 or more")
    return number


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.set_defaults(size="full")
    size.add_argument(
        "--quick",
        dest="size",
        action="store_const",
        const="quick",
        help="fewer cases and rounds: two minutes",
    )
    size.add_argument(
        "--smoke", dest="size", action="store_const", const="smoke", help="tiny shapes: does it run at all?"
    )
    parser.add_argument(
        "--group",
        dest="groups",
        nargs="+",
        choices=(*GROUPS, QUANTIZED, TORCH),
        default=[*GROUPS, QUANTIZED, TORCH],
        help="some of the cases",
    )
    parser.add_argument("--skip", nargs="+", default=[], metavar="PEER", help="leave these peers out")
    parser.add_argument("--threads", type=positive, default=available_cpus(), help="(default: %(default)s)")
    parser.add_argument("--rounds", type=positive, help="(default: as many as there is time for)")
    parser.add_argument("--targets", action="store_true", help="print which targets are met")
    parser.add_argument(
        "--json",
        type=Path,
        default=RESULTS,
        metavar="PATH",
        help="where the results go, and next to it the plot (default: build/benchmarks/results.json)",
    )
    return parser.parse_args()


def main() -> int:
    options = parse()
    # NumPy's BLAS reads these when it is imported, hence here and not later.
    os.environ.update(dict.fromkeys(BLAS_THREADS, str(options.threads)))
    os.environ["MFA_NUM_THREADS"] = str(options.threads)  # calls of tensors take no context
    os.environ["OPENBLAS_THREAD_TIMEOUT"] = "20"  # or it spins for 100 ms into the turns of others
    from benchmarks.run import run

    return run(options)


if __name__ == "__main__":
    sys.exit(main())
