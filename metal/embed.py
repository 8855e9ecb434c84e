"""Writes the kernels as C: one string for each .metal file, with every local #include put in its place.

The device compiles these strings at run time, where there are no files to include. #line keeps the names and
numbers of the files in the compiler's messages. What lies between two includes of a file is a macro, so that
a header is written once for all kernels. The output is written only if it changes.

Usage: embed.py OUTPUT.c

swift/CMFA/metal_sources.c is this output as committed, for Swift packages, which cannot run a script.
"""

import functools
import re
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
LOCAL_INCLUDE = re.compile(r'\s*#\s*include\s+"([^"]+)"')
HEAD = """\
/* Written by metal/embed.py. */
#if defined(__APPLE__) || !defined(SWIFT_PACKAGE) /* a Swift package compiles every source everywhere */
#include "metal/sources.h"
"""


@functools.cache
def pieces(name):
    """What a file has before, between and behind its local includes, as (the name included next, lines)."""
    found, lines = [], [f'#line 1 "{name}"']
    for number, line in enumerate((FOLDER / name).read_text(encoding="ascii").splitlines(), start=1):
        include = LOCAL_INCLUDE.match(line)
        if include is None:
            lines.append(line)
        else:
            found.append((include[1], lines))
            lines = [f'#line {number + 1} "{name}"']
    return [*found, (None, lines)]


def order(name, seen):
    """The pieces, (file, index), that the file `name` comes to; each is included once, as by its guard."""
    seen.add(name)
    for index, (included, lines) in enumerate(pieces(name)):
        if any(lines[1:]):
            yield name, index
        if included is not None and included not in seen:
            yield from order(included, seen)


def flatten(name):
    """Lines of the file `name` with every local #include in place."""
    return [line for file, index in order(name, set()) for line in pieces(file)[index][1]]


def literal(line):
    escaped = line.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}\\n"'


def macro(file, index):
    return f"{re.sub(r'[^a-z0-9]', '_', file).upper()}_{index}"


def embed():
    """The text of a C file that defines what src/metal/sources.h declares."""
    kernels = {path.stem: list(order(path.name, set())) for path in sorted(FOLDER.glob("*.metal"))}
    parts = [HEAD]
    for file, index in sorted({piece for kernel in kernels.values() for piece in kernel}):
        lines = [literal(line) for line in pieces(file)[index][1]]
        parts += [" \\\n    ".join([f"#define {macro(file, index)}", *lines]), ""]
    parts.append("const mfai_metal_source_t mfai_metal_sources[] = {")
    for kernel, used in kernels.items():
        parts.append("\n     ".join([f'    {{"{kernel}",', *(macro(*piece) for piece in used)]) + "},")
    return "\n".join([*parts, "    {0, 0},", "};", "#endif", ""])


if __name__ == "__main__":
    output = Path(sys.argv[1])
    output.parent.mkdir(parents=True, exist_ok=True)
    text = embed()
    if not output.exists() or output.read_text(encoding="ascii") != text:
        output.write_text(text, encoding="ascii")
