"""Masks that say what they hide instead of listing it."""

import torch
from torch.utils._pytree import tree_map

from mfa._messages import shown

COPIES = (
    torch.ops.aten.detach.default,
    torch.ops.aten.alias.default,
    torch.ops.aten.clone.default,
)


class LazyMask(torch.Tensor):
    """A mask (B, 1, N, S) of bool that has no memory; whatever computes with it gets what it stands for.

    Attributes
    ----------
    visible : mfa.transformers._visible.Visible
    """

    # What operations return is plain.
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, visible):
        mask = torch.Tensor._make_wrapper_subclass(
            cls, visible.shape, dtype=torch.bool, device=visible.device
        )
        mask.visible = visible
        mask._dense = None
        mask._is_shared = False
        return mask

    def __repr__(self):
        return f"{type(self).__name__}({shown(tuple(self.shape))}, {self.visible.pattern})"

    def dense(self):
        """The mask in memory, of which there is one."""
        if self._dense is None:
            self._dense = self.visible.dense()
        return self._dense

    @classmethod
    def __torch_dispatch__(cls, operator, types, arguments=(), keywords=None):
        if operator in COPIES and recipe_of(arguments[0]) is not None:
            return cls(arguments[0].visible)
        gives_away = any(argument.alias_info is not None for argument in operator._schema.arguments)

        def plain(argument):
            if not isinstance(argument, cls):
                return argument
            # Who writes to a part of it later is not seen.
            argument._is_shared |= gives_away
            return argument.dense()

        return operator(*tree_map(plain, arguments), **tree_map(plain, keywords or {}))


def with_recipe(visible):
    """The mask in memory, which says besides what it hides as long as nobody writes to it."""
    with torch.inference_mode(False):  # whose tensors do not know what is written to them
        mask = visible.dense()
    mask._mfa_recipe = (visible, mask._version)
    return mask


def recipe_of(mask):
    """The Visible that a mask was made of, None of other ones and of those that may have been changed."""
    if type(mask) is LazyMask:
        return None if mask._is_shared else mask.visible
    visible, version = getattr(mask, "_mfa_recipe", (None, None))
    return visible if visible is not None and mask._version == version else None
