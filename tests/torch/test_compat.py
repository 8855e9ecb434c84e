"""mfa-compat as it is installed: the original's modules, asked what its users' health checks ask."""

import importlib
import math
import shutil
import subprocess
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest
import torch
from support.source_tree import ROOT, run
from torch.nn.functional import scaled_dot_product_attention

import mfa
from mfa.torch import _replace

SOURCE = ROOT / "packaging/compat"
VERSION = tuple(int(part) for part in mfa.__version__.split("."))
MODULES = ("metal_sdpa_extension", "mfa_quantized", "pytorch_custom_op_ffi", "umfa")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compat")
    tree = shutil.copytree(SOURCE, folder / "tree", ignore=shutil.ignore_patterns("build", "*.egg-info"))
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", folder, tree)
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel):
    """A folder that has it, and is where this process looks for modules."""
    target = wheel.parent / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    sys.path.insert(0, str(target))
    yield target
    sys.path.remove(str(target))
    for name in [name for name in sys.modules if name.partition(".")[0] in MODULES]:
        del sys.modules[name]
    if hasattr(torch.backends, "metal_sdpa"):
        del torch.backends.metal_sdpa


@pytest.fixture(scope="module")
def ext(installed):
    """The extension, with PyTorch's function run by mfa for tensors on CPU too."""
    module = importlib.import_module("metal_sdpa_extension")
    module.register_backend("cpu")
    yield module
    module.clear_quantization_mode()
    module.unregister_backend()
    _replace.run_by(mfa.scaled_dot_product_attention)


@pytest.fixture
def umfa(installed):
    return importlib.import_module("umfa")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(3)


@pytest.fixture(autouse=True)
def nothing_is_printed(capfd):
    yield
    assert capfd.readouterr().out == ""


def reference(query, key, value, scale=None, is_causal=False):
    """Attention in float64, and what it is of."""
    query, key, value = (array.detach().double().requires_grad_() for array in (query, key, value))
    scores = query @ key.mT * (scale or query.shape[-1] ** -0.5)
    if is_causal:
        scores = scores.masked_fill(~torch.ones(scores.shape[-2:], dtype=torch.bool).tril(), -math.inf)
    return scores.softmax(-1) @ value, (query, key, value)


def tensors(shape=(1, 4, 64, 64), dtype=torch.float32, factor=1.0, **options):
    return [(torch.randn(shape, dtype=dtype) * factor).requires_grad_(**options) for _ in range(3)]


def risen(before, after):
    """The counters that are not what they were, by how much."""
    return {name: after[name] - before[name] for name in after if after[name] != before[name]}


# ------------------------------------------------------------- what is installed


