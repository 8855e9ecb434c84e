"""mfa.flash_attn by the name that third-party code imports."""

import importlib
import importlib.util
import sys

NAME = "flash_attn"
HERE = __package__
SUBMODULES = ("flash_attn_interface", "bert_padding", "layers", "layers.rotary")


def install() -> bool:
    """Let ``import flash_attn`` find this package, where there is no FlashAttention.

    Call it before what imports ``flash_attn``, model code that is loaded with ``trust_remote_code=True`` for
    instance. The package and its submodules, and no others, are entered into ``sys.modules`` of this process.
    Libraries that look for FlashAttention by the name of its distribution, as Transformers and Diffusers do
    before they call its CUDA kernels, still do not find it.

    Returns
    -------
    bool
        Whether ``import flash_attn`` is this package now. False if another one is there, installed or already
        imported, which is left alone.

    Examples
    --------
    >>> import mfa.flash_attn
    >>> mfa.flash_attn.install()
    True
    >>> from flash_attn import flash_attn_func
    """
    ours = importlib.import_module(HERE)
    present = sys.modules.get(NAME)
    if present is not None:
        if present is not ours:
            return False
    elif importlib.util.find_spec(NAME) is not None:
        return False
    modules = {f"{NAME}.{name}": importlib.import_module(f"{HERE}.{name}") for name in SUBMODULES}
    sys.modules |= {NAME: ours} | modules
    return True
