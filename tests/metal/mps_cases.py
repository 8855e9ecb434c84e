"""Cases of test_mps.py, each a function, for a process with a Metal device: mps_cases.py STAND_IN

Prints, as JSON, the traceback of each case that fails. Tensors on "mps" are stand-ins: their numbers are in
Metal buffers, and torch knows their sizes alone.
"""

import ctypes
import json
import re
import sys
import traceback
import warnings

import numpy as np
import pytest
import torch
from support.dlpack_producer import VersionedProducer

import mfa
from mfa import _tensors
from mfa.torch import _mps

METAL = (8, 0)
OFFSET = 256  # of each tensor in its buffer
DTYPES = {torch.float32: np.float32, torch.int32: np.int32, torch.bool: np.bool_, torch.float16: np.float16}

stand_in = ctypes.CDLL(sys.argv[1])
stand_in.stand_in_buffer.restype = stand_in.stand_in_contents.restype = ctypes.c_void_p
stand_in.stand_in_buffer.argtypes = (ctypes.c_size_t,)
stand_in.stand_in_contents.argtypes = (ctypes.c_void_p,)

warnings.simplefilter("ignore")


class Tensor(torch.Tensor):
    @staticmethod
    def __new__(cls, shape, dtype, strides=None):
        strides = strides or torch.empty(shape, dtype=dtype, device="meta").stride()
        tensor = torch.Tensor._make_wrapper_subclass(cls, shape, strides=strides, dtype=dtype, device="mps")
        span = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        tensor.buffer = stand_in.stand_in_buffer(OFFSET + span * np.dtype(DTYPES[dtype]).itemsize)
        return tensor

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise NotImplementedError(str(function))

    def numbers(self):
        """An ndarray over them, which the GPU must have finished."""
        address = stand_in.stand_in_contents(self.buffer) + OFFSET
        dtype = np.dtype(DTYPES[self.dtype])
        strides = [stride * dtype.itemsize for stride in self.stride()]
        interface = {"version": 3, "typestr": dtype.str, "data": (address, False), "shape": tuple(self.shape)}
        holder = type("Holder", (), {"__array_interface__": interface | {"strides": tuple(strides)}})
        return np.asarray(holder())

    def __dlpack__(self, *, max_version):
        producer = VersionedProducer(self.numbers(), device=METAL, byte_offset=OFFSET)
        producer._tensor.data = self.buffer
        self.producer = producer
        return producer.capsule()


def on_mps(array, heads_inside=False):
    array = np.asarray(array)
    [dtype] = [dtype for dtype, known in DTYPES.items() if known == array.dtype.type]
    strides = None
    if heads_inside:
        heads, rows, dim = array.shape[1:]
        strides = (rows * heads * dim, dim, heads * dim, 1)
    tensor = Tensor(array.shape, dtype, strides)
    tensor.numbers()[...] = array
    return tensor


empty = torch.empty


def empty_anywhere(*shape, dtype=None, device=None, **others):
    if device is not None and torch.device(device).type == "mps":
        [shape] = shape
        tensor = Tensor(tuple(shape), dtype)
        tensor.numbers()[...] = 77  # so that what nobody writes is seen
        return tensor
    return empty(*shape, dtype=dtype, device=device, **others)


waits = []
torch.empty = empty_anywhere
torch.mps.synchronize = lambda: (waits.append(1), stand_in.stand_in_finish())
_tensors._is_wrapper = lambda *_: False
Tensor.transpose = lambda self, first, second: swapped(self, first, second)


def swapped(tensor, first, second):
    shape, strides = list(tensor.shape), list(tensor.stride())
    for sizes in (shape, strides):
        sizes[first], sizes[second] = sizes[second], sizes[first]
    view = Tensor(shape, tensor.dtype, strides)
    view.buffer = tensor.buffer
    return view


rng = np.random.default_rng(11)


def arrays(count, shape=(1, 2, 9, 16)):
    return rng.standard_normal((count, *shape), dtype=np.float32)


def finish():
    stand_in.stand_in_finish()


def in_stream():
    _mps.stream.cache_clear()
    _mps.libraries = lambda: [stand_in]


def near(tensor, expected):
    np.testing.assert_allclose(tensor.numbers(), expected, rtol=2e-5, atol=2e-5)


def forward_is_encoded_and_not_waited_for():
    given = arrays(3)
    tensors = [on_mps(array) for array in given]
    encoded, waited = stand_in.stand_in_encoded(), len(waits)
    out, lse = mfa.attention(*tensors, layout="bhsd", causal=True, return_lse=True)
    assert (stand_in.stand_in_encoded(), len(waits)) == (encoded + 1, waited)
    assert out.device.type == lse.device.type == "mps"
    assert np.all(out.numbers() == 77)
    finish()
    expected = mfa.attention(*given, layout="bhsd", causal=True, return_lse=True, context=mfa.Context("cpu"))
    near(out, expected[0])
    near(lse, expected[1])


def a_call_sees_what_the_one_before_it_wrote():
    given = arrays(3)
    tensors = [on_mps(array) for array in given]
    first = mfa.attention(*tensors)
    second = mfa.attention(first, *tensors[1:])
    finish()
    cpu = mfa.Context("cpu")
    near(second, mfa.attention(mfa.attention(*given, context=cpu), *given[1:], context=cpu))


