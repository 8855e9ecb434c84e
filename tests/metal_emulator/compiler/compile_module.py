"""Compiles Metal source into a module that the emulator loads: compile_module.py FOLDER CLANG [LIBRARY].

FOLDER holds `source` and `request`, lines of a word and its value: stage library|pipeline|lint, mode
fast|checked, math safe|relaxed|fast, fast_functions 0|1, language 3.1, macro NAME VALUE, kernel NAME,
constant NAME HEX. To lint, there may be many lines `specialisation NAME=VALUE...` instead of `macro`, and
`constants NAME=HEX...`, the first for all of those, others for some that are unlike each other. Writes
FOLDER/module.so and, for a library, FOLDER/library.json; a pipeline starts from that of its library,
LIBRARY. Diagnostics go to the standard error; the exit status is 1 if there are errors.

Every pipeline of a test run passes here: what is imported, and how many processes start, is what it costs.
"""

import os
import re
import sys

import library
from command import CODE, LANGUAGE, SHIM, CompileError, run
from module_source import library_source, pipeline_source

# Nothing is unrolled: that takes longer to compile than it saves, and one source line is one store, so that
# stale data is told by the line that wrote it.
PIPELINE = ["-O1", "-fno-unroll-loops", "-fno-vectorize", "-fno-slp-vectorize"]
UNROLL = re.compile(r"^[ \t]*#[ \t]*pragma[ \t]+(?:unroll|clang[ \t]+loop)\b.*$", re.MULTILINE)
CHECKED = ["-fsanitize=thread", "-mllvm", "-tsan-instrument-func-entry-exit=0"]
CHECKED += ["-mllvm", "-tsan-instrument-read-before-write=1", "-ftrivial-auto-var-init=pattern"]
MATH = {"safe": [], "relaxed": ["-funsafe-math-optimizations"]}
MATH["fast"] = ["-ffast-math", "-Wno-nan-infinity-disabled"]


class Request:
    """What FOLDER/request says."""

    def __init__(self, folder):
        with open(os.path.join(folder, "request")) as file:
            text = file.read()
        self.values, self.macros, self.constants = {}, [], {}
        self.specialisations, self.constant_sets = [], []
        for line in text.splitlines():
            word, _, rest = line.partition(" ")
            if word == "macro":
                name, _, value = rest.partition(" ")
                self.macros.append(f"-D{name}={value}")
            elif word == "specialisation":
                self.specialisations.append([f"-D{macro}" for macro in rest.split()])
            elif word == "constants":
                pairs = [pair.split("=") for pair in rest.split()]
                self.constant_sets.append({name: bytes.fromhex(data) for name, data in pairs})
            elif word == "constant":
                name, _, data = rest.partition(" ")
                self.constants[name] = bytes.fromhex(data)
            else:
                self.values[word] = rest

    def __getitem__(self, word):
        return self.values[word]


def build(folder, clang, text, options):
    """Clang is not asked to link, for which it would start a second time."""
    source, compiled, module = (os.path.join(folder, f"module.{suffix}") for suffix in ("cl", "o", "so"))
    with open(source, "w") as file:
        file.write(text)
    run([clang, *LANGUAGE, *CODE, *options, "-I", SHIM, "-c", "-o", compiled, source])
    run(["ld", "-shared", "-o", module, compiled])


def compile_module(folder, clang, library_path):
    request = Request(folder)
    stage = request["stage"]
    options = [
        *MATH[request["math"]],
        *(["-DEMU_FAST_FUNCTIONS"] if request["fast_functions"] == "1" else []),
    ]
    if stage == "lint":
        import lint  # and what it imports, not for modules

        lint.check(folder, clang, request)
    elif stage == "library":
        made = library.make(folder, clang, request)
        made.write(os.path.join(folder, "library.json"))
        build(folder, clang, library_source(made), ["-O0", *options])
    else:
        made = library.read(library_path)
        text = pipeline_source(made, request["kernel"], request.constants)
        mode = CHECKED if request["mode"] == "checked" else []
        build(folder, clang, UNROLL.sub("", text), [*PIPELINE, *mode, *options])


def main(folder, clang, library_path=None):
    try:
        compile_module(folder, clang, library_path)
    except CompileError as error:
        print(error, end="", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
