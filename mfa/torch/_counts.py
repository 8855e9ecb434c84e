"""How many calls of PyTorch's own functions ran in mfa, how many did not, and why."""

import threading
from collections import Counter
from typing import NamedTuple

# Reasons may name sizes, of which there is no end.
MOST_REASONS = 64
OTHER_REASONS = "other reasons"


class SdpaCounts(NamedTuple):
    """Calls of PyTorch's functions, by who ran them.

    Attributes
    ----------
    mfa : int
        Calls that mfa ran, or that were traced into its operators.
    torch : int
        Calls that were handed back to PyTorch.
    reasons : dict of str to int
        Why, each with how many of `torch` it stands for.
    """

    mfa: int
    torch: int
    reasons: dict[str, int]


class Tally:
    """Counts that only grow, from any number of threads."""

    def __init__(self):
        self._lock = threading.Lock()
        self._mfa = 0
        self._reasons = Counter()

    def add_mfa(self):
        with self._lock:
            self._mfa += 1

    def add_torch(self, reason):
        """Count a call that PyTorch ran; whether `reason` is new."""
        with self._lock:
            if reason not in self._reasons and len(self._reasons) >= MOST_REASONS:
                reason = OTHER_REASONS
            self._reasons[reason] += 1
            return self._reasons[reason] == 1

    def total(self):
        with self._lock:
            return SdpaCounts(self._mfa, sum(self._reasons.values()), dict(self._reasons))


def between(start, end):
    """What was counted after `start` and up to `end`."""
    reasons = {reason: count - start.reasons.get(reason, 0) for reason, count in end.reasons.items()}
    reasons = {reason: count for reason, count in reasons.items() if count}
    return SdpaCounts(end.mfa - start.mfa, end.torch - start.torch, reasons)


TALLY = Tally()


def sdpa_counts() -> SdpaCounts:
    """Who ran the calls of PyTorch's functions that this process handed to mfa.

    Counted are calls of ``scaled_dot_product_attention`` while `replace_sdpa` is in effect, and of the
    operators that ``torch.nn.attention.activate_flash_attention_impl("mfa")`` has mfa run. Of a compiled
    function the former count when it is traced, not when it runs. `replace_sdpa` returns an object that
    counts from there on.

    Returns
    -------
    SdpaCounts
        Since the process began.

    Notes
    -----
    May be called from any number of threads.
    """
    return TALLY.total()
