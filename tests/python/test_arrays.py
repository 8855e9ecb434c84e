"""What counts as an array, what is copied, who owns the memory, and what kind of array comes back."""

import array as array_module
import ctypes
import gc
import tracemalloc
import weakref

import ml_dtypes
import numpy as np
import pytest
import torch
from support.dlpack_producer import IS_COPIED, READ_ONLY, LegacyProducer, VersionedProducer, bfloat16_bits
from support.views import VIEWS, field, shifted
from torch._subclasses.fake_tensor import FakeTensorMode

import mfa

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
BFLOAT_CODE = 4
SHAPE = (2, 5, 3, 8)
PRODUCERS = (VersionedProducer, LegacyProducer)


@pytest.fixture
def operands(rng):
    return tuple(rng.standard_normal(SHAPE).astype(np.float32) for _ in range(3))


def same(actual, expected):
    return actual.dtype == expected.dtype and np.array_equal(actual, expected)


# ---------------------------------------------------------------- kinds of arrays


def test_memoryview_gives_what_ndarray_gives(operands):
    views = [memoryview(bytearray(x.tobytes())).cast("f", SHAPE) for x in operands]
    result = mfa.attention(*views)
    assert isinstance(result, np.ndarray)
    assert same(result, mfa.attention(*operands))


def test_array_array_through_memoryview(operands):
    numbers = [array_module.array("f", x.ravel().tolist()) for x in operands]
    views = [memoryview(x).cast("B").cast("f", SHAPE) for x in numbers]
    assert same(mfa.attention(*views), mfa.attention(*operands))


def test_array_array_as_slopes_and_sinks(operands):
    numbers = array_module.array("f", [0.5, 0.25, 0.125])
    expected = mfa.attention(*operands, alibi_slopes=np.array(numbers), sinks=np.array(numbers))
    assert same(mfa.attention(*operands, alibi_slopes=numbers, sinks=numbers), expected)


def test_ctypes_arrays_have_no_strides(operands):
    """They leave Py_buffer.strides NULL, which stands for C order."""
    arrays = [np.ctypeslib.as_ctypes(x.copy()) for x in operands]
    mask = (ctypes.c_bool * 5 * 5)(*((ctypes.c_bool * 5)(*row) for row in np.tri(5, dtype=bool).tolist()))
    memory = np.ctypeslib.as_ctypes(np.zeros(SHAPE, np.float32))
    assert mfa.attention(*arrays, mask=mask, out=memory) is memory
    assert same(np.asarray(memory), mfa.attention(*operands, mask=np.tri(5, dtype=bool)))


