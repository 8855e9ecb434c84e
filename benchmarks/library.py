"""A built libmfa called through its C ABI, so that two builds can be loaded into one process."""

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.cases import Case
from benchmarks.operands import DTYPES, GradientOperands, Operands

PRECISIONS = {"float16": 0, "bfloat16": 1, "float32": 2, "int32": 6}
BACKEND_CPU = 1
ALIGN_TOP_LEFT = 1
ALIGN_BOTTOM_RIGHT = 2
CAUSAL = 1
DEFAULT_PRECISION = -1


class Sized(ctypes.Structure):
    """A struct that begins with its own size, as include/mfa.h first had it: every later library takes it."""

    def __init__(self, **fields):
        super().__init__(struct_size=ctypes.sizeof(self), **fields)


class ContextOptions(Sized):
    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        *((name, ctypes.c_int32) for name in ("backend", "device", "num_threads", "cpu_isa")),
        ("flags", ctypes.c_uint32),
    )


class Tensor(Sized):
    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("precision", ctypes.c_int32),
        ("data", ctypes.c_void_p),
        ("buffer", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
        ("shape", ctypes.c_int64 * 4),
        ("stride", ctypes.c_int64 * 4),
    )


FORWARD_TENSORS = (
    *("query", "key", "value", "out", "logsumexp", "bool_mask", "additive_mask", "alibi_slopes", "sinks"),
)
BACKWARD_TENSORS = ("dout", "dquery", "dkey", "dvalue", "dbias", "dsinks")


class ForwardDesc(Sized):
    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        *((name, ctypes.POINTER(Tensor)) for name in FORWARD_TENSORS),
        ("softmax_scale", ctypes.c_float),
        ("softcap", ctypes.c_float),
        ("alignment", ctypes.c_int32),
        ("intermediate_precision", ctypes.c_int32),
        ("window_left", ctypes.c_int64),
        ("window_right", ctypes.c_int64),
        ("dropout_p", ctypes.c_float),
        ("reserved", ctypes.c_uint32),
        ("dropout_seed", ctypes.c_uint64),
        ("dropout_offset", ctypes.c_uint64),
    )


class BackwardDesc(Sized):
    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("forward", ctypes.POINTER(ForwardDesc)),
        *((name, ctypes.POINTER(Tensor)) for name in BACKWARD_TENSORS),
    )


class Sequences(Sized):
    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        *((name, ctypes.POINTER(Tensor)) for name in ("query_starts", "key_starts", "query_lengths")),
        *((name, ctypes.POINTER(Tensor)) for name in ("key_lengths", "left_padding", "key_batches")),
        ("most_queries", ctypes.c_int64),
        ("most_keys", ctypes.c_int64),
    )


class Pages(Sized):
    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("page_table", ctypes.POINTER(Tensor)),
    )


class Append(Sized):
    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        *((name, ctypes.POINTER(Tensor)) for name in ("key", "value", "starts")),
        *((name, ctypes.POINTER(Tensor)) for name in ("rotary_cos", "rotary_sin", "rotary_positions")),
    )


class SequencesDesc(Sized):
    """ForwardDesc with the fields that libraries before sequences do not know."""

    _fields_ = (
        *ForwardDesc._fields_,
        ("query_value", ctypes.POINTER(Tensor)),
        ("chunk", ctypes.c_int64),
        ("sequences", ctypes.POINTER(Sequences)),
        ("pages", ctypes.POINTER(Pages)),
        ("blocks", ctypes.c_void_p),
        ("append", ctypes.POINTER(Append)),
        ("scales", ctypes.c_void_p),
    )


def tensor(array: np.ndarray, dtype: str) -> Tensor:
    strides = (ctypes.c_int64 * 4)(*(stride // array.itemsize for stride in array.strides))
    shape = (ctypes.c_int64 * 4)(*array.shape)
    return Tensor(precision=PRECISIONS[dtype], data=array.ctypes.data, shape=shape, stride=strides)


def pointers(tensors: dict[str, Tensor]) -> dict:
    return {name: ctypes.pointer(each) for name, each in tensors.items()}


class Library:
    """One build, with a context on the CPU."""

    def __init__(self, path: Path, threads: int):
        # RTLD_LOCAL, the default: each build finds its own functions.
        self.functions = ctypes.CDLL(str(path.resolve()))
        self.functions.mfa_last_error_message.restype = ctypes.c_char_p
        self.context = ctypes.c_void_p()
        options = ContextOptions(backend=BACKEND_CPU, num_threads=threads)
        create = self.functions.mfa_create_context_with_options
        self.check(create(ctypes.byref(options), ctypes.byref(self.context)))

    def check(self, status: int) -> None:
        if status != 0:
            raise RuntimeError(self.functions.mfa_last_error_message(None).decode())

    def call(
        self, case: Case, operands: Operands | GradientOperands
    ) -> tuple[Callable[[], None], list[np.ndarray]]:
        """What runs the case, and the arrays that it writes to."""
        dtype = case.dtype
        out = np.empty((*operands.query.shape[:3], operands.value.shape[3]), DTYPES[dtype])
        tensors = {name: tensor(getattr(operands, name), dtype) for name in ("query", "key", "value")}
        tensors["out"] = tensor(out, dtype)
        bias = getattr(operands, "bias", None)
        if bias is not None:
            tensors["additive_mask"] = tensor(bias, dtype)
        lse = np.empty((*operands.query.shape[:3], 1), np.float32)
        if case.backward:
            tensors["logsumexp"] = tensor(lse, "float32")
        desc = ForwardDesc(
            **pointers(tensors),
            flags=CAUSAL if case.masked else 0,
            alignment=ALIGN_TOP_LEFT,
            intermediate_precision=DEFAULT_PRECISION,
            window_left=-1 if case.window is None else case.window - 1,
            window_right=-1,
            dropout_p=case.dropout_p,
        )
        forward = self.runner("mfa_attention_forward_desc", desc, operands, out, lse)
        if not case.backward:
            return forward, [out]
        forward()
        gradients = [np.empty_like(array) for array in operands.inputs]
        names = ("dquery", "dkey", "dvalue", "dbias")[: len(gradients)]
        tensors = {name: tensor(array, dtype) for name, array in zip(names, gradients, strict=True)}
        tensors["dout"] = tensor(operands.dout, dtype)
        backward_desc = BackwardDesc(forward=ctypes.pointer(desc), **pointers(tensors))
        run = self.runner("mfa_attention_backward_desc", backward_desc, operands, out, lse, *gradients)
        return run, gradients

    def runner(self, name: str, desc: Sized, *memory) -> Callable[[], None]:
        """Calls `name`; keeps the `memory` that `desc` points to."""
        function, context, reference = self.functions[name], self.context, ctypes.byref(desc)

        def run(kept=memory) -> None:
            del kept
            status = function(context, reference)
            if status != 0:
                self.check(status)

        return run
