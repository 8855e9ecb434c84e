"""mfa under the name "sdpa", for what takes no other."""

import contextlib
import threading
from collections.abc import Callable, Iterator

from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel

from mfa.transformers._attention import attention
from mfa.transformers._mask import attention_mask

_lock = threading.Lock()
_in_effect: list["Replacement"] = []
_replaced: dict[type, Callable] = {}
FUNCTIONS = {AttentionInterface: attention, AttentionMaskInterface: attention_mask}


class Replacement:
    """What `replace_sdpa` returns, in effect until `remove` or the end of its with statement."""

    def __init__(self) -> None:
        self._is_removed = False
        with _lock:
            if not _in_effect:
                for interface, function in FUNCTIONS.items():
                    _replaced[interface] = interface()["sdpa"]
                    interface.register("sdpa", function)
            _in_effect.append(self)

    def remove(self) -> None:
        """Undo this `replace_sdpa`. The last one that is removed puts back what was there before."""
        with _lock:
            if self._is_removed:
                return
            self._is_removed = True
            _in_effect.remove(self)
            if not _in_effect:
                for interface in FUNCTIONS:
                    interface.register("sdpa", _replaced.pop(interface))

    def __enter__(self) -> "Replacement":
        if self._is_removed:
            raise RuntimeError("replace_sdpa: removed already, expected replace_sdpa() anew")
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


def replace_sdpa() -> Replacement:
    """Have mfa run all attention that Transformers has under the name "sdpa", which is models' default.

    For what insists on that name: context and sequence parallelism of Accelerate, DeepSpeed's Ulysses, models
    that select keys themselves. In effect from the call on, in all threads, for models that exist too; as a
    context manager it ends with the with statement. It registers `attention` and `attention_mask`, and
    changes nothing of PyTorch: `mfa.torch.replace_sdpa` does that.

    Returns
    -------
    Replacement
        A context manager with ``remove()``.
    """
    return Replacement()


@contextlib.contextmanager
def continuous_batching(model: PreTrainedModel) -> Iterator[None]:
    """Have mfa run the attention of ``model.generate_batch`` and of the manager behind it.

    That knows attention by the names of Transformers' own functions alone. In the with statement the model
    has the name "sdpa", also if it supports no such attention, and `replace_sdpa` is in effect. Sequences of
    a batch are then told apart by where they begin: of the mask that comes with them nothing is read.

    Parameters
    ----------
    model : PreTrainedModel
        It has its names back afterwards.
    """
    names = [(config, config._attn_implementation) for config in configs_of(model)]
    with replace_sdpa():
        try:
            for config, _ in names:
                config._attn_implementation = "sdpa"
            yield
        finally:
            for config, name in names:  # those of parts behind those of what they are part of
                config._attn_implementation = name


def configs_of(model: PreTrainedModel) -> list[PreTrainedConfig]:
    configs: dict[int, PreTrainedConfig] = {}

    def note(config: PreTrainedConfig) -> None:
        configs.setdefault(id(config), config)
        for name in config.sub_configs:
            part = getattr(config, name, None)
            if part is not None:
                note(part)

    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            note(module.config)
    return list(configs.values())
