"""mfa for Hugging Face Transformers: after ``import mfa.transformers``, ``attn_implementation="mfa"``.

The import registers `attention` and `attention_mask` under that name, for models that are loaded, made or
switched over (``model.set_attn_implementation("mfa")``) from then on.
"""

from transformers import AttentionInterface, AttentionMaskInterface

from mfa.transformers._attention import attention
from mfa.transformers._mask import attention_mask
from mfa.transformers._replace import Replacement, continuous_batching, replace_sdpa

__all__ = ["Replacement", "attention", "attention_mask", "continuous_batching", "replace_sdpa"]

AttentionInterface.register("mfa", attention)
AttentionMaskInterface.register("mfa", attention_mask)
