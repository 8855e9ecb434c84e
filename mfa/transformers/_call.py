"""What is to be asked of mfa.attention."""

from typing import Any, NamedTuple


class Call(NamedTuple):
    """What is to be asked of mfa.attention in place of a mask.

    Attributes
    ----------
    keywords : dict
    start, stop : int, int or None
        The keys that matter; None is all that there are.
    is_packed : bool
        Whether the batch is one axis with the rows.
    """

    keywords: dict[str, Any]
    start: int = 0
    stop: int | None = None
    is_packed: bool = False


def packed_call(pattern, starts, key_starts):
    """The Call for sequences that begin at `starts` and end where the next one begins."""
    keywords = {
        "cu_seqlens_q": starts,
        "cu_seqlens_k": key_starts,
        "causal": "bottom-right" if pattern.causal else None,
        "alignment": "bottom-right",
        "window": (pattern.left, -1 if pattern.causal else pattern.right),
        "attention_chunk": pattern.chunk,
    }
    return Call(keywords, is_packed=True)
