"""What the programs in examples/ have in common: how they are run, and the values that they must print."""

import re
import shutil

import numpy as np
from support import oracle
from support.source_tree import ROOT, installed_env, run

EXAMPLES = ROOT / "examples"
BUILT = shutil.ignore_patterns("target", "zig-out", ".zig-cache", "build", ".build", "*.so", "attention")
HEADS, LENGTH, HEAD_DIM = 2, 8, 8
# Row blocks of 4 rows, and the key blocks of 2 keys that each sees.
SEEN_BLOCKS = [[0, 1], [0, 2, 3]]
SCALES = [0.125, 0.25]
# Head, row and columns of the values that a program prints of each result.
PRINTED = (0, 1, 5, slice(0, 4))


def commands(folder):
    """The blocks of shell in a folder's README: first what checks, then what times."""
    readme = (EXAMPLES / folder / "README.md").read_text(encoding="utf-8")
    return re.findall(r"```sh\n(.*?)```", readme, flags=re.DOTALL)


def printed(folder, tmp_path, which=0, **settings):
    """What a command of the folder's README prints, in a copy of the folder and with an installed libmfa."""
    return said(folder, tmp_path, commands(folder)[which], **settings)


def said(folder, tmp_path, command, **settings):
    """Likewise of any command."""
    copy = tmp_path / folder
    if not copy.exists():
        shutil.copytree(EXAMPLES / folder, copy, ignore=BUILT)
    return run("sh", "-euc", command, cwd=copy, env={**installed_env(), **settings})


def codes(step, shift):
    """The integers -8 to 8 that make the inputs, (batch, heads, rows, head_dim)."""
    shape = (1, HEADS, LENGTH, HEAD_DIM)
    return ((step * np.arange(np.prod(shape)) + shift) % 17 - 8).reshape(shape)


def known_values():
    """By the name of its line, the four numbers that a program prints of each result, in float64."""
    query, key, value, dout = (codes(*of) / 8 for of in ((5, 0), (7, 3), (11, 5), (3, 1)))
    blocks = np.zeros((LENGTH // 4, LENGTH // 2), bool)
    for row, seen in enumerate(SEEN_BLOCKS):
        blocks[row, seen] = True
    scales = np.reshape(SCALES, (1, HEADS, 1, 1))
    gradients = oracle.attention_backward(dout, query, key, value, causal=True)

    def attention(key, value, **features):
        return oracle.attention(query, key, value, **features)[0]

    results = {
        "forward": attention(key, value),
        "dq": gradients.dq,
        "dk": gradients.dk,
        "dv": gradients.dv,
        "window": attention(key, value, window=(2, 0)),
        "blocks": attention(key, value, bool_mask=blocks.repeat(4, 0).repeat(2, 1)),
        "quantised": attention(codes(7, 3) * scales, codes(11, 5) * scales),
    }
    return {name: result[PRINTED] for name, result in results.items()}


def assert_known(said):
    """Every program checks the same seven results; here it is held to values that it does not know."""
    lines = {name: np.array(numbers, float) for name, *numbers in map(str.split, said.splitlines())}
    known = known_values()
    assert lines.keys() == known.keys(), said
    for name, expected in known.items():
        np.testing.assert_allclose(lines[name], expected, atol=2e-5, err_msg=f"{name} in:\n{said}")


TIMED = re.compile(
    r"forward 1x8x1024x64 float32: [\d.]+ ms, [\d.]+ GINSTRS/s\ncall 1x1x16x64 float32: [\d.]+ us\n"
)
