"""A library as its pipelines need it: the transformed source and what the transform learnt.

In a file between them, because preprocessing and transforming take as long as compiling the tables.
"""

import json
import os
import re
from types import SimpleNamespace

from command import LANGUAGE, SHIM, run

NEXT = "emu_next_specialisation\n"
DEFINITION = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+)", re.MULTILINE)
STANDARD_HEADER = re.compile(r"^[ \t]*#[ \t]*include[ \t]*<(metal_\w+|simd/simd\.h)>.*$", re.MULTILINE)


class Library:
    """text; kernels and constants, as the transform has them; names that initialise other constants."""

    def __init__(self, text, kernels, constants, in_initialisers):
        self.text, self.kernels, self.constants = text, kernels, constants
        self.in_initialisers = in_initialisers

    def write(self, path):
        with open(path, "w") as file:
            json.dump(vars(self), file, default=vars)


def read(path):
    with open(path) as file:
        parts = json.load(file, object_hook=lambda fields: SimpleNamespace(**fields))
    return Library(**vars(parts))


def make(folder, clang, request):
    (text,) = preprocess(folder, clang, request, [request.macros])
    return transformed(text)


def transformed(text):
    from msl_transform import Transform  # not for pipelines

    transform = Transform(text).run()
    names = sorted(transform.in_initialisers)
    return Library(transform.source.text(), transform.kernels, transform.constants, names)


def preprocess(folder, clang, request, macro_sets, predefined_names=True):
    """The texts of FOLDER/source with each of some sets of macros: -DNAME=VALUE.

    Without `predefined_names`, the macros that Metal has, such as INFINITY, stay as they are.
    """
    major, _, minor = request["language"].partition(".")
    predefined = [f"-D__METAL_VERSION__={major}{minor}0"]
    if request["math"] == "fast":
        predefined.append("-D__FAST_MATH__=1")
    source, program, result = (os.path.join(folder, name) for name in ("source", "program.cl", "program.i"))
    with open(source) as file:
        text = STANDARD_HEADER.sub("", file.read())
    with open(program, "w") as file:
        file.write(NEXT.join(_with_macros(text, macros) for macros in macro_sets))
    options = [*LANGUAGE, "-nostdinc", *predefined]
    if predefined_names:
        options += ["-include", os.path.join(SHIM, "macros.h")]
    run([clang, "-E", *options, "-o", result, program])
    with open(result) as file:
        return file.read().split(NEXT)


def _with_macros(text, macros):
    """The text between definitions, and without any after it, so that another may follow."""
    defined = [macro.removeprefix("-D").partition("=") for macro in macros]
    before = [f"#define {name} {value or 1}" for name, _, value in defined]
    names = dict.fromkeys([*(name for name, _, _ in defined), *DEFINITION.findall(text)])
    after = [f"#undef {name}" for name in names]
    return "\n".join(['# 1 "<macros>"', *before, '# 1 "program_source"', text, '# 1 "<macros>"', *after, ""])
