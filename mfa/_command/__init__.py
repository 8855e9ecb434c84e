"""``python -m mfa``: what is here, how a call would run, whether results are right, and how fast it is."""

import shlex
import sys
from pathlib import Path

from mfa._installed import get_include, get_library
from mfa._status import library_version

PROGRAM = "python -m mfa"
EXTRA = "pip install 'universal-metal-flash-attention[cli]'"
MISUSED = 2  # the exit status of what was asked for wrongly


def main(arguments: list[str]) -> int:
    """Answer the command line `arguments`, and return the exit status."""
    # Build systems ask these, in environments that have nothing but what a build needs.
    if arguments and ANSWERS.keys() >= set(arguments):
        print(*(ANSWERS[argument]() for argument in arguments))
        return 0
    try:
        from mfa._command.app import run
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        if missing not in ("rich", "typer"):
            raise
        print(
            f"{PROGRAM}: {missing} is not installed, and only {', '.join(ANSWERS)} do without: {EXTRA}",
            file=sys.stderr,
        )
        return MISUSED
    return run(arguments)


def compile_flags() -> str:
    return shlex.quote(f"-I{get_include()}")


def link_flags() -> str:
    folder = Path(get_library()).parent
    return shlex.join([f"-L{folder}", f"-Wl,-rpath,{folder}", "-lmfa"])


ANSWERS = {"--cflags": compile_flags, "--libs": link_flags, "--version": library_version}
