"""Whatever an array is made of, the same memory gives the same answer on every surface; what lies is refused.

Rank, dtype and sizes are those of what is exported: a producer need not have attributes beside `__dlpack__`.
"""

import ctypes
import gc

import ml_dtypes
import numpy as np
import pytest
import torch
from support.dlpack_producer import READ_ONLY, LegacyProducer, VersionedProducer
from support.views import field, shifted

import mfa

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
BFLOAT_CODE = 4
SHAPE = (2, 3, 4, 8)  # (batch, heads, rows, dim)
INT32_MAX, INT32_MIN = 2**31 - 1, -(2**31)


class Bare:
    """An array that has DLPack and nothing else."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __dlpack__(self, **options):
        return self.tensor.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.tensor.__dlpack_device__()


def as_tensor(array):
    if array.dtype == BFLOAT16:
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def produced(producer):
    code = {BFLOAT16: BFLOAT_CODE}
    return lambda array: producer(
        array.view(np.uint16) if array.dtype == BFLOAT16 else array, code=code.get(array.dtype)
    )


KINDS = {
    "tensor": as_tensor,
    "bare tensor": lambda array: Bare(as_tensor(array)),
    "versioned": produced(VersionedProducer),
    "legacy": produced(LegacyProducer),
}
DTYPES = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16), "bfloat16": BFLOAT16}
# The buffer protocol has no bfloat16, and ctypes no 16-bit floats.
PAIRS = [(dtype, kind) for dtype in DTYPES for kind in KINDS] + [
    ("float32", "memoryview"),
    ("float16", "memoryview"),
    ("float32", "ctypes"),
]
KINDS |= {
    "memoryview": memoryview,
    "ctypes": lambda array: np.ctypeslib.as_ctypes(np.ascontiguousarray(array)),
}


@pytest.fixture(params=PAIRS, ids="-".join)
def pair(request):
    dtype, kind = request.param
    return DTYPES[dtype], KINDS[kind]


@pytest.fixture
def dtype(pair):
    return pair[0]


@pytest.fixture
def kind(pair):
    return pair[1]


def same(actual, expected):
    assert np.asarray(as_bits(actual)).tobytes() == np.asarray(as_bits(expected)).tobytes()


def as_bits(array):
    return array.view(torch.uint8).numpy() if isinstance(array, torch.Tensor) else array


# ---------------------------------------------------------------- every surface


def numbers(rng, dtype, *shape):
    return rng.standard_normal(shape).astype(np.float32).astype(dtype)


def test_every_operand_of_attention(rng, dtype, kind):
    arrays = {name: numbers(rng, dtype, *SHAPE) for name in ("query", "key", "value")}
    arrays |= {"bias": numbers(rng, dtype, 4, 4), "sinks": numbers(rng, dtype, 3)}
    alibi, mask = numbers(rng, np.float32, 2, 3), rng.random((2, 1, 4, 4)) < 0.7
    options = {"layout": "bhsd", "return_lse": True}
    expected = mfa.attention(**arrays, alibi_slopes=alibi, mask=mask, **options)
    given = {name: kind(array) for name, array in arrays.items()}
    if dtype == np.float32:
        given |= {"alibi_slopes": kind(alibi), "mask": kind(mask)}
    else:
        given |= {"alibi_slopes": Bare(as_tensor(alibi)), "mask": Bare(as_tensor(mask))}
    for actual, wanted in zip(mfa.attention(**given, **options), expected, strict=True):
        same(actual, wanted)


def test_every_operand_of_backward(rng, dtype, kind):
    arrays = {name: numbers(rng, dtype, *SHAPE) for name in ("dout", "query", "key", "value")}
    features = {"bias": numbers(rng, dtype, 1, 4), "sinks": numbers(rng, dtype, 3)}
    forward = {name: arrays[name] for name in ("query", "key", "value")}
    arrays["out"], lse = mfa.attention(**forward, **features, layout="bhsd", return_lse=True)
    dlse = numbers(rng, np.float32, *SHAPE[:3])
    expected = mfa.attention_backward(**arrays, lse=lse, dlse=dlse, **features, layout="bhsd")
    given = {name: kind(array) for name, array in (arrays | features).items()}
    sums = {"lse": Bare(as_tensor(lse)), "dlse": Bare(as_tensor(dlse))}
    actual = mfa.attention_backward(**given, **sums, layout="bhsd")
    for gradient, wanted in zip(actual, expected, strict=True):
        same(gradient, wanted)


@pytest.mark.parametrize("axes", range(2, 8))
def test_any_rank_of_scaled_dot_product_attention(rng, dtype, kind, axes):
    shape = (1, 2, 1, 2, 3, 4, 8)[-axes:]
    query, key, value = (numbers(rng, dtype, *shape) for _ in range(3))
    mask = rng.random((*shape[:-1], shape[-2])) < 0.7
    mask[..., 0] = True
    expected = mfa.scaled_dot_product_attention(query, key, value, mask)
    as_mask = kind if dtype == np.float32 else produced(VersionedProducer)
    actual = mfa.scaled_dot_product_attention(kind(query), kind(key), kind(value), as_mask(mask))
    assert tuple(actual.shape) == shape
    same(actual, expected)


def test_flash_attn_func(rng, dtype, kind):
    query, key, value = (numbers(rng, dtype, *SHAPE) for _ in range(3))
    same(mfa.flash_attn_func(kind(query), kind(key), kind(value)), mfa.flash_attn_func(query, key, value))


def test_out(rng, dtype, kind):
    query, key, value = (numbers(rng, dtype, *SHAPE) for _ in range(3))
    out = np.zeros(SHAPE, dtype)
    given = kind(out)
    assert mfa.attention(query, key, value, out=given) is given
    same(np.asarray(given) if isinstance(given, ctypes.Array) else out, mfa.attention(query, key, value))


def test_buffer(rng, dtype, kind):
    array = numbers(rng, dtype, *SHAPE)
    with mfa.Context() as context:
        assert bytes(mfa.Buffer(context, kind(array))) == array.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_sinks_of_float64(rng, kind):
    query = numbers(rng, np.float32, *SHAPE)
    sinks = np.array([0.5, -2, 1])
    expected = mfa.attention(query, query, query, layout="bhsd", sinks=sinks.astype(np.float32))
    same(mfa.attention(query, query, query, layout="bhsd", sinks=KINDS[kind](sinks)), expected)


def test_gradient_of_converted_sinks_is_of_the_kind_that_was_given(rng):
    query = numbers(rng, np.float32, *SHAPE)
    sinks = torch.tensor([0.5, -2, 1], dtype=torch.float64)
    out, lse = mfa.attention(query, query, query, layout="bhsd", sinks=sinks, return_lse=True)
    gradients = mfa.attention_backward(query, query, query, query, out, lse, layout="bhsd", sinks=sinks)
    assert isinstance(gradients.dsinks, torch.Tensor)
    assert isinstance(gradients.dq, np.ndarray)


@pytest.mark.parametrize(
    "spoil", [lambda x: shifted(x, 1), lambda x: field(x, 2)], ids=["address", "strides"]
)
@pytest.mark.parametrize("name", ["query", "bias", "sinks", "alibi_slopes", "mask"])
def test_misaligned_inputs_are_copied_whoever_exports_them(rng, name, spoil):
    arrays = {n: numbers(rng, np.float32, *SHAPE) for n in ("query", "key", "value")}
    arrays[name] = numbers(rng, np.float32, *{"query": SHAPE, "bias": (4, 4), "mask": (4, 4)}.get(name, (3,)))
    expected = mfa.attention(**arrays, layout="bhsd")
    wraps = [lambda x: x, memoryview]
    if spoil(arrays[name]).strides[-1] == 4:  # DLPack counts strides in items
        wraps += [VersionedProducer, LegacyProducer]
    for wrap in wraps:
        same(mfa.attention(**{**arrays, name: wrap(spoil(arrays[name]))}, layout="bhsd"), expected)


@pytest.mark.parametrize("producer", [VersionedProducer, LegacyProducer])
def test_deleter_runs_once_on_every_surface(rng, producer):
    query = numbers(rng, np.float32, 2, *SHAPE)
    five = [producer(query) for _ in range(3)]
    mfa.scaled_dot_product_attention(*five)
    sinks = producer(np.ones(3))
    mfa.attention(query[0], query[0], query[0], layout="bhsd", sinks=sinks)
    refused = producer(np.ones(4))
    with pytest.raises(ValueError, match="sinks: shape"):
        mfa.attention(query[0], query[0], query[0], layout="bhsd", sinks=refused)
    gc.collect()
    assert [(p.exports, p.deletions) for p in (*five, sinks, refused)] == [(1, 1)] * 5


def test_attributes_of_a_subclass_are_not_believed(rng):
    class Liar(np.ndarray):
        dtype = property(lambda self: np.dtype(np.float32))
        shape = property(lambda self: (2, 2**40, 2, 2))

    query = numbers(rng, np.float32, *SHAPE)
    with pytest.raises(TypeError, match="key: dtype uint8, expected float32"):
        mfa.attention(query, query.view(np.uint8).view(Liar), query)
    assert mfa.attention(query, query.view(Liar), query).shape == SHAPE


# ---------------------------------------------------------------- what lies


def lying(**fields):
    producer = VersionedProducer(np.ones(SHAPE, np.float32))
    for name, value in fields.items():
        setattr(producer._tensor, name, value)
    return producer


def with_sizes(*, axis, shape=None, stride=None):
    producer = VersionedProducer(np.ones(SHAPE, np.float32))
    if shape is not None:
        producer._shape[axis] = shape
    if stride is not None:
        producer._strides[axis] = stride
    return producer


LIES = {
    "ndim below any": lambda: lying(ndim=INT32_MIN),
    "ndim beyond any": lambda: lying(ndim=INT32_MAX),
    "negative ndim": lambda: lying(ndim=-1),
    "65 axes": lambda: lying(ndim=65),
    "no shape": lambda: lying(shape=ctypes.POINTER(ctypes.c_int64)()),
    "no memory": lambda: lying(data=None),
    "negative size": lambda: with_sizes(axis=2, shape=-1),
    "stride beyond memory": lambda: with_sizes(axis=1, stride=2**62),
}
SURFACES = {
    "query": lambda array, x: mfa.attention(array, x, x),
    "mask": lambda array, x: mfa.attention(x, x, x, mask=array),
    "sinks": lambda array, x: mfa.attention(x, x, x, sinks=array),
    "alibi_slopes": lambda array, x: mfa.attention(x, x, x, alibi_slopes=array),
    "out": lambda array, x: mfa.attention(x, x, x, out=array),
    "dout": lambda array, x: mfa.attention_backward(array, x, x, x, x, x[..., 0]),
    "value": lambda array, x: mfa.scaled_dot_product_attention(x, x, array),
    "k": lambda array, x: mfa.flash_attn_func(x, array, x),
    "bias": lambda array, x: mfa.plan(x, x, x, bias=array, backward=True),
    "size_or_object": lambda array, x: mfa.Buffer(mfa.Context(), array),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("name", SURFACES)
def test_what_lies_is_refused(lie, name):
    producer = LIES[lie]()
    with pytest.raises(BufferError, match=rf"^{name}: ") as caught:
        SURFACES[name](producer, np.ones(SHAPE, np.float32))
    del caught
    gc.collect()
    assert (producer.exports, producer.deletions) == (1, 1)


def test_size_beyond_memory_is_no_buffer():
    producer = VersionedProducer(np.ones(SHAPE, np.float32), strides=False)
    producer._shape[0] = producer._shape[1] = 2**40
    with pytest.raises(ValueError, match=r"^size_or_object: \d+ bytes, expected a size"):
        mfa.Buffer(mfa.Context(), producer)


def test_strides_of_axes_of_one_do_not_matter():
    x = np.ones((1, 3, 2, 4), np.float32)
    producer = VersionedProducer(x)
    producer._strides[0] = 2**63 - 1
    assert np.array_equal(mfa.attention(producer, x, x), x)


@pytest.mark.parametrize("axes", [4, 5])
def test_read_only_producers_are_inputs(axes):
    x = np.ones((1, 1, 3, 2, 4), np.float32)[(0,) * (5 - axes)]
    producer = VersionedProducer(x, flags=READ_ONLY)
    assert np.array_equal(mfa.scaled_dot_product_attention(producer, x, x), x)


class SharedWithAGpu(ctypes.c_float * 4 * 2 * 3 * 1):
    """As MLX's arrays are: DLPack names the GPU, and the buffer protocol has the memory, which both share."""

    def __dlpack_device__(self):
        return 8, 0

    def __dlpack__(self, **options):
        raise BufferError("not for the CPU")


def test_memory_that_a_gpu_shares_is_taken_by_the_buffer_protocol():
    x = np.ones((1, 3, 2, 4), np.float32)
    shared = SharedWithAGpu.from_buffer_copy(x)
    assert np.array_equal(mfa.attention(shared, x, x), x)
    assert mfa.Buffer(mfa.Context(), shared).nbytes == x.nbytes
