"""torch.nn.functional.scaled_dot_product_attention run by mfa: an override in PyTorch's dispatcher."""

import threading
import warnings
from collections import Counter

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor

from mfa._sdpa import scaled_dot_product_attention
from mfa.errors import MFAError
from mfa.torch._aten_kernels import Kernels
from mfa.torch._cache_tag import tag_caches, untag_caches
from mfa.torch._counts import TALLY, SdpaCounts, between

NAME = "scaled_dot_product_attention"
DEVICES = ("CPU", "MPS")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
PLAIN_TYPES = (torch.Tensor, torch.nn.Parameter, type(None))
TRACED_TYPES = (FakeTensor, FunctionalTensor)
RECORDING = torch._C._TorchDispatchModeKey.PROXY
UNSUPPORTED = 6
CHOICE = "sdpa_kernel or enable_flash_sdp excludes flash attention"
# What the override stands before; calling the function itself there would not end.
RUN_BY_TORCH = getattr(torch.ops.aten, NAME).default.decompose


class Replacement:
    """What `replace_sdpa` returns, in effect until `remove` or the end of its with statement.

    Attributes
    ----------
    strict : bool
        Whether a call that mfa cannot run is an error.
    counts : SdpaCounts
        Who ran the calls while this was in effect, as `mfa.torch.sdpa_counts` counts them.
    """

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        with _lock:
            if not _in_effect:
                override(*DEVICES)
            _in_effect.append(self)
        self._start = TALLY.total()
        self._end: SdpaCounts | None = None

    @property
    def counts(self) -> SdpaCounts:
        return between(self._start, self._end or TALLY.total())

    def remove(self) -> None:
        """Undo this `replace_sdpa`. The last one that is removed gives the function back to PyTorch."""
        with _lock:
            if self._end is None:
                self._end = TALLY.total()
                _in_effect.remove(self)
                if not _in_effect:
                    restore(*DEVICES)

    def __enter__(self) -> "Replacement":
        if self._end is not None:
            raise RuntimeError("replace_sdpa: removed already, expected replace_sdpa() anew")
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


def replace_sdpa(*, strict: bool = False) -> Replacement:
    """Have mfa run every ``torch.nn.functional.scaled_dot_product_attention`` of this process.

    In effect from the call on, whoever calls the function by whatever name: models, ``nn.MultiheadAttention``
    (but in eval mode, where its fast path calls something else unless
    ``torch.backends.mha.set_fastpath_enabled(False)``), compiled functions. It is an override in PyTorch's
    dispatcher for tensors on CPU and MPS. As a context manager it ends with the with statement:

    >>> import mfa.torch, torch, torch.nn.functional as F
    >>> query = torch.randn(1, 2, 4, 8)
    >>> with mfa.torch.replace_sdpa() as replaced:
    ...     out = F.scaled_dot_product_attention(query, query, query)
    >>> replaced.counts
    SdpaCounts(mfa=1, torch=0, reasons={})

    PyTorch runs a call itself if mfa cannot: float64, dropout_p of 1, under transforms of ``torch.func``,
    subclasses of Tensor that have a ``__torch_dispatch__``, and what `mfa.scaled_dot_product_attention`
    refuses. Such calls are counted, with the reason, and each reason is a warning once. PyTorch also runs
    what ``torch.nn.attention.sdpa_kernel`` says that flash attention shall not, without a warning.

    Parameters
    ----------
    strict : bool, default False
        A call that mfa cannot run is an error instead; one that ``sdpa_kernel`` keeps from it is not. The
        innermost `replace_sdpa` decides.

    Returns
    -------
    Replacement
        A context manager with ``counts`` and ``remove()``.

    Raises
    ------
    RuntimeError
        From the function itself, not from here: `strict`, and mfa cannot run the call.

    Notes
    -----
    May be called from any number of threads, and is in effect in all. Dropout drops other weights than
    PyTorch would. A function that was compiled keeps what it was traced with, before and after, until
    ``torch._dynamo.reset()``. Caches of compiled code on disk are kept apart by an addition to
    ``torch.compiler.config.cache_key_tag``, which must stay there while this is in effect.
    """
    return Replacement(strict)


