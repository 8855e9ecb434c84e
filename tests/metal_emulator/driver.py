"""The emulator's C interface from Python, for its own tests: compile sources, run kernels on NumPy arrays."""

import ctypes
import subprocess
from ctypes import POINTER, byref, c_bool, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from pathlib import Path

import numpy as np
from support.flags import CORE

HOME = Path(__file__).parent
LIBRARY = "libmetal_emulator_runtime.so"
SLOTS = 31
ORDERS = ["fifo", "reverse", "lifo", "random"]
MODES = ["fast", "checked"]
MATH = ["safe", "relaxed", "fast"]
FILLS = ["zero", "unwritten"]
TYPES = [
    "bool",
    "char",
    "uchar",
    "short",
    "ushort",
    "int",
    "uint",
    "long",
    "ulong",
    "half",
    "bfloat",
    "float",
]
KINDS = ["device", "constant", "threadgroup"]
FAULTS = ["none", "launch", "out of bounds", "read only", "unwritten", "stale", "race", "divergence", "trap"]
NUMPY_TYPES = dict(zip(TYPES, "?bBhHiIqQeHf", strict=True))


class _Macro(ctypes.Structure):
    _fields_ = [("name", c_char_p), ("value", c_char_p)]


class _Options(ctypes.Structure):
    _fields_ = [
        ("macros", POINTER(_Macro)),
        ("macro_count", c_size_t),
        ("language_version", c_uint32),
        ("math", c_int),
        ("fast_functions", c_bool),
        ("mode", c_int),
    ]


class _Constant(ctypes.Structure):
    _fields_ = [("name", c_char_p), ("index", c_uint32), ("type", c_int), ("required", c_bool)]


class _Argument(ctypes.Structure):
    _fields_ = [
        ("name", c_char_p),
        ("index", c_uint32),
        ("kind", c_int),
        ("read_only", c_bool),
        ("conditional", c_bool),
    ]


class _Kernel(ctypes.Structure):
    _fields_ = [("name", c_char_p), ("arguments", POINTER(_Argument)), ("argument_count", c_size_t)]


class _Value(ctypes.Structure):
    _fields_ = [("name", c_char_p), ("index", c_uint32), ("type", c_int), ("bytes", c_void_p)]


class _Binding(ctypes.Structure):
    _fields_ = [
        ("kind", c_int),
        ("index", c_uint32),
        ("base", c_void_p),
        ("length", c_uint64),
        ("offset", c_uint64),
    ]


class _Launch(ctypes.Structure):
    _fields_ = [
        ("bindings", POINTER(_Binding)),
        ("binding_count", c_size_t),
        ("threadgroups", c_uint32 * 3),
        ("threads", c_uint32 * 3),
        ("order", c_int),
        ("seed", c_uint64),
        ("fast_ulps", c_uint32),
        ("allow_stale", c_bool),
    ]


class _Fault(ctypes.Structure):
    _fields_ = [("kind", c_int), ("text", ctypes.c_char * 1024)]


class Counters(ctypes.Structure):
    _fields_ = [
        ("launches", c_uint64),
        ("matrix_multiplies", c_uint64),
        ("exponentials", c_uint64),
        ("device_bytes_loaded", c_uint64),
        ("device_bytes_stored", c_uint64),
        ("threadgroup_bytes_loaded", c_uint64),
        ("threadgroup_bytes_stored", c_uint64),
        ("threadgroup_barriers", c_uint64),
        ("simdgroup_barriers", c_uint64),
        ("shuffles", c_uint64),
        ("threadgroup_bytes_allocated", c_uint64),
        ("buffer_bytes_loaded", c_uint64 * SLOTS),
        ("buffer_bytes_stored", c_uint64 * SLOTS),
    ]


class CompileError(Exception):
    """The compiler's diagnostics."""


class Fault(Exception):
    """A launch that the emulator stopped; `kind` is one of FAULTS."""

    def __init__(self, kind, text):
        super().__init__(text)
        self.kind = kind


def build(folder):
    """Compiles the runtime into LIBRARY in this folder."""
    library = Path(folder) / LIBRARY
    sources = sorted(map(str, (HOME / "runtime").glob("*.c")))
    flags = ["-O2", "-g", *CORE, f"-I{HOME}"]
    subprocess.run(["cc", *flags, "-shared", "-o", library, *sources, "-ldl", "-lm"], check=True)


def _text(pointer):
    """Takes over a text that the emulator allocated."""
    if not pointer.value:
        return ""
    text = ctypes.cast(pointer, c_char_p).value.decode()
    ctypes.CDLL(None).free(pointer)
    return text


def _triple(size):
    return (c_uint32 * 3)(*((size,) if isinstance(size, int) else size), *[1] * (3 - np.size(size)))


class Bytes:
    """For setBytes: anything with the buffer protocol."""

    def __init__(self, data):
        self.data = np.frombuffer(bytes(memoryview(np.ascontiguousarray(data)).cast("B")), np.uint8)


class At:
    """An array bound with an offset in bytes."""

    def __init__(self, array, offset):
        self.array, self.offset = array, offset


