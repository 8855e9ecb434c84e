"""What is to be known of the models that masks are for, of which only the configuration is at hand."""

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
    """Whether models with such a configuration compute attention themselves, with a warning once.

    Transformers asks that of models that exist, in `set_attn_implementation`, and of none that is being made.
    """
    return look_for_own_attention(config_type)


@torch.compiler.assume_constant_result
def is_for_eager_masks(config_type):
    """Whether Transformers runs such models with eager attention alone, which always has a floating mask.

    They need not say right whether no mask is causal, and may use the mask for more than attention.
    """
    return look_for_other_masks(config_type)


@functools.cache  # torch's compiler would look behind it
def look_for_own_attention(config_type):
    for model in models_of(config_type):
        if computes_itself(sys.modules.get(model.__module__)):
            warnings.warn(
                f'{model.__name__} computes attention itself: attn_implementation="mfa" is "eager" to it, '
                "and mfa is never called (said once)",
                stacklevel=3,
            )
            return True
    return False


@functools.cache
def look_for_other_masks(config_type):
    models = models_of(config_type)
    return not all(model._supports_sdpa or model._supports_flash_attn for model in models)


def models_of(config_type):
    return [model for model in descendants(PreTrainedModel) if model.config_class is config_type]


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