def test_wheel_has_the_modules_and_the_licence(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        [licence] = [archive.read(name) for name in names if name.endswith("licenses/LICENSE")]
    assert {name.partition("/")[0].removesuffix(".py") for name in names if ".dist-info" not in name} == set(
        MODULES
    )
    expected = {path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py")}
    assert expected <= set(names)
    assert licence == (ROOT / "LICENSE").read_bytes()


def test_it_goes_with_this_version_of_mfa():
    project = (SOURCE / "pyproject.toml").read_text()
    assert f'\nversion = "{mfa.__version__}"\n' in project
    assert f'\ndependencies = ["universal-metal-flash-attention=={mfa.__version__}"]\n' in project


def test_a_fresh_interpreter_imports_it_and_torchs_function_counts(installed):
    """As SimpleTuner does in a process of its own before it trusts the extension."""
    program = """
import torch, metal_sdpa_extension, pytorch_custom_op_ffi, umfa, mfa_quantized, mfa.quantized
assert isinstance(pytorch_custom_op_ffi.is_metal_sdpa_available(), bool)
assert mfa_quantized.__all__ == mfa.quantized.__all__
assert mfa_quantized.QuantizedAttention is mfa.quantized.QuantizedAttention
for name in ("scaled_dot_product_attention",):
    for key in ("MPS", "AutogradMPS"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", key)
query = torch.randn(1, 4, 64, 64)
torch.nn.functional.scaled_dot_product_attention(query, query, query)
assert metal_sdpa_extension.get_dispatch_stats()["total"] == 0, "CPU is not asked for yet"
metal_sdpa_extension.register_backend("cpu")
torch.nn.functional.scaled_dot_product_attention(query, query, query)
assert metal_sdpa_extension.get_dispatch_stats()["fp32_direct"] == 1
metal_sdpa_extension.unregister_backend()
torch.nn.functional.scaled_dot_product_attention(query, query, query)
assert metal_sdpa_extension.get_dispatch_stats()["total"] == 1
"""
    environment = {"PYTHONPATH": f"{installed}:{ROOT}"}
    subprocess.run([sys.executable, "-W", "error", "-c", program], env=environment, check=True, timeout=120)


def test_umfa_and_mfa_quantized_need_no_torch(installed):
    program = "import sys, umfa, mfa_quantized; assert 'torch' not in sys.modules"
    environment = {"PYTHONPATH": f"{installed}:{ROOT}"}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=60)


def test_every_name_is_there(ext, umfa):
    for module in (ext, umfa, importlib.import_module("pytorch_custom_op_ffi")):
        assert [name for name in module.__all__ if not hasattr(module, name)] == []


# ------------------------------------------------- SimpleTuner's check of floats


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float16, 5e-2), (torch.bfloat16, 5e-2)]
)
@pytest.mark.parametrize("is_causal", [False, True])
def test_attention_and_gradients_agree_with_a_reference(ext, dtype, tolerance, is_causal):
    query, key, value = given = tensors(dtype=dtype)
    out = ext.metal_flash_attention_autograd(query, key, value, is_causal, 0.0)
    expected, arrays = reference(*given, is_causal=is_causal)
    assert (out.shape, out.dtype) == (query.shape, dtype)
    assert out.grad_fn is not None
    assert torch.allclose(out.double(), expected, rtol=tolerance, atol=tolerance)
    out.square().mean().backward()
    expected.square().mean().backward()
    for found, wanted in zip(given, arrays, strict=True):
        assert torch.allclose(found.grad.double(), wanted.grad, rtol=10 * tolerance, atol=tolerance / 100)


