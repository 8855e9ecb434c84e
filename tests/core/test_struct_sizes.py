"""Callers compiled against older headers: every versioned struct at each size that a release gave it."""

import ctypes

import numpy as np
import pytest
from support.source_tree import ROOT

import mfa

# What the first release had. Never changes: a field added later must not lock out older callers.
FIRST_SIZES = {
    "mfa_context_options_t": 24,
    "mfa_context_info_t": 148,
    "mfa_tensor_t": 96,
    "mfa_attention_desc_t": 112,
    "mfa_attention_backward_desc_t": 64,
    "mfa_plan_t": 376,
    "mfa_sequences_t": 72,
    "mfa_pages_t": 16,
    "mfa_blocks_t": 80,
    "mfa_append_t": 56,
    "mfa_scales_t": 32,
    "mfa_quantization_t": 48,
    "mfa_quantize_desc_t": 32,
}
SUCCESS, INVALID_ARGS = 0, 1
PRECISIONS = {np.dtype(np.float32): 2, np.dtype(np.int8): 3, np.dtype(np.int32): 6}


def layout():
    """Of each struct, its members' (offset, size)."""
    structs = {}
    for line in (ROOT / "tests/abi/layout.txt").read_text().splitlines():
        name, *numbers = line.split()
        struct, _, field = name.partition(".")
        members = structs.setdefault(struct, {})
        if field:
            members[field] = tuple(map(int, numbers))
    return structs


LAYOUT = layout()
SIZES = [
    (struct, offset + size)
    for struct, first in FIRST_SIZES.items()
    for offset, size in LAYOUT[struct].values()
    if offset + size >= first
]


class Struct:
    """`size` bytes of a struct, all zero but its size and what is set."""

    def __init__(self, name, size, **values):
        self.members, self.memory = LAYOUT[name], ctypes.create_string_buffer(size)
        self.kept = [value for value in values.values() if isinstance(value, Struct)]
        for field, value in {"struct_size": size, **values}.items():
            self.set(field, value.address if isinstance(value, Struct) else value)

    def set(self, field, value):
        offset, size = self.members[field]
        data = value if isinstance(value, bytes) else value.to_bytes(size, "little", signed=value < 0)
        end = min(offset + len(data), len(self.memory))  # an older struct ends before it
        self.memory[offset:end] = data[: end - offset]

    @property
    def address(self):
        return ctypes.addressof(self.memory)


