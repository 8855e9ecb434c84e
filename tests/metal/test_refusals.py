"""What Metal refuses, by the table of docs/metal.md: each row happens, and no refusal is without one."""

import re
import subprocess
import sys

import pytest
from support.emulated import EMULATOR, build_objc, environment
from support.source_tree import ROOT, make_env

SMALL_BUFFERS = {"METAL_EMULATOR_MAX_BUFFER_LENGTH": "65536"}

# What the message has -> the case of tests/metal/refusals.m that provokes it, and settings of the emulator.
PROVOKED = {
    "there is no Metal device": ("eighth device", {}),
    "the Metal device has no simdgroup_matrix": ("default device", {"METAL_EMULATOR_GPU": "paravirtual"}),
    "is not available: Metal does not work in a process forked": ("forked context", {}),
    "Metal does not work in a process forked": ("forked call", {}),
    "the Metal backend takes up to": ("large head_dim", {}),
    "bytes, and a buffer of the Metal device at most": ("large operand", SMALL_BUFFERS),
    "an encoded call takes memory in buffers only": ("encoded data", {}),
    "an encoded call copies nothing": ("encoded read-only memory", {}),
    "threads in a threadgroup, the device runs it with": ("plain call", {"METAL_EMULATOR_MAX_THREADS": "64"}),
    "needs simdgroups of": ("narrow simdgroups", {}),
    "bytes of threadgroup memory, the device has": ("little threadgroup memory", {}),
    "bytes: the Metal device allows": ("large buffer", SMALL_BUFFERS),
    "the workspace takes": ("large workspace", SMALL_BUFFERS),
    "compilation of kernel": ("plain call", {"METAL_EMULATOR_FAIL": "library:1"}),
    "the Metal device failed": ("plain call", {"METAL_EMULATOR_FAIL": "execution:1"}),
}
WITHOUT_METAL = "this build of mfa has no Metal support"
OLD_MACOS = "Metal 3.1 is needed, which came with macOS 14"  # off Apple's systems, @available is always true


def rows():
    """(status, what the message has) of each row."""
    page = (ROOT / "docs/metal.md").read_text(encoding="utf-8")
    table = re.search(r"\| Status \| When \|.*\n\|[-| ]+\|\n((?:\|.*\n)+)", page)[1]
    return re.findall(r"^\| `(\w+)` \| .* \| `([^`]+)` \|$", table, flags=re.MULTILINE)


def status_code(name):
    header = (ROOT / "include/mfa.h").read_text(encoding="ascii")
    return int(re.search(rf"^#define MFA_ERROR_{name} (\d+)$", header, flags=re.MULTILINE)[1])


@pytest.fixture(scope="module")
def refusals(library, tmp_path_factory):
    binary = tmp_path_factory.mktemp("refusals") / "refusals"
    build_objc(library, ROOT / "tests/metal/refusals.m", binary, "include")
    return binary


def test_every_row_is_provoked_but_for_the_system_that_is_not_there():
    assert [message for _, message in rows()] == [WITHOUT_METAL, OLD_MACOS, *PROVOKED]


@pytest.mark.parametrize(("status", "message"), [row for row in rows() if row[1] in PROVOKED])
def test_refused_as_the_table_says(refusals, status, message):
    case, settings = PROVOKED[message]
    done = subprocess.run(
        [EMULATOR / "run", refusals, case],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(**settings),
    )
    code, _, said = done.stdout.partition(" ")
    assert (code, done.returncode) == (str(status_code(status)), 0), done.stdout + done.stderr
    assert message in said


def test_call_that_the_cases_build_on_is_not_refused(refusals):
    done = subprocess.run([EMULATOR / "run", refusals, "plain call"], capture_output=True, env=environment())
    assert done.stdout == b"0 \n", done.stderr


@pytest.mark.skipif(sys.platform == "darwin", reason="the package has Metal there")
def test_build_without_metal_refuses_as_the_table_says():
    code = "import mfa\ntry: mfa.Context('metal')\nexcept mfa.MFAError as error: print(error.code, error)"
    without_emulator = {name: value for name, value in make_env().items() if name != "LD_LIBRARY_PATH"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=without_emulator)
    [status] = [status for status, message in rows() if message == WITHOUT_METAL]
    assert re.match(rf"{status_code(status)} .*{WITHOUT_METAL}", done.stdout), done.stdout + done.stderr


def refused_in_source():
    """(status, format) of each refusal in src/metal, and of each reason that a format ends with."""
    paths = sorted((ROOT / "src/metal").glob("*.[cmh]"))
    source = "".join(path.read_text(encoding="ascii") for path in paths)
    source = re.sub(r"/\*.*?\*/", "", source, flags=re.DOTALL)
    for name, text in re.findall(r'#define (\w+) (".*")', source):
        source = source.replace(name, text)
    refusal = r'mfai_fail\(MFA_ERROR_(UNSUPPORTED|DEVICE_NOT_SUPPORTED),((?:"[^"]*"|[^";])*);'
    refusals = re.findall(refusal, source)
    assert len(refusals) == len(re.findall("MFA_ERROR_(?:UNSUPPORTED|DEVICE_NOT_SUPPORTED)", source))
    yield from refusals
    for reason in re.findall(r'(?:return|\*reason =|why =) ("[^;]*);', source):
        yield "DEVICE_NOT_SUPPORTED", reason


def test_no_refusal_is_without_a_row():
    found = [(status, "".join(re.findall(r'"([^"]*)"', text))) for status, text in refused_in_source()]
    found.remove(("DEVICE_NOT_SUPPORTED", "Metal device %d: %s"))
    assert {status for status, _ in found} == {"UNSUPPORTED", "DEVICE_NOT_SUPPORTED"}
    for status, text in found:
        words = [message.removeprefix("is not available: ") for row, message in rows() if row == status]
        assert any(message in text for message in words), f"{status}: {text}"
