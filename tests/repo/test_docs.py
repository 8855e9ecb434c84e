"""What the pages in docs/ show and claim is so."""

import os
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from support import checks, kv_cache, oracle
from support.source_tree import PKG_CONFIG, ROOT, code_block, installed_env, run
from support.tools import require_module, require_tool

import mfa


def page(name):
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


LINKED = re.findall(r"^cc example\.c .*$", page("c.md"), flags=re.MULTILINE)


@pytest.mark.skipif(sys.platform != "linux", reason="macOS has no static libc")
@pytest.mark.parametrize("command", LINKED, ids=["shared", "rpath", "static"])
def test_c_example_links_in_each_way(command, tmp_path):
    require_tool("cc", "apt-get install gcc libc6-dev")
    require_tool(*PKG_CONFIG)
    source, output = code_block("README.md", "c")
    (tmp_path / "example.c").write_text(source, encoding="ascii")
    env = installed_env()
    if "--libs mfa) -o" not in command:
        del env["LD_LIBRARY_PATH"]
    assert run("sh", "-euc", command, cwd=tmp_path, env=env) == output


@pytest.mark.parametrize("name", ["c.md", "quantised.md"])
def test_c_example_prints_what_the_page_says(name, tmp_path):
    require_tool("cc", "apt-get install gcc libc6-dev")
    require_tool(*PKG_CONFIG)
    source, output = code_block(f"docs/{name}", "c")
    (tmp_path / "example.c").write_text(source, encoding="ascii")
    command = next(command for command in LINKED if "rpath" in command).replace(
        "cc ", "cc -std=c99 -Wall -Wextra -Werror ", 1
    )
    assert run("sh", "-euc", command, cwd=tmp_path, env=installed_env()) == output


