"""Hostile values for every parameter of everything public: a call succeeds, or raises what it says it raises.

Functions and parameters are those of `mfa.__all__` and of the signatures, so that new ones are covered too.
"""

import array
import ast
import collections
import dataclasses
import faulthandler
import importlib
import inspect
import itertools
import pkgutil
import re
import sys
import types
import warnings
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from support.dlpack_producer import IS_COPIED, VersionedProducer
from support.views import field, shifted
from torch._subclasses.fake_tensor import FakeTensorMode

import mfa

SHAPE = (2, 3, 4, 8)
ONES = np.ones(SHAPE, np.float32)
ERRORS = (TypeError, ValueError, BufferError, MemoryError, NotImplementedError, mfa.MFAError)
LONGEST = 500
UNTOUCHED = 7.0


def plain_arguments(function=None):
    """What each required parameter is given, and `out` where it is one: a name that is new belongs here."""
    rows = ("query", "key", "value", "dout", "out", "q", "k", "v", "k_cache", "v_cache")
    starts = np.array([0, 1, 3], np.int32)
    return {
        **dict.fromkeys(rows, ONES[0] if function is mfa.flash_attn_varlen_func else ONES),
        **dict.fromkeys(("cu_seqlens_q", "cu_seqlens_k"), starts),
        **dict.fromkeys(("max_seqlen_q", "max_seqlen_k"), 3),
        "qkv": np.ones((2, 3, 3, 4, 8), np.float32),
        "out_partial": np.ones((5, *SHAPE), np.float32),
        "lse_partial": np.ones((5, *SHAPE[:3]), np.float32),
        "batch_size": 2,
        "num_heads_q": 4,
        "num_heads_kv": 2,
        "headdim": 8,
        "cache_seqlens": np.ones(2, np.int32),
        "lse": np.ones((2, 3, 4) if function is mfa.flex_attention_backward else (2, 4, 3), np.float32),
        "width": 3,
        "x": ONES,
        "data": ONES.astype(np.int8),
        "scales": ONES[..., :1],
        "context": mfa.Context("cpu", num_threads=1),
        "size_or_object": 8,
        "message": "no",
        "code": 3,
        **dict.fromkeys(("mask_mod", "mod_fn"), lambda b, h, q_idx, kv_idx: q_idx >= kv_idx),
        "B": 2,
        "H": 3,
        "Q_LEN": 4,
        "KV_LEN": 5,
        "length": 40,
        "window": 5,
        "prefix": 3,
        "dilation": 2,
        "stride": 7,
        "ids": np.arange(40) // 9,
        "seq_lengths": (8, 16),
        "kv_num_blocks": np.ones((1, 1, 1), np.int32),
        "kv_indices": np.zeros((1, 1, 1, 1), np.int32),
        **dict.fromkeys(("full_kv_num_blocks", "full_kv_indices")),
    }


def signature_of(function):
    """That of compiled classes is in their stubs."""
    module = sys.modules[function.__module__]
    if Path(module.__file__).suffix == ".py" or not inspect.isclass(function):
        parameters = inspect.signature(function).parameters.values()
        return [parameter for parameter in parameters if parameter.kind is not parameter.VAR_POSITIONAL]
    stub = Path(module.__file__).parent / f"{module.__name__.rpartition('.')[2]}.pyi"
    [described] = [n for n in ast.parse(stub.read_text()).body if getattr(n, "name", "") == function.__name__]
    [new] = [n for n in described.body if getattr(n, "name", "") == "__new__"]
    required = len(new.args.args) - len(new.args.defaults)
    return [
        inspect.Parameter(
            argument.arg,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=... if place >= required else inspect._empty,
        )
        for place, argument in enumerate(new.args.args + new.args.kwonlyargs)
        if place > 0
    ]


# They take whatever they are given.
RECORDS = (
    *(mfa.ContextInfo, mfa.Gradients, mfa.Plan, mfa.MFAError),
    *(mfa.AuxOutput, mfa.AuxRequest, mfa.FlexPlan, mfa.SparsityPattern, mfa.quantized.QuantizedConfig),
)
PUBLIC = [
    function
    for module in (mfa, mfa.patterns, mfa.quantized)
    for function in map(module.__dict__.get, module.__all__)
    if function not in (*RECORDS, mfa.noop_mask) and (module is mfa or function.__name__ not in mfa.__all__)
]
PARAMETERS = [(function, parameter.name) for function in PUBLIC for parameter in signature_of(function)]


# ---------------------------------------------------------------- values


class Raiser:
    """Nothing can be done with it."""

    def fail(self, *args, **kwargs):
        raise RuntimeError("hands\noff" * 1000)

    __bool__ = __eq__ = __ne__ = __lt__ = __gt__ = __le__ = __ge__ = __abs__ = __neg__ = fail
    __repr__ = __str__ = __int__ = __float__ = __index__ = __len__ = __iter__ = __getitem__ = fail
    __getattr__ = __call__ = __contains__ = __add__ = __mul__ = __sub__ = __format__ = fail
    __hash__ = None


