"""What mfa.attention_backward takes and returns: kinds of arrays, axes, dtypes, memory, what is wanted."""

import gc
import pickle
import tracemalloc
import weakref

import ml_dtypes
import numpy as np
import pytest
import torch
from support import checks
from support.checks import same_bits
from support.dlpack_producer import READ_ONLY, LegacyProducer, VersionedProducer
from support.views import VIEWS, shifted

import mfa

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
BATCH, HEADS, KV_HEADS, QUERIES, KEYS, DIM, VALUE_DIM = 2, 4, 2, 5, 7, 8, 6
SCORES = (BATCH, HEADS, QUERIES, KEYS)
ARRAYS = ("dout", "query", "key", "value", "out", "lse")
FIELDS = ("dq", "dk", "dv", "dbias", "dsinks")


def backward_arguments(rng, *, dtype=np.float32, layout="bshd", **options):
    """Every array of a backward call, by name, and the options of both calls."""
    query, key, value = checks.operands(
        rng, batch=BATCH, heads=HEADS, kv_heads=KV_HEADS, query_length=QUERIES, key_length=KEYS, head_dim=DIM,
        value_dim=VALUE_DIM, dtype=np.dtype(dtype), layout=layout,
    )  # fmt: skip
    out, lse = mfa.attention(query, key, value, layout=layout, return_lse=True, **options)
    dout = rng.standard_normal(out.shape).astype(dtype)
    arrays = zip(ARRAYS, (dout, query, key, value, out, lse), strict=True)
    return {**dict(arrays), "layout": layout, **options}


@pytest.fixture
def arguments(rng):
    bias = rng.standard_normal((HEADS, 1, KEYS)).astype(np.float32)
    return backward_arguments(rng, bias=bias, sinks=rng.standard_normal(HEADS).astype(np.float32))


def assert_same(gradients, expected):
    for name, actual, wanted in zip(FIELDS, gradients, expected, strict=True):
        if wanted is None:
            assert actual is None, name
        else:
            assert same_bits(np.asarray(actual), np.asarray(wanted)), name


def replaced(arguments, replace, names=ARRAYS):
    return {**arguments, **{name: replace(arguments[name]) for name in names}}


# ---------------------------------------------------------------- results


def test_result_is_a_named_tuple(arguments):
    gradients = mfa.attention_backward(**arguments)
    assert isinstance(gradients, mfa.Gradients)
    assert gradients._fields == FIELDS
    assert all(isinstance(gradient, np.ndarray) for gradient in gradients)
    assert_same(pickle.loads(pickle.dumps(gradients)), gradients)