@pytest.mark.parametrize("producer", PRODUCERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_dlpack_gives_what_ndarray_gives(operands, producer, dtype):
    operands = [x.astype(dtype) for x in operands]
    result = mfa.attention(*map(producer, operands))
    assert isinstance(result, np.ndarray)
    assert same(result, mfa.attention(*operands))


@pytest.mark.parametrize("producer", PRODUCERS)
def test_dlpack_bfloat16(operands, producer):
    bits = [bfloat16_bits(x) for x in operands]
    result = mfa.attention(*(producer(x, code=BFLOAT_CODE) for x in bits))
    assert same(result, mfa.attention(*(x.view(BFLOAT16) for x in bits)))


@pytest.mark.parametrize("producer", PRODUCERS)
def test_dlpack_bool_mask(operands, rng, producer):
    mask = rng.random((5, 5)) < 0.5
    assert same(mfa.attention(*operands, mask=producer(mask)), mfa.attention(*operands, mask=mask))


def test_dlpack_without_strides_is_compact(operands):
    query, key, value = operands
    result = mfa.attention(VersionedProducer(query, strides=False), key, value)
    assert same(result, mfa.attention(query, key, value))


def test_dlpack_byte_offset_is_added(operands):
    query, key, value = operands
    result = mfa.attention(VersionedProducer(query, byte_offset=64), key, value)
    assert same(result, mfa.attention(query, key, value))


def test_ndarray_subclass_is_an_array(operands):
    class Tagged(np.ndarray):
        pass

    query, key, value = operands
    result = mfa.attention(query.view(Tagged), key, value)
    assert same(result, mfa.attention(query, key, value))


def test_dtype_with_metadata_is_float32(operands):
    query, key, value = operands
    tagged = query.view(np.dtype(np.float32, metadata={"unit": "m"}))
    assert np.array_equal(mfa.attention(tagged, key, value), mfa.attention(query, key, value))


# ---------------------------------------------------------------- DLPack's duties


@pytest.mark.parametrize("producer", PRODUCERS)
def test_deleter_runs_once_after_success(operands, producer):
    producers = [producer(x) for x in operands]
    mfa.attention(*producers)
    gc.collect()
    assert [(p.exports, p.deletions) for p in producers] == [(1, 1)] * 3


@pytest.mark.parametrize("producer", PRODUCERS)
@pytest.mark.parametrize("spoil", ["dtype", "ndim", "later", "lanes", "device"])
def test_deleter_runs_once_after_an_error(operands, producer, spoil):
    query, key, value = operands
    bad = {
        "dtype": lambda: producer(query.astype(np.float64)),
        "ndim": lambda: producer(query[0]),
        "later": lambda: producer(query),
        "lanes": lambda: producer(query, lanes=2),
        "device": lambda: producer(query, exported_device=(2, 0)),
    }[spoil]()  # fmt: skip
    with pytest.raises((TypeError, ValueError, BufferError)):
        mfa.attention(bad, key, object() if spoil == "later" else value)
    gc.collect()
    assert (bad.exports, bad.deletions) == (1, 1)


def test_deleter_runs_for_a_version_from_the_future(operands):
    query, key, value = operands
    producer = VersionedProducer(query, major=2)
    with pytest.raises(BufferError, match="query: DLPack version 2"):
        mfa.attention(producer, key, value)
    gc.collect()
    assert (producer.exports, producer.deletions) == (1, 1)


def test_device_is_asked_before_exporting(operands):
    query, key, value = operands
    producer = VersionedProducer(query, device=(2, 1))
    with pytest.raises(BufferError, match=r"query: on DLPack device \(2, 1\), expected the CPU"):
        mfa.attention(producer, key, value)
    assert producer.exports == 0


def test_capsule_cannot_be_used_twice(operands):
    query, key, value = operands
    producer = VersionedProducer(query)
    capsule = producer.capsule()
    producer.capsule = lambda: capsule
    mfa.attention(producer, key, value)
    with pytest.raises(BufferError, match="query: __dlpack__ returned"):
        mfa.attention(producer, key, value)
    assert producer.deletions == 1


def test_producer_that_refuses_is_named(operands):
    class Refusing(VersionedProducer):
        def __dlpack__(self, *, max_version):
            raise BufferError("not today")

    query, key, value = operands
    with pytest.raises(BufferError, match="key: not today"):
        mfa.attention(query, Refusing(key), value)


def test_read_only_flag_allows_input_and_refuses_output(operands):
    expected = mfa.attention(*operands)
    assert same(mfa.attention(*(VersionedProducer(x, flags=READ_ONLY) for x in operands)), expected)
    out = np.zeros(SHAPE, np.float32)
    producer = VersionedProducer(out, flags=READ_ONLY)
    with pytest.raises(BufferError, match="out: is read-only"):
        mfa.attention(*operands, out=producer)
    gc.collect()
    assert producer.deletions == 1
    assert not out.any()


def test_exported_copy_is_refused_as_output(operands):
    with pytest.raises(BufferError, match="out: was exported as a copy"):
        mfa.attention(*operands, out=VersionedProducer(np.zeros(SHAPE, np.float32), flags=IS_COPIED))


# ---------------------------------------------------------------- memory, strides and copies


@pytest.mark.parametrize(
    "wrap", [np.asarray, memoryview, VersionedProducer, LegacyProducer, torch.from_numpy]
)
def test_out_is_written_in_place(operands, wrap):
    memory = np.full(SHAPE, np.nan, np.float32)
    out = wrap(memory)
    assert mfa.attention(*operands, out=out) is out
    assert same(memory, mfa.attention(*operands))


def test_out_with_strides_leaves_the_gaps_alone(operands):
    memory = np.full((2, 10, 3, 16), 7, np.float32)
    mfa.attention(*operands, out=memory[:, ::-2, :, ::2])
    assert same(memory[:, ::-2, :, ::2], mfa.attention(*operands))
    memory[:, ::-2, :, ::2] = 7
    assert (memory == 7).all()


def test_out_gives_the_dtype(operands):
    out = np.zeros(SHAPE, BFLOAT16)
    assert mfa.attention(*operands, out=out) is out
    assert same(out, mfa.attention(*operands, out_dtype="bfloat16"))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("float32", np.float32), ("float16", np.float16), ("bfloat16", BFLOAT16)],
)
def test_out_dtype_by_any_name(operands, name, dtype):
    spellings = (name, dtype, np.dtype(dtype), getattr(torch, name))
    results = [mfa.attention(*operands, out_dtype=spelling) for spelling in spellings]
    assert all(same(result, results[0]) and result.dtype == dtype for result in results)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("dtype", [np.dtype(np.float32), np.dtype(np.float16), BFLOAT16], ids=str)