class Pretender:
    """Says that it is an array of everything."""

    shape = (2, 3, 4, 8)
    ndim = "four"
    dtype = np.dtype(np.float32)
    strides = None
    is_cpu = requires_grad = True
    __array_interface__ = {"version": 3, "data": (1, False), "shape": shape, "typestr": "<f4"}  # noqa: RUF012

    def __dlpack_device__(self):
        return (1, 0)

    def __dlpack__(self, **options):
        return object()


class Text(str):
    __slots__ = ()
    __hash__ = None

    def __eq__(self, other):
        raise RuntimeError("no text")


class Integer(int):
    def __le__(self, other):
        raise RuntimeError("no order")

    __lt__ = __gt__ = __ge__ = __eq__ = __le__
    __hash__ = None


class Float(float):
    __float__ = Raiser.fail


class Untraceable(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, kinds, args=(), kwargs=None):
        raise RuntimeError("no function")


def released():
    view = memoryview(ONES)
    view.release()
    return view


def closed_buffer():
    with mfa.Context("cpu") as context:
        buffer = mfa.Buffer(context, 8)
    buffer.close()
    return buffer


def circle():
    nested = []
    nested.append(nested)
    return nested


def wrapper_tensor():
    class Wrapper(torch.Tensor):
        __torch_dispatch__ = classmethod(lambda *args, **kwargs: None)

    return torch.Tensor._make_wrapper_subclass(Wrapper, SHAPE, dtype=torch.float32)


def scalars():
    return {
        "None": None,
        "True": True,
        "zero": 0,
        "minus one": -1,
        "2**31": 2**31,
        "2**63": 2**63,
        "2**64": 2**64,
        "-2**63": -(2**63),
        "beyond printing": 10**5000,
        "nan": float("nan"),
        "inf": float("inf"),
        "tiny": 5e-324,
        "large": 1e300,
        "complex": 1j,
        "empty text": "",
        "long text": "x" * 10**6,
        "surrogate": "\ud800",
        "newlines": "\n" * 10**4,
        "nul": "float32\0",
        "bytes": bytes(10**5),
        "bytearray": bytearray(3),
        "tuple": (),
        "pair": (2**63, -(2**63)),
        "list": [1, "x", None],
        "long list": list(range(10**5)),
        "dict": {"dq": 1},
        "set": {"dq", "dk"},
        "circle": circle(),
        "endless": itertools.count(),
        "range": range(10**12),
        "generator": (x for x in ()),
        "object": object(),
        "class": int,
        "array class": np.ndarray,
        "tensor class": torch.Tensor,
        "producer class": VersionedProducer,
        "lambda": lambda: None,
        "module": np,
        "ellipsis": ...,
        "raiser": Raiser(),
        "pretender": Pretender(),
        "text": Text("bshd"),
        "integer": Integer(3),
        "float": Float(0.5),
        "long name": type("N" * 10**6, (), {})(),
        "foreign dtype": type("dtype", (), {"__module__": "torch", "__str__": Raiser.fail})(),
        "namespace": types.SimpleNamespace(__dlpack__=3, __dlpack_device__=None),
        "default dict": collections.defaultdict(lambda: 3),
        "symbol": torch.fx.Proxy(torch.fx.Node(torch.fx.Graph(), "x", "placeholder", "x", (), {})),
        "numpy scalar": np.float32(2),
        "numpy date": np.datetime64("2024-01-01"),
        "numpy void": np.void(b"abcd"),
        "numpy text": np.str_("bshd"),
    }


