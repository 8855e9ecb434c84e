"""The commands and their options."""

import contextlib
import os
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from mfa._command import MISUSED, PROGRAM, backends, bench, bench_report, check, info, plan, shapes
from mfa._command.cases import CASES
from mfa._command.shapes import Shape
from mfa._command.terminal import print_error, print_json, progress
from mfa._context import Context
from mfa.errors import MFAError

app = typer.Typer(
    help="Flash attention: what is here, how a call would run, whether results are right, how fast it is.",
    add_completion=False,  # there is no program of that name
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def run(arguments: list[str]) -> int:
    app(arguments, prog_name=PROGRAM)
    return 0


class Backend(str, Enum):
    auto = "auto"
    cpu = "cpu"
    metal = "metal"


Isa = Enum("Isa", {name: name for name in ("auto", *backends.ISAS)}, type=str)


class Dtype(str, Enum):
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


class Codes(str, Enum):
    int8 = "int8"
    uint8 = "uint8"
    int4 = "int4"
    uint4 = "uint4"


class ComputeMode(str, Enum):
    exact = "exact"
    int8 = "int8"


class Causal(str, Enum):
    top_left = "top-left"
    bottom_right = "bottom-right"


def shape_of(text: str) -> Shape:
    try:
        return shapes.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def window_of(text: str) -> tuple[int, int]:
    try:
        left, right = map(int, text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r}, expected LEFT,RIGHT, where -1 is no bound") from None
    return left, right


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ShapeArgument = Annotated[
    Shape,
    typer.Argument(
        parser=shape_of,
        metavar="SHAPE",
        help="Batch x heads x length x head_dim, as 1x8x1024x64. Where keys and values have other sizes than "
        "queries, these follow a colon: 1x32:8x1:8192x128.",
    ),
]
BackendOption = Annotated[Backend, typer.Option(help="Which one.")]
IsaOption = Annotated[
    Isa,
    typer.Option(metavar="ISA", help=f"Instruction set of the CPU: {', '.join(isa.value for isa in Isa)}."),
]
ThreadsOption = Annotated[int, typer.Option(min=0, help="CPU threads at the most; 0 is all.")]


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """What is refused is for the user to mend, who needs no traceback for that."""
    try:
        yield
    except (MFAError, MemoryError, ValueError) as error:
        print_error(f"{PROGRAM}: {error}")
        raise typer.Exit(MISUSED) from None


@app.callback()
def flags(
    cflags: Annotated[
        bool, typer.Option("--cflags", help="Print what to compile against mfa.h with.")
    ] = False,
    libs: Annotated[bool, typer.Option("--libs", help="Print what to link against libmfa with.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version of libmfa.")] = False,
) -> None:
    if cflags or libs or version:  # which are answered before this is imported where they stand alone
        raise typer.BadParameter("--cflags, --libs and --version go with each other, not with a command")


@app.command("info")
def info_command(json: AsJson = False) -> None:
    """Say what is here: backends, devices, instruction sets, build, versions, environment."""
    document = info.collect()
    print_json(document) if json else info.show(document)


@app.command("plan")
def plan_command(
    shape: ShapeArgument,
    dtype: Annotated[
        Dtype, typer.Option(help="Of queries, and of keys and values that are no codes.")
    ] = Dtype.float32,
    codes: Annotated[
        Codes | None, typer.Option(help="Keys and values are these, with a scale a row.")
    ] = None,
    compute_mode: Annotated[
        ComputeMode, typer.Option(help="How products of codes are computed.")
    ] = ComputeMode.exact,
    causal: Annotated[Causal | None, typer.Option(help="Rows see keys up to their own.")] = None,
    window: Annotated[
        tuple | None,
        typer.Option(parser=window_of, metavar="LEFT,RIGHT", help="Rows see so many keys on both sides."),
    ] = None,
    softcap: Annotated[float, typer.Option(help="Bound of scores; 0 is none.")] = 0.0,
    backward: Annotated[bool, typer.Option("--backward", help="Of the gradients.")] = False,
    lse: Annotated[bool, typer.Option("--lse", help="The logsumexp is wanted too.")] = False,
    backend: BackendOption = Backend.auto,
    isa: IsaOption = Isa.auto,
    threads: ThreadsOption = 0,
    fallback: Annotated[
        bool, typer.Option("--fallback", help="The CPU may run what the backend cannot.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Say how a call would run, without running it.

    The exit status is 1 if it would not.
    """
    with refusals():
        context = Context(backend.value, num_threads=threads, cpu_isa=isa.value, allow_cpu_fallback=fallback)
        document = plan.collect(
            shape,
            dtype.value,
            codes and codes.value,
            context,
            backward,
            causal=causal and causal.value,
            window=window or (-1, -1),
            softcap=softcap,
            compute_mode=compute_mode.value,
            return_lse=lse,
        )
    print_json(document) if json else plan.show(document)
    raise typer.Exit(document["status"] != 0)


@app.command("check")
def check_command(
    backend: Annotated[Backend, typer.Option(help="auto is all that are here.")] = Backend.auto,
    only: Annotated[str, typer.Option(metavar="TEXT", help="Cases with this in their name.")] = "",
    threads: ThreadsOption = 0,
    verbose: Annotated[bool, typer.Option("--verbose", help="Print each result.")] = False,
    json: AsJson = False,
) -> None:
    """Compute small problems on every backend and instruction set here, and compare them with float64.

    It takes a few seconds. The exit status is 1 if something is wrong.
    """
    cases = [case for case in CASES if only in case.name]
    if not cases:
        names = dict.fromkeys(case.name for case in CASES)
        raise typer.BadParameter(
            f"{only!r}, expected a part of one of: {'; '.join(names)}", param_hint="--only"
        )
    places = backends.every(backend.value, num_threads=threads)
    with progress(len(cases) * sum(place.info is not None for place in places)) as advance:
        document = check.collect(places, cases, advance)
    print_json(document) if json else check.show(document, verbose)
    raise typer.Exit(not document["passed"])


@app.command("bench")
def bench_command(
    shape: Annotated[
        Shape, typer.Option(parser=shape_of, metavar="SHAPE", help="Batch x heads x length x head_dim.")
    ] = "1x8x1024x64",
    backend: Annotated[Backend, typer.Option(help="auto is all that are here.")] = Backend.auto,
    isa: IsaOption = Isa.auto,
    threads: ThreadsOption = 0,
    seconds: Annotated[float, typer.Option(min=0, max=60, help="For each of about 25 measurements.")] = 0.3,
    peers: Annotated[bool, typer.Option("--peers/--no-peers", help="Time NumPy and PyTorch too.")] = True,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw a picture: .png, .svg, .pdf; by matplotlib.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Time attention on this machine: masks, precisions, and the same by NumPy and PyTorch if they are here.

    GINSTRS/s are (2 x head_dim + 5) for each pair of a query and a key that it sees. It takes some ten
    seconds.
    """
    if shape.queries != shape.keys:
        raise typer.BadParameter(f"'{shape}', expected as many queries as keys", param_hint="--shape")
    if not all(shape):
        raise typer.BadParameter(f"'{shape}', expected no size of 0", param_hint="--shape")
    if shape.heads % shape.kv_heads:
        raise typer.BadParameter(
            f"'{shape}', expected heads of keys that divide those of queries", param_hint="--shape"
        )
    draw = None if plot is None else drawing(plot)
    places = backends.best(backend.value, isa.value, num_threads=threads)
    present = sum(place.info is not None for place in places)
    with refusals(), progress(bench.GROUPS * present) as advance:
        document = bench.collect(places, shape, seconds, peers, advance)
    print_json(document) if json else bench_report.show(document)
    if draw is not None and present:
        draw(document, plot)
    raise typer.Exit(not present)


def drawing(path: Path) -> Callable[[dict, Path], None]:
    """What draws, before anything is measured in vain."""
    hint = "--plot"
    try:
        from mfa._command.plot import formats, save
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] != "matplotlib":
            raise
        raise typer.BadParameter(
            "matplotlib is not installed: pip install matplotlib", param_hint=hint
        ) from None
    if path.suffix[1:].lower() not in formats():
        raise typer.BadParameter(
            f"{str(path)!r}, expected one that ends in .png, .svg or .pdf", param_hint=hint
        )
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise typer.BadParameter(f"{str(path)!r} cannot be written", param_hint=hint)
    return save