def test_transposed_views_of_many_heads(ext):
    given = [torch.randn(1, 128, 24, 128).transpose(1, 2) for _ in range(3)]
    out = ext.metal_flash_attention_autograd(*given, scale=0.2)
    assert not out.requires_grad
    assert torch.allclose(out.double(), reference(*given, scale=0.2)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_torchs_function_is_counted_by_what_ran_it(ext, is_causal, requires_grad):
    given = tensors(requires_grad=requires_grad)
    before = ext.get_dispatch_stats()
    out = scaled_dot_product_attention(*given, is_causal=is_causal)
    name = "fp32_autograd" if requires_grad else "fp32_direct"
    assert risen(before, ext.get_dispatch_stats()) == {"total": 1, name: 1}
    assert torch.allclose(out.double(), reference(*given, is_causal=is_causal)[0], rtol=1e-4, atol=1e-4)
    assert out.requires_grad == requires_grad


def test_direct_calls_are_counted_alike(ext):
    given = tensors(requires_grad=False)
    before = ext.get_dispatch_stats()
    out = ext.metal_scaled_dot_product_attention(*given, scale=0.2)
    assert risen(before, ext.get_dispatch_stats()) == {"total": 1, "fp32_direct": 1}
    assert torch.allclose(out.double(), reference(*given, scale=0.2)[0], rtol=1e-4, atol=1e-4)


def test_what_used_to_be_handed_back_is_run(ext):
    """Dropout, fewer heads of keys, one sequence without a batch, and a mask beside gradients."""
    query, key, value = tensors(factor=0.1)
    before = ext.get_dispatch_stats()
    scaled_dot_product_attention(query, key, value, dropout_p=0.5).sum().backward()
    assert value.grad.any()
    scaled_dot_product_attention(query, key[:, :2], value[:, :2], enable_gqa=True)
    scaled_dot_product_attention(query[0, 0], key[0, 0], value[0, 0])
    mask = torch.randn(64, 64, requires_grad=True)
    scaled_dot_product_attention(query, key, value, mask).sum().backward()
    assert mask.grad.any()
    assert risen(before, ext.get_dispatch_stats()) == {"total": 4, "fp32_autograd": 4}


@pytest.mark.parametrize("call", ["scaled_dot_product_attention", "metal_scaled_dot_product_attention"])
@pytest.mark.filterwarnings("ignore:PyTorch runs scaled_dot_product_attention")
def test_what_mfa_cannot_run_is_counted_as_handed_back(ext, call):
    given = [array.double() for array in tensors(requires_grad=False)]
    before = ext.get_dispatch_stats()
    function = scaled_dot_product_attention if call[0] == "s" else ext.metal_scaled_dot_product_attention
    out = function(*given)
    assert risen(before, ext.get_dispatch_stats()) == {"total": 1, "pytorch_fallback": 1}
    assert torch.allclose(out, reference(*given)[0])


def test_counters_begin_anew(ext):
    scaled_dot_product_attention(*tensors(requires_grad=False))
    assert ext.get_dispatch_stats()["total"] > 0
    ext.reset_dispatch_stats()
    assert set(ext.get_dispatch_stats().values()) == {0}


# ------------------------------------------------- SimpleTuner's check of codes


@pytest.mark.parametrize(("precision", "drift"), [("QUANT_INT8", 0.05), ("QUANT_INT4", 0.5)])
@pytest.mark.parametrize("mode", ["QUANT_TENSOR_WISE", "QUANT_BLOCK_WISE"])
@pytest.mark.parametrize("heads", [4, 8])
def test_quantised_results_are_near_and_gradients_finite(ext, precision, drift, mode, heads):
    given = tensors((1, heads, 64, 32), factor=0.05)
    out = ext.metal_quantized_flash_attention_autograd(
        *given, False, 0.0, getattr(ext, precision), getattr(ext, mode)
    )
    assert out.dtype == torch.float32
    assert out.grad_fn is not None
    expected = reference(*given)[0]
    # The health check's bounds are far from what it is about: those of codes are these.
    assert (out - expected).abs().max() < drift * 0.05
    assert not torch.allclose(out.double(), expected, rtol=1e-5, atol=1e-7)
    out.square().mean().backward()
    assert all(array.grad.isfinite().all() for array in given)


def test_longer_sequences_after_shorter_ones_have_no_trace_of_them(ext):
    for rows in (64, 128, 256):
        given = tensors((1, 2, rows, 128), factor=0.02)
        out = ext.metal_quantized_flash_attention_autograd(*given)
        assert out.std() < 0.1
        assert torch.allclose(out.double(), reference(*given)[0], atol=1e-3)


@pytest.mark.parametrize("precision", ["QUANT_INT8", "QUANT_INT4"])
@pytest.mark.parametrize("mask", ["none", "all true", "bool", "additive"])
def test_mode_quantises_torchs_function_with_any_mask(ext, precision, mask):
    given = tensors((1, 4, 64, 32), factor=0.05)
    attn_mask = None if mask == "none" else torch.ones(1, 1, 1, 64, dtype=torch.bool)
    if mask in ("bool", "additive"):
        attn_mask[..., -1] = False
    if mask == "additive":
        attn_mask = torch.zeros(1, 1, 1, 64).masked_fill(~attn_mask, -math.inf)
    before = ext.get_dispatch_stats()
    ext.set_quantization_mode(getattr(ext, precision), ext.QUANT_TENSOR_WISE)
    try:
        out = scaled_dot_product_attention(*given, attn_mask=attn_mask)
    finally:
        ext.clear_quantization_mode()
    skipped = {"mask_all_true_skipped": 1} if mask == "all true" else {}
    assert risen(before, ext.get_dispatch_stats()) == {"total": 1, "quantized_autograd": 1, **skipped}
    expected = ext.metal_quantized_flash_attention_autograd(
        *given, target_precision=getattr(ext, precision), attn_mask=attn_mask
    )
    assert torch.equal(out, expected)
    out.square().mean().backward()
    assert all(array.grad.isfinite().all() for array in given)
    before = ext.get_dispatch_stats()
    scaled_dot_product_attention(*given)
    assert risen(before, ext.get_dispatch_stats()) == {"total": 1, "fp32_autograd": 1}


def test_compiled_programs_keep_the_mode_that_they_were_traced_in(ext):
    """And what a compiler keeps on disk has it in its name."""
    given = tensors(factor=0.05)
    torch._dynamo.reset()
    before = torch.compiler.config.cache_key_tag
    compiled = torch.compile(scaled_dot_product_attention, fullgraph=True, backend="aot_eager")
    ext.set_quantization_mode(ext.QUANT_INT4, ext.QUANT_BLOCK_WISE)
    try:
        assert torch.compiler.config.cache_key_tag == f"{before} mfa-codes-4-2".lstrip()
        ext.set_quantization_mode(ext.QUANT_INT8, ext.QUANT_TENSOR_WISE)
        assert torch.compiler.config.cache_key_tag == f"{before} mfa-codes-3-0".lstrip()
        out = compiled(*given)
    finally:
        ext.clear_quantization_mode()
    assert torch.compiler.config.cache_key_tag == before
    expected = ext.metal_quantized_flash_attention_autograd(*given)
    assert torch.equal(out, expected)
    assert torch.equal(compiled(*given), expected)
    found = torch.autograd.grad(out.sum(), given)
    assert all(map(torch.equal, found, torch.autograd.grad(expected.sum(), given)))


@pytest.mark.parametrize("shape", [(3, 64, 64), (2, 1, 64, 64), (1, 1, 1, 1, 1, 1), (64, 65)])
@pytest.mark.filterwarnings("ignore:PyTorch runs scaled_dot_product_attention")
def test_a_mask_that_hides_nothing_has_to_fit(ext, shape):
    given = tensors(requires_grad=False)
    with pytest.raises((RuntimeError, ValueError)):
        scaled_dot_product_attention(*given, attn_mask=torch.ones(shape, dtype=torch.bool))


@pytest.mark.parametrize("numbers", [(8, 0), (3, 1), (True, 0)])
def test_modes_that_there_are_not_are_refused(ext, numbers):
    with pytest.raises(ValueError, match=r"(precision|block_mode): .*, expected"):
        ext.set_quantization_mode(*numbers)
    with pytest.raises(ValueError, match=r"(target_precision|quant_mode): .*, expected"):
        ext.metal_quantized_flash_attention_autograd(*tensors(), False, 0.0, *numbers)


# ------------------------------------------------------------ rotary embeddings


@pytest.mark.parametrize("tables", ["rows", "one batch", "each batch", "more rows"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rope_turns_pairs_of_neighbours(ext, tables, dtype):
    """Scores depend on the distance alone, and gradients are those of turning, then attending."""
    query, key, value = (torch.randn(2, 4, 9, 8, dtype=dtype).requires_grad_() for _ in range(3))
    rows = 12 if tables == "more rows" else 9
    angles = torch.arange(rows)[:, None] * 0.3 ** torch.arange(4)
    if tables == "one batch":
        angles = angles[None]
    if tables == "each batch":
        angles = torch.stack((angles, 2 * angles))
    cos, sin = (table.repeat_interleave(2, -1) for table in (angles.cos(), angles.sin()))
    before = ext.get_dispatch_stats()
    out = ext.rope_scaled_dot_product_attention(query, key[:, :2], value[:, :2], cos, sin, is_causal=True)
    assert risen(before, ext.get_dispatch_stats()) == {"rope_instream": 1, "rope_autograd": 1}
    assert out.dtype == dtype

    arrays = [array.detach().double().requires_grad_() for array in (query, key, value)]
    factor = torch.polar(torch.ones(()).double(), angles[..., :9, :].double())
    factor = factor[:, None] if factor.dim() == 3 else factor
    turned = [
        torch.view_as_real(torch.view_as_complex(array.unflatten(-1, (4, 2))) * factor).flatten(-2)
        for array in arrays[:2]
    ]
    expected = scaled_dot_product_attention(
        turned[0], *(array[:, :2].repeat_interleave(2, 1) for array in (turned[1], arrays[2])), is_causal=True
    )
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.1, "atol": 0.05}
    assert torch.allclose(out.double(), expected, **tolerance)
    dout = torch.randn(out.shape)
    found = torch.autograd.grad(out, (query, key, value), dout.to(dtype))
    for gradient, wanted in zip(found, torch.autograd.grad(expected, arrays, dout.double()), strict=True):
        assert torch.allclose(gradient.double(), wanted, **tolerance)


def test_rope_without_gradients_counts_once(ext):
    query = torch.randn(1, 2, 4, 8)
    before = ext.get_dispatch_stats()
    ext.rope_scaled_dot_product_attention(query, query, query, torch.ones(4, 8), torch.zeros(4, 8))
    assert risen(before, ext.get_dispatch_stats()) == {"rope_instream": 1}
    with pytest.raises(ValueError, match=r"^rope_cos: shape \(3, 8\), expected \(4, 8\)"):
        ext.rope_scaled_dot_product_attention(query, query, query, torch.ones(3, 8), torch.zeros(4, 8))
    odd = query[..., :7]
    with pytest.raises(ValueError, match=r"^query: 7 columns, expected pairs of them"):
        ext.rope_scaled_dot_product_attention(odd, odd, odd, torch.ones(4, 7), torch.zeros(4, 7))


# ------------------------------------------------------------ configurations


@pytest.mark.parametrize("name", ["TENSOR_WISE", "ROW_WISE", "BLOCK_WISE"])
@pytest.mark.parametrize("bits", [4, 8])
def test_configurations_say_what_shares_a_scale(ext, name, bits):
    query, key, value = (array.half() for array in tensors((1, 2, 70, 32), requires_grad=False))
    config = ext.QuantizationConfig()
    config.granularity = ext.QuantizationGranularity[name]
    config.precision = f"int{bits}"
    config.block_sizes = ext.BlockSizeConfig(q_blk=16, k_blk=16, v_blk=32)
    config.is_causal, config.scale = True, 0.3
    granularities = {
        "TENSOR_WISE": ("tensor", "tensor"),
        "ROW_WISE": ("token", "token"),
        "BLOCK_WISE": ("block16", "block32"),
    }[name]
    codes = [
        mfa.quantize(array, f"int{bits}", granularity, layout="bhsd")
        for array, granularity in zip((key, value), granularities, strict=True)
    ]
    for precision, dtype in (("FP16", "float16"), ("BF16", "bfloat16"), ("FP32", "float32")):
        config.output_precision = ext.OutputPrecision[precision]
        out = ext.quantized_scaled_dot_product_attention_with_config(query, key, value, config)
        expected = mfa.attention(
            query, *codes, layout="bhsd", causal="top-left", softmax_scale=0.3, out_dtype=dtype
        )
        assert out.dtype == getattr(torch, dtype)
        assert torch.equal(out, expected)


def test_configurations_begin_as_the_originals_do(ext):
    config = ext.QuantizationConfig()
    assert (config.precision, int(config.output_precision), config.is_causal, config.scale) == (
        *("int8", 0, False, None),
    )
    assert [int(member) for member in ext.OutputPrecision] == [0, 1, 2]
    assert [member.name for member in ext.OutputPrecision] == ["FP32", "FP16", "BF16"]
    assert config.get_recommended_output_precision() == ext.OutputPrecision.FP16
    assert config.string_to_precision("bfloat16") == ext.OutputPrecision.BF16
    assert config.string_to_precision("?") == ext.OutputPrecision.FP32
    assert config.string_to_quantization_precision("int4") == ext.QuantizationPrecision.INT4
    assert config.string_to_granularity("block") == ext.QuantizationGranularity.BLOCK_WISE
    assert config.granularity_to_string(ext.QuantizationGranularity.ROW_WISE) == "row_wise"
    assert config.validate_config()
    config.granularity, config.block_sizes = (
        ext.QuantizationGranularity.BLOCK_WISE,
        ext.BlockSizeConfig(0, 0, 0),
    )
    assert not config.validate_config()


def test_the_shortest_call_is_of_the_dtype_of_queries(ext):
    query, key, value = (array.bfloat16() for array in tensors(requires_grad=False))
    out = ext.quantized_scaled_dot_product_attention(query, key, value, "int4", is_causal=True, scale=0.2)
    codes = [mfa.quantize(array, "int4", "tensor", layout="bhsd") for array in (key, value)]
    expected = mfa.attention(query, *codes, layout="bhsd", causal="top-left", softmax_scale=0.2)
    assert torch.equal(out, expected)


def test_queries_of_eight_bits_multiply_integers(ext):
    given = tensors(requires_grad=False)
    config = ext.QuantizationConfig()
    exact = ext.quantized_scaled_dot_product_attention_unified(*given, config)
    config.query_precision = ext.QuantizationPrecision.INT8
    rounded = ext.quantized_scaled_dot_product_attention_unified(*given, config)
    assert not torch.equal(exact, rounded)
    assert torch.linalg.norm(exact - rounded) < 0.05 * torch.linalg.norm(exact)


def test_what_is_not_there_says_so(ext):
    given = tensors(requires_grad=False)
    config = ext.QuantizationConfig()
    config.granularity = ext.QuantizationGranularity.HYBRID
    with pytest.raises(NotImplementedError, match=r"^config.granularity: HYBRID, expected TENSOR_WISE"):
        ext.quantized_scaled_dot_product_attention_enhanced(*given, config)
    config = ext.QuantizationConfig()
    config.query_precision = ext.QuantizationPrecision.INT4
    with pytest.raises(NotImplementedError, match=r"^config.query_precision: INT4, expected INT8"):
        ext.quantized_scaled_dot_product_attention_enhanced(*given, config)
    config = ext.QuantizationConfig(precision="int2")
    with pytest.raises(ValueError, match=r"^config.precision: 'int2', expected int8 or int4"):
        ext.quantized_scaled_dot_product_attention_enhanced(*given, config)
    with pytest.raises(ValueError, match=r"^device: 'cuda', expected mps or cpu"):
        ext.register_backend("cuda")


# ---------------------------------------------------------------- other products


def test_latents_are_expanded(ext):
    context = ext.mla_create_context()
    wk, wv, latent = torch.randn(6, 8), torch.randn(6, 8), torch.randn(2, 5, 6)
    with pytest.raises(RuntimeError, match="has no weights, expected load_weights before forward"):
        context.forward(latent, 2, 4, 5, 2, 6)
    ext.mla_init_weights(context, 4, 2, 6)
    assert ext.mla_forward(context, latent, 2, 4, 5, 2, 6)[0].shape == (10, 8)
    ext.mla_load_weights(context, wk, wv)
    key, value = ext.mla_forward(context, latent, 2, 4, 5, 2, 6)
    assert torch.equal(key, latent.reshape(10, 6) @ wk)
    assert torch.equal(value, latent.reshape(10, 6) @ wv)
    with pytest.raises(ValueError, match=r"^wk: shape \(6, 8\), expected \(6, 6\)"):
        context.forward(latent, 2, 3, 5, 2, 6)
    with pytest.raises(ValueError, match=r"^kv_latent: shape \(2, 5, 6\), expected \(8, 6\)"):
        context.forward(latent, 2, 4, 4, 2, 6)
    ext.mla_destroy_context(context)
    assert context.wk is None


def test_scores_to_choose_keys_by(ext):
    q, k = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 5, 8)
    assert torch.allclose(ext.sparse_indexer_scores(q, k, 0.5), 0.5 * q @ k.mT, atol=1e-6)
    with pytest.raises(ValueError, match=r"^q, k: shapes"):
        ext.sparse_indexer_scores(q, k[:1])


@pytest.mark.parametrize("size", [1, 2, 16])
def test_rotations_are_by_hadamards_matrix(ext, size):
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), matrix)
    tensor = torch.randn(3, 2, 16)
    turned = tensor.clone()
    ext.hadamard_rotate(turned, size)
    expected = (tensor.reshape(-1, size) @ matrix / size**0.5).reshape(tensor.shape)
    assert torch.allclose(turned, expected, atol=1e-6)
    given = tensor.clone().requires_grad_()
    turned_again = given * 1.0
    ext.hadamard_rotate(turned_again, size)
    (turned_again * tensor).sum().backward()
    assert torch.allclose(given.grad, expected, atol=1e-6)
    for wrong in (0, 3, 64):
        with pytest.raises(ValueError, match=r"^block_size: .*, expected a power of two that divides 96"):
            ext.hadamard_rotate(turned, wrong)
    with pytest.raises(ValueError, match=r"^tensor: strides"):
        ext.hadamard_rotate(turned.mT, size)


