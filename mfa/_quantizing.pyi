import numpy

from mfa._context import Context
from mfa._quantized_tensor import QuantizedTensor

def fill(
    x: numpy.ndarray,
    tensor: QuantizedTensor,
    *,
    is_static: bool,
    saturate: bool,
    context: Context | None = None,
) -> None: ...
