"""Compiles Metal source into a module that the emulator loads: compile_module.py FOLDER CLANG.

FOLDER holds `source` and `request`, lines of a word and its value: stage library|pipeline|lint, mode
fast|checked, fast_math 0|1, language 3.1, macro NAME VALUE, kernel NAME, constant NAME HEX. Writes
FOLDER/module.so. Diagnostics go to the standard error; the exit status is 1 if there is no module.
"""

import re
import subprocess
import sys
from pathlib import Path

import lint
from module_source import library_source, pipeline_source
from msl_transform import Transform, TransformError

HOME = Path(__file__).resolve().parent.parent
SHIM = HOME / "msl"
LANGUAGE = ["-x", "cl", "-cl-std=clc++2021", "-cl-no-stdinc", "-cl-single-precision-constant"]
LANGUAGE += ["-Xclang", "-cl-ext=-cl_khr_fp64,-__opencl_c_fp64"]
CODE = [
    "-march=x86-64-v3",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=on",
    "-gline-tables-only",
    "-gdwarf-4",
]
CODE += ["-Xclang", "-ffloat16-excess-precision=none", "-Xclang", "-fbfloat16-excess-precision=none"]
CODE += ["-fdebug-compilation-dir=.", f"-fdebug-prefix-map={SHIM}=<metal>"]
FAST = ["-O2"]
# Loops stay loops, so that one source line is one store: stale data is told by the line that wrote it.
CHECKED = ["-O1", "-fsanitize=thread", "-fno-vectorize", "-fno-slp-vectorize", "-fno-unroll-loops"]
CHECKED += ["-mllvm", "-tsan-instrument-func-entry-exit=0", "-mllvm", "-tsan-instrument-read-before-write=1"]
CHECKED += ["-ftrivial-auto-var-init=pattern"]
STANDARD_HEADER = re.compile(r"^[ \t]*#[ \t]*include[ \t]*<(metal_\w+|simd/simd\.h)>.*$", re.MULTILINE)
UNROLL = re.compile(r"^[ \t]*#[ \t]*pragma[ \t]+(?:unroll|clang[ \t]+loop)\b.*$", re.MULTILINE)


class CompileError(Exception):
    """The compiler's diagnostics."""


class Request:
    def __init__(self, text):
        self.values, self.macros, self.constants = {}, [], {}
        for line in text.splitlines():
            word, _, rest = line.partition(" ")
            if word == "macro":
                name, _, value = rest.partition(" ")
                self.macros.append(f"-D{name}={value}")
            elif word == "constant":
                name, _, data = rest.partition(" ")
                self.constants[name] = bytes.fromhex(data)
            else:
                self.values[word] = rest

    def __getitem__(self, word):
        return self.values[word]


class Compiler:
    def __init__(self, clang, request):
        self.clang, self.request, self.warnings = clang, request, ""

    def run(self, arguments, text=None):
        command = [self.clang, *arguments]
        result = subprocess.run(command, input=text, capture_output=True, text=True)
        if result.returncode:
            raise CompileError(result.stderr)
        self.warnings += result.stderr
        return result.stdout

    def preprocess(self, source):
        major, _, minor = self.request["language"].partition(".")
        source = STANDARD_HEADER.sub("", source)
        predefined = [f"-D__METAL_VERSION__={major}{minor}0"]
        if self.request["fast_math"] == "1":
            predefined.append("-D__FAST_MATH__=1")
        arguments = ["-E", *LANGUAGE, "-nostdinc", "-include", str(SHIM / "macros.h"), *predefined]
        text = self.run([*arguments, *self.request.macros, "-"], f'# 1 "program_source"\n{source}')
        return text

    def options(self):
        return ["-ffast-math", "-Wno-nan-infinity-disabled"] if self.request["fast_math"] == "1" else []

    def build(self, text, folder):
        checked = self.request["mode"] == "checked" and self.request["stage"] == "pipeline"
        mode = CHECKED if checked else FAST
        (folder / "module.cl").write_text(text)
        arguments = [
            *LANGUAGE,
            *CODE,
            *mode,
            *self.options(),
            "-I",
            str(SHIM),
            "-c",
            "-o",
            folder / "module.o",
        ]
        self.run([*map(str, arguments), str(folder / "module.cl")])
        self.run(["-shared", "-o", str(folder / "module.so"), str(folder / "module.o"), "-lm"])


def compile_module(folder, clang):
    request = Request((folder / "request").read_text())
    compiler = Compiler(clang, request)
    text = compiler.preprocess((folder / "source").read_text())
    if request["stage"] == "pipeline" and request["mode"] == "checked":
        text = UNROLL.sub("", text)
    transform = Transform(text).run()
    if request["stage"] == "lint":
        lint.check(compiler, text, transform, [*LANGUAGE, *CODE, "-I", str(SHIM)])
    elif request["stage"] == "library":
        compiler.build(library_source(transform), folder)
    else:
        compiler.build(pipeline_source(transform, request["kernel"], request.constants), folder)
    return compiler.warnings


def main():
    try:
        warnings = compile_module(Path(sys.argv[1]), sys.argv[2])
    except (CompileError, TransformError, lint.LintError) as error:
        print(str(error).rstrip(), file=sys.stderr)
        return 1
    print(warnings, end="", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
