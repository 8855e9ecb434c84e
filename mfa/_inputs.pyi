from typing import Any

class Inputs:
    def __new__(
        cls,
        query: Any,
        key: Any,
        value: Any,
        *,
        heads_first: bool,
        loose: bool = False,
        grouped: bool = True,
        causal: bool = False,
        alignment: int,
        window_left: int = -1,
        window_right: int = -1,
        softmax_scale: float | None = None,
        softcap: float = 0.0,
        mask: Any = None,
        bias: Any = None,
        alibi_slopes: Any = None,
        sinks: Any = None,
        dropout_p: float = 0.0,
        dropout_seed: int = 0,
        dropout_offset: int = 0,
        intermediate_precision: int = -1,
        planning: bool = False,
        names: tuple[str, str, str, str] = ("query", "key", "value", "mask"),
    ) -> Inputs: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