def test_any_view_gives_what_its_copy_gives(operands, view, dtype):
    views = [VIEWS[view](x.astype(dtype)) for x in operands]
    result = mfa.attention(*views)
    assert same(result, mfa.attention(*(np.ascontiguousarray(x) for x in views)))
    assert result.dtype == dtype


def test_odd_strides_are_odd(operands):
    assert field(operands[0], 2).strides[-1] % 4 != 0
    assert shifted(operands[0], 1).ctypes.data % 4 != 0


@pytest.mark.parametrize("spoil", [lambda x: field(x, 2), lambda x: shifted(x, 1)])
def test_out_is_never_a_copy(operands, spoil):
    with pytest.raises(BufferError, match="out: address or strides are not multiples of the item size 4"):
        mfa.attention(*operands, out=spoil(np.zeros(SHAPE, np.float32)))


def test_strides_of_single_elements_do_not_matter(operands):
    one = [x[:1, :1, :1] for x in operands]
    strange = [np.lib.stride_tricks.as_strided(x, x.shape, (3, 5, 7, 4)) for x in one]
    assert same(mfa.attention(*strange), mfa.attention(*one))
    out = np.lib.stride_tricks.as_strided(np.zeros(8, np.float32), one[0].shape, (3, 0, -7, 4))
    assert same(mfa.attention(*one, out=out), mfa.attention(*one))


