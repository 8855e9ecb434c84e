"""mfa for Hugging Face Transformers: after ``import mfa.transformers``, ``attn_implementation="mfa"``.

The import registers `attention` and `attention_mask` under that name, for models that are loaded, made or
switched over (``model.set_attn_implementation("mfa")``) from then on.
"""

from transformers import AttentionInterface, AttentionMaskInterface

from mfa.transformers._attention import attention
from mfa.transformers._mask import attention_mask

__all__ = ["attention", "attention_mask"]

AttentionInterface.register("mfa", attention)
AttentionMaskInterface.register("mfa", attention_mask)
