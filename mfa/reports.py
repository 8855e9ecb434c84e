"""What contexts and plans say about themselves."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ContextInfo:
    """What a context's options came to on this machine.

    Attributes
    ----------
    backend : str
        "cpu" or "metal".
    device : str
        Name of the processor or GPU.
    isa : str
        Instruction set in use: "scalar", "avx2", "avx512", "avx512bf16", "neon" and so on, or the GPU family.
    num_threads : int
        The most CPU threads that one call uses.
    allow_cpu_fallback : bool
        Whether the CPU backend runs what the backend cannot.
    """

    backend: str
    device: str
    isa: str
    num_threads: int
    allow_cpu_fallback: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """How an attention call would run.

    Attributes
    ----------
    status : int
        0, or the status code that the call would fail with; ``reason`` then says why.
    backend : str
        The backend that would run the call: "cpu" or "metal".
    fallback : bool
        Whether that is not the context's own backend; ``reason`` then says why.
    kernel : str
        Name of the kernel; of a backward call on Metal those of all kernels, with rows x keys of their tiles.
    isa : str
        Instruction set or GPU family that the kernel is for.
    tile_queries, tile_keys : int
        Rows of queries and keys that one inner step works on.
    key_splits : int
        Parts that the keys are split into and combined afterwards; of a backward call, blocks of keys whose
        contributions to the gradient of query are added in order.
    num_threads : int
        CPU threads at the most.
    workspace_bytes : int
        Memory that the call takes beside its operands.
    reason : str
        Of a refusal or a fallback, else empty.
    """

    status: int
    backend: str
    fallback: bool
    kernel: str
    isa: str
    tile_queries: int
    tile_keys: int
    key_splits: int
    num_threads: int
    workspace_bytes: int
    reason: str
