"""torch tensors, without importing torch."""

import sys
from functools import partial

import numpy

from mfa._messages import because, kind, shown
from mfa._producers import MAX_VERSION


def is_tensor(array):
    """Whether it is one; none exists before somebody imported torch."""
    torch = sys.modules.get("torch")
    return hasattr(torch, "Tensor") and isinstance(array, torch.Tensor)


def is_torch_there():
    """Whether somebody imported it, all of it."""
    return hasattr(sys.modules.get("torch"), "Tensor")


def is_compiled():
    """Whether torch.compile reads the caller, which it can do with Python alone."""
    torch = sys.modules.get("torch")
    return hasattr(torch, "Tensor") and torch.compiler.is_dynamo_compiling()


def is_traced(query, key, value, keywords):
    """Whether torch makes a program of a call or transforms it, `query` being a tensor."""
    torch = sys.modules.get("torch")
    if not hasattr(torch, "Tensor") or not isinstance(query, torch.Tensor):
        return False
    if torch._C._are_functorch_transforms_active() or _is_recording(torch):
        return True
    # No inner function: where memory runs out, Python 3.11 loses arguments of one whose variables it uses.
    return any(map(partial(has_no_memory, torch), (query, key, value, *keywords.values())))


def is_cast(query):
    """Whether torch.autocast says of which dtype a call is."""
    torch = sys.modules.get("torch")
    if not hasattr(torch, "Tensor") or not torch._C._is_any_autocast_enabled():
        return False
    return isinstance(query, torch.Tensor) and torch.is_autocast_enabled(query.device.type)


def is_recorded(query, key, value, keywords):
    """Whether a call is autograd's business, `query` being a tensor."""
    torch = sys.modules.get("torch")
    if not hasattr(torch, "Tensor") or not isinstance(query, torch.Tensor) or not torch.is_grad_enabled():
        return False
    operands = (query, key, value, *keywords.values())
    with torch._C.DisableTorchFunctionSubclass():
        return any(isinstance(operand, torch.Tensor) and operand.requires_grad for operand in operands)


def new_array(like, shape, dtype, heads_inside=False):
    """Uninitialised memory: a tensor if `like` is one, else an ndarray.

    `heads_inside` has the last but two of a tensor's axes lie inside the last but one, as models want it that
    merge heads next.
    """
    try:
        # Most are NumPy's, and this is faster than asking whether they are torch's.
        if type(like) is numpy.ndarray or not is_tensor(like):
            return numpy.empty(shape, dtype)
        torch = sys.modules["torch"]
        dtype, device = getattr(torch, dtype.name), _device_of_results(torch, like)
        if heads_inside and len(shape) > 2:
            *batch, heads, rows, dim = shape
            return torch.empty((*batch, rows, heads, dim), dtype=dtype, device=device).transpose(-3, -2)
        return torch.empty(shape, dtype=dtype, device=device)
    except (ValueError, RuntimeError) as error:
        raise MemoryError(f"a result of shape {shown(shape)}: {because(error)}") from error


def _device_of_results(torch, like):
    with torch._C.DisableTorchFunctionSubclass():
        return like.device if like.is_mps else "cpu"


def rank(tensor):
    torch = sys.modules["torch"]
    if type(tensor) is torch.Tensor:
        return tensor.ndim
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.ndim


def without_classes(function, *arguments):
    """What it returns where subclasses of tensors have no say in torch's functions."""
    if not is_torch_there():
        return function(*arguments)
    with sys.modules["torch"]._C.DisableTorchFunctionSubclass():
        return function(*arguments)


def note_write(out):
    """Let autograd know that a tensor changed, so that a backward that saved it fails rather than lies."""
    if not is_tensor(out):
        return
    torch = sys.modules["torch"]
    with torch._C.DisableTorchFunctionSubclass():
        if not out.is_inference():
            torch.autograd.graph.increment_version(out)


