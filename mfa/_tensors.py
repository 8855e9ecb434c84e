"""torch tensors, without importing torch."""

import sys

import numpy

from mfa._messages import because, shown


def loaded_torch():
    """The torch module if somebody imported it, else None: a tensor cannot exist without it."""
    torch = sys.modules.get("torch")
    return torch if hasattr(torch, "Tensor") else None


def is_tensor(array):
    torch = loaded_torch()
    return torch is not None and isinstance(array, torch.Tensor)


def new_array(like, shape, dtype):
    """Uninitialised memory: a tensor if `like` is one, else an ndarray."""
    try:
        # Most are NumPy's, and this is faster than asking whether they are torch's.
        if type(like) is numpy.ndarray or not is_tensor(like):
            return numpy.empty(shape, dtype)
        torch = sys.modules["torch"]
        return torch.empty(shape, dtype=getattr(torch, dtype.name), device="cpu")
    except (ValueError, RuntimeError) as error:
        raise MemoryError(f"a result of shape {shown(shape)}: {because(error)}") from error


def plain_tensor(tensor, name):
    """`tensor` without its history; refused if it has no memory, or if a derivative would be lost."""
    torch = sys.modules["torch"]
    if (
        torch._is_functional_tensor(tensor)
        or torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        or isinstance(tensor, _fake_types())
        or _is_recording(torch)
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


def _is_recording(torch):
    """Whether torch makes a program of what this thread does, in which a call of ours would be missing."""
    if torch._C._get_tracing_state() is not None:
        return True
    if torch._C._len_torch_dispatch_stack() == 0 and torch._ops._len_torch_dispatch_stack_pre_dispatch() == 0:
        return False
    keys = torch._C._TorchDispatchModeKey
    modes = [torch._C._get_dispatch_mode(key) for key in (keys.FAKE, keys.FUNCTIONAL, keys.PROXY)]
    early = [torch._ops._get_dispatch_mode_pre_dispatch(key) for key in (keys.FUNCTIONAL, keys.PROXY)]
    return any(mode is not None for mode in modes + early)
