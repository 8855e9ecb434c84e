"""Every specialisation of the kernels that the host makes keeps to what GPUs and house rules allow."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.emulated import EMULATOR
from support.kernels import KERNELS, source_of

BATCH = 24  # specialisations for one process of the compiler
UNTYPED = ("backward_sinks", "blocks", "fill")  # that read no operand of MFA_T
FUNCTION_CONSTANT = re.compile(r"constant (bool|uint) (\w+) \[\[function_constant")
ON = {"bool": "01", "uint": "01000000"}
EVERY_BIT = {
    "lists_there": "ff070000",
    "scales_there": "07000000",
    "key_codes": "ff010000",
    "value_codes": "ff010000",
}


def lint(folder, source, macro_sets, constant_sets):
    """What there is to say against a source, specialised in several ways."""
    lines = ["stage lint", "mode fast", "math safe", "fast_functions 0", "language 3.1"]
    lines += [f"specialisation {macros}" for macros in macro_sets]
    lines += [f"constants {constants}" for constants in constant_sets]
    (folder / "source").write_text(source)
    (folder / "request").write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-SE", EMULATOR / "compiler/compile_module.py", folder, "clang-19"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode != 0) == bool(done.stderr)
    return done.stderr


def assert_clean(folder, source, macro_sets, constant_sets):
    batches = [macro_sets[first : first + BATCH] for first in range(0, len(macro_sets), BATCH)]

    def lint_batch(number):
        own = folder / str(number)
        own.mkdir()
        return lint(own, source, batches[number], constant_sets)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for some, said in zip(batches, pool.map(lint_batch, range(len(batches))), strict=True):
            assert not said, f"some of {some}:\n{said}"


def features_of(source):
    found = FUNCTION_CONSTANT.findall(source)
    return [f"{name}={EVERY_BIT.get(name, ON[type_name])}" for type_name, name in found]


def test_the_host_specialises_every_kernel(specialisations):
    assert sorted(specialisations) == KERNELS
    for name, macro_sets in specialisations.items():
        types = {word for macros in macro_sets for word in macros.split() if word.startswith("MFA_T=")}
        assert types == {"MFA_T=half", "MFA_T=bfloat", "MFA_T=float"} or name in UNTYPED


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_specialisation_is_clean(specialisations, tmp_path, kernel):
    source = source_of(kernel)
    # Features decide what is compiled: with all of them on, more.
    assert_clean(tmp_path, source, specialisations[kernel], [" ".join(features_of(source)), ""])


@pytest.mark.parametrize("kernel", KERNELS)
def test_each_feature_alone_is_clean(specialisations, tmp_path, kernel):
    source, macro_sets = source_of(kernel), specialisations[kernel]
    assert_clean(tmp_path, source, [macro_sets[0], macro_sets[-1]], features_of(source))


OPENING = "using namespace metal;\n"
PLANTED = {
    "a wrong address space": ("inline float wrong(const device float *p) { return *p; }", "wrong(&x)"),
    "no address space": ("inline float wrong(const float *p) { return *p; }", "wrong(&x)"),
    "double": ("inline float wrong(float x) { return x * (double)x; }", "wrong(x)"),
    "recursion": ("inline float wrong(float x) { return x < 1 ? x : wrong(x - 1); }", "wrong(x)"),
    "exception": ("inline float wrong(float x) { if (x < 1) throw 1; return x; }", "wrong(x)"),
    "function pointer": (
        "inline float f(float x) { return x; }\n"
        "inline float wrong(float x) { float (*g)(float) = f; return g(x); }",
        "wrong(x)",
    ),
    "static local": ("inline float wrong(float x) { static int n = 0; return x + n; }", "wrong(x)"),
    "assembly": ('inline float wrong(float x) { __asm("nop"); return x; }', "wrong(x)"),
}


@pytest.mark.parametrize("violation", PLANTED)
@pytest.mark.parametrize("if_feature", [False, True], ids=["always", "if a feature is on"])
def test_planted_violation_is_refused(specialisations, tmp_path, violation, if_feature):
    """In what every kernel includes, called where each row ends."""
    helper, call = PLANTED[violation]
    source = source_of("forward")
    place = "    const float sink = has_sinks"
    assert source.count(OPENING) == source.count(place) == 1
    condition = "if (has_alibi) " if if_feature else ""
    source = source.replace(OPENING, f"{OPENING}{helper}\n")
    source = source.replace(place, f"    {{ float x = 1; {condition}x = {call}; (void)x; }}\n{place}")
    macro_sets = specialisations["forward"][:1]
    assert re.search(r"\d: error: ", lint(tmp_path, source, macro_sets, [" ".join(features_of(source))]))
