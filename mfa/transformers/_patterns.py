"""What the functions that Transformers makes masks of come to."""

from typing import NamedTuple

from torch import Tensor
from transformers import masking_utils


class Pattern(NamedTuple):
    """Which keys a row sees, padding aside. Distances are those of positions in the sequence.

    Attributes
    ----------
    causal : bool
    left, right : int
        The furthest key that is seen on either side; -1 is unbounded.
    chunk : int
        A row sees keys of its own chunk of so many positions alone; 0 is off.
    chunk_starts : Tensor (B) or None
        Where the first chunk of each sequence begins.
    sequences : Tensor (B, N) or None
        The number of the sequence that a row, and the key beside it, belongs to. Sequences do not see each
        other.
    """

    causal: bool = False
    left: int = -1
    right: int = -1
    chunk: int = 0
    chunk_starts: Tensor | None = None
    sequences: Tensor | None = None

    def within(self, left, right):
        """This, and no further than that."""
        return self._replace(left=nearer(self.left, left), right=nearer(self.right, right))


def nearer(one, other):
    return other if one < 0 else one if other < 0 else min(one, other)


def pattern_of(mask_function):
    """The Pattern of a function of (batch, head, query, key) that Transformers made, None of any other."""
    pattern, renumbered = Pattern(), False
    pending = [mask_function]
    while pending:
        function = pending.pop()
        if function is masking_utils.causal_mask_function:
            pattern = pattern._replace(causal=True)
            continue
        if function is masking_utils.bidirectional_mask_function:
            continue
        if getattr(function, "__module__", None) != masking_utils.__name__:
            return None
        # Closures have no other identity than the place in the source that made them.
        match function.__qualname__.removesuffix(".<locals>.inner_mask"), captured(function):
            case "and_masks.<locals>.and_mask", {"mask_functions": functions}:
                pending += functions
            case "sliding_window_overlay", {"sliding_window": int(width)} if width > 0:
                pattern = pattern.within(width - 1, -1)
            case "sliding_window_bidirectional_overlay", {"sliding_window": int(width)} if width >= 0:
                pattern = pattern.within(width, width)
            case "chunked_overlay", {"chunk_size": int(size), "left_padding": Tensor() as starts} if (
                size > 0 and not pattern.chunk
            ):
                pattern = pattern._replace(chunk=size, chunk_starts=starts)
            case "packed_sequence_mask_function", {"packed_sequence_mask": Tensor() as numbers} if (
                pattern.sequences is None
            ):
                pattern = pattern._replace(sequences=numbers)
            case "remap_positions_for_packed_sequence", {"mask_function": inner}:
                pending.append(inner)
                renumbered = True
            case _:
                return None
    if renumbered and pattern.sequences is None:
        return None  # positions of one sequence are as far apart as its rows, those of several are not
    return pattern


def captured(function):
    cells = function.__closure__ or ()
    return dict(zip(function.__code__.co_freevars, (cell.cell_contents for cell in cells), strict=True))