_lock = threading.RLock()
_in_effect: list[Replacement] = []
_overrides: dict[str, Kernels] = {}
_users: Counter[str] = Counter()
_run = scaled_dot_product_attention


def override(*devices):
    """Have the dispatcher call mfa for tensors on `devices`, until as many calls of `restore`."""
    with _lock:
        for device in devices:
            if not _users[device]:
                _overrides[device] = Kernels(
                    {(NAME, f"Autograd{device}"): _above_autograd, (NAME, device): _below_autograd}
                )
            _users[device] += 1
        _tag()


def restore(*devices):
    with _lock:
        for device in devices:
            _users[device] -= 1
            if not _users[device]:
                _overrides.pop(device).remove()
        _tag()


def _tag():
    """Tag the caches while what is compiled might be for an overridden device."""
    if "CPU" in _overrides or ("MPS" in _overrides and torch.backends.mps.is_built()):
        tag_caches()
    else:
        untag_caches()


def run_by(function):
    """Have `function` run what mfa is to run; it takes what `mfa.scaled_dot_product_attention` does."""
    global _run
    _run = function


def _above_autograd(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, *, scale=None, enable_gqa=False
):
    operands = query, key, value, attn_mask
    refusal = None
    reason = _reason_against(operands, dropout_p)
    if reason is None:
        try:
            result = _run(*operands, dropout_p, is_causal, scale, enable_gqa)
        except (TypeError, ValueError, BufferError, MFAError) as error:
            if isinstance(error, MFAError) and error.code != UNSUPPORTED:
                raise
            reason, refusal = str(error), error
        else:
            if _is_counted(query):
                TALLY.add_mfa()
            return result
    # A slice of one, if any, as another thread may remove the last in between.
    if reason is not CHOICE and any(replacement.strict for replacement in _in_effect[-1:]):
        raise RuntimeError(f"{NAME}: mfa cannot run it, and replace_sdpa is strict: {reason}") from refusal
    if _is_counted(query) and TALLY.add_torch(reason) and reason is not CHOICE:
        warnings.warn(f"PyTorch runs {NAME} in place of mfa: {reason} (said once)", stacklevel=2)
    return RUN_BY_TORCH(*operands, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)


def _below_autograd(*arguments, **keywords):
    # Where autograd has been passed by, tensors may require grad still, and grad mode be on.
    with torch.no_grad():
        return _above_autograd(*arguments, **keywords)


def _reason_against(operands, dropout_p):
    """Why PyTorch is to run a call that mfa might not refuse, or would only after a seed was drawn."""
    if torch._C._are_functorch_transforms_active():
        return "under a transform of torch.func"
    for tensor in operands:
        if type(tensor) not in PLAIN_TYPES and _dispatches(type(tensor)):
            return f"{type(tensor).__name__} has a __torch_dispatch__"
    if not torch.backends.cuda.flash_sdp_enabled():
        return CHOICE
    if operands[0].dtype not in DTYPES:
        return of_dtype(operands[0].dtype)
    return None if dropout_p < 1 else f"dropout_p: {dropout_p}, expected less than 1"


def of_dtype(dtype):
    return f"query: {str(dtype).removeprefix('torch.')}, expected float32, float16 or bfloat16"


def _dispatches(kind):
    """Whether the memory of tensors of this type is elsewhere; what is traced, mfa knows itself."""
    dispatches = kind.__torch_dispatch__ is not torch.Tensor.__torch_dispatch__
    return dispatches and not issubclass(kind, TRACED_TYPES)


def _is_counted(query):
    """Whether this is a call, or the recording of one, not a question about shapes before that."""
    return not isinstance(query, TRACED_TYPES) or torch._C._get_dispatch_mode(RECORDING) is not None
