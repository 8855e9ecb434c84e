"""Other people's Cython modules against the installed .pxd files: linking libmfa, and linking nothing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mfa

PACKAGE = Path(mfa.__file__).parent

# The same code against either set of declarations.
MODULE = """
# cython: language_level=3
from {calls} cimport (
    mfa_attention_backward_desc, mfa_attention_forward_desc, mfa_create_context, mfa_destroy_context,
    mfa_get_version, mfa_last_error_message)
from mfa.c_mfa cimport (
    MFA_ERROR_INVALID_ARGS, MFA_SUCCESS, mfa_attention_backward_desc_init,
    mfa_attention_backward_desc_t, mfa_attention_desc_init, mfa_attention_desc_t, mfa_context_t,
    mfa_status_t, mfa_tensor_init, mfa_tensor_t)
{check}

cdef mfa_tensor_t tensor(const float[:, :, :, :] array) noexcept nogil:
    cdef mfa_tensor_t described = mfa_tensor_init()
    cdef int axis
    described.data = <void *> &array[0, 0, 0, 0]
    for axis in range(4):
        described.shape[axis] = array.shape[axis]
        described.stride[axis] = array.strides[axis] // <Py_ssize_t> sizeof(float)
    return described


def attention(
        const float[:, :, :, :] query, const float[:, :, :, :] key, const float[:, :, :, :] value,
        float[:, :, :, :] out, float[:, :, :, :] logsumexp, float[:, :, :, :] dquery):
    # dquery is the gradient for a dout that equals out.
    cdef mfa_context_t context = NULL
    cdef mfa_attention_desc_t desc = mfa_attention_desc_init()
    cdef mfa_attention_backward_desc_t backward = mfa_attention_backward_desc_init()
    cdef mfa_tensor_t q = tensor(query), k = tensor(key), v = tensor(value), o = tensor(out)
    cdef mfa_tensor_t lse = tensor(logsumexp), dq = tensor(dquery)
    cdef mfa_status_t status
    desc.query, desc.key, desc.value, desc.out, desc.logsumexp = &q, &k, &v, &o, &lse
    backward.forward, backward.dout, backward.dquery = &desc, &o, &dq
    if mfa_create_context(&context) != MFA_SUCCESS:
        raise RuntimeError(mfa_last_error_message(NULL).decode())
    with nogil:
        status = mfa_attention_forward_desc(context, &desc)
        if status == MFA_SUCCESS:
            status = mfa_attention_backward_desc(context, &backward)
    mfa_destroy_context(context)
    if status == MFA_ERROR_INVALID_ARGS:
        refuse(status)


def version():
    cdef int major, minor, patch
    mfa_get_version(&major, &minor, &patch)
    return f"{{major}}.{{minor}}.{{patch}}"
"""

LINKED_CHECK = """
cdef int refuse(mfa_status_t status) except -1:
    raise ValueError(mfa_last_error_message(NULL).decode())
"""

CAPI_CHECK = "from mfa.capi cimport check as refuse"

SETUP = """
import sys
from Cython.Build import cythonize
from setuptools import Extension, setup
import mfa

linked = Extension("linked", ["linked.pyx"], include_dirs=[mfa.get_include()],
                   extra_objects=[mfa.get_library()], runtime_library_dirs=[sys.argv.pop()])
through_capi = Extension("through_capi", ["through_capi.pyx"], include_dirs=[mfa.get_include()])
setup(ext_modules=cythonize([linked, through_capi], include_path=[sys.argv.pop()]))
"""


@pytest.fixture(scope="module")
def environment():
    """Finds mfa where this process found it, which need not be on the path of another."""
    path = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "CFLAGS": "-O0"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, environment):
    folder = tmp_path_factory.mktemp("cimport")
    (folder / "linked.pyx").write_text(MODULE.format(calls="mfa.c_mfa", check=LINKED_CHECK))
    (folder / "through_capi.pyx").write_text(MODULE.format(calls="mfa.capi", check=CAPI_CHECK))
    (folder / "setup.py").write_text(SETUP)
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace", str(PACKAGE.parent), str(PACKAGE)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("module", ["linked", "through_capi"])
def test_module_computes_what_mfa_computes(folder, environment, rng, module):
    operands = [rng.standard_normal((1, 2, 5, 8)).astype(np.float32) for _ in range(3)]
    np.savez(folder / "operands.npz", *operands)
    program = f"""
import numpy as np, {module}
query, key, value = np.load("operands.npz").values()
out, dquery, lse = np.empty_like(query), np.empty_like(query), np.empty_like(query[..., :1])
{module}.attention(query, key, value, out, lse, dquery)
np.savez("{module}.npz", out, lse[..., 0], dquery)
print({module}.version())
try:
    {module}.attention(query, key[:, :, :, 1:], value, out, lse, dquery)
except ValueError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    version, message = done.stdout.splitlines()
    assert version == mfa.__version__
    assert message.startswith("key has shape")
    out, lse, dquery = np.load(folder / f"{module}.npz").values()
    expected = mfa.attention(*operands, return_lse=True, layout="bhsd")
    assert np.array_equal(out, expected[0])
    assert np.array_equal(lse, expected[1])
    gradients = mfa.attention_backward(out, *operands, out, lse, wanted=["dq"], layout="bhsd")
    assert np.array_equal(dquery, gradients.dq)


def without_comments(text):
    return re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)


def header():
    return without_comments(Path(mfa.get_include(), "mfa.h").read_text(encoding="ascii"))


def prototypes(text):
    """{name: (result, [argument types])}, in one spelling."""
    found = {}
    for result, name, arguments in re.findall(
        r"([\w ]+?[ *]+)(mfa_\w+)\(([^()]*)\)(?= *;|\n| noexcept)", text
    ):
        types = [re.sub(r"\w+$", "", argument.strip()) for argument in arguments.split(",")]
        types = [] if arguments.strip() in ("", "void") else types
        found[name] = tuple(re.sub(r"\s+", "", t) for t in (result, *types))
    return found


def declared_in_header():
    text = header().replace("MFA_API ", "")
    return {name: tuple(t.replace("bool", "c_bool") for t in p) for name, p in prototypes(text).items()}


def mirror():
    text = (PACKAGE / "c_mfa.pxd").read_text()
    return text[: text.index("cdef extern from *:")]


def test_c_mfa_has_every_prototype():
    declared = declared_in_header()
    assert len(declared) >= 20
    assert prototypes(mirror()) == declared


def test_capi_has_every_prototype():
    text = (PACKAGE / "capi.pxd").read_text().replace("cdef ", "")
    assert prototypes(text) == declared_in_header()


def test_c_mfa_has_every_field():
    structs = re.findall(r"typedef struct \w+ \{(.*?)\} (\w+);", header(), flags=re.DOTALL)
    assert len(structs) >= 5
    for body, name in structs:
        block = re.search(rf"    ctypedef struct {name}:\n((?:        .*\n)+)", mirror())[1]
        expected = [re.sub(r"\s+", "", line) for line in body.split(";") if line.strip()]
        assert [re.sub(r"\s+", "", line) for line in block.splitlines()] == expected, name


def test_c_mfa_has_every_constant():
    defined = set(re.findall(r"#define (MFA_\w+) +\S", header()))
    macros = {name for name in defined if name.endswith("_INIT")} | {"MFA_API"}
    assert set(re.findall(r"\bMFA_\w+", mirror())) == defined - macros
