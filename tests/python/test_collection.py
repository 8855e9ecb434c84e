"""Objects that refer to themselves through a Buffer are collected, and what they hold is given back once."""

import gc
import weakref

import numpy as np
import pytest
import torch
from support.dlpack_producer import VersionedProducer

import mfa


class Array(np.ndarray):
    pass


class Bytes(bytearray):
    pass


MAKERS = {
    "ndarray": lambda: np.zeros(10, np.float32).view(Array),
    "bytearray": lambda: Bytes(10),
    "tensor": lambda: torch.zeros(10),
}


@pytest.fixture(scope="module")
def kept_context():
    with mfa.Context() as context:
        yield context


@pytest.mark.parametrize("kind", MAKERS)
def test_an_object_that_holds_a_buffer_over_itself(kind, kept_context):
    def make():
        owner = MAKERS[kind]()
        owner.me = mfa.Buffer(kept_context, owner)
        return weakref.ref(owner)

    gone = make()
    assert gone() is not None
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("kind", ["ndarray", "bytearray"])
def test_through_a_view(kind, kept_context):
    def make():
        owner = MAKERS[kind]()
        owner.me = [memoryview(mfa.Buffer(kept_context, memoryview(owner)))]
        return weakref.ref(owner)

    gone = make()
    gc.collect()
    assert gone() is None


def test_a_subclass_that_holds_its_own_source(kept_context):
    class Kept(mfa.Buffer):
        def __new__(cls, context, source):
            made = super().__new__(cls, context, source)
            made.source = source
            source.buffer = made
            return made

    def make():
        return weakref.ref(Kept(kept_context, np.zeros(10, np.float32).view(Array)))

    gone = make()
    gc.collect()
    assert gone() is None


def test_a_collected_buffer_gives_its_view_back(kept_context):
    """A bytearray cannot grow while something looks at it."""
    source = bytearray(10)

    def make():
        circle = [mfa.Buffer(kept_context, source)]
        circle.append(circle)

    make()
    with pytest.raises(BufferError):
        source.append(1)
    gc.collect()
    source.append(1)


def test_a_collected_buffer_calls_the_deleter_once(kept_context):
    producer = VersionedProducer(np.zeros(10))

    def make():
        circle = [mfa.Buffer(kept_context, producer)]
        circle.append(circle)

    make()
    gc.collect()
    assert (producer.exports, producer.deletions) == (1, 1)


@pytest.mark.parametrize("planning", [False, True])
def test_what_a_call_was_given_is_let_go_at_once(planning):
    query = np.zeros((1, 2, 2, 4), np.float32).view(Array)
    query.me = query[:]
    gone = weakref.ref(query.me)
    (mfa.plan if planning else mfa.attention)(query.me, query.me, query.me, sinks=np.zeros(2).view(Array))
    gc.disable()
    try:
        del query.me
        assert gone() is None
    finally:
        gc.enable()
