"""Arrays that others make: whatever has DLPack."""

from mfa._messages import because

CPU = 1  # kDLCPU
MAX_VERSION = (1, 0)


def has_dlpack(array):
    # A class has its instances' methods, and is no array.
    if isinstance(array, type):
        return False
    try:
        return hasattr(array, "__dlpack__")
    except MemoryError:
        raise
    except Exception:  # whatever an attribute of the caller's raises
        return False


def is_elsewhere(array):
    """Whether its DLPack says that it is not on the CPU, as MLX's do, whose memory the CPU shares."""
    try:
        return int(array.__dlpack_device__()[0]) != CPU
    except MemoryError:
        raise
    except Exception:  # dlpack_capsule says what is wrong
        return False


def dlpack_capsule(array, name):
    try:
        device_type, device_id = map(int, array.__dlpack_device__())
        if device_type != CPU:
            raise BufferError(f"on DLPack device {(device_type, device_id)}, expected the CPU {(CPU, 0)}")
        try:
            return array.__dlpack__(max_version=MAX_VERSION)
        except TypeError:
            # Producers older than DLPack 1.0 do not take the keyword.
            return array.__dlpack__()
    except MemoryError:
        raise
    except Exception as error:
        raise BufferError(f"{name}: {because(error)}") from error
