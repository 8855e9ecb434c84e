"""The emulator's Metal: names and types against public sources, behaviour through small programs."""

import os
import re
import subprocess
import sys

import pytest
from metal_emulator.host import api
from support.emulated import objc_flags
from support.flags import WARNINGS
from support.source_tree import ROOT, make, run
from support.tools import require_metal_emulator

HOST = ROOT / "tests/metal_emulator/host"
CASES = {
    name: path.stem
    for path in sorted((HOST / "cases").glob("*_cases.m"))
    for name in re.findall(r"^CASE\((\w+)\)", path.read_text(), flags=re.MULTILINE)
}
# What a case has to find set; it says so where it is defined.
ENVIRONMENT = {
    "compile_options_before_macos_15": {"METAL_EMULATOR_MACOS": "14"},
    "concurrent_dispatches_need_barriers": {"METAL_EMULATOR_ORDER": "reverse"},
    "pipeline_with_fewer_threads": {"METAL_EMULATOR_MAX_THREADS": "448"},
    "pipeline_without_simdgroup_matrix": {"METAL_EMULATOR_GPU": "paravirtual"},
    "resource_barriers_order_users_of_the_resource": {"METAL_EMULATOR_ORDER": "reverse"},
    "the_environment_makes_a_call_fail": {"METAL_EMULATOR_FAIL": "pipeline:1"},
}
LISTED = api.listed()


@pytest.fixture(scope="session")
def programs():
    """The folder of the programs, made; and with them the emulator."""
    require_metal_emulator()
    make(f"-j{os.cpu_count()}", "-f", HOST / "emulator.mk", "metal-cases")
    return ROOT / os.environ.get("METAL_EMULATOR_OUT", "build/metal-emulator")


def run_case(programs, name, **settings):
    """What the case said; its process starts without settings of the emulator but those given."""
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("METAL_EMULATOR_") or key == "METAL_EMULATOR_CACHE"
    }
    environment |= {"METAL_EMULATOR_HOME": str(HOST.parent), "METAL_EMULATOR_PYTHON": sys.executable}
    return run(programs / "metal-cases", name, env=environment | settings)


@pytest.mark.parametrize("name", CASES)
def test_case(programs, name):
    assert "0 failed" in run_case(programs, name, **ENVIRONMENT.get(name, {}))


@pytest.mark.parametrize("name", ["vector_add", "kernel_fault_fails_the_command_buffer_alone"])
def test_checked_kernels(programs, name):
    assert "0 failed" in run_case(programs, name, METAL_EMULATOR_MODE="checked")


# ---------------------------------------------------------------- families and settings

APPLE = {1001, 1006, 1007, 1008, 1009, 1010}


@pytest.mark.parametrize(
    ("gpu", "name", "families"),
    [
        ("apple7", "Apple M1 (emulated)", {1001, 1006, 1007, 2002, 3003, 5001}),
        ("apple8", "Apple M2 (emulated)", {1001, 1006, 1007, 1008, 2002, 3003, 5001}),
        ("apple9", "Apple M3 (emulated)", APPLE - {1010} | {2002, 3003, 5001}),
        ("apple10", "Apple M5 (emulated)", APPLE | {2002, 3003, 5001}),
        ("paravirtual", "Apple Paravirtual device (emulated)", {3003}),
    ],
)
def test_families(programs, gpu, name, families):
    said = run_case(programs, "device_describes_itself", METAL_EMULATOR_GPU=gpu)
    assert f"name: {name}\n" in said
    assert set(map(int, re.search(r"families: (.*)", said)[1].split())) == families


def test_limits_can_be_lowered(programs):
    said = run_case(
        programs,
        "device_describes_itself",
        METAL_EMULATOR_MAX_BUFFER_LENGTH="4096",
        METAL_EMULATOR_WORKING_SET="8192",
    )
    assert "maxBufferLength: 4096\nworkingSet: 8192\n" in said


@pytest.mark.parametrize(
    "setting", [{"METAL_EMULATOR_GPU": "apple3"}, {"METAL_EMULATOR_FAIL": "pipelines:1"}], ids=str
)
def test_unknown_settings_are_refused(programs, setting):
    with pytest.raises(AssertionError, match=next(iter(setting.values()))):
        run_case(programs, "device_describes_itself", **setting)


# ---------------------------------------------------------------- logs


def test_log_of_misuse(programs, tmp_path):
    run_case(programs, "misuse_too_many_bytes", METAL_EMULATOR_LOG=str(tmp_path / "log"))
    assert (tmp_path / "log").read_text() == (
        "misuse: -[MTLComputeCommandEncoder setBytes:length:atIndex:]: 4097 bytes at "
        + re.search(r"0x\w+", (tmp_path / "log").read_text())[0]
        + "; setBytes takes 1 to 4096\n"
    )


def test_log_of_kernel_faults(programs, tmp_path):
    run_case(
        programs, "kernel_fault_fails_the_command_buffer_alone", METAL_EMULATOR_LOG=str(tmp_path / "log")
    )
    assert (tmp_path / "log").read_text().startswith("fault: ")


