"""What error messages say of values and exceptions that callers made: one short line, whatever they are."""

import reprlib

LONGEST = 160

_shortening = reprlib.Repr()
_shortening.maxstring = _shortening.maxlong = _shortening.maxother = 60
_shortening.maxtuple = 32  # whole shapes


def shown(value):
    """repr() of `value`, or its type if that fails."""
    try:
        return brief(_shortening.repr(value))
    except MemoryError:
        raise
    except Exception:
        return f"<{kind(value)}>"


def kind(value):
    """The name of the type of `value`."""
    return brief(type(value).__name__)


def because(error):
    """What `error` says, or its type if it cannot say it."""
    try:
        return brief(str(error)) or kind(error)
    except MemoryError:
        raise
    except Exception:
        return kind(error)


def brief(text):
    line = " ".join(text.split()).encode("utf-8", "backslashreplace").decode()
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."
