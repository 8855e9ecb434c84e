"""Where arrays lie: every view gives what its copy gives; what is copied, written in place and let go."""

import gc
import tracemalloc
import weakref

import numpy as np
import pytest
import torch
from support.arrays import BFLOAT16, SHAPE, same
from support.dlpack_producer import LegacyProducer, VersionedProducer
from support.views import VIEWS, field, shifted

import mfa


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


@pytest.mark.parametrize("name", ["alibi_slopes", "sinks"])
def test_misaligned_slopes_and_sinks(operands, name):
    numbers = np.array([0.5, -0.25, 2], np.float32)
    expected = mfa.attention(*operands, **{name: numbers})
    for odd in (shifted(numbers, 1), field(numbers, 2)):
        assert same(mfa.attention(*operands, **{name: odd}), expected)