def arrays():
    return {
        "no axes": np.float32(1).reshape(()),
        "other shape": ONES[:, :2],
        "five axes": ONES[None],
        "many axes": ONES.reshape((1,) * 40 + SHAPE),
        "empty": ONES[:0],
        "no dim": ONES[..., :0],
        "float64": ONES.astype(float),
        "objects": np.full(SHAPE, None, object),
        "texts": np.full(SHAPE, "x" * 100),
        "records": np.zeros(SHAPE, [("a" * 1000, "f4"), ("b", "O")]),
        "other order": ONES.astype(ONES.dtype.newbyteorder()),
        "bool": ONES > 0,
        "dates": np.zeros(SHAPE, "M8[s]"),
        "nothing": np.zeros(SHAPE, "V0"),
        "masked": np.ma.masked_array(ONES),
        "matrix": np.asmatrix(ONES[0, 0]),
        "read-only": np.broadcast_to(np.float32(1), SHAPE),
        "huge": np.broadcast_to(np.float32(1), (2**21, 2**20, 2**10, 1)),
        "overlapping": np.lib.stride_tricks.as_strided(np.ones(8, np.float32), SHAPE, (0, 0, 0, 4)),
        "odd address": shifted(ONES, 1),
        "odd strides": field(ONES, 2),
        "reversed": ONES[::-1, ::-1, ::-1, ::-1],
        "memoryview": memoryview(ONES),
        "padded": memoryview(np.zeros(SHAPE, np.dtype([("a", "f4"), ("b", "f2")]))),
        "released": released(),
        "array.array": array.array("d", [1.0]),
        "ctypes": np.ctypeslib.as_ctypes(ONES.copy()),
        "closed buffer": closed_buffer(),
        "copied": VersionedProducer(ONES, flags=IS_COPIED),
        "lanes": VersionedProducer(ONES, lanes=3),
        "odd code": VersionedProducer(ONES, code=77),
        "elsewhere": VersionedProducer(ONES, exported_device=(2, 3)),
        "later": VersionedProducer(ONES, major=9),
        "tensor": torch.ones(SHAPE),
        "meta": torch.ones(SHAPE, device="meta"),
        "fake": FakeTensorMode().from_tensor(torch.ones(SHAPE)),
        "wrapper": wrapper_tensor(),
        "untraceable": torch.ones(SHAPE).as_subclass(Untraceable),
        "grad": torch.ones(SHAPE, requires_grad=True),
        "sparse": torch.ones(SHAPE).to_sparse(),
        "conjugate": torch.ones(SHAPE, dtype=torch.complex64).conj(),
        "negative": torch.ones(SHAPE, dtype=torch.complex64).conj().imag,
        "float8": torch.ones(SHAPE).to(torch.float8_e4m3fn),
        "bfloat16": ONES.astype(ml_dtypes.bfloat16),
        "four bits": ONES.astype(ml_dtypes.int4),
        "nested": torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)]),
        "quantised": torch.quantize_per_tensor(torch.ones(SHAPE), 0.1, 0, torch.qint8),
        "parameter": torch.nn.Parameter(torch.ones(SHAPE)),
    }


# ---------------------------------------------------------------- the attack


@pytest.fixture(autouse=True)
def no_hang():
    faulthandler.dump_traceback_later(300, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def complaint(function, name, value, is_array):
    """What is wrong with how `function` takes `value`, or None."""
    parameters = [parameter.name for parameter in signature_of(function)]
    arguments = {
        parameter.name: plain_arguments(function)[parameter.name]
        for parameter in signature_of(function)
        if parameter.default is parameter.empty
    }
    out = None
    if "out" in parameters and "out" not in arguments:
        out = arguments["out"] = np.full(SHAPE, UNTOUCHED, np.float32)
    arguments[name] = value
    try:
        function(**arguments)
    except ERRORS as error:
        text = str(error)
        if len(text) > LONGEST or not text.isprintable():
            return f"message of {len(text)}: {text[:LONGEST]!r}"
        # What fits no other argument may be told of either.
        told = set(re.findall(r"\w+", text)) & set(parameters if is_array else [name])
        if not told and not isinstance(error, MemoryError):
            return f"{type(error).__name__} names no argument: {text}"
        if out is not None and name != "out" and not (out == UNTOUCHED).all():
            return f"{text}, and out is written"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:LONGEST]!r}"
    return None


@pytest.mark.parametrize(
    ("function", "name"), PARAMETERS, ids=[f"{function.__name__}-{name}" for function, name in PARAMETERS]
)
def test_hostile_values(function, name):
    wrong = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kinds, is_array in ((scalars(), False), (arrays(), True)):
            for kind, value in kinds.items():
                if function is mfa.Buffer and kind == "2**31":
                    continue  # that much memory there is
                found = complaint(function, name, value, is_array)
                if found:
                    wrong[kind] = found
    assert wrong == {}


def public_names(module):
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "").partition(".")[0] == "mfa"
    }


def test_everything_public_is_attacked():
    """`__all__`, where the functions are from, leaves out nothing that modules show, and all are attacked."""
    # Packages are of one framework each, as tests/torch has them.
    infos = [info for info in pkgutil.iter_modules(mfa.__path__) if not info.ispkg]
    names = {info.name for info in infos if not info.name.startswith("_")}
    modules = [mfa, *(importlib.import_module(f"mfa.{name}") for name in names - {"libmfa"})]
    names_of_both = {*mfa.__all__, *mfa.patterns.__all__, *mfa.quantized.__all__}
    # `__version__` is what the function library_version says.
    assert set.union(*map(public_names, modules)) - {"library_version"} == names_of_both
    assert all(
        issubclass(record, tuple | Exception | dict) or dataclasses.is_dataclass(record) for record in RECORDS
    )
    with_parameters = {function for function, _ in PARAMETERS}
    for function in set(PUBLIC) - with_parameters:
        with pytest.raises(TypeError):
            function(None)


def test_plain_arguments_are_taken():
    for function in PUBLIC:
        name = next((p.name for p in signature_of(function) if p.default is p.empty), None)
        if name is not None:
            assert complaint(function, name, plain_arguments(function)[name], False) is None
