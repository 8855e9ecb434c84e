from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.cases import Case
from benchmarks.contenders.base import (
    Call,
    Contender,
    Unavailable,
    grouped_as_rows,
    refuse_forced_isa,
    refuse_grouped_mask,
    refuse_window,
)
from benchmarks.operands import DTYPES, Operands


class OnnxRuntime(Contender):
    """Its MultiHeadAttention operator, on the CPU provider."""

    name = "ONNX Runtime"

    def load(self, threads: int) -> str:
        del threads  # each session has its own
        import onnx  # noqa: F401  (that it is missing is said here, not later)
        import onnxruntime

        return onnxruntime.__version__

    def prepare(self, case: Case, threads: int) -> Callable[[Operands], Call]:
        import onnxruntime

        refuse_forced_isa(case)
        refuse_window(case)
        refuse_grouped_mask(case)
        if case.dtype == "bfloat16":
            raise Unavailable("has no MultiHeadAttention for bfloat16")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Its threads would otherwise spin on into the turn of the next contender.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        model = multi_head_attention(case)
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

        def bind(operands: Operands) -> Call:
            arrays = onnx_layout(case, operands)
            out = np.empty_like(arrays["query"])
            values = {
                name: onnxruntime.OrtValue.ortvalue_from_numpy(array)
                for name, array in {**arrays, "out": out}.items()
            }
            binding = session.io_binding()
            binding.bind_ortvalue_output("out", values["out"])
            for name in arrays:
                binding.bind_ortvalue_input(name, values[name])

            def call() -> np.ndarray:
                session.run_with_iobinding(binding)
                return values["out"].numpy()  # this also keeps `values` alive, whose memory the binding reads

            return call

        return bind

    def to_numpy(self, out: Any, case: Case) -> np.ndarray:
        heads_inside = out.reshape(case.batch, -1, case.kv_heads, case.head_dim)
        return super().to_numpy(heads_inside.swapaxes(1, 2), case)


def onnx_layout(case: Case, operands: Operands) -> dict[str, np.ndarray]:
    """(B, N, H * D), fastest for the operator; keys and values of grouped heads stay as a cache has them."""

    def with_heads_inside(array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array.swapaxes(1, 2)).reshape(case.batch, array.shape[2], -1)

    query, key, value = operands
    if case.kv_heads == case.heads:
        key, value = with_heads_inside(key), with_heads_inside(value)
    return {"query": with_heads_inside(grouped_as_rows(case, query)), "key": key, "value": value}


def multi_head_attention(case: Case) -> bytes:
    from onnx import helper

    element = helper.np_dtype_to_tensor_dtype(np.dtype(DTYPES[case.dtype]))
    rank = {"query": 3, "out": 3, "key": 3, "value": 3}
    if case.kv_heads != case.heads:
        rank["key"] = rank["value"] = 4
    described = {
        name: helper.make_tensor_value_info(name, element, [None] * count) for name, count in rank.items()
    }
    out = described.pop("out")
    inputs = [described[name] for name in ("query", "key", "value")]
    node = helper.make_node(
        "MultiHeadAttention",
        [each.name for each in inputs],
        [out.name],
        domain="com.microsoft",
        num_heads=case.kv_heads,
        unidirectional=int(case.causal),
    )
    graph = helper.make_graph([node], "attention", inputs, [out])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
