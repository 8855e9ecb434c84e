"""Messages name the argument and stay short and on one line, whatever they are about."""

import ctypes

import numpy as np
import pytest
import torch
from support.dlpack_producer import VersionedProducer

import mfa

X = np.ones((1, 3, 2, 4), np.float32)
LONG = 10**7
LONGEST = 500


class Unshowable:
    def __repr__(self):
        raise IndexError("no\nmessage " * LONGEST)


class Garrulous:
    def __repr__(self):
        return "\ud800line\n" * LONGEST


Sesquipedalian = type("S" * LONG, (), {})


class Quarrelsome(VersionedProducer):
    def __dlpack__(self, **options):
        raise RuntimeError("no\nnever " * LONGEST)


class Speechless(VersionedProducer):
    class Error(Exception):
        def __str__(self):
            raise ValueError

    def __dlpack__(self, **options):
        raise self.Error


class Deviceless:
    def __dlpack__(self):
        raise AssertionError("is not asked")


class Unattributable:
    def __getattr__(self, name):
        raise ZeroDivisionError(name)


def used_capsule():
    producer = VersionedProducer(np.ones(2, np.float32))
    capsule = producer.capsule()
    rename = ctypes.pythonapi.PyCapsule_SetName
    rename.argtypes = (ctypes.py_object, ctypes.c_char_p)
    rename(capsule, b"used_dltensor_versioned")
    producer.capsule = lambda: capsule
    return producer


PADDED = memoryview(np.zeros((1, 1, 3, 2, 4), np.dtype([("a", "f4"), ("b", "f2")])))
WIDE = np.zeros((1, 3, 2, 4), [("x" * LONG, "f4")])


def attention(**arguments):
    return mfa.attention(**{"query": X, "key": X, "value": X, **arguments})


def sdpa(**arguments):
    return mfa.scaled_dot_product_attention(**{"query": X, "key": X, "value": X, **arguments})


CASES = [
    (
        attention,
        "sinks",
        used_capsule,
        BufferError,
        "__dlpack__ returned .*, expected an unused DLPack capsule",
    ),
    (attention, "alibi_slopes", used_capsule, BufferError, "__dlpack__ returned .*, expected an unused"),
    (sdpa, "query", lambda: PADDED, TypeError, "dtype T{.*}, expected"),
    (sdpa, "attn_mask", lambda: PADDED, TypeError, "dtype T{.*}, expected"),
    (sdpa, "query", lambda: np.ndarray, TypeError, "type, expected an array with the buffer protocol"),
    (sdpa, "key", lambda: torch.Tensor, TypeError, "_TensorMeta, expected an array"),
    (attention, "value", lambda: VersionedProducer, TypeError, "type, expected an array"),
    (attention, "out_dtype", lambda: "\ud800", TypeError, r"'\\ud800', expected float32"),
    (attention, "out_dtype", lambda: "x" * LONG, TypeError, "'xxx.*xxx', expected float32"),
    (attention, "softcap", lambda: bytes(LONG), TypeError, ".*, expected a real number"),
    (attention, "softcap", lambda: np.ones((30, 30)), TypeError, "array.*, expected a real number"),
    (attention, "softcap", Unshowable, TypeError, "<.*Unshowable.*>, expected a real number"),
    (attention, "softcap", Garrulous, TypeError, r"\\ud800line .*, expected a real number"),
    (attention, "softcap", Unattributable, TypeError, "<.*>, expected a real number"),
    (attention, "softcap", Sesquipedalian, TypeError, "<.*>, expected a real number"),
    (attention, "window", lambda: list(range(LONG)), TypeError, r"\[0, 1, 2.*\], expected two integers"),
    (attention, "window", Unattributable, TypeError, "<.*>, expected two integers"),
    (attention, "dropout_seed", lambda: 10**5000, ValueError, "<int.*>, expected 0 to"),
    (attention, "layout", Garrulous, TypeError, ".*, expected 'bshd' or 'bhsd'"),
    (attention, "causal", lambda: "x" * LONG, ValueError, "'xxx.*xxx', expected None, a bool"),
    (attention, "return_lse", Unshowable, TypeError, "<.*>, expected a bool"),
    (attention, "query", Sesquipedalian, TypeError, r"SSS.*\.\.\., expected an array"),
    (attention, "mask", lambda: WIDE, TypeError, r"dtype .*\.\.\., expected float32"),
    (attention, "key", lambda: Quarrelsome(X), BufferError, r"no never no .*\.\.\."),
    (attention, "key", lambda: Speechless(X), BufferError, "Error"),
    (attention, "bias", Deviceless, BufferError, ".*no attribute '__dlpack_device__'"),
    (attention, "bias", Unattributable, TypeError, "Unattributable, expected an array"),
    (attention, "query", lambda: released(X), BufferError, ".*released"),
    (sdpa, "attn_mask", lambda: np.ones((1,) * 60, bool), ValueError, "60 dimensions, expected at most 4"),
]


def released(array):
    view = memoryview(array)
    view.release()
    return view


@pytest.mark.parametrize(
    ("function", "name", "make", "error", "message"),
    CASES,
    ids=[f"{case[1]}-{number}" for number, case in enumerate(CASES)],
)
def test_message(function, name, make, error, message):
    with pytest.raises(error, match=f"^{name}: {message}") as caught:
        function(**{name: make()})
    text = str(caught.value)
    assert len(text) < LONGEST
    assert text.isprintable()


def test_shapes_of_many_axes_are_shortened():
    many = np.broadcast_to(X, (*[2] * 20, *X.shape))
    with pytest.raises(
        ValueError, match=r"^query, key, value: leading axes \(2, 2, 2, .*expected some"
    ) as caught:
        mfa.scaled_dot_product_attention(many, np.broadcast_to(X, (5, 5, *X.shape)), X)
    assert len(str(caught.value)) < LONGEST


@pytest.mark.parametrize("option", ["backend", "device", "num_threads", "cpu_isa", "allow_cpu_fallback"])
@pytest.mark.parametrize(
    "value", [bytes(LONG), Garrulous(), Unshowable(), "x" * LONG, 10**5000], ids=range(5)
)
def test_context_options(option, value):
    with pytest.raises((TypeError, ValueError), match=f"^{option}: ") as caught:
        mfa.Context(**{option: value})
    assert len(str(caught.value)) < LONGEST
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("like", [np.asarray, torch.from_numpy], ids=["ndarray", "tensor"])
@pytest.mark.parametrize("five_axes", [False, True])
def test_results_beyond_memory_are_memory_errors(like, five_axes):
    one = like(np.ones((1,) * 4, np.float32))
    huge = (
        one.expand(2**30, 2**30, 1, 1)
        if like is not np.asarray
        else np.broadcast_to(one, (2**30, 2**30, 1, 1))
    )
    key = one
    if five_axes:
        huge, key = huge[None], key[None]
    with pytest.raises(MemoryError, match=r"shape .*1073741824"):
        mfa.scaled_dot_product_attention(huge, key, key, enable_gqa=True)


def test_error_with_any_message_can_be_shown():
    assert str(mfa.MFAError(7, 3)) == "7"