def _peak_allocation(*operands, **options):
    """Bytes that Python, NumPy and the extension modules allocated at most during a call."""
    mfa.attention(*operands, **options)  # the first call also makes what later ones share
    tracemalloc.start()
    mfa.attention(*operands, **options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_only_odd_strides_and_addresses_are_copied():
    query = np.ones((1, 1, 1, 64), np.float32)
    keys = np.ones((1, 2048, 2, 64), np.float32)
    assert _peak_allocation(query, keys[:, ::-1, :1], keys[:, :, 1:]) < keys.nbytes // 8
    odd = shifted(keys[:, :, :1], 1)
    assert odd.nbytes < _peak_allocation(query, odd, keys[:, :, 1:]) < 2 * odd.nbytes


def test_copy_of_a_broadcast_mask_is_broadcast():
    rows = np.ones((1, 512, 1, 8), np.float32)
    odd = np.broadcast_to(shifted(np.linspace(0, 9, 512, dtype=np.float32)[None], 1), (512, 512))
    expected = mfa.attention(rows, rows, rows, bias=np.ascontiguousarray(odd))
    assert same(mfa.attention(rows, rows, rows, bias=odd), expected)
    assert _peak_allocation(rows, rows, rows, bias=odd) < odd.nbytes // 8


def test_arrays_are_let_go(operands):
    for wrap in (lambda x: x, VersionedProducer, torch.from_numpy):
        watched = operands[0].copy()
        gone = weakref.ref(watched)
        result = mfa.attention(wrap(watched), *operands[1:])
        del watched
        gc.collect()
        assert gone() is None
        assert np.isfinite(np.asarray(result)).all()


@pytest.mark.parametrize("shape", [(0, 5, 3, 8), (2, 0, 3, 8)])
def test_empty_results(operands, shape):
    empty = np.zeros(shape, np.float32)
    key = value = operands[1][: shape[0]]
    out, logsumexp = mfa.attention(empty, key, value, return_lse=True)
    assert out.shape == shape
    assert logsumexp.shape == (shape[0], shape[2], shape[1])


# ---------------------------------------------------------------- torch


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_torch_in_torch_out(operands, dtype):
    tensors = [torch.from_numpy(x).to(dtype) for x in operands]
    out, logsumexp = mfa.attention(*tensors, return_lse=True)
    assert isinstance(out, torch.Tensor)
    assert (out.dtype, out.shape) == (dtype, torch.Size(SHAPE))
    assert (logsumexp.dtype, logsumexp.shape) == (torch.float32, torch.Size((2, 3, 5)))
    if dtype == torch.bfloat16:
        arrays = [x.view(torch.uint16).numpy().view(BFLOAT16) for x in tensors]
        out = out.view(torch.uint16).numpy().view(BFLOAT16)
    else:
        arrays = [x.numpy() for x in tensors]
        out = out.numpy()
    expected = mfa.attention(*arrays, return_lse=True)
    assert same(out, expected[0])
    assert same(logsumexp.numpy(), expected[1])


def test_query_decides_the_kind(operands):
    query, key, value = operands
    assert isinstance(mfa.attention(query, torch.from_numpy(key), value), np.ndarray)
    assert isinstance(mfa.attention(torch.from_numpy(query), key, value), torch.Tensor)


def test_torch_strides(operands):
    tensors = [torch.from_numpy(x) for x in operands]
    result = mfa.attention(*(x.transpose(1, 2) for x in tensors), layout="bhsd")
    assert torch.equal(result.transpose(1, 2), mfa.attention(*tensors))


def test_torch_slopes_sinks_and_masks(operands, rng):
    slopes, sinks = (rng.random(3).astype(np.float32) for _ in range(2))
    mask = rng.random((3, 5, 5)) < 0.5
    bias = rng.standard_normal((5, 5)).astype(np.float32)
    expected = mfa.attention(*operands, alibi_slopes=slopes, sinks=sinks, mask=mask, bias=bias)
    as_torch = [torch.from_numpy(x) for x in (slopes, sinks, mask, bias)]
    names = ("alibi_slopes", "sinks", "mask", "bias")
    assert same(mfa.attention(*operands, **dict(zip(names, as_torch, strict=True))), expected)


@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16, np.float64], ids=str)
def test_sinks_of_any_floating_dtype(operands, dtype):
    exact = np.array([0.5, -2, 1], np.float32)
    assert same(mfa.attention(*operands, sinks=exact.astype(dtype)), mfa.attention(*operands, sinks=exact))


def test_torch_bfloat16_sinks(operands):
    exact = np.array([0.5, -2, 1], np.float32)
    result = mfa.attention(*operands, sinks=torch.from_numpy(exact).bfloat16())
    assert same(result, mfa.attention(*operands, sinks=exact))


@pytest.mark.parametrize("name", ["query", "key", "value", "mask", "bias", "sinks", "alibi_slopes", "out"])
def test_torch_grad_is_refused_by_name_and_accepted_without_grad_mode(operands, name):
    arguments = dict(zip(("query", "key", "value"), map(torch.from_numpy, operands), strict=True))
    shapes = {"mask": (5, 5), "bias": (5, 5), "sinks": (3,), "alibi_slopes": (3,), "out": SHAPE}
    if name in shapes:
        arguments[name] = torch.zeros(shapes[name])
    with torch.no_grad():
        expected = mfa.attention(**arguments).clone()
    arguments[name].requires_grad_()
    with pytest.raises(ValueError, match=rf"^{name}: requires grad.*expected {name}\.detach\(\)"):
        mfa.attention(**arguments)
    with torch.no_grad():
        assert torch.equal(mfa.attention(**arguments), expected)


