"""Contexts: the choice of backend, device, ISA and thread cap, and the workspaces kept between calls."""

import os
import threading

from mfa.c_mfa cimport (
    MFA_BACKEND_AUTO,
    MFA_BACKEND_CPU,
    MFA_BACKEND_METAL,
    MFA_CONTEXT_ALLOW_CPU_FALLBACK,
    MFA_CPU_ISA_AUTO,
    MFA_CPU_ISA_AVX2,
    MFA_CPU_ISA_AVX512,
    MFA_CPU_ISA_NEON,
    MFA_CPU_ISA_SCALAR,
    mfa_context_describe,
    mfa_context_info_init,
    mfa_context_info_t,
    mfa_context_options_init,
    mfa_context_options_t,
    mfa_context_t,
    mfa_context_trim,
    mfa_create_context_with_options,
    mfa_destroy_context,
    mfa_status_t,
)
from mfa._status cimport check

from mfa._keywords import integer
from mfa._messages import shown, unexpected_keyword
from mfa.reports import ContextInfo

cdef dict BACKENDS = {"auto": MFA_BACKEND_AUTO, "cpu": MFA_BACKEND_CPU, "metal": MFA_BACKEND_METAL}
cdef dict CPU_ISAS = {
    "auto": MFA_CPU_ISA_AUTO,
    "scalar": MFA_CPU_ISA_SCALAR,
    "avx2": MFA_CPU_ISA_AVX2,
    "avx512": MFA_CPU_ISA_AVX512,
    "neon": MFA_CPU_ISA_NEON,
}


cdef int choice(dict choices, object value, str name) except -1:
    if not isinstance(value, str):
        raise TypeError(f"{name}: {shown(value)}, expected a string")
    text = str.__str__(value)
    if text not in choices:
        raise ValueError(f"{name}: {shown(value)}, expected one of {', '.join(map(repr, choices))}")
    return choices[text]


cdef int count(object value, str name) except -1:
    value = integer(value, name)
    if not 0 <= value < 2**31:
        raise ValueError(f"{name}: {shown(value)}, expected 0 to 2147483647")
    return value


cdef tuple OPTIONS = ("backend", "device", "num_threads", "cpu_isa", "allow_cpu_fallback")
cdef dict ELSEWHERE = {"threads": "num_threads", "n_threads": "num_threads", "isa": "cpu_isa"}