# ---------------------------------------------------------- pytorch_custom_op_ffi


@pytest.fixture
def switches(ext, monkeypatch):
    """The module, where there seem to be a GPU and MPS, and MPS is the CPU."""
    module = importlib.import_module("pytorch_custom_op_ffi")
    monkeypatch.setattr(ext, "is_metal_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(module.backend, "execution_device", lambda: torch.device("cpu"))
    yield module
    torch.backends.metal_sdpa.enabled = False
    ext.register_backend("cpu")


def test_switch_is_turned_on_and_off(switches, ext):
    assert not torch.backends.metal_sdpa.enabled
    switches.register_metal_sdpa_backend()
    assert torch.backends.metal_sdpa.enabled
    assert torch.backends.metal_sdpa.available
    assert torch.backends.metal_sdpa.version == VERSION
    with pytest.warns(UserWarning, match="already registered"):
        switches.register_metal_sdpa_backend()
    switches.unregister_metal_sdpa_backend()
    before = ext.get_dispatch_stats()
    scaled_dot_product_attention(*tensors())
    assert risen(before, ext.get_dispatch_stats()) == {}
    with pytest.warns(UserWarning, match="not currently registered"):
        switches.unregister_metal_sdpa_backend()
    torch.backends.metal_sdpa.enabled = True
    assert torch.backends.metal_sdpa.enabled
    with switches.use_metal_sdpa() as device:
        assert device == torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_contexts_call_directly(switches, dtype):
    given = [array[0, 0].to(dtype) for array in tensors(requires_grad=False)]
    context = switches.MetalSDPAContext()
    with pytest.raises(RuntimeError, match="is not active"):
        context.direct_call(*given)
    with context:
        out = context.direct_call(*given, is_causal=True)
        moved = context.to_cpu(context.to_device(given[0]))
    assert (out.dtype, out.shape) == (dtype, given[0].shape)
    assert torch.allclose(out.double(), reference(*given, is_causal=True)[0], atol=1e-2)
    assert torch.equal(moved, given[0])


def test_nothing_is_registered_without_a_gpu(ext, monkeypatch):
    module = importlib.import_module("pytorch_custom_op_ffi")
    monkeypatch.setattr(ext, "is_metal_available", lambda: False)
    assert module.metal_sdpa_version() is None
    with pytest.raises(RuntimeError, match="Metal is not available on this device"):
        module.register_metal_sdpa_backend()
    monkeypatch.setattr(ext, "is_metal_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with (
        pytest.raises(RuntimeError, match="requires an available MPS device"),
        module.MetalSDPAContext(False),
    ):
        pass


# -------------------------------------------------------------------- umfa


def numpy_reference(q, k, v, mask=None, causal=False, scale=None):
    """(B, N, H, D) in float64."""
    q, k, v = (array.astype(np.float64).swapaxes(1, 2) for array in (q, k, v))
    scores = q @ k.swapaxes(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if causal:
        scores = np.where(np.tri(*scores.shape[-2:], dtype=bool), scores, -np.inf)
    if mask is not None:
        scores = scores + mask
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return (weights / weights.sum(-1, keepdims=True) @ v).swapaxes(1, 2)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("shape", [(32, 16), (2, 32, 1, 16), (2, 32, 3, 16)])
@pytest.mark.parametrize("options", [{}, {"causal": True, "softmax_scale": 0.3}])
def test_arrays_of_two_and_four_axes(umfa, rng, dtype, shape, options):
    q, k, v = (rng.standard_normal(shape).astype(dtype) for _ in range(3))
    out = umfa.attention(q, k, v, **options, input_precision="fp32", output_precision=0)
    assert (out.shape, out.dtype) == (q.shape, q.dtype)
    whole = [array if array.ndim == 4 else array[None, :, None] for array in (q, k, v)]
    expected = numpy_reference(
        *whole, causal=options.get("causal", False), scale=options.get("softmax_scale")
    ).reshape(shape)
    tolerance = 1e-5 if dtype == np.float32 else 2e-2
    assert np.allclose(out.astype(np.float64), expected, rtol=tolerance, atol=tolerance)
    with umfa.MFAContext() as context:
        assert context
        assert np.array_equal(out, umfa.flash_attention_forward(context, q, k, v, **options))
    assert not context


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(5, 7), (7,), (2, 5, 3, 7), (2, 1, 1, 7), (5, 1, 7)])
def test_masks_are_broadcast_as_the_originals_are(umfa, rng, dtype, shape):
    """Of four axes heads come third; True is seen."""
    ndim = 2 if len(shape) < 3 else 4
    q = rng.standard_normal((2, 5, 3, 16)[-4:] if ndim == 4 else (5, 16)).astype(np.float32)
    k, v = rng.standard_normal((2, *((2, 7, 3, 16) if ndim == 4 else (7, 16)))).astype(np.float32)
    seen = rng.random(shape) < 0.7
    seen[..., 0] = True
    mask = seen.astype(dtype) if np.dtype(dtype).kind in "bu" else np.where(seen, 0, -np.inf).astype(dtype)
    out = umfa.attention(q, k, v, attn_mask=mask)
    added = np.broadcast_to(np.where(seen, 0, -np.inf), (*q.shape[:-1], 7))
    added = added.swapaxes(1, 2) if ndim == 4 else added
    whole = [array if ndim == 4 else array[None, :, None] for array in (q, k, v)]
    assert np.allclose(out, numpy_reference(*whole, mask=added).reshape(q.shape), atol=1e-5)