def test_torch_negative_bit(operands):
    tensors = [torch.from_numpy(x) for x in operands]
    minus = torch.complex(torch.zeros(SHAPE), -tensors[0]).conj().imag
    assert minus.is_neg()
    assert torch.equal(mfa.attention(minus, *tensors[1:]), mfa.attention(*tensors))
    with pytest.raises(BufferError, match="out: has its negative bit set"):
        mfa.attention(*tensors, out=minus)


@pytest.mark.parametrize("name", ["alibi_slopes", "sinks"])
def test_torch_negative_bit_of_slopes_and_sinks(operands, name):
    tensors = [torch.from_numpy(x) for x in operands]
    numbers = torch.tensor([0.5, -0.25, 2])
    minus = torch.complex(torch.zeros(3), -numbers).conj().imag
    assert minus.is_neg()
    assert torch.equal(mfa.attention(*tensors, **{name: minus}), mfa.attention(*tensors, **{name: numbers}))


@pytest.mark.parametrize("name", ["alibi_slopes", "sinks"])
def test_misaligned_slopes_and_sinks(operands, name):
    numbers = np.array([0.5, -0.25, 2], np.float32)
    expected = mfa.attention(*operands, **{name: numbers})
    for odd in (shifted(numbers, 1), field(numbers, 2)):
        assert same(mfa.attention(*operands, **{name: odd}), expected)


# The first use of forward mode makes torch compile scripts of its own.
first_forward_mode = pytest.mark.filterwarnings("ignore:`torch.jit.script.* is deprecated:DeprecationWarning")


@first_forward_mode
@pytest.mark.parametrize("name", ["query", "sinks"])
def test_torch_tangent_is_refused(operands, name):
    arguments = dict(zip(("query", "key", "value"), map(torch.from_numpy, operands), strict=True))
    arguments["sinks"] = torch.ones(3)
    expected = mfa.attention(**arguments)
    with torch.autograd.forward_ad.dual_level():
        assert torch.equal(mfa.attention(**arguments), expected)
        plain = arguments[name]
        arguments[name] = torch.autograd.forward_ad.make_dual(plain, torch.ones_like(plain))
        with torch.no_grad(), pytest.raises(ValueError, match=rf"^{name}: has a tangent, .*\.detach\(\)"):
            mfa.attention(**arguments)


@first_forward_mode
@pytest.mark.parametrize("name", ["query", "sinks"])
def test_torch_tensors_without_memory_are_refused(operands, name):
    arguments = dict(zip(("query", "key", "value"), map(torch.from_numpy, operands), strict=True))
    arguments.setdefault(name, torch.ones(3))

    def call(tensor):
        with pytest.raises(TypeError, match=rf"^{name}: .*has no memory; expected a plain tensor"):
            mfa.attention(**{**arguments, name: tensor})
        return tensor

    call(FakeTensorMode().from_tensor(arguments[name]))
    call(torch._to_functional_tensor(arguments[name]))
    torch.func.vmap(call)(arguments[name].unsqueeze(0))
    torch.func.jvp(call, (arguments[name],), (torch.ones_like(arguments[name]),))


def test_torch_default_device_does_not_matter(operands):
    tensors = [torch.from_numpy(x) for x in operands]
    expected = mfa.attention(*tensors, return_lse=True)
    five_axes = [x[None] for x in tensors]
    expected_five = mfa.scaled_dot_product_attention(*five_axes)
    with torch.device("meta"):
        out, logsumexp = mfa.attention(*tensors, return_lse=True)
        out_five = mfa.scaled_dot_product_attention(*five_axes)
    assert torch.equal(out, expected[0])
    assert torch.equal(logsumexp, expected[1])
    assert torch.equal(out_five, expected_five)


def test_only_an_out_of_the_caller_counts_as_changed(operands):
    tensors = [torch.from_numpy(x) for x in operands]
    assert mfa.attention(*tensors)._version == 0
    assert mfa.attention(*tensors, out=torch.zeros(SHAPE))._version == 1


