from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from benchmarks.cases import Case
from benchmarks.contenders.base import (
    Call,
    Contender,
    grouped_as_rows,
    refuse_forced_isa,
    refuse_grouped_mask,
    refuse_window,
)
from benchmarks.operands import Operands


class OpenVino(Contender):
    name = "OpenVINO"

    def load(self, threads: int) -> str:
        del threads  # each compiled model has its own
        import openvino

        self.core = openvino.Core()
        return openvino.__version__.partition("-")[0]

    def prepare(self, case: Case, threads: int) -> Callable[[Operands], Call]:
        import openvino
        from openvino import opset13

        refuse_forced_isa(case)
        refuse_window(case)
        refuse_grouped_mask(case)
        query_length = case.query_length * (case.heads // case.kv_heads)  # as in grouped_as_rows
        lengths = (query_length, case.key_length, case.key_length)
        element = getattr(openvino.Type, {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}[case.dtype])
        inputs = [
            opset13.parameter([case.batch, case.kv_heads, length, case.head_dim], element)
            for length in lengths
        ]
        attention = opset13.scaled_dot_product_attention(*inputs, causal=case.causal)
        properties = {
            "INFERENCE_NUM_THREADS": threads,
            # float16 as a hint would mean bfloat16, with its larger error, on processors that have only that.
            "INFERENCE_PRECISION_HINT": "bf16" if case.dtype == "bfloat16" else "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        compiled = self.core.compile_model(openvino.Model([attention], inputs), "CPU", properties)

        def bind(operands: Operands) -> Call:
            request = compiled.create_infer_request()
            arrays = (grouped_as_rows(case, operands.query), operands.key, operands.value)
            tensors = [openvino_tensor(array) for array in arrays]
            for index, tensor in enumerate(tensors):
                request.set_input_tensor(index, tensor)
            out = request.get_output_tensor(0).data

            def call() -> np.ndarray:
                request.infer()
                return out

            return call

        return bind

    def to_numpy(self, out: Any, case: Case) -> np.ndarray:
        if case.dtype == "bfloat16":  # whose bits OpenVINO hands out as another type
            out = out.view(ml_dtypes.bfloat16)
        return super().to_numpy(out, case)


def openvino_tensor(array: np.ndarray) -> Any:
    import openvino

    if array.dtype == ml_dtypes.bfloat16:
        return openvino.Tensor(array.view(np.uint16), list(array.shape), openvino.Type.bf16)
    return openvino.Tensor(array, shared_memory=True)