class Caller:
    """Uses one struct at `size` and all others as they are today."""

    def __init__(self, struct, size):
        self.sizes = {name: max(end for name_, end in SIZES if name_ == name) for name in FIRST_SIZES}
        self.sizes[struct] = size
        self.library = ctypes.CDLL(mfa.get_library())
        self.library.mfa_last_error_message.restype = ctypes.c_char_p
        self.operand = np.linspace(0, 1, 24, dtype=np.float32).reshape(1, 1, 6, 4)

    def make(self, name, **values):
        return Struct(name, self.sizes[name], **values)

    def tensor(self, array):
        tensor = self.make(
            "mfa_tensor_t",
            precision=PRECISIONS[array.dtype],
            data=array.ctypes.data,
            shape=np.array(array.shape, np.int64).tobytes(),
            stride=(np.array(array.strides, np.int64) // array.itemsize).tobytes(),
        )
        tensor.kept.append(array)
        return tensor

    def call(self, function, *arguments):
        addresses = [ctypes.c_void_p(x.address if isinstance(x, Struct) else x) for x in arguments]
        return getattr(self.library, function)(*addresses)

    def context(self):
        handle = ctypes.c_void_p()
        options = self.make("mfa_context_options_t", backend=1, num_threads=1)
        self.check(self.call("mfa_create_context_with_options", options, ctypes.addressof(handle)))
        return handle.value

    def check(self, status):
        assert status == SUCCESS, self.library.mfa_last_error_message(None)

    def run(self):
        """Every function that takes such a struct."""
        context = self.context()
        try:
            self.run_in(context)
        finally:
            self.call("mfa_destroy_context", context)

    def run_in(self, context):
        self.check(self.call("mfa_context_describe", context, self.make("mfa_context_info_t")))
        out, logsumexp = np.empty_like(self.operand), np.empty((1, 1, 6, 1), np.float32)
        operand = self.tensor(self.operand)
        operands = {"query": operand, "key": operand, "value": operand, "out": self.tensor(out)}
        window = {"window_left": -1, "window_right": -1}
        desc = self.make(
            "mfa_attention_desc_t",
            **operands,
            logsumexp=self.tensor(logsumexp),
            intermediate_precision=-1,
            **window,
        )
        gradient = np.empty_like(self.operand)
        tensors = {"dout": operand, "dquery": self.tensor(gradient)}
        backward = self.make("mfa_attention_backward_desc_t", forward=desc, **tensors)
        for name, descriptor in (("forward", desc), ("backward", backward)):
            self.check(self.call(f"mfa_attention_{name}_desc", context, descriptor))
            self.check(self.call(f"mfa_attention_{name}_plan", context, descriptor, self.make("mfa_plan_t")))
        expected = mfa.attention(self.operand, self.operand, self.operand, layout="bhsd")
        np.testing.assert_array_equal(out, expected)
        self.plan_with_parts(context, operands | window)
        self.quantise_and_plan(context, operands | window)

    def plan_with_parts(self, context, values):
        """The structs that a descriptor points to, over a cache of one page."""
        key, value = (self.tensor(np.zeros((1, 1, 16, 4), np.float32)) for _ in range(2))
        lengths, table, one = (np.full((1, 1, 1, 1), number, np.int32) for number in (6, 0, 1))
        parts = {
            "sequences": self.make("mfa_sequences_t", key_lengths=self.tensor(lengths)),
            "pages": self.make("mfa_pages_t", page_table=self.tensor(table)),
            "blocks": self.make(
                "mfa_blocks_t",
                block_rows=16,
                block_keys=16,
                kv_num_blocks=self.tensor(one),
                kv_indices=self.tensor(table),
            ),
            "append": self.make("mfa_append_t", key=values["query"], value=values["query"]),
            "scales": self.make("mfa_scales_t", query=self.tensor(np.ones((1, 1, 1, 1), np.float32))),
        }
        desc = self.make("mfa_attention_desc_t", **values | {"key": key, "value": value}, **parts)
        self.check(self.call("mfa_attention_forward_plan", context, desc, self.make("mfa_plan_t")))

    def quantise_and_plan(self, context, values):
        codes, scales = np.zeros((1, 1, 6, 4), np.int8), np.empty((1, 1, 6, 1), np.float32)
        stand_for = self.make("mfa_quantization_t", rows=1, scales=self.tensor(scales))
        codes = self.tensor(codes)
        quantised = self.make(
            "mfa_quantize_desc_t", input=values["query"], codes=codes, quantization=stand_for
        )
        self.check(self.call("mfa_quantize", context, quantised))
        np.testing.assert_array_equal(scales, self.operand.max(axis=-1, keepdims=True) / np.float32(127))
        if self.sizes["mfa_attention_desc_t"] < sum(LAYOUT["mfa_attention_desc_t"]["key_quantization"]):
            return
        desc = self.make("mfa_attention_desc_t", **values | {"key": codes}, key_quantization=stand_for)
        self.check(self.call("mfa_attention_forward_plan", context, desc, self.make("mfa_plan_t")))


@pytest.mark.parametrize(("struct", "size"), SIZES)
def test_any_release_of_a_struct_will_do(struct, size):
    Caller(struct, size).run()


@pytest.mark.parametrize("struct", FIRST_SIZES)
def test_less_than_the_first_release_is_refused(struct):
    with pytest.raises(AssertionError, match=f"struct_size is {FIRST_SIZES[struct] - 4}, expected at least"):
        Caller(struct, FIRST_SIZES[struct] - 4).run()


def test_every_struct_that_carries_its_size_is_here():
    assert set(FIRST_SIZES) == {name for name, members in LAYOUT.items() if "struct_size" in members}
