"""mfa as a backend of Diffusers' attention dispatcher.

>>> import mfa.diffusers
>>> model.set_attention_backend("mfa")  # or: with diffusers.attention_backend("mfa"): ...

Importing this registers the backend; nothing changes until one of these lines names it. Gradients,
``torch.compile`` and context parallelism work as with Diffusers' own backends. ``reset_attention_backend`` of
a model leaves the backend as every model's default, as it does with any: Diffusers keeps that beside the
models'.

U-Nets as those of Stable Diffusion 1.5 and XL never ask the dispatcher: `mfa.torch.replace_sdpa` has mfa run
their attention.
"""

from mfa.diffusers._backend import BACKEND

__all__ = ["BACKEND"]
