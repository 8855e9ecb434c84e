"""Block masks that many models have.

Each function returns an `mfa.BlockMask` for ``attention(block_mask=...)`` and `flex_attention`, for any batch
and any number of heads unless it says otherwise. Rows and keys count from the first ones, as in
FlexAttention; there are as many of the one as of the other.
"""

from mfa._patterns import (
    bigbird,
    causal,
    dilated,
    documents,
    longformer,
    prefix_lm,
    sliding_window,
    strided,
)

__all__ = [
    "bigbird",
    "causal",
    "dilated",
    "documents",
    "longformer",
    "prefix_lm",
    "sliding_window",
    "strided",
]
