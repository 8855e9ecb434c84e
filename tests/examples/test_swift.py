"""The Swift package and its example: run where there is Swift; parsed, and calls of C checked, anywhere."""

import re
import shutil

import pytest
from support.examples import EXAMPLES, TIMED, assert_known, known_values, printed
from support.header import constants, functions, initial_values, structs
from support.source_tree import ROOT, run
from support.syntax import nodes, parse, text

SURFACE = sorted((ROOT / "swift/FlashAttention").glob("*.swift"))
TESTS = sorted((ROOT / "swift/FlashAttentionTests").glob("*.swift"))
EXAMPLE = sorted((EXAMPLES / "swift").rglob("*.swift"))
PACKAGE = {"MFA_PACKAGE": str(ROOT)}

# C types of what the surface hands to C, by how it is written there.
ARGUMENTS = {
    "handle": {"mfa_context_t", "mfa_buffer_t"},
    "context.handle": {"mfa_context_t"},
    "nil": {"mfa_context_t"},
    "$0": {"mfa_buffer_t *"},
    "byteCount": {"size_t"},
    "memory.baseAddress": {"void *"},
    "memory.count": {"size_t"},
    "object": {"void *"},
    "status.rawValue": {"mfa_status_t"},
    "&options": {"mfa_context_options_t *"},
    "&created": {"mfa_context_t *"},
    "&info": {"mfa_context_info_t *"},
    "&major": {"int *"},
    "&minor": {"int *"},
    "&patch": {"int *"},
    "forward": {"mfa_attention_desc_t *"},
    "backward": {"mfa_attention_backward_desc_t *"},
    "&descriptor": {"mfa_quantize_desc_t *"},
}


def require_swift():
    """Not among what every machine of the project must have: .github/workflows/languages.yml runs these."""
    if shutil.which("swift") is None:
        pytest.skip("swift is not installed: see swift.org/install")


def test_example(tmp_path):
    require_swift()
    said = printed("swift", tmp_path, **PACKAGE)
    assert_known(
        "".join(line for line in said.splitlines(keepends=True) if line.split()[0] in known_values())
    )


def test_example_times(tmp_path):
    require_swift()
    assert TIMED.search(printed("swift", tmp_path, which=1, **PACKAGE))


def test_package_s_own_tests(tmp_path):
    require_swift()
    said = run("swift", "test", "-c", "release", "--package-path", ROOT, "--scratch-path", tmp_path)
    assert re.search(r"Executed (\d\d+) tests, with 0 failures", said), said


@pytest.mark.parametrize(
    "path", [ROOT / "Package.swift", *SURFACE, *TESTS, *EXAMPLE], ids=lambda path: path.name
)
def test_is_swift(path):
    parse("swift", path)


def calls(root):
    """Calls of C functions, as (name, arguments)."""
    for node in nodes(root, "call_expression"):
        name = text(node.children[0])
        if name.startswith("mfa_") and not name.endswith("_t"):
            yield name, [text(argument) for argument in nodes(node.children[1], "value_argument")]


def test_calls_are_those_of_the_header():
    declared, called = functions(), set()
    for path in SURFACE:
        for name, arguments in calls(parse("swift", path)):
            called.add(name)
            _, parameters = declared[name]
            assert len(arguments) == len(parameters), f"{path.name}: {name}"
            for argument, parameter in zip(arguments, parameters, strict=True):
                assert parameter in ARGUMENTS[argument], f"{path.name}: {name}, {argument} for {parameter}"
    # Every kind of call; a surface that is not read would have none.
    assert {
        "mfa_get_version",
        "mfa_quantize",
        "mfa_attention_backward_encode",
        "mfa_destroy_buffer",
    } <= called


def test_constants_are_those_of_the_header():
    for path in SURFACE:
        named = set(re.findall(r"\bMFA_\w+", re.sub(r"//.*", "", path.read_text(encoding="utf-8"))))
        assert named <= constants().keys(), path.name


def test_descriptors_begin_as_the_header_has_them():
    """Swift imports no MFA_..._INIT: what is not 0 there has to be set here, and struct_size always."""
    declared, initial = structs(), initial_values()
    made = {}
    for path in SURFACE:
        source = path.read_text(encoding="utf-8")
        for variable, struct, body in re.findall(
            r"var (\w+) = (mfa_\w+_t)\(\)\n(.*?)\n    (?:    )?\}\n", source, flags=re.DOTALL
        ):
            fields = dict(re.findall(rf"\b{variable}\.(\w+) = (.*)", body))
            assert fields.keys() <= {name for _, name in declared[struct]}, f"{path.name}: {struct}"
            made[struct] = fields
    assert {"mfa_context_options_t", "mfa_quantize_desc_t", "mfa_attention_backward_desc_t"} <= made.keys()
    for struct, fields in made.items():
        assert fields["struct_size"] == f"UInt32(MemoryLayout<{struct}>.size)"
        if struct not in initial:
            assert struct == "mfa_shape_t", struct
            continue
        for (_, name), value in list(zip(declared[struct], initial[struct], strict=True))[1:]:
            if value not in {"0", "0u", "0.0f", "NULL", '""', "MFA_ALIGN_NONE", "MFA_COMPUTE_EXACT"}:
                expected = (
                    {value} if struct == "mfa_attention_desc_t" else {"precision.code", "MFA_PRECISION_BOOL"}
                )
                assert fields[name] in expected, f"{struct}.{name}"


def test_fields_are_those_of_the_header():
    fields = {name for struct in structs().values() for _, name in struct}
    for path in SURFACE:
        named = re.findall(
            r"(?:pointee|tensor|blocks|quantization|descriptor|options|info)\.([a-z]+_\w+)\b",
            path.read_text(encoding="utf-8"),
        )
        assert set(named) <= fields, path.name


@pytest.mark.parametrize("name", sorted(known_values()))
def test_known_value(name):
    """What the example compares with is what the oracle says."""
    program = (EXAMPLES / "swift/Sources/attention/KnownValues.swift").read_text(encoding="utf-8")
    [numbers] = re.findall(rf'expect\("{name}", [^\[]*\[([-\d., ]+)\]\)', program)
    assert [float(number) for number in numbers.split(",")] == pytest.approx(known_values()[name], abs=1e-6)
