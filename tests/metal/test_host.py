"""The Objective-C side of the Metal backend: the programs of tests/metal, on an emulated GPU or a Mac's."""

import re
import sys

import pytest
from support.emulated import EMULATOR, build_objc, environment, in_python
from support.flags import FRAMEWORKS, WARNINGS, flags
from support.source_tree import ROOT, make, make_env, run
from support.tools import require_tool

import mfa

PROGRAMS = sorted(path.stem.removesuffix("_test") for path in (ROOT / "tests/metal").glob("*_test.m"))
INCLUDES = ("include", "src", "metal", "tests/support", "tests/metal_emulator", "tests/metal_emulator/host")
CONTEXT = "import mfa; print(mfa.Context('metal').describe())"
DEFAULT_BACKEND = "import mfa; print(mfa.Context().describe().backend)"


@pytest.mark.parametrize("program", PROGRAMS)
def test_program(library, tmp_path, program):
    binary = tmp_path / program
    build_objc(library, ROOT / f"tests/metal/{program}_test.m", binary, *INCLUDES)
    # What Metal leaves unordered comes in reverse, and what nobody wrote is NaN.
    adverse = {"METAL_EMULATOR_ORDER": "reverse", "METAL_EMULATOR_FILL": "unwritten"}
    said = run(EMULATOR / "run", binary, env=environment(**adverse))
    assert said.endswith(" 0 failed\n"), said


@pytest.mark.skipif(sys.platform != "darwin", reason="for Apple's compiler and a GPU of theirs")
def test_program_on_a_mac(tmp_path):
    """The one program that asks nothing of the emulator."""
    if not mfa.is_device_supported():
        pytest.skip("this Mac's GPU does not run the kernels")
    make("lib")
    source, binary = ROOT / "tests/metal/encode_test.m", tmp_path / "encode"
    includes = [f"-I{ROOT / folder}" for folder in INCLUDES]
    compiler = require_tool("cc", "xcode-select --install")
    compile_flags = [*flags("OBJC_FLAGS"), "-O1", *WARNINGS, *includes]
    run(compiler, *compile_flags, source, ROOT / "build/release/libmfa.a", *FRAMEWORKS, "-o", binary)
    said = run(binary, env=make_env())
    assert said.endswith(" 0 failed\n"), said


@pytest.fixture(scope="session")
def specialisations(library):
    make("METAL=emulator", "build/metal-emulator/specialisations")
    return library / "specialisations"


@pytest.mark.parametrize(("gpu", "how_far"), [("apple7", " and their pipelines"), ("paravirtual", "")])
def test_specialisations_compile(specialisations, gpu, how_far):
    """On a device that runs kernels and on one that does not; a few of what macOS compiles in full."""
    said = run(EMULATOR / "run", specialisations, "150", env=environment(METAL_EMULATOR_GPU=gpu))
    assert re.fullmatch(rf"\d+ of \d+ specialisations{how_far}, 0 failed\n", said), said


@pytest.mark.parametrize("family", ["apple7", "apple9", "apple10"])
def test_context_names_device_and_family(library, family):
    done = in_python("-c", CONTEXT, METAL_EMULATOR_GPU=family)
    assert done.returncode == 0, done.stderr
    assert re.search(rf"backend='metal', device='Apple M\d.*', isa='{family}'", done.stdout), done.stdout


def test_metal_is_the_default_where_it_is_present(library):
    done = in_python("-c", DEFAULT_BACKEND)
    assert done.stdout == "metal\n", done.stderr


def test_device_without_simdgroup_matrix_is_refused(library):
    done = in_python("-c", CONTEXT, METAL_EMULATOR_GPU="paravirtual")
    assert 'backend "metal" is not available: the Metal device has no simdgroup_matrix' in done.stderr
    done = in_python("-c", DEFAULT_BACKEND, METAL_EMULATOR_GPU="paravirtual")
    assert done.stdout == "cpu\n", done.stderr


def test_device_that_is_not_there_is_refused(library):
    done = in_python("-c", "import mfa; mfa.Context('metal', device=3)")
    assert "Metal device 3: there is no Metal device" in done.stderr


ATTENTION = """
import numpy, mfa
ones = numpy.ones((1, 40, 1, 8), numpy.float32)
assert numpy.array_equal(mfa.attention(ones, ones, ones, context=mfa.Context("metal")), ones)
"""


def test_safe_math_before_macos_15(library):
    done = in_python("-c", ATTENTION, METAL_EMULATOR_MACOS="14")
    assert done.returncode == 0, done.stderr


def test_device_with_too_few_threads_says_so(library):
    done = in_python("-c", ATTENTION, METAL_EMULATOR_MAX_THREADS="64")
    assert re.search(
        r"kernel forward needs \d+ threads in a threadgroup, the device runs it with 64", done.stderr
    )


def test_limit_of_a_buffer_is_named(library):
    settings = {"METAL_EMULATOR_MAX_BUFFER_LENGTH": "65536"}
    done = in_python("-c", "import mfa; mfa.Buffer(mfa.Context('metal'), 65537)", **settings)
    assert "no memory for a buffer of 65537 bytes: the Metal device allows 65536" in done.stderr
    code = """
import numpy, mfa
ones = numpy.ones((1, 3000, 1, 8), numpy.float32)
mfa.attention(ones, ones, ones, context=mfa.Context("metal"))
"""
    done = in_python("-c", code, **settings)
    assert "query has 96000 bytes, and a buffer of the Metal device at most 65536" in done.stderr


FALLBACK = """
import numpy, mfa
ones = numpy.ones((1, 40, 1, 8), numpy.float32)
with mfa.Context("metal", allow_cpu_fallback=True) as context:
    assert mfa.plan(ones, ones, ones, context=context).backend == "metal"
    assert numpy.array_equal(mfa.attention(ones, ones, ones, context=context), ones)
"""


@pytest.mark.parametrize("limit", ["MAX_THREADS", "MAX_BUFFER_LENGTH"])
def test_what_the_device_refuses_late_falls_back_if_allowed(library, limit):
    done = in_python("-c", FALLBACK, **{f"METAL_EMULATOR_{limit}": "64"})
    assert done.returncode == 0, done.stderr


FORK = """
import os, numpy, mfa
ones = numpy.ones((1, 3, 2, 4), numpy.float32)
context = mfa.Context("metal")
buffer = mfa.Buffer(context, 64)
mfa.attention(ones, ones, ones)
pid = os.fork()
if pid == 0:
    refused = 0
    for use in (
        lambda: mfa.attention(ones, ones, ones, context=context),
        lambda: mfa.Buffer(context, 64),
        lambda: mfa.Context("metal"),
    ):
        try:
            use()
        except Exception as error:
            refused += "forked from one that has used it" in str(error)
    buffer.close()
    context.close()
    same = numpy.allclose(mfa.attention(ones, ones, ones), ones)
    os._exit(refused * 10 + same + (mfa.Context().describe().backend == "cpu"))
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
assert numpy.array_equal(mfa.attention(ones, ones, ones, context=context), ones)
"""


def test_forked_process_is_told_that_metal_does_not_work_there(library):
    done = in_python("-c", FORK)
    assert done.stdout == "32\n", done.stdout + done.stderr
