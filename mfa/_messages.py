"""What error messages say of values and exceptions that callers made: one short line, whatever they are."""

import difflib
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


def unexpected_keyword(function, name, known, others=None):
    """The message about a keyword that a function does not have, and what the caller may have meant.

    `known` are those that it has; `others` says what stands there for names that other libraries have.
    """
    message = f"{function}() got an unexpected keyword argument {shown(name)}"
    expected = (others or {}).get(name) or next(iter(difflib.get_close_matches(name, known, 1)), None)
    return f"{message}, expected {expected}" if expected else message
