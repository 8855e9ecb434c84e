"""The one place where a status code of the C library becomes a Python exception."""

from mfa.c_mfa cimport (
    MFA_ERROR_INVALID_ARGS,
    MFA_ERROR_MEMORY_ALLOCATION,
    MFA_SUCCESS,
    mfa_error_string,
    mfa_get_gpu_latency,
    mfa_get_version,
    mfa_is_device_supported,
    mfa_last_error_message,
    mfa_status_t,
)

from mfa._names import renamed
from mfa.errors import MFAError


cdef int check(mfa_status_t status, dict names=None, str layout=None, int ndim=4) except -1:
    """Raise what `status` stands for. To be called on the thread that got it: messages are per thread.

    `names` is what the caller knows arguments of `mfa.attention` by, where that is another name; without it,
    arguments are called as in mfa.h. `layout` and `ndim` are those of places in arrays.
    """
    if status == MFA_SUCCESS:
        return 0
    message = mfa_last_error_message(NULL).decode("utf-8", "replace")
    if not message:
        message = mfa_error_string(status).decode("utf-8", "replace")
    if status == MFA_ERROR_INVALID_ARGS:
        raise ValueError(message if names is None else renamed(message, names, layout, ndim))
    if status == MFA_ERROR_MEMORY_ALLOCATION:
        raise MemoryError(message)
    raise MFAError(message, status)


def library_version():
    """Version of the loaded libmfa, as "major.minor.patch"."""
    cdef int major = 0, minor = 0, patch = 0
    mfa_get_version(&major, &minor, &patch)
    return f"{major}.{minor}.{patch}"


def is_device_supported():
    """Whether this machine has a Metal device that mfa can use.

    Returns
    -------
    bool
        Always False where Metal does not exist; the CPU backend needs no device.
    """
    return bool(mfa_is_device_supported())


def last_latency():
    """Seconds that the calling thread's last successful attention call took.

    Returns
    -------
    float
        GPU time on Metal, wall time on the CPU backend; 0.0 before this thread's first call.
    """
    return mfa_get_gpu_latency(NULL)