cdef class Context:
    # Python takes the first line for the signature.
    """Context(backend="auto", *, device=0, num_threads=0, cpu_isa="auto", allow_cpu_fallback=False)\n--\n
    Where and how attention runs.

    A context may be used from several threads at once. It is a context manager that closes itself; closing
    waits for nothing: calls in flight finish on it first. Buffers made on it outlive it.

    Parameters
    ----------
    backend : {"auto", "cpu", "metal"}, default "auto"
        "auto" takes the environment's ``MFA_BACKEND`` if set, else Metal where present, else the CPU.
    device : int, default 0
        Metal device index.
    num_threads : int, default 0
        The most CPU threads that one call uses. 0 takes ``MFA_NUM_THREADS`` if set, else all that the process
        may run on.
    cpu_isa : {"auto", "scalar", "avx2", "avx512", "neon"}, default "auto"
        Instruction set of the CPU backend. "auto" takes ``MFA_CPU_ISA`` if set, else the best there is.
    allow_cpu_fallback : bool, default False
        Let the CPU backend run what the chosen backend cannot. ``mfa.plan`` tells when it does.

    Raises
    ------
    TypeError, ValueError
        An option is not one of the above, or an ``MFA_...`` variable has a value that cannot be used.
    mfa.MFAError
        ``code`` 3: this machine lacks the device or instruction set.
    """

    def __cinit__(
            self, backend="auto", *more, device=0, num_threads=0, cpu_isa="auto", allow_cpu_fallback=False,
            **unknown):
        cdef mfa_context_options_t options = mfa_context_options_init()
        cdef mfa_status_t status
        self.closed = True
        if more:
            raise TypeError(
                f"Context() takes 1 positional argument, backend, but {1 + len(more)} were given; "
                f"expected {', '.join(OPTIONS[1:])} by name")
        for name in unknown:
            raise TypeError(unexpected_keyword("Context", name, OPTIONS, ELSEWHERE))
        options.backend = choice(BACKENDS, backend, "backend")
        options.device = count(device, "device")
        options.num_threads = count(num_threads, "num_threads")
        options.cpu_isa = choice(CPU_ISAS, cpu_isa, "cpu_isa")
        if not isinstance(allow_cpu_fallback, bool):
            raise TypeError(f"allow_cpu_fallback: {shown(allow_cpu_fallback)}, expected a bool")
        if allow_cpu_fallback:
            options.flags |= MFA_CONTEXT_ALLOW_CPU_FALLBACK
        with nogil:
            status = mfa_create_context_with_options(&options, &self.handle)
        check(status)
        self.closed = False

    def __dealloc__(self):
        mfa_destroy_context(self.handle)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def __repr__(self):
        if self.closed:
            return "<mfa.Context closed>"
        info = self.describe()
        return f"<mfa.Context backend={info.backend!r} isa={info.isa!r} num_threads={info.num_threads}>"

    def __reduce__(self):
        raise TypeError("context: cannot be pickled or copied, expected one made in each process")

    cdef mfa_context_t acquire(self) except NULL:
        """The handle, which stays valid until release()."""
        if self.closed:
            raise ValueError("context: is closed, expected an open one")
        self.calls_in_flight += 1
        return self.handle

    cdef void release(self) noexcept:
        self.calls_in_flight -= 1
        self.destroy_if_unused()

    cdef void destroy_if_unused(self) noexcept:
        # Both callers hold the GIL, so a call cannot start between test and destruction.
        if self.closed and self.calls_in_flight == 0:
            mfa_destroy_context(self.handle)
            self.handle = NULL

    def close(self):
        """Give the context up; later calls on it raise ValueError. Closing twice is allowed."""
        self.closed = True
        self.destroy_if_unused()

    def trim(self):
        """Free the workspaces that the context keeps between calls."""
        cdef mfa_context_t handle = self.acquire()
        cdef mfa_status_t status
        with nogil:
            status = mfa_context_trim(handle)
        self.release()
        check(status)

    def describe(self):
        """What the options came to on this machine.

        Returns
        -------
        ContextInfo
            Frozen dataclass: ``backend``, ``device``, ``isa``, ``num_threads``, ``allow_cpu_fallback``.
        """
        cdef mfa_context_info_t info = mfa_context_info_init()
        cdef mfa_context_t handle = self.acquire()
        cdef mfa_status_t status
        with nogil:
            status = mfa_context_describe(handle, &info)
        self.release()
        check(status)
        return ContextInfo(
            backend=info.backend_name.decode(),
            device=info.device_name.decode("utf-8", "replace"),
            isa=info.isa_name.decode(),
            num_threads=info.num_threads,
            allow_cpu_fallback=bool(info.flags & MFA_CONTEXT_ALLOW_CPU_FALLBACK),
        )


cdef Context known_context(object context):
    """`context`, which is a Context or None."""
    if context is not None and not isinstance(context, Context):
        raise TypeError(f"context: {shown(context)}, expected a mfa.Context or None")
    return context


cdef Context _default = None
_creation = threading.Lock()
_inherited = []


cpdef Context default_context():
    """The process-wide context that calls without one use: all options at "auto", made on first use."""
    global _default
    if _default is None:
        with _creation:
            if _default is None:
                _default = Context()
    return _default


def _forget_default_after_fork():
    # A thread of the parent may have held a lock of the context, or _creation, at the fork; neither is ever
    # touched here again. _inherited keeps the old context from being destroyed, which would take its locks.
    global _default, _creation
    _inherited.append(_default)
    _default = None
    _creation = threading.Lock()


os.register_at_fork(after_in_child=_forget_default_after_fork)