@pytest.mark.parametrize("layout", ["bshd", "bhsd"])
def test_gradients_have_the_axes_of_their_operands(rng, layout):
    """Sizes all differ, so that no two axes or operands can be mistaken for each other."""
    arguments = backward_arguments(rng, layout=layout, bias=np.ones((KEYS,), np.float32))
    gradients = mfa.attention_backward(**arguments)
    for name, gradient in zip(("query", "key", "value", "bias"), gradients, strict=False):
        assert gradient.shape == arguments[name].shape
        assert gradient.flags.c_contiguous
    query, key, value = (
        torch.from_numpy(checks.heads_first(arguments[name], layout)).double().requires_grad_()
        for name in ("query", "key", "value")
    )
    out = torch.nn.functional.scaled_dot_product_attention(query, key, value, enable_gqa=True)
    out.backward(torch.from_numpy(checks.heads_first(arguments["dout"], layout)).double())
    for gradient, tensor in zip(gradients, (query, key, value), strict=False):
        np.testing.assert_allclose(checks.heads_first(gradient, layout), tensor.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
@pytest.mark.parametrize("out_dtype", [None, "float32", np.float16, torch.bfloat16], ids=str)
def test_dtypes(rng, dtype, out_dtype):
    bias = np.ones((KEYS,), np.float16)
    arguments = backward_arguments(rng, dtype=dtype, bias=bias, sinks=np.ones(HEADS))
    gradients = mfa.attention_backward(**arguments, out_dtype=out_dtype)
    expected = {None: dtype, "float32": np.float32, np.float16: np.float16, torch.bfloat16: BFLOAT16}[
        out_dtype
    ]
    assert [gradient.dtype for gradient in gradients[:3]] == [expected] * 3
    assert gradients.dbias.dtype == (np.float32 if out_dtype == "float32" else np.float16)
    assert gradients.dsinks.dtype == np.float32


@pytest.mark.parametrize("name", ["dout", "out"])
def test_dout_and_out_have_dtypes_of_their_own(rng, name):
    arguments = backward_arguments(rng, dtype=np.float16)
    expected = mfa.attention_backward(**arguments, out_dtype="float32")
    arguments[name] = arguments[name].astype(np.float32)
    gradients = mfa.attention_backward(**arguments, out_dtype="float32")
    for actual, wanted in zip(gradients[:3], expected[:3], strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    "shape",
    [(), (1,), (KEYS,), (QUERIES, 1), (HEADS, 1, 1), (HEADS, QUERIES, KEYS), (BATCH, 1, QUERIES, KEYS),
     (1, HEADS, 1, KEYS), (BATCH, HEADS, 1, 1), SCORES],
    ids=str,
)  # fmt: skip
def test_dbias_has_the_shape_of_the_bias(rng, shape):
    bias = np.asarray(rng.standard_normal(shape), np.float32)
    arguments = backward_arguments(rng, bias=bias)
    dbias = mfa.attention_backward(**arguments).dbias
    assert isinstance(dbias, np.ndarray)
    assert dbias.shape == shape
    whole = mfa.attention_backward(**{**arguments, "bias": np.broadcast_to(bias, SCORES)}).dbias
    assert whole.shape == SCORES
    padded = (1,) * (4 - len(shape)) + shape
    summed = whole.sum(axis=tuple(axis for axis in range(4) if padded[axis] == 1), keepdims=True)
    np.testing.assert_allclose(dbias, summed.reshape(shape), rtol=1e-4, atol=1e-5)


def test_floating_mask_is_a_bias(rng):
    additive = rng.standard_normal((QUERIES, KEYS)).astype(np.float32)
    arguments = backward_arguments(rng, bias=additive)
    expected = mfa.attention_backward(**arguments)
    arguments["mask"] = arguments.pop("bias")
    gradients = mfa.attention_backward(**arguments)
    assert_same(gradients, expected)


def test_bool_mask_has_no_gradient(rng):
    mask = np.tri(QUERIES, KEYS, dtype=bool)
    assert mfa.attention_backward(**backward_arguments(rng, mask=mask)).dbias is None
    bias = np.zeros((QUERIES, KEYS), np.float32)
    dbias = mfa.attention_backward(**backward_arguments(rng, mask=mask, bias=bias)).dbias
    assert dbias[mask].all()
    assert not dbias[~mask].any()


def test_absent_operands_have_no_gradient(rng):
    gradients = mfa.attention_backward(**backward_arguments(rng))
    assert gradients[3:] == (None, None)


@pytest.mark.parametrize("names", [*([name] for name in FIELDS), ["dv", "dq"], ["dbias", "dsinks"], FIELDS])
@pytest.mark.parametrize("kind", [list, frozenset, iter], ids=lambda kind: kind.__name__)
def test_only_wanted_gradients(arguments, names, kind):
    everything = mfa.attention_backward(**arguments)
    gradients = mfa.attention_backward(**arguments, wanted=kind(names))
    for name, gradient, expected in zip(FIELDS, gradients, everything, strict=True):
        if name in names:
            np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)
        else:
            assert gradient is None


def test_nothing_wanted(arguments):
    assert mfa.attention_backward(**arguments, wanted=()) == (None,) * 5


def test_seed_and_offset_name_the_mask(rng):
    arguments = backward_arguments(rng, dropout_p=0.5, dropout_seed=2**64 - 1, dropout_offset=2**64 - 1)
    expected = mfa.attention_backward(**arguments)
    as_numpy = {"dropout_seed": np.uint64(2**64 - 1), "dropout_offset": np.uint64(2**64 - 1)}
    assert_same(mfa.attention_backward(**{**arguments, **as_numpy}), expected)
    for other in ({"dropout_seed": 0}, {"dropout_offset": 0}, {"dropout_p": 0.0}):
        assert not same_bits(mfa.attention_backward(**{**arguments, **other}).dv, expected.dv)


