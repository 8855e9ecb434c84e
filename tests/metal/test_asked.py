"""The emulated Metal device is asked all that every backend is asked."""

import sys

from support.emulated import asked_of_metal, collected


def test_nothing_is_left_out(library):
    """But for what markers leave out, tests/attention and tests/python, and from other folders nothing."""
    folders = ("tests/attention", "tests/python")
    of_every_backend = collected(sys.executable, "-m", "pytest", "-m", "not cpu and not hardware", *folders)
    assert asked_of_metal() == of_every_backend
