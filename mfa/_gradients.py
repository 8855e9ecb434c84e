"""What a backward call returns."""

from typing import Any, NamedTuple


class Gradients(NamedTuple):
    """Gradients of one attention call; None for those that are not wanted or do not exist.

    Attributes
    ----------
    dq, dk, dv
        Of query, key and value.
    dbias
        Of `bias`, or of a floating `mask`.
    dsinks
        Of `sinks`.
    """

    dq: Any
    dk: Any
    dv: Any
    dbias: Any
    dsinks: Any
