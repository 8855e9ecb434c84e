from types import TracebackType
from typing import Literal

from mfa.reports import ContextInfo

class Context:
    def __new__(
        cls,
        backend: Literal["auto", "cpu", "metal"] = "auto",
        *,
        device: int = 0,
        num_threads: int = 0,
        cpu_isa: Literal["auto", "scalar", "avx2", "avx512", "neon"] = "auto",
        allow_cpu_fallback: bool = False,
    ) -> Context: ...
    @property
    def closed(self) -> bool: ...
    def __enter__(self) -> Context: ...
    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    def close(self) -> None: ...
    def trim(self) -> None: ...
    def describe(self) -> ContextInfo: ...

def default_context() -> Context: ...
