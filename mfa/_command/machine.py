"""What a bug report has to say of the machine, of Python, and of the library that is loaded."""

import ctypes
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from mfa._installed import get_library
from mfa._status import library_version

DISTRIBUTION = "universal-metal-flash-attention"
PACKAGES = ("numpy", "ml_dtypes", "torch", "transformers", "diffusers", "mlx", "typer", "rich")
VARIABLES = re.compile("MFA_|METAL_|MTL_|(?:LD|DYLD)_LIBRARY_PATH$")
COMPILERS = re.compile(rb"GCC: \([^\0)]*\) [\d.]+|(?:[\w.-]+ )*clang version [\w.+~-]+")


def library() -> dict[str, Any]:
    """The libmfa that this process runs on, which variables may have put in the package's place."""
    found = {"version": library_version(), "path": loaded_library()}
    if found["path"] is None or not Path(found["path"]).is_file():
        return found  # replaced since it was loaded
    content = Path(found["path"]).read_bytes()
    return {
        **found,
        "is_of_package": os.path.samefile(found["path"], get_library()),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "compilers": sorted({name.decode("ascii", "replace") for name in COMPILERS.findall(content)}),
    }


def loaded_library() -> str | None:
    start = Path(get_library()).stem + "."
    return next((path for path in loaded_files() if Path(path).name.startswith(start)), None)


def loaded_files() -> list[str]:
    if sys.platform == "darwin":
        process = ctypes.CDLL(None)
        process._dyld_get_image_name.restype = ctypes.c_char_p
        names = map(process._dyld_get_image_name, range(process._dyld_image_count()))
        return [os.fsdecode(name) for name in names if name]
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return []  # in a bare root, /proc need not be mounted
    text = maps.read_text(encoding="utf-8", errors="surrogateescape")
    lines = (line.split(maxsplit=5) for line in text.splitlines())
    return [line[5] for line in lines if len(line) == 6]


def package() -> dict[str, Any]:
    """How it was installed; nothing is known of a folder that is only on the path."""
    try:
        distribution = importlib.metadata.distribution(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return {"version": None, "tag": None, "is_editable": None}
    tags = re.findall(r"^Tag: (.*)$", distribution.read_text("WHEEL") or "", flags=re.MULTILINE)
    source = json.loads(distribution.read_text("direct_url.json") or "{}")
    return {
        "version": distribution.version,
        "tag": tags[0] if tags else None,
        "is_editable": bool(source.get("dir_info", {}).get("editable")),
    }


def system() -> dict[str, Any]:
    found = {"platform": platform.platform(), "machine": platform.machine(), "cpus": os.cpu_count()}
    if sys.platform == "darwin":
        # Python for Intel runs translated on Apple silicon, with all that it loads: without NEON and Metal.
        return {
            **found,
            "memory_bytes": int(sysctl("hw.memsize")),
            "model": sysctl("hw.model"),
            "is_translated": sysctl("sysctl.proc_translated") == "1",
        }
    return {
        **found,
        "cpus_of_process": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def sysctl(name: str) -> str:
    """Empty where this machine does not know the name."""
    command = ["/usr/sbin/sysctl", "-n", name]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def python() -> dict[str, Any]:
    has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    return {
        "implementation": platform.python_implementation(),
        "version": platform.python_version(),
        "platform": sysconfig.get_platform(),
        "has_gil": has_gil,
        "executable": sys.executable,
        "packages": {name: version for name in PACKAGES if (version := installed(name))},
    }


def installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def environment() -> dict[str, str]:
    """Variables that change what mfa does."""
    return {name: value for name, value in sorted(os.environ.items()) if VARIABLES.match(name)}