def test_cython_module_builds_and_computes_what_mfa_computes(tmp_path, rng):
    for name, language in ("ours.pyx", "cython"), ("setup.py", "python"):
        source = re.findall(rf"```{language}\n(.*?)```", page("python.md"), flags=re.DOTALL)[-1]
        (tmp_path / name).write_text(source, encoding="utf-8")
    query, key, value = rng.standard_normal((3, 1, 2, 5, 8), dtype=np.float32)
    np.save(tmp_path / "operands.npy", [query, key, value])
    program = (
        "import numpy, ours\n"
        "query, key, value = numpy.load('operands.npy')\n"
        "out = numpy.empty_like(query)\n"
        "ours.attention(query, key, value, out)\n"
        "numpy.save('out.npy', out)\n"
        "try: ours.attention(query, key[:, :, :, 1:], value, out)\n"
        "except ValueError as error: print(error)\n"
    )
    # Finds mfa where this process found it.
    path = os.pathsep.join(filter(None, [str(Path(mfa.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": path, "CFLAGS": "-O0"}
    run(sys.executable, "setup.py", "-q", "build_ext", "--inplace", cwd=tmp_path, env=env)
    assert run(sys.executable, "-c", program, cwd=tmp_path, env=env).startswith("key has shape")
    expected = mfa.attention(query, key, value, layout="bhsd")
    assert np.array_equal(np.load(tmp_path / "out.npy"), expected)


SNIPPETS = [
    (name, source, output)
    for name in ("python.md", "quantised.md")
    for source, output in re.findall(
        r"```python\n([^`]*)```\n\nprints\n\n```text\n([^`]*)```", page(name), flags=re.DOTALL
    )
]


def test_python_snippets_are_found():
    assert [name for name, _, _ in SNIPPETS] == 3 * ["python.md"] + 2 * ["quantised.md"]


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_python_snippet_prints_what_the_page_says(number, tmp_path):
    _, source, output = SNIPPETS[number]
    path = tmp_path / "snippet.py"
    path.write_text(source, encoding="utf-8")
    assert run(sys.executable, path, cwd=tmp_path) == output


def translations():
    """(their call, ours) of each row of the tables."""
    return re.findall(r"^\| `(.*?)` \| `(mfa\..*?)` \|$", page("coming-from.md"), flags=re.MULTILINE)


def flash_attn_func(
    q,
    k,
    v,
    softmax_scale=None,
    causal=False,
    window_size=(-1, -1),
    softcap=0.0,
    attention_chunk=0,
    alibi_slopes=None,
    return_attn_probs=False,
):
    """FlashAttention's, by its documentation: heads behind the sequence, aligned bottom-right."""
    offset = k.shape[1] - q.shape[1]
    chunk = attention_chunk or q.shape[1] + k.shape[1]
    places = np.arange(q.shape[1])[:, None] + offset
    out, logsumexp = oracle.attention(
        *(x.swapaxes(1, 2) for x in (q, k, v)),
        softmax_scale=softmax_scale,
        causal=causal,
        offset=offset,
        window=window_size,
        softcap=softcap,
        alibi_slopes=alibi_slopes,
        bool_mask=places // chunk == np.arange(k.shape[1]) // chunk if attention_chunk else None,
    )
    out = out.swapaxes(1, 2)
    return (out, logsumexp) if return_attn_probs else out


def flash_attn_varlen_func(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k):
    lists = {"cu_seqlens_q": cu_seqlens_q, "cu_seqlens_k": cu_seqlens_k}
    return checks.expected(q, k, v, **lists).out[0].swapaxes(0, 1)


def flash_attn_with_kvcache(q, k_cache, v_cache, *new, **arguments):
    return kv_cache.Expected(q, k_cache, v_cache, *new, **arguments).reference.out.swapaxes(1, 2)


def mlx_attention(q, k, v, *, scale, mask=None, sinks=None):
    """MLX's, by its source: heads first, causal bottom-right."""
    causal = isinstance(mask, str) and mask == "causal"
    bool_mask = None if causal else mask
    offset = k.shape[2] - q.shape[2]
    out, _ = oracle.attention(
        q, k, v, softmax_scale=scale, causal=causal, offset=offset, bool_mask=bool_mask, sinks=sinks
    )
    return out


@pytest.mark.parametrize(("theirs", "ours"), translations())
def test_translated_call_gives_the_same(theirs, ours, monkeypatch):
    torch = require_module("torch", "pip install torch")
    flex = require_module("torch.nn.attention.flex_attention", "pip install torch")
    monkeypatch.setattr(flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 4, 5, 8), torch.randn(2, 4, 7, 8), torch.randn(2, 4, 7, 8)
    if theirs.startswith("flash_attn"):
        q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    names = {
        "F": torch.nn.functional,
        "flash_attn_func": flash_attn_func,
        "flash_attn_varlen_func": flash_attn_varlen_func,
        "flash_attn_with_kvcache": flash_attn_with_kvcache,
        "rows": torch.randn(10, 4, 8),
        "keys": torch.randn(14, 2, 8),
        "cu_q": torch.tensor([0, 6, 10], dtype=torch.int32),
        "cu_k": torch.tensor([0, 5, 14], dtype=torch.int32),
        "lengths": torch.tensor([3, 5], dtype=torch.int32),
        "index": torch.tensor([1, 0], dtype=torch.int32),
        "new_k": torch.randn(2, 2, 4, 8),
        "new_v": torch.randn(2, 2, 4, 8),
        "mfa": mfa,
        "mx": types.SimpleNamespace(fast=types.SimpleNamespace(scaled_dot_product_attention=mlx_attention)),
        "q": q,
        "k": k,
        "v": v,
        "k2": k[:, :2],
        "v2": v[:, :2],
        "seen": torch.rand(5, 7) < 0.8,
        "bias": torch.randn(5, 7),
        "padding": torch.arange(7) < torch.tensor([[3], [6]]),
        "slopes": torch.linspace(0.1, 0.5, 4),
        "sinks": torch.linspace(-1, 1, 4),
        "flex_attention": flex.flex_attention,
        "AuxRequest": flex.AuxRequest,
        "blocks": flex.create_block_mask(
            lambda b, h, i, j: i >= j, None, None, 5, 7, device="cpu", BLOCK_SIZE=4
        ),
        "relative": lambda score, b, h, i, j: score + 0.5 * (j - i),
    }
    if not theirs.startswith(("F.", "flex_attention")):
        names |= {name: x.numpy() for name, x in names.items() if isinstance(x, torch.Tensor)}
    expected, result = eval(theirs, names), eval(ours, names)
    if not isinstance(expected, tuple):
        expected, result = (expected,), (result,)
    assert len(result) == len(expected)
    for one, other in zip(expected, result, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5)


def test_each_library_has_its_table():
    calls = {theirs.partition("(")[0] for theirs, _ in translations()}
    assert calls == {
        "F.scaled_dot_product_attention",
        "flash_attn_func",
        "flash_attn_varlen_func",
        "flash_attn_with_kvcache",
        "flex_attention",
        "mx.fast.scaled_dot_product_attention",
    }
