"""Arrays by DLPack: what they give, and what it asks of those who take them."""

import gc

import numpy as np
import pytest
from support.arrays import BFLOAT16, SHAPE, same
from support.dlpack_producer import IS_COPIED, READ_ONLY, LegacyProducer, VersionedProducer, bfloat16_bits

import mfa

BFLOAT_CODE = 4
PRODUCERS = (VersionedProducer, LegacyProducer)


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