@pytest.mark.parametrize("size", ["batch", "queries", "keys"])
def test_empty_axes(rng, size):
    batch, queries, keys = (0 if name == size else 3 for name in ("batch", "queries", "keys"))
    query = rng.standard_normal((batch, queries, HEADS, DIM), np.float32)
    key = rng.standard_normal((batch, keys, HEADS, DIM), np.float32)
    options = {"bias": np.ones((queries, keys), np.float32), "sinks": np.ones(HEADS, np.float32)}
    out, lse = mfa.attention(query, key, key, return_lse=True, **options)
    gradients = mfa.attention_backward(np.ones_like(out), query, key, key, out, lse, **options)
    shapes = [gradient.shape for gradient in gradients]
    assert shapes == [query.shape, key.shape, key.shape, (queries, keys), (HEADS,)]
    assert not any(gradient.any() for gradient in gradients)


# ---------------------------------------------------------------- inputs


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
def test_any_view_gives_what_its_copy_gives(rng, view, dtype):
    bias = rng.standard_normal(SCORES).astype(dtype)
    arguments = backward_arguments(rng, dtype=dtype, bias=bias)
    arguments["lse"] = arguments["lse"][..., None]
    views = replaced(arguments, VIEWS[view], (*ARRAYS, "bias"))
    copies = replaced(views, np.ascontiguousarray, (*ARRAYS, "bias"))
    for either in (views, copies):
        either["lse"] = either["lse"][..., 0]
    expected = mfa.attention_backward(**copies)
    assert_same(mfa.attention_backward(**views), expected)


def test_inputs_are_left_alone(arguments):
    names = (*ARRAYS, "bias", "sinks")
    before = {name: arguments[name].copy() for name in names}
    mfa.attention_backward(**arguments)
    for name in names:
        assert same_bits(arguments[name], before[name]), name


def test_memoryviews_give_what_ndarrays_give(arguments):
    names = (*ARRAYS, "bias")
    views = replaced(arguments, lambda x: memoryview(bytearray(x.tobytes())).cast("f", x.shape), names)
    gradients = mfa.attention_backward(**views)
    assert all(isinstance(gradient, np.ndarray) for gradient in gradients)
    assert_same(gradients, mfa.attention_backward(**arguments))


@pytest.mark.parametrize("producer", [VersionedProducer, LegacyProducer])
def test_dlpack_deleters_run_once(arguments, producer):
    names = (*ARRAYS, "bias")
    expected = mfa.attention_backward(**arguments)
    exported = replaced(arguments, producer, names)
    assert_same(mfa.attention_backward(**exported), expected)
    with pytest.raises(ValueError, match=r"wanted: names 'd'"):
        mfa.attention_backward(**exported, wanted=["d"])
    gc.collect()
    assert all(exported[name].exports == exported[name].deletions >= 1 for name in names)


@pytest.mark.parametrize("producer", [VersionedProducer, LegacyProducer])
@pytest.mark.parametrize("name", ["dout", "out", "lse"])
def test_dlpack_deleters_run_once_after_an_error(arguments, producer, name):
    wrong = producer(arguments[name][:1])
    with pytest.raises(ValueError, match=f"^{name}: shape"):
        mfa.attention_backward(**{**arguments, name: wrong})
    gc.collect()
    assert (wrong.exports, wrong.deletions) == (1, 1)


def test_read_only_dlpack_is_an_input(arguments):
    frozen = replaced(arguments, lambda x: VersionedProducer(x, flags=READ_ONLY))
    assert_same(mfa.attention_backward(**frozen), mfa.attention_backward(**arguments))


def test_arrays_are_let_go(arguments):
    gone = {}
    for name in ARRAYS:
        arguments[name] = arguments[name].copy()
        gone[name] = weakref.ref(arguments[name])
    gradients = mfa.attention_backward(**arguments)
    arguments.clear()
    gc.collect()
    assert [name for name, watched in gone.items() if watched() is not None] == []
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def peak_allocation(**arguments):
    """Bytes that Python, NumPy and the extension modules allocated at most during a call."""
    mfa.attention_backward(**arguments)
    tracemalloc.start()
    mfa.attention_backward(**arguments)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_only_odd_addresses_are_copied():
    rows = np.ones((1, 2048, 2, 64), np.float32)
    one = np.ones((1, 1, 1, 64), np.float32)
    strided = rows[:, ::-1, :1]
    arguments = {
        "dout": strided, "query": strided, "key": one, "value": one, "out": strided,
        "lse": np.zeros((1, 1, 2048), np.float32), "wanted": ["dk", "dv"],
    }  # fmt: skip
    assert peak_allocation(**arguments) < strided.nbytes // 8
    for name in ("dout", "query", "out"):
        odd = shifted(rows[:, :, :1], 1)
        assert odd.nbytes < peak_allocation(**{**arguments, name: odd}) < 2 * odd.nbytes


