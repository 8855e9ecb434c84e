"""Sparsity patterns by name: each stands for other keywords of mfa.attention."""

from dataclasses import dataclass, field
from typing import Any

import numpy

from mfa import _keywords
from mfa._block_lists import BlockLists, block_size_of, with_four_axes
from mfa._block_mask import known_block_mask
from mfa._memory import as_ndarray
from mfa._messages import brief, shown

# What a pattern may stand for, with what the call must have left it at.
UNSET = {"causal": None, "window": (-1, -1), "block_mask": None}


@dataclass(frozen=True, slots=True)
class SparsityPattern:
    """Which scores count, for ``mfa.attention(sparsity=...)``.

    Made by `none`, `causal`, `sliding_window` and `custom`; `mfa.patterns` makes block masks of many more.
    """

    name: str
    keywords: dict = field(default_factory=dict, repr=False)

    @classmethod
    def none(cls) -> "SparsityPattern":
        """All of them."""
        return cls("none")

    @classmethod
    def causal(cls) -> "SparsityPattern":
        """No key after the row's own; aligned as `alignment` says, bottom-right by default."""
        return cls("causal", {"causal": True})

    @classmethod
    def sliding_window(cls, window_size: int) -> "SparsityPattern":
        """The last `window_size` keys, the row's own included."""
        window_size = _keywords.integer(window_size, "window_size")
        if window_size < 1:
            raise ValueError(f"window_size: {window_size}, expected 1 or more")
        return cls("sliding_window", {"window": (window_size - 1, 0)})

    @classmethod
    def custom(cls, block_mask: Any, block_size: Any = None) -> "SparsityPattern":
        """The scores of some blocks.

        Parameters
        ----------
        block_mask : array of bool, or BlockMask
            True where a block counts: (rows of blocks, columns of blocks), with axes for heads and batches
            before these, of which any may be 1.
        block_size : int or (int, int)
            Queries and keys of a block; None for a BlockMask, which has its own.
        """
        if block_size is None:
            return cls("custom", {"block_mask": known_block_mask(block_mask)})
        blocks = as_ndarray(block_mask, "block_mask")
        if blocks.dtype != numpy.bool_:
            raise TypeError(f"block_mask: dtype {brief(str(blocks.dtype))}, expected bool")
        if not 2 <= blocks.ndim <= 4:
            raise ValueError(f"block_mask: {blocks.ndim} dimensions, expected 2 to 4")
        lists = BlockLists(block_size_of(block_size, "block_size"), block_mask=with_four_axes(blocks, 4))
        return cls("custom", {"block_mask": lists})


def with_sparsity(keywords):
    """`keywords` of a call, with those that its `sparsity` stands for."""
    sparsity = keywords["sparsity"]
    if not isinstance(sparsity, SparsityPattern):
        raise TypeError(f"sparsity: {shown(sparsity)}, expected an mfa.SparsityPattern")
    meant = dict(sparsity.keywords)
    for name in meant:
        given = keywords[name]
        if not (given is False or given is UNSET[name] or given == UNSET[name]):
            raise ValueError(f"sparsity: {sparsity.name} beside {name}, expected one of them")
    if "causal" in meant:
        meant["causal"] = keywords["alignment"] or "bottom-right"
    return keywords | meant
