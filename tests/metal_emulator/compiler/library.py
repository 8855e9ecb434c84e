"""A library as its pipelines need it: the transformed source and what the transform learnt.

In a file between them, because preprocessing and transforming take as long as compiling the tables.
"""

import json
import os
import re
from types import SimpleNamespace

from command import LANGUAGE, SHIM, run

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
    return transformed(preprocess(folder, clang, request))


def transformed(text):
    from msl_transform import Transform  # not for pipelines

    transform = Transform(text).run()
    names = sorted(transform.in_initialisers)
    return Library(transform.source.text(), transform.kernels, transform.constants, names)


def preprocess(folder, clang, request):
    major, _, minor = request["language"].partition(".")
    predefined = [f"-D__METAL_VERSION__={major}{minor}0"]
    if request["math"] == "fast":
        predefined.append("-D__FAST_MATH__=1")
    source, program, result = (os.path.join(folder, name) for name in ("source", "program.cl", "program.i"))
    with open(source) as file:
        text = STANDARD_HEADER.sub("", file.read())
    with open(program, "w") as file:
        file.write(f'# 1 "program_source"\n{text}')
    options = [*LANGUAGE, "-nostdinc", "-include", os.path.join(SHIM, "macros.h"), *predefined]
    run([clang, "-E", *options, *request.macros, "-o", result, program])
    with open(result) as file:
        return file.read()
