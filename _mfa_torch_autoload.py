"""What `import torch` calls where mfa is installed, by the entry point in pyproject.toml.

Outside of mfa, so that torch neither waits for mfa nor fails where that cannot be imported.
"""

import logging
import os

VARIABLE = "MFA_TORCH_REPLACE_SDPA"


def autoload():
    """Offer "mfa" to activate_flash_attention_impl and, where VARIABLE is "1", have mfa replace SDPA."""
    try:
        from torch.nn.attention import register_flash_attention_impl

        register_flash_attention_impl("mfa", register_fn=activate)
        value = os.environ.get(VARIABLE, "0")
        if value not in ("0", "1"):
            raise ValueError(f"{VARIABLE}: {value!r}, expected '0' or '1'")
        if value == "1":
            from mfa.torch._replace import replace_sdpa

            replace_sdpa()
    except Exception:  # an exception here would be one of `import torch`
        logging.getLogger("mfa").exception("PyTorch goes on without mfa")


def activate():
    from mfa.torch._activate import Activation

    return Activation()