def require_plain(tensor, name, in_place=False, takes_mps=False):
    """Refuse a tensor that has no memory, or not as it is, or of which a derivative would be lost."""
    torch = sys.modules["torch"]
    if not tensor.is_cpu and not (takes_mps and tensor.is_mps):
        expected = "cpu or mps" if takes_mps else "cpu"
        raise BufferError(f"{name}: on device {tensor.device}, expected {expected}")
    if has_no_memory(torch, tensor) or _is_recording(torch):
        raise TypeError(
            f"{name}: a tensor that torch is tracing or transforming has no memory; expected a plain tensor"
        )
    if _is_wrapper(torch, tensor):
        raise BufferError(f"{name}: {kind(tensor)}, whose numbers are elsewhere; expected a plain tensor")
    if tensor.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"{name}: requires grad, and gradients are not recorded here; "
            f"expected {name}.detach(), or the call under torch.no_grad()"
        )
    # Outside every dual level no tensor has a tangent, and asking is slow.
    if torch.autograd.forward_ad._current_level >= 0:
        require_no_tangent(tensor, name)
    if in_place and tensor.is_conj():
        raise BufferError(f"{name}: has its conjugate bit set, expected plain memory")
    if in_place and tensor.is_neg():
        raise BufferError(f"{name}: has its negative bit set, expected plain memory")


def require_no_tangent(tensor, name):
    """Refuse a tensor of which forward-mode autograd would have a gradient."""
    if sys.modules["torch"].autograd.forward_ad.unpack_dual(tensor).tangent is not None:
        raise ValueError(
            f"{name}: has a tangent, and forward-mode gradients are not computed here; "
            f"expected {name}.detach()"
        )


def capsule_of(tensor, name, in_place, takes_mps):
    """A DLPack capsule over the memory of `tensor`."""
    torch = sys.modules["torch"]
    if type(tensor) is not torch.Tensor:
        # What a subclass makes of torch's functions does not matter: its memory does.
        with torch._C.DisableTorchFunctionSubclass():
            return _capsule(torch, tensor, name, in_place, takes_mps)
    return _capsule(torch, tensor, name, in_place, takes_mps)


def _capsule(torch, tensor, name, in_place, takes_mps):
    require_plain(tensor, name, in_place, takes_mps)
    try:
        if tensor.is_neg():
            tensor = tensor.resolve_neg()
        if tensor.is_mps:  # for one call
            tensor = tensor.detach() if tensor.requires_grad else tensor
            return tensor.__dlpack__(max_version=MAX_VERSION)
        # Another tensor than the caller's, which may be given other memory. And the garbage collector sees
        # nothing of what a capsule keeps: not the one, then, that may have attributes.
        return torch.utils.dlpack.to_dlpack(tensor.detach())
    except MemoryError:
        raise
    except Exception as error:
        raise BufferError(f"{name}: {because(error)}") from error


def has_no_memory(torch, operand):
    """Whether it is a tensor that only stands for one."""
    if not isinstance(operand, torch.Tensor):
        return False
    return (
        torch._is_functional_tensor(operand)
        or torch._C._functorch.is_functorch_wrapped_tensor(operand)
        or (type(operand) is not torch.Tensor and isinstance(operand, _fake_types()))
    )


def _is_wrapper(torch, tensor):
    """Whether its class has it stand for others. Where it lies in memory is then a number from nowhere."""
    if type(tensor).__torch_dispatch__ is torch.Tensor.__torch_dispatch__:
        return False
    try:
        tensor.untyped_storage().data_ptr()
    except RuntimeError:
        return True
    return False


def _fake_types():
    """Tensor types without memory, as far as their modules are loaded: no instance exists before that."""
    fake = sys.modules.get("torch._subclasses.fake_tensor")
    functional = sys.modules.get("torch._subclasses.functional_tensor")
    types = ((fake, "FakeTensor"), (functional, "FunctionalTensor"))
    return tuple(getattr(module, name) for module, name in types if hasattr(module, name))


def _is_recording(torch):
    """Whether torch makes a program of what this thread does, in which a call of ours would be missing."""
    if torch._C._get_tracing_state() is not None:
        return True
    early = torch._C._dispatch_tls_is_dispatch_key_included(torch._C.DispatchKey.PreDispatch)
    if not early and torch._C._len_torch_dispatch_stack() == 0:
        return False
    keys = torch._C._TorchDispatchModeKey
    modes = [torch._C._get_dispatch_mode(key) for key in (keys.FAKE, keys.FUNCTIONAL, keys.PROXY)]
    return early or any(mode is not None for mode in modes)