def backward_is_encoded_behind_forward():
    query, key, value, dout, bias = given = [*arrays(4), arrays(1, (1, 1, 9, 9))[0]]
    tensors = [on_mps(array) for array in given]
    out, lse = mfa.attention(*tensors[:3], layout="bhsd", bias=tensors[4], return_lse=True)
    gradients = mfa.attention_backward(tensors[3], *tensors[:3], out, lse, layout="bhsd", bias=tensors[4])
    assert np.all(gradients.dq.numbers() == 77)
    finish()
    cpu = mfa.Context("cpu")
    keywords = {"layout": "bhsd", "bias": bias, "context": cpu}
    expected = mfa.attention(query, key, value, return_lse=True, **keywords)
    wanted = mfa.attention_backward(dout, query, key, value, *expected, **keywords)
    for gradient, right in zip(gradients[:4], wanted[:4], strict=True):
        near(gradient, right)


def without_the_exports_the_stream_stops_on_both_sides():
    _mps.stream.cache_clear()
    _mps.libraries = list
    given = arrays(3)
    encoded, waited = stand_in.stand_in_encoded(), len(waits)
    out = mfa.attention(*(on_mps(array) for array in given))
    assert (stand_in.stand_in_encoded(), len(waits)) == (encoded, waited + 1)
    near(out, mfa.attention(*given, context=mfa.Context("cpu")))


def lists_are_waited_for():
    given = arrays(3, (9, 2, 16))
    starts = np.array([0, 4, 9], np.int32)
    waited = len(waits)
    tensors = [on_mps(array) for array in given]
    lists = dict.fromkeys(("cu_seqlens_q", "cu_seqlens_k"), on_mps(starts))
    out = mfa.attention(*tensors, **lists)
    assert len(waits) == waited + 1
    finish()
    lists = dict.fromkeys(lists, starts)
    near(out, mfa.attention(*given, **lists, context=mfa.Context("cpu")))


def results_lie_as_queries_do():
    given = arrays(3)
    out = mfa.scaled_dot_product_attention(*(on_mps(array, heads_inside=True) for array in given))
    assert out.stride() == (9 * 2 * 16, 16, 2 * 16, 1)
    finish()
    near(out, mfa.scaled_dot_product_attention(*given))


def half_precision_and_masks():
    given = arrays(3).astype(np.float16)
    mask = rng.random((9, 9)) < 0.7
    out = mfa.scaled_dot_product_attention(*map(on_mps, given), on_mps(mask))
    finish()
    assert out.dtype == torch.float16
    expected = mfa.scaled_dot_product_attention(*given.astype(np.float32), mask)
    np.testing.assert_allclose(out.numbers(), expected, rtol=4e-3, atol=4e-3)


def sinks_of_another_dtype():
    given = arrays(3)
    sinks = np.array([0.5, -1], np.float16)
    Tensor.float = lambda self: on_mps(self.numbers().astype(np.float32))
    out = mfa.attention(*map(on_mps, given), layout="bhsd", sinks=on_mps(sinks))
    finish()
    near(out, mfa.attention(*given, layout="bhsd", sinks=sinks, context=mfa.Context("cpu")))


def out_is_written_where_it_lies():
    given = arrays(3)
    out = on_mps(np.zeros_like(given[0]))
    assert mfa.attention(*map(on_mps, given), out=out) is out
    finish()
    near(out, mfa.attention(*given, context=mfa.Context("cpu")))


def a_plan_says_metal():
    assert mfa.plan(*map(on_mps, arrays(3))).backend == "metal"


def empty_tensors():
    out = mfa.attention(*(on_mps(np.zeros((1, 0, 2, 16), np.float32)) for _ in range(3)))
    assert tuple(out.shape) == (1, 0, 2, 16)


def refused(error, message):
    return pytest.raises(error, match="^" + re.escape(message))


def mixed_devices_are_refused_by_name():
    given = arrays(3)
    tensors = dict(zip(("query", "key", "value"), map(on_mps, given), strict=True))
    wrong = [
        {"key": torch.from_numpy(given[1])},
        {"key": given[1]},
        {"query": given[0]},
        {"sinks": np.zeros(2, np.float32), "layout": "bhsd"},
        {"out": torch.zeros(given[0].shape)},
        {"key": mfa.quantize(given[1])},
    ]
    for arguments in wrong:
        name = next(iter(arguments))
        with refused(BufferError, f"{name}: on the CPU, expected a tensor on mps as others are"):
            mfa.attention(**(tensors | arguments))
    elsewhere = torch.empty(given[0].shape, device="meta")
    with refused(BufferError, "value: on device meta, expected cpu or mps"):
        mfa.attention(**(tensors | {"value": elsewhere}))


def a_context_of_the_cpu_is_refused():
    tensors = [on_mps(array) for array in arrays(3)]
    with refused(ValueError, "context: of backend 'cpu', expected 'metal' for tensors on mps"):
        mfa.attention(*tensors, context=mfa.Context("cpu"))


def what_the_cpu_would_read_is_refused():
    with refused(BufferError, "size_or_object: on device mps"):
        mfa.Buffer(mfa.Context("metal"), on_mps(np.zeros(16, np.float32)))
    with refused(BufferError, "x: on device mps"):
        mfa.quantize(on_mps(arrays(1)[0]))


CASES = [
    forward_is_encoded_and_not_waited_for,
    a_call_sees_what_the_one_before_it_wrote,
    backward_is_encoded_behind_forward,
    without_the_exports_the_stream_stops_on_both_sides,
    lists_are_waited_for,
    results_lie_as_queries_do,
    half_precision_and_masks,
    sinks_of_another_dtype,
    out_is_written_where_it_lies,
    a_plan_says_metal,
    empty_tensors,
    mixed_devices_are_refused_by_name,
    a_context_of_the_cpu_is_refused,
    what_the_cpu_would_read_is_refused,
]

if __name__ == "__main__":
    failures = {}
    for case in CASES:
        in_stream()
        try:
            case()
        except Exception:
            failures[case.__name__] = traceback.format_exc()
    print(json.dumps(failures))
