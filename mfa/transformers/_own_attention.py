"""Models that compute attention themselves, to which the name of an implementation says nothing."""

import functools
import inspect
import re
import sys
import warnings

import torch
from transformers import PreTrainedModel

ATTENTION = re.compile(r"^class \w*Attention\w*\((nn|torch\.nn)\.Module\):", re.MULTILINE)
INTERFACE = "ALL_ATTENTION_FUNCTIONS"


@torch.compiler.assume_constant_result
def has_own_attention(config_type):
    """Whether a model with such a configuration does, of which there is a warning once.

    Transformers asks that of models that exist, in `set_attn_implementation`, and of none that is being made.
    """
    return look_for_own_attention(config_type)


@functools.cache  # torch's compiler would look behind it
def look_for_own_attention(config_type):
    for model in descendants(PreTrainedModel):
        if model.config_class is config_type and computes_itself(sys.modules.get(model.__module__)):
            warnings.warn(
                f'{model.__name__} computes attention itself: attn_implementation="mfa" is "eager" to it, '
                "and mfa is never called (said once)",
                stacklevel=3,
            )
            return True
    return False


def descendants(kind):
    for child in kind.__subclasses__():
        yield child
        yield from descendants(child)


def computes_itself(module):
    try:
        source = inspect.getsource(module)
    except (OSError, TypeError):  # as of what a notebook defines
        return False
    return ATTENTION.search(source) is not None and INTERFACE not in source
