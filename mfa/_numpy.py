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
        refuse_masked(array, name)
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


def empty_like_kind(like, shape, dtype):
    """Uninitialised memory: a tensor if `like` is one, else an ndarray."""
    if is_tensor(like):
        torch = sys.modules["torch"]
        return torch.empty(shape, dtype=getattr(torch, dtype.name), device="cpu")
    return numpy.empty(shape, dtype)


def refuse_masked(array, name):
    if isinstance(array, numpy.ma.MaskedArray):
        raise TypeError(f"{name}: is a masked array, whose mask would be ignored; expected a plain array")


def plain_tensor(tensor, name):
    """`tensor` without its history; refused if it has no memory, or if a derivative would be lost."""
    torch = sys.modules["torch"]
    if (
        torch._is_functional_tensor(tensor)
        or torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        or isinstance(tensor, _fake_types())
    ):
        raise TypeError(
            f"{name}: a tensor that torch is tracing or transforming has no memory; expected a plain tensor"
        )
    if tensor.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"{name}: requires grad, and gradients are not recorded here; "
            f"expected {name}.detach(), or the call under torch.no_grad()"
        )
    forward_ad = torch.autograd.forward_ad
    # Outside every dual level no tensor has a tangent, and asking is slow.
    if forward_ad._current_level >= 0 and forward_ad.unpack_dual(tensor).tangent is not None:
        raise ValueError(
            f"{name}: has a tangent, and forward-mode gradients are not computed here; "
            f"expected {name}.detach()"
        )
    return tensor.detach() if tensor.requires_grad else tensor


def _fake_types():
    """Tensor types without memory, as far as their modules are loaded: no instance exists before that."""
    fake = sys.modules.get("torch._subclasses.fake_tensor")
    functional = sys.modules.get("torch._subclasses.functional_tensor")
    types = ((fake, "FakeTensor"), (functional, "FunctionalTensor"))
    return tuple(getattr(module, name) for module, name in types if hasattr(module, name))


def _tensor_as_ndarray(tensor, name):
    torch = sys.modules["torch"]
    if tensor.device.type != "cpu":
        raise BufferError(f"{name}: on device {tensor.device}, expected cpu")
    tensor = plain_tensor(tensor, name)
    if tensor.is_neg():
        tensor = tensor.resolve_neg()
    try:
        if tensor.dtype == torch.bfloat16:
            return tensor.view(torch.uint16).numpy().view(BFLOAT16)
        return tensor.numpy()
    except (TypeError, RuntimeError) as error:
        raise TypeError(f"{name}: {error}") from error