class Emulator:
    def __init__(self, path):
        self.c = ctypes.CDLL(str(path))
        returned = {
            "emu_memory_allocate": c_void_p,
            "emu_library_create": c_void_p,
            "emu_library_kernel": POINTER(_Kernel),
            "emu_library_find_kernel": POINTER(_Kernel),
            "emu_library_kernel_count": c_size_t,
            "emu_library_constant": POINTER(_Constant),
            "emu_library_constant_count": c_size_t,
            "emu_pipeline_create": c_void_p,
            "emu_pipeline_kernel": POINTER(_Kernel),
            "emu_pipeline_max_threads": c_uint32,
            "emu_pipeline_static_threadgroup_memory": c_uint32,
            "emu_lint": c_bool,
            "emu_run": c_bool,
        }
        for name, result in returned.items():
            getattr(self.c, name).restype = result

    def _options(self, mode, math, fast_functions, macros, language):
        table = (_Macro * len(macros))(*[(k.encode(), str(v).encode()) for k, v in macros.items()])
        major, minor = language
        version, chosen = major << 16 | minor, MATH.index(math)
        return _Options(table, len(macros), version, chosen, fast_functions, MODES.index(mode))

    def compile(
        self, source, *, mode="checked", math="safe", fast_functions=False, macros=None, language=(3, 1)
    ):
        options = self._options(mode, math, fast_functions, macros or {}, language)
        return Library(self, source.encode(), options)

    def lint(self, source, *, macros=None):
        """The diagnostics; empty if the source is clean."""
        options, text = self._options("fast", "safe", False, macros or {}, (3, 1)), c_void_p()
        clean = self.c.emu_lint(source.encode(), c_size_t(len(source)), byref(options), byref(text))
        text = _text(text)
        assert clean == (not text)
        return text

    def memory(self, shape, dtype=np.float32, fill="unwritten"):
        """An array in device memory, freed by free()."""
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        address = self.c.emu_memory_allocate(c_size_t(count), FILLS.index(fill))
        array = np.frombuffer((ctypes.c_char * count).from_address(address), dtype)
        return array.reshape(shape)

    def free(self, array):
        self.c.emu_memory_free(c_void_p(array.ctypes.data))

    def declare_extent(self, array):
        self.c.emu_extent_declare(c_void_p(array.ctypes.data), c_size_t(array.nbytes))

    def withdraw_extent(self, array):
        self.c.emu_extent_withdraw(c_void_p(array.ctypes.data))

    def counters(self):
        counters = Counters()
        self.c.emu_counters_read(byref(counters))
        return counters

    def reset_counters(self):
        self.c.emu_counters_reset()


class Library:
    def __init__(self, emulator, source, options):
        self.emulator, self.c, error = emulator, emulator.c, c_void_p()
        self.handle = self.c.emu_library_create(source, c_size_t(len(source)), byref(options), byref(error))
        self.messages = _text(error)
        if not self.handle:
            raise CompileError(self.messages)

    def kernels(self):
        count = self.c.emu_library_kernel_count(c_void_p(self.handle))
        found = [self.c.emu_library_kernel(c_void_p(self.handle), c_size_t(i)).contents for i in range(count)]
        return {kernel.name.decode(): _arguments(kernel) for kernel in found}

    def constants(self):
        count = self.c.emu_library_constant_count(c_void_p(self.handle))
        found = [
            self.c.emu_library_constant(c_void_p(self.handle), c_size_t(i)).contents for i in range(count)
        ]
        return {c.name.decode(): (c.index, TYPES[c.type], c.required) for c in found}

    def pipeline(self, kernel, constants=None):
        """constants: name or index -> (type, value)."""
        values, kept, error = [], [], c_void_p()
        for key, (type_name, value) in (constants or {}).items():
            kept.append(np.array(value, NUMPY_TYPES[type_name]))
            name, index = (key.encode(), 0) if isinstance(key, str) else (None, key)
            values.append(_Value(name, index, TYPES.index(type_name), kept[-1].ctypes.data))
        table = (_Value * len(values))(*values)
        handle = self.c.emu_pipeline_create(
            c_void_p(self.handle), kernel.encode(), table, c_size_t(len(values)), byref(error)
        )
        messages = _text(error)
        if not handle:
            raise CompileError(messages)
        return Pipeline(self.emulator, handle)

    def __del__(self):
        if getattr(self, "handle", None):
            self.c.emu_library_destroy(c_void_p(self.handle))


def _arguments(kernel):
    found = [kernel.arguments[i] for i in range(kernel.argument_count)]
    return {a.name.decode(): (a.index, KINDS[a.kind], a.read_only, a.conditional) for a in found}


class Pipeline:
    def __init__(self, emulator, handle):
        self.emulator, self.c, self.handle = emulator, emulator.c, handle

    @property
    def max_threads(self):
        return self.c.emu_pipeline_max_threads(c_void_p(self.handle))

    @property
    def static_threadgroup_memory(self):
        return self.c.emu_pipeline_static_threadgroup_memory(c_void_p(self.handle))

    def arguments(self):
        return _arguments(self.c.emu_pipeline_kernel(c_void_p(self.handle)).contents)

    def run(self, buffers, groups, threads, *, threadgroup=None, order="fifo", **settings):
        """buffers: index -> array, At or Bytes; threadgroup: index -> length in bytes."""
        bindings = []
        for index, bound in buffers.items():
            if isinstance(bound, Bytes):
                bindings.append(_Binding(1, index, bound.data.ctypes.data, bound.data.nbytes, 0))
            else:
                array, offset = (bound.array, bound.offset) if isinstance(bound, At) else (bound, 0)
                bindings.append(_Binding(0, index, array.ctypes.data, array.nbytes, offset))
        bindings += [_Binding(2, index, None, length, 0) for index, length in (threadgroup or {}).items()]
        table = (_Binding * len(bindings))(*bindings)
        launch = _Launch(table, len(bindings), _triple(groups), _triple(threads), ORDERS.index(order))
        for name, value in settings.items():
            setattr(launch, name, value)
        fault = _Fault()
        if not self.c.emu_run(c_void_p(self.handle), byref(launch), byref(fault)):
            raise Fault(FAULTS[fault.kind], fault.text.decode())

    def __del__(self):
        if getattr(self, "handle", None):
            self.c.emu_pipeline_destroy(c_void_p(self.handle))
