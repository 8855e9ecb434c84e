"""Any array's memory as an ndarray."""

import sys

import ml_dtypes
import numpy

BFLOAT16 = numpy.dtype(ml_dtypes.bfloat16)


def is_tensor(array):
    """Whether `array` is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return hasattr(torch, "Tensor") and isinstance(array, torch.Tensor)


def as_ndarray(array, name):
    """An ndarray over the memory of `array`; a tensor on a device other than the CPU is refused."""
    if isinstance(array, numpy.ndarray):
        return array
    if is_tensor(array):
        return _tensor_as_ndarray(array, name)
    if hasattr(array, "__dlpack__"):
        try:
            return numpy.from_dlpack(array)
        except (BufferError, RuntimeError) as error:
            raise BufferError(f"{name}: {error}") from error
    try:
        return numpy.asarray(memoryview(array))
    except TypeError:
        raise TypeError(
            f"{name}: {type(array).__name__}, expected an array with the buffer protocol or DLPack"
        ) from None


def _tensor_as_ndarray(tensor, name):
    torch = sys.modules["torch"]
    if tensor.device.type != "cpu":
        raise BufferError(f"{name}: on device {tensor.device}, expected cpu")
    if tensor.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"{name}: requires grad, and gradients are not recorded here; "
            f"expected {name}.detach(), or the call under torch.no_grad()"
        )
    tensor = tensor.detach().resolve_neg()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(BFLOAT16)
    return tensor.numpy()