def test_torch_out_written_after_autograd_saved_it(operands):
    tensors = [torch.from_numpy(x) for x in operands]
    weight = torch.ones(SHAPE, requires_grad=True)
    out = torch.zeros(SHAPE)
    product = weight * out
    mfa.attention(*tensors, out=out)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


def test_torch_inference_mode(operands):
    tensors = [torch.from_numpy(x) for x in operands]
    with torch.inference_mode():
        out = torch.zeros(SHAPE)
        assert torch.equal(mfa.attention(*tensors, out=out), mfa.attention(*tensors))


def test_torch_device_is_named(operands):
    tensors = [torch.from_numpy(x) for x in operands]
    with pytest.raises(BufferError, match="key: on device meta, expected cpu"):
        mfa.attention(tensors[0], tensors[1].to("meta"), tensors[2])
    with pytest.raises(BufferError, match="sinks: on device meta, expected cpu"):
        mfa.attention(*tensors, sinks=torch.zeros(3, device="meta"))


def test_torch_sparse_is_refused_by_name(operands):
    tensors = [torch.from_numpy(x) for x in operands]
    with pytest.raises(BufferError, match="value: "):
        mfa.attention(*tensors[:2], tensors[2].to_sparse())


# ---------------------------------------------------------------- scaled_dot_product_attention's axes


@pytest.mark.parametrize(
    ("query", "key", "value", "mask"),
    [
        ((5, 8), (7, 8), (7, 4), (5, 7)),
        ((3, 5, 8), (3, 7, 8), (3, 7, 4), (3, 1, 7)),
        ((2, 3, 5, 8), (3, 7, 8), (1, 3, 7, 4), (3, 5, 7)),
        ((1, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 4), (2, 1, 5, 1)),
        ((4, 2, 3, 5, 8), (2, 3, 7, 8), (4, 1, 3, 7, 4), (2, 1, 5, 7)),
        ((3, 7, 8), (4, 1, 3, 7, 8), (2, 3, 7, 4), (4, 1, 3, 7, 7)),
        ((2, 1, 2, 3, 5, 8), (4, 1, 3, 7, 8), (3, 7, 4), (5, 7)),
        ((0, 2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 4), (5, 7)),
        ((2, 8, 4, 16), (2, 1, 5, 16), (2, 1, 5, 16), (8, 1, 5)),
        ((2, 1, 4, 16), (2, 8, 5, 16), (2, 8, 5, 16), (8, 4, 5)),
        ((4, 16), (3, 5, 16), (3, 5, 16), (3, 4, 5)),
        ((4, 16), (2, 3, 5, 16), (2, 3, 5, 16), (4, 5)),
        ((3, 4, 16), (5, 16), (5, 16), (3, 1, 5)),
        ((2, 3, 4, 16), (5, 16), (5, 16), (2, 1, 4, 5)),
        ((4, 2, 3, 7, 8), (1, 5, 8), (1, 5, 4), (2, 3, 7, 5)),
        ((5, 8), (4, 2, 3, 7, 8), (4, 2, 3, 7, 8), (3, 5, 7)),
    ],
)
@pytest.mark.parametrize("masked", [False, True])
def test_leading_axes_broadcast_as_in_torch(rng, query, key, value, mask, masked):
    query, key, value, mask = (
        torch.from_numpy(rng.standard_normal(shape).astype(np.float32)) for shape in (query, key, value, mask)
    )
    if not masked:
        mask = None
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    result = mfa.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    torch.testing.assert_close(result, expected)
    arrays = [x if x is None else x.numpy() for x in (query, key, value, mask)]
    from_arrays = mfa.scaled_dot_product_attention(*arrays)
    assert isinstance(from_arrays, np.ndarray)
    assert np.array_equal(from_arrays, result.numpy())


def test_more_than_four_axes_of_other_arrays(rng):
    query = rng.standard_normal((2, 2, 3, 5, 8)).astype(np.float32)
    expected = mfa.scaled_dot_product_attention(query, query, query)
    views = [memoryview(query)] * 3
    assert same(mfa.scaled_dot_product_attention(*views), expected)
