"""A digest of every result of some hundreds of problems, on each backend: did a change keep the bits?

    python -m benchmarks.digest --tree OLD --out old.txt    # a checkout of the commit before, built in place
    python -m benchmarks.digest --compare old.txt           # this tree

Under tests/metal_emulator/run, that of the tree in question, Metal is one of the backends. There is a line
for each problem: the backend, the problem, and for each result the first digits of a hash of its bytes, in
which every NaN is the same.
"""

import argparse
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.digest_operands import operands_of
from benchmarks.digest_problems import Problem, cpu_problems, metal_problems

ROOT = Path(__file__).resolve().parent.parent
CPU_ISAS = ("scalar", "avx2", "avx512", "neon")
METAL = "metal"
DEVICE_NOT_SUPPORTED = 3
DIGITS = 16  # of 64


class Runner:
    """Runs problems on one backend of the library that was loaded."""

    def __init__(self, mfa, backend: str):
        self.mfa = mfa
        self.options = {"backend": METAL} if backend == METAL else {"backend": "cpu", "cpu_isa": backend}
        self.contexts = {}

    def context(self, threads: int):
        if threads not in self.contexts:
            self.contexts[threads] = self.mfa.Context(num_threads=threads, **self.options)
        return self.contexts[threads]

    def present(self) -> bool:
        try:
            self.context(threads=2)
        except self.mfa.MFAError as error:
            if error.code != DEVICE_NOT_SUPPORTED:
                raise
            return False
        return True

    def results(self, problem: Problem) -> dict[str, np.ndarray]:
        call = operands_of(problem)
        options = call.options | {"context": self.context(problem.threads)}
        operands = (call.query, call.key, call.value)
        out_dtype = problem.out_dtype if call.out is None else None
        forward = self.mfa.attention(
            *operands, out=call.out, out_dtype=out_dtype, return_lse=problem.lse, **options
        )
        out, lse = forward if problem.lse else (forward, None)
        results = {"out": out if call.out_memory is None else call.out_memory, "lse": lse}
        if problem.backward:
            gradients = self.mfa.attention_backward(
                call.dout, *operands, out, lse,
                out_dtype=problem.gradient_dtype, wanted=problem.wanted, **options,
            )  # fmt: skip
            results |= gradients._asdict()
        return {name: result for name, result in results.items() if result is not None}


def digest(result: np.ndarray) -> str:
    result = np.where(np.isnan(result), np.asarray(np.nan, result.dtype), result)
    hashed = hashlib.sha256(f"{result.dtype} {result.shape} ".encode())
    hashed.update(result.tobytes())
    return hashed.hexdigest()[:DIGITS]


def problems_of(backend: str) -> list[Problem]:
    return metal_problems() if backend == METAL else cpu_problems()


def load(tree: Path):
    """The package mfa of a tree, and of no other."""
    sys.path.insert(0, str(tree))
    import mfa

    if not Path(mfa.__file__).resolve().is_relative_to(tree):
        raise SystemExit(f"mfa came from {mfa.__file__}, expected {tree}")
    return mfa


def lines(mfa, backends: list[str], match: str) -> Iterator[tuple[str, str]]:
    """What was run, and the digests of its results."""
    for backend in backends:
        runner = Runner(mfa, backend)
        for problem in problems_of(backend):
            if match in problem.description:
                digests = (f"{name}={digest(result)}" for name, result in runner.results(problem).items())
                yield f"{backend} {problem.description}", " ".join(digests)


def differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """What `diff` would say, in the order of the lines."""
    said = []
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            said += [
                f"{sign} {name}: {side[name]}"
                for sign, side in (("-", expected), ("+", found))
                if name in side
            ]
    return said


def read(path: Path, backends: list[str], match: str) -> dict[str, str]:
    """The lines of a file that a run with the same choice of problems would write."""
    pairs = (line.rpartition(": ")[::2] for line in path.read_text(encoding="utf-8").splitlines())
    named = ((*name.split(" ", 1), digests) for name, digests in pairs)
    return {
        f"{backend} {description}": digests
        for backend, description, digests in named
        if backend in backends and match in description
    }


def parse() -> argparse.Namespace:
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.digest", description=__doc__, formatter_class=kind
    )
    parser.add_argument(
        "--tree",
        type=Path,
        default=ROOT,
        help="whose package mfa, built in place, is asked (default: this one)",
    )
    parser.add_argument(
        "--backends", nargs="+", choices=(*CPU_ISAS, METAL), help="(default: those that are there)"
    )
    parser.add_argument(
        "--match", default="", metavar="TEXT", help="only problems whose description has this in it"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="where the lines go (default: they are printed)"
    )
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="FILE",
        help="print what differs from an earlier run, and then exit with 1",
    )
    return parser.parse_args()


def main() -> int:
    options = parse()
    mfa = load(options.tree.resolve())
    backends = options.backends or [name for name in (*CPU_ISAS, METAL) if Runner(mfa, name).present()]
    devices = ", ".join(str(Runner(mfa, name).context(threads=2)) for name in backends)
    print(f"{mfa.__file__}: {devices}", file=sys.stderr)
    found = dict(lines(mfa, backends, options.match))
    if not found:
        raise SystemExit(f"--match {options.match!r}: no problem has it in its description")
    text = "".join(sorted(f"{name}: {digests}\n" for name, digests in found.items()))
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    if not options.compare:
        if not options.out:
            print(text, end="")
        return 0
    said = differences(found, read(options.compare, backends, options.match))
    print(*said, f"{len(found)} problems, {len(said)} lines differ", sep="\n")
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