@pytest.mark.parametrize("precision", ["int8", "int4", 3])
@pytest.mark.parametrize("zero_point", [0, 5])
def test_codes_stand_for_what_scales_say(umfa, rng, precision, zero_point):
    q = rng.standard_normal((9, 16)).astype(np.float16)
    if precision == "int4":
        k, v = rng.integers(0, 256, (2, 12, 8), dtype=np.uint8)
        halves = [np.stack((array & 15, array >> 4), -1).reshape(12, 16).astype(int) for array in (k, v)]
        numbers = [np.where(half > 7, half - 16, half) for half in halves]
    else:
        k, v = rng.integers(-128, 128, (2, 12, 16), dtype=np.int8)
        numbers = [array.astype(int) for array in (k, v)]
    scales = {"k_scale": 0.02, "v_scale": 0.01, "k_zero_point": zero_point, "v_zero_point": zero_point}
    out = umfa.quantized_attention(q, k, v, kv_precision=precision, causal=True, **scales)
    key, value = ((array - zero_point) * scale for array, scale in zip(numbers, (0.02, 0.01), strict=True))
    expected = numpy_reference(*(array[None, :, None] for array in (q, key, value)), causal=True)
    assert out.dtype == np.float16
    assert np.allclose(out, expected.reshape(9, 16), rtol=1e-2, atol=1e-2)


