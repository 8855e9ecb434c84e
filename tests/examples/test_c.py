"""The C example, over an installed library."""

import subprocess

import pytest
from support.examples import EXAMPLES, TIMED, assert_known, printed, said
from support.source_tree import PKG_CONFIG, code_block, installed_env, pkg_config, run
from support.tools import require_tool

CC = ("cc", "apt-get install gcc libc6-dev")
CHECKED = {"CFLAGS": "-O1 -Werror"}
# An operand beyond its array, one that was released twice, and a header newer than the library.
REFUSED = """
#include <mfa.h>
#ifdef NEWER_HEADER
#undef MFA_VERSION_PATCH
#define MFA_VERSION_PATCH 999
#endif
#include "wrapped.h"

int main(void) {
    float memory[8] = {0};
    const int64_t shape[4] = {1, 1, 2, 5};
    mfa_context_t context;
    operand_t operand;
    if (!library_is_new_enough())
        return 3;
    if (mfa_create_context(&context) ||
        operand_wrap(context, memory, sizeof memory, MFA_PRECISION_FP32, shape, &operand))
        return 1;
    mfa_attention_desc_t desc = MFA_ATTENTION_DESC_INIT;
    desc.query = desc.key = desc.value = desc.out = &operand.tensor;
    for (int i = 0; i < 2; ++i) {
        if (mfa_attention_forward_desc(context, &desc) != MFA_ERROR_INVALID_ARGS)
            return 2;
        puts(mfa_last_error_message(context));
        operand_release(&operand);
        operand_release(&operand);
    }
    mfa_destroy_context(context);
    return 0;
}
"""


@pytest.fixture(autouse=True)
def tools():
    require_tool(*CC)
    require_tool(*PKG_CONFIG)


@pytest.fixture
def refused(tmp_path):
    """A compiler of the program above, with more flags."""
    source, program = tmp_path / "refused.c", tmp_path / "refused"
    source.write_text(REFUSED, encoding="ascii")

    def build(*flags):
        flags = ["-std=c99", f"-I{EXAMPLES / 'c'}", *flags, *pkg_config("--cflags", "--libs")]
        run("cc", source, "-o", program, *flags)
        return program

    return build


def test_known_values_and_times(tmp_path):
    assert_known(printed("c", tmp_path, **CHECKED))
    assert TIMED.fullmatch(printed("c", tmp_path, which=1, **CHECKED))


def test_shortest_program_prints_what_the_readme_says(tmp_path):
    program = "make -s build/attention && build/attention"
    assert program in (EXAMPLES / "c/README.md").read_text(encoding="utf-8")
    assert said("c", tmp_path, program) == code_block("README.md", "c")[1]


def test_wrong_size_and_released_operand_are_refused(refused):
    assert run(refused(), env=installed_env()).splitlines() == [
        "query reaches from byte 0 to 40 around offset 0 of a buffer of 32 bytes",
        "query.data and query.buffer are both NULL",
    ]


def test_library_older_than_the_header_is_refused(refused):
    newer = refused("-DNEWER_HEADER")
    done = subprocess.run([newer], capture_output=True, text=True, env=installed_env())
    assert done.returncode == 3
    assert "older than the mfa.h of " in done.stderr