def test_unwanted_gradients_take_no_memory():
    query = np.ones((1, 1, 1, 64), np.float32)
    keys = np.ones((1, 2048, 1, 64), np.float32)
    arguments = {
        "dout": query, "query": query, "key": keys, "value": keys, "out": query,
        "lse": np.zeros((1, 1, 1), np.float32),
    }  # fmt: skip
    assert peak_allocation(**arguments, wanted=["dq"]) < keys.nbytes // 8
    assert keys.nbytes < peak_allocation(**arguments, wanted=["dq", "dk"]) < 2 * keys.nbytes


# ---------------------------------------------------------------- torch


def as_array(tensor):
    return (
        tensor.view(torch.uint16).numpy().view(BFLOAT16) if tensor.dtype == torch.bfloat16 else tensor.numpy()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_torch_in_torch_out(arguments, dtype):
    names = (*ARRAYS, "bias", "sinks")
    tensors = replaced(arguments, lambda x: torch.from_numpy(x).to(dtype), names)
    tensors["lse"] = tensors["lse"].float()
    gradients = mfa.attention_backward(**tensors)
    assert all(isinstance(gradient, torch.Tensor) for gradient in gradients)
    assert [gradient.dtype for gradient in gradients] == [dtype] * 4 + [torch.float32]
    arrays = replaced(tensors, as_array, names)
    expected = mfa.attention_backward(**arrays)
    assert_same(map(as_array, gradients), expected)


@pytest.mark.parametrize(
    ("name", "field"),
    [("query", "dq"), ("key", "dk"), ("value", "dv"), ("bias", "dbias"), ("sinks", "dsinks"), ("dout", None)],
)
def test_each_gradient_is_of_the_kind_of_its_operand(arguments, name, field):
    arguments[name] = torch.from_numpy(arguments[name])
    gradients = mfa.attention_backward(**arguments)
    assert [key for key in FIELDS if isinstance(getattr(gradients, key), torch.Tensor)] == [field] * bool(
        field
    )


def test_torch_tensors_as_autograd_makes_them(arguments):
    """Transposed, and with a gradient that is one number expanded."""
    tensors = replaced(arguments, lambda x: torch.from_numpy(x))
    tensors["dout"] = torch.ones(()).expand(tensors["dout"].shape)
    expected = mfa.attention_backward(**replaced(tensors, lambda x: x.contiguous()))
    swapped = replaced(tensors, lambda x: x.transpose(1, 2), [name for name in ARRAYS if name != "lse"])
    gradients = mfa.attention_backward(**{**swapped, "layout": "bhsd"})
    unswapped = [gradient.transpose(1, 2) for gradient in gradients[:3]]
    assert_same([*unswapped, *gradients[3:]], expected)


@pytest.mark.parametrize("name", [*ARRAYS, "bias", "sinks"])
def test_torch_grad_is_refused_by_name_and_accepted_without_grad_mode(arguments, name):
    expected = mfa.attention_backward(**arguments)
    arguments[name] = torch.from_numpy(arguments[name]).requires_grad_()
    with pytest.raises(ValueError, match=rf"^{name}: requires grad.*expected {name}\.detach\(\)"):
        mfa.attention_backward(**arguments)
    with torch.no_grad():
        assert_same(mfa.attention_backward(**arguments), expected)


def test_torch_default_device_and_modes_do_not_matter(arguments):
    tensors = replaced(arguments, torch.from_numpy, (*ARRAYS, "bias", "sinks"))
    expected = mfa.attention_backward(**tensors)
    with torch.device("meta"):
        gradients = mfa.attention_backward(**tensors)
    assert_same(gradients, expected)
    with torch.inference_mode():
        gradients = mfa.attention_backward(**tensors)
    assert_same(gradients, expected)
    assert [tensors[name]._version for name in ARRAYS] == [0] * len(ARRAYS)


@pytest.mark.parametrize("name", ["dout", "out", "lse"])
def test_torch_device_is_named(arguments, name):
    arguments[name] = torch.from_numpy(arguments[name]).to("meta")
    with pytest.raises(BufferError, match=f"^{name}: on device meta, expected cpu"):
        mfa.attention_backward(**arguments)