def test_buffers_are_memory(umfa):
    array = np.arange(6, dtype=np.float32)
    with umfa.create_context() as context:
        buffer = umfa.MFABuffer(context, array)
        assert buffer
        assert buffer.contents_ptr() == array.ctypes.data
        buffer.close()
        assert not buffer
        assert umfa.MFABuffer(context, size=64).contents_ptr()


def test_it_says_what_there_is(umfa, capfd):
    assert umfa.get_version() == VERSION
    assert umfa.is_metal_available() == mfa.is_device_supported()
    assert umfa.MFAError is mfa.MFAError
    umfa.print_system_info()
    assert f"mfa {mfa.__version__}\nMetal: " in capfd.readouterr().out


Q = np.ones((4, 8), np.float32)


@pytest.mark.parametrize(
    ("function", "arguments", "error", "message"),
    [
        ("attention", {"q": torch.ones(4, 8)}, TypeError, "q: Tensor, expected a NumPy array"),
        ("attention", {"q": Q[0]}, ValueError, "q: 1 dimensions, expected 2 or 4"),
        ("attention", {"k": Q[None, :, None]}, ValueError, "k: 4 dimensions, expected 2 as q has"),
        ("attention", {"k": Q[:2]}, ValueError, "v: shape"),
        ("attention", {"q": Q.astype(np.float64)}, TypeError, "q: dtype float64, expected float32"),
        ("attention", {"attn_mask": np.ones((4, 4), int)}, TypeError, "attn_mask: dtype int64, expected"),
        ("attention", {"input_precision": "fp8"}, ValueError, "input_precision: 'fp8', expected 'fp16'"),
        ("attention", {"output_precision": 5}, ValueError, "output_precision: 5, expected 'fp16'"),
        (
            "attention",
            {"attn_mask": np.ones((3, 4), bool)},
            ValueError,
            r"attn_mask: shape \(3, 4\), expected one that broadcasts to \(4, 4\)",
        ),
        ("quantized_attention", {}, TypeError, "k: dtype float32, expected int8 or uint8 for codes of int8"),
        (
            "quantized_attention",
            {"kv_precision": "fp16"},
            ValueError,
            "kv_precision: 'fp16', expected 'int8'",
        ),
        ("quantized_attention", {"query_precision": "int8"}, ValueError, "query_precision: 'int8', expected"),
        (
            "quantized_attention",
            {"q_scale": 2.0},
            ValueError,
            "q_scale, q_zero_point: 2.0, 0, expected 1 and 0",
        ),
    ],
)
def test_what_is_wrong_is_named(umfa, function, arguments, error, message):
    with pytest.raises(error, match=f"^{message}"):
        getattr(umfa, function)(**{"q": Q, "k": Q, "v": Q} | arguments)


def test_buffers_of_nothing_are_refused(umfa):
    with umfa.MFAContext() as context:
        with pytest.raises(ValueError, match=r"^data, size: None, expected one of them"):
            umfa.MFABuffer(context)
        with pytest.raises(ValueError, match=r"^data: has gaps or another order, expected a C-contiguous"):
            umfa.MFABuffer(context, Q.T)
