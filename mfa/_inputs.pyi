from typing import Any

from mfa._attention_keywords import Keywords

class Inputs:
    def __init__(
        self,
        query: Any,
        key: Any,
        value: Any,
        keywords: Keywords,
        *,
        names: dict[str, str] = ...,
        loose: bool = False,
        grouped: bool = True,
        planning: bool = False,
    ) -> None: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
