"""What there is to compute on."""

import mfa
from umfa.core import MFAContext


def is_metal_available() -> bool:
    """Whether this machine has a GPU that mfa runs on; it also runs on CPUs."""
    return mfa.is_device_supported()


def get_version() -> tuple[int, int, int]:
    """Major, minor and patch number of mfa."""
    major, minor, patch = mfa.__version__.split(".")
    return int(major), int(minor), int(patch)


def create_context() -> MFAContext:
    """`MFAContext()`."""
    return MFAContext()


def print_system_info() -> None:
    """Print what is available, and what contexts run on."""
    print(f"mfa {mfa.__version__}")
    print(f"Metal: {'available' if is_metal_available() else 'not available'}")
    with create_context() as context:
        info = context.handle.describe()
    print(f"Contexts run on: {info.backend}, {info.device}")
