"""mfa.flash_attn.install lets third-party code import flash_attn, and never hides a real one."""

import importlib
import importlib.util
import json
import subprocess
import sys
import textwrap

import pytest

from mfa import flash_attn


@pytest.fixture(autouse=True)
def modules_as_before():
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "flash_attn"}
    assert not before
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "flash_attn"]:
        del sys.modules[name]


def test_names_that_code_imports():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("flash_attn")
    assert flash_attn.install() is True
    assert flash_attn.install() is True
    for name in ("", ".flash_attn_interface", ".bert_padding", ".layers", ".layers.rotary"):
        module = importlib.import_module("flash_attn" + name)
        assert module is importlib.import_module("mfa.flash_attn" + name)
        assert importlib.util.find_spec("flash_attn" + name) is not None
    from flash_attn import flash_attn_func
    from flash_attn.layers.rotary import apply_rotary_emb

    assert flash_attn_func is flash_attn.flash_attn_func
    assert apply_rotary_emb.__module__.startswith("mfa.flash_attn.layers")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("flash_attn.losses")


def test_another_one_on_the_path_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / "flash_attn").mkdir()
    (tmp_path / "flash_attn" / "__init__.py").write_text("REAL = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert flash_attn.install() is False
    assert "flash_attn" not in sys.modules
    assert importlib.import_module("flash_attn").REAL
    assert flash_attn.install() is False
    assert importlib.import_module("flash_attn").REAL


def test_another_one_that_was_made_by_hand_is_left_alone(monkeypatch):
    """find_spec refuses to look at such a module."""
    module = type(sys)("flash_attn")
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    assert flash_attn.install() is False
    assert sys.modules["flash_attn"] is module


MODEL = """
import torch
from flash_attn import flash_attn_varlen_func
from flash_attn.bert_padding import pad_input, unpad_input
from transformers import PretrainedConfig, PreTrainedModel


class TinyConfig(PretrainedConfig):
    model_type = "tiny_remote"


class TinyModel(PreTrainedModel):
    config_class = TinyConfig

    def __init__(self, config):
        super().__init__(config)
        self.qkv = torch.nn.Linear(16, 48)
        self.post_init()

    def forward(self, states, attention_mask):
        batch, rows = attention_mask.shape
        states, indices, starts, longest, _ = unpad_input(states, attention_mask)
        qkv = self.qkv(states).unflatten(-1, (3, 2, 8))
        out = flash_attn_varlen_func(*qkv.unbind(1), starts, starts, longest, longest, causal=True)
        return pad_input(out.flatten(1), indices, batch, rows)
"""
PROGRAM = """
import sys, torch, transformers
from transformers.utils import is_flash_attn_2_available
import mfa.flash_attn

folder = sys.argv[1]
transformers.logging.set_verbosity_error()
load = lambda: transformers.AutoModel.from_config(
    transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True), trust_remote_code=True
)
try:
    load()
    raise SystemExit("there is a flash_attn already")
except ImportError as error:
    assert "flash_attn" in str(error), error
assert mfa.flash_attn.install()
model = load()
states, mask = torch.randn(2, 5, 16), torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
out = model(states, mask)
q, k, v = model.qkv(states[1:, 2:]).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
alone = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
torch.testing.assert_close(out[1:, 2:], alone)
assert not out[1, :2].any()
out.sum().backward()
assert model.qkv.weight.grad.any()
assert not is_flash_attn_2_available()
from diffusers.utils import is_flash_attn_available
assert not is_flash_attn_available()
"""


def test_code_of_a_model_that_needs_it(tmp_path):
    """As Transformers loads it from a repository, in a process that has not looked for it before."""
    (tmp_path / "modeling_tiny.py").write_text(MODEL)
    names = {"AutoConfig": "modeling_tiny.TinyConfig", "AutoModel": "modeling_tiny.TinyModel"}
    config = {"model_type": "tiny_remote", "auto_map": names}
    (tmp_path / "config.json").write_text(json.dumps(config))
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(tmp_path)]
    done = subprocess.run(program, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
