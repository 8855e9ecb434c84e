"""Writes the kernels as C: one string for each .metal file, with every local #include put in its place.

The device compiles these strings at run time, where there are no files to include. #line keeps the names and
numbers of the files in the compiler's messages. The output is written only if it changes.

Usage: embed.py OUTPUT.c
"""

import re
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
LOCAL_INCLUDE = re.compile(r'\s*#\s*include\s+"([^"]+)"')


def flatten(path, seen):
    """Lines of `path`; a file that was included before is left out, as its guard would do."""
    lines = [f'#line 1 "{path.name}"']
    for number, line in enumerate(path.read_text(encoding="ascii").splitlines(), start=1):
        include = LOCAL_INCLUDE.match(line)
        if include is None:
            lines.append(line)
        elif include[1] not in seen:
            seen.add(include[1])
            lines += flatten(path.parent / include[1], seen)
            lines.append(f'#line {number + 1} "{path.name}"')
        else:
            lines.append("")
    return lines


def literal(line):
    escaped = line.replace("\\", "\\\\").replace('"', '\\"')
    return f'    "{escaped}\\n"'


def embed():
    """The text of a C file that defines what src/metal/sources.h declares."""
    parts = ['#include "metal/sources.h"', "", "const mfai_metal_source_t mfai_metal_sources[] = {"]
    for path in sorted(FOLDER.glob("*.metal")):
        parts.append(f'    {{"{path.stem}",')
        parts += [literal(line) for line in flatten(path, {path.name})]
        parts.append("    },")
    return "\n".join([*parts, "    {0, 0},", "};", ""])


if __name__ == "__main__":
    output = Path(sys.argv[1])
    output.parent.mkdir(parents=True, exist_ok=True)
    text = embed()
    if not output.exists() or output.read_text(encoding="ascii") != text:
        output.write_text(text, encoding="ascii")
