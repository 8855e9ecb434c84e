"""Quantised attention of tensors on a GPU, in copies: codes are made by the CPU, of what is in its memory."""

import torch

from mfa._sdpa import NAMES


def attend_copies(attend, query, key, value, keywords, **options):
    """What `attend` makes of copies in the CPU's memory, where query is. Autograd records the copying."""
    device = query.device
    arrays = {"query": query, "key": key, "value": value} | keywords
    copies = {name: copied(array, NAMES.get(name, name), device) for name, array in arrays.items()}
    query, key, value = (copies.pop(name) for name in ("query", "key", "value"))
    return attend(query, key, value, copies, **options).to(device)


def copied(array, name, device):
    if not isinstance(array, torch.Tensor):
        return array
    if array.device != device:
        raise BufferError(f"{name}: on device {array.device}, expected {device} as query")
    return array.cpu()
