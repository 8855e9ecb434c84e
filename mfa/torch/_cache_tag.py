"""What keeps the compiler's caches on disk apart between processes with mfa's override and those without.

Their keys are made of graphs as they are before dispatch, in which an override is not to be seen.
"""

import contextvars

from torch.compiler import config

from mfa import __version__

TAG = f"mfa-{__version__}"


def tag_caches(own=TAG):
    """Add the tag to what is there, for all threads."""
    _change(lambda tag: tag if own in tag.split() else f"{tag} {own}".lstrip())


def untag_caches(own=TAG):
    """Take the tag away, and leave what is there besides."""
    _change(lambda tag: " ".join(part for part in tag.split(" ") if part != own))


def _change(changed):
    # Assignments to config reach this thread alone. What all have that assigned nothing is seen from an empty
    # context, and kept where a variable of the environment would be.
    common = contextvars.Context().run(getattr, config, "cache_key_tag")
    config._config["cache_key_tag"].env_value_default = changed(common)
    own = config.cache_key_tag
    if own != changed(own):
        config.cache_key_tag = changed(own)
