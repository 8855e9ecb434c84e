"""Where tensors on "mps" are computed: in PyTorch's own stream, if it exports how to get at it."""

import ctypes
import functools
from pathlib import Path

import torch

from mfa._context import Context

# What torch/mps.h declares, in namespace torch::mps. The first two return what Metal and libdispatch have.
GET_COMMAND_BUFFER = "_ZN5torch3mps18get_command_bufferEv"
GET_DISPATCH_QUEUE = "_ZN5torch3mps18get_dispatch_queueEv"


@functools.cache
def context():
    """The context of all calls that are given none."""
    return Context("metal")


def libraries():
    """Those that may export what `stream` looks for: PyTorch's, and what the process has anyway."""
    folder = Path(torch.__file__).parent / "lib"
    return [*(ctypes.CDLL(path) for path in folder.glob("libtorch_cpu.*")), ctypes.CDLL(None)]


@functools.cache
def stream():
    """Addresses of dispatch_sync_f, get_dispatch_queue and get_command_buffer; None if one is missing.

    What is encoded on that queue, into that command buffer, runs in the order of PyTorch's own work; PyTorch
    commits it with the rest.
    """
    names = ("dispatch_sync_f", GET_DISPATCH_QUEUE, GET_COMMAND_BUFFER)
    addresses = tuple(address(name) for name in names)
    return None if None in addresses else addresses


def address(name):
    for library in libraries():
        try:
            return ctypes.cast(library[name], ctypes.c_void_p).value
        except AttributeError:  # which says that it is not there
            continue
    return None


def synchronize():
    """Wait for all that was asked of the device."""
    torch.mps.synchronize()
