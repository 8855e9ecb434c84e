from typing import Any

class Inputs:
    def __new__(
        cls,
        query: Any,
        key: Any,
        value: Any,
        *,
        names: dict[str, str] = ...,
        loose: bool = False,
        grouped: bool = True,
        planning: bool = False,
        **keywords: Any,
    ) -> Inputs: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