def test_log_of_injected_failures_and_of_calls(programs, tmp_path):
    settings = {"METAL_EMULATOR_LOG": str(tmp_path / "log"), "METAL_EMULATOR_CALLS": str(tmp_path / "calls")}
    run_case(programs, "the_environment_makes_a_call_fail", METAL_EMULATOR_FAIL="5", **settings)
    assert (tmp_path / "log").read_text() == "pipeline call 1: failure injected by the emulator\n"
    assert (tmp_path / "calls").read_text().split() == [
        "device",
        "queue",
        "library",
        "function",
        "pipeline",
        "buffer",
        "buffer",
    ]


# ---------------------------------------------------------------- names and types


def test_headers_declare_what_is_listed():
    declared = api.declared()
    assert sorted(declared) == sorted(name.key for name in LISTED)
    for name in LISTED:
        if name.kind in ("class", "protocol"):
            assert declared[name.key].split() == name.value.split(), name
        elif name.kind == "property":
            attributes = set(re.split(r",\s*", declared[name.key])) - {"nullable"}
            assert attributes == set(name.value.split()), name


def test_every_name_has_a_source():
    sources = {"pyobjc", "metal-cpp", "objc2"}
    for name in LISTED:
        assert name.source, name
        assert {source.partition("/")[0] for source in name.source.split()} <= sources, name
        if name.kind in ("method", "property"):
            assert len(name.source.split()) == 2, f"{name.name} was seen in one source only"


def test_constants_and_types(tmp_path):
    """Compiled, so that the compiler compares them."""
    lines = ["#import <Metal/Metal.h>"]
    for name in LISTED:
        if name.kind == "constant":
            lines.append(f'_Static_assert({name.name} == {name.value}, "{name.name}");')
        elif name.kind == "enum":
            integer = {"q": "NSInteger", "Q": "NSUInteger"}[name.type]
            matches = f"_Generic(({name.name})0, {integer}: 1, default: 0)"
            lines.append(f'_Static_assert({matches}, "{name.name}");')
    assert len(lines) > 100
    check_syntax(tmp_path, "\n".join(lines) + "\n")


def test_method_encodings(programs):
    found = {}
    for line in run(programs / "metal-reflection").splitlines():
        owner, selector, encoding = line.split(" ", 2)
        found[owner, selector] = plain_encoding(encoding)
    compared = 0
    for name in LISTED:
        if name.kind == "method":
            assert found[name.owner, name.name] == apple_encoding(name.type), name
            compared += 1
        elif name.kind == "property":
            getter = re.search(r"getter=(\w+)", name.value)
            assert found[name.owner, getter[1] if getter else name.name] == apple_encoding(name.type), name
            compared += 1
    assert compared > 100


def plain_encoding(encoding):
    """A run-time encoding without receiver, selector, offsets, qualifiers and names of structs."""
    encoding = re.sub(r"\{\w*\??=", "{=", encoding)
    parts = re.findall(r"[rnNoORVA]*((?:\^?\{(?:[^{}]|\{[^{}]*\})*\}|@\?|\^+.|.))(-?\d+)", encoding)
    types = [kind for kind, _ in parts]
    assert types[1:3] == ["@", ":"], encoding
    return [types[0], *types[3:]]


def apple_encoding(types):
    """As listed; BOOL, a bool on Apple, is an unsigned char in GNUstep."""
    return [re.sub(r"\{\w+=", "{=", kind) if kind != "Z" else "C" for kind in types.split()]


# ---------------------------------------------------------------- unknown selectors


def check_syntax(tmp_path, text):
    source = tmp_path / "source.m"
    source.write_text(text)
    flags = objc_flags()
    run(require_metal_emulator(), *flags, *WARNINGS, "-fsyntax-only", source, cwd=ROOT)


def message(receiver, call):
    return f"#import <Metal/Metal.h>\nvoid f({receiver} r);\nvoid f({receiver} r) {{ [r {call}]; }}\n"


@pytest.mark.parametrize(
    ("receiver", "known", "unknown"),
    [
        ("id<MTLDevice>", "newCommandQueue", "newCommandQueueWithPriority:1"),
        ("id<MTLBuffer>", "setLabel:nil", "flush"),
        ("id<MTLComputeCommandEncoder>", "endEncoding", "dispatchThreadgroups:MTLSizeMake(1, 1, 1)"),
        ("MTLCompileOptions *", "setFastMathEnabled:NO", "setOptimisationLevel:0"),
        ("id", "endEncoding", "endEncodingNow"),
    ],
)
def test_unknown_selectors_do_not_compile(tmp_path, receiver, known, unknown):
    check_syntax(tmp_path, message(receiver, known))
    with pytest.raises(AssertionError, match="not found"):
        check_syntax(tmp_path, message(receiver, unknown))


def test_blocks_of_another_runtime_are_noticed(programs, tmp_path):
    """With gnustep-base first, whose blocks stay on the stack, a program does not start."""
    source = tmp_path / "source.m"
    source.write_text("#import <Metal/Metal.h>\nint main(void) { [MTLCopyAllDevices() release]; }\n")
    flags = objc_flags()
    program = tmp_path / "program"
    libraries = ["-lgnustep-base", f"-L{programs}", "-lMetal", "-lobjc", f"-Wl,-rpath,{programs}"]
    run(require_metal_emulator(), *flags, source, "-o", program, "-Wl,--no-as-needed", *libraries, cwd=ROOT)
    done = subprocess.run([program], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "before gnustep-base" in done.stderr
