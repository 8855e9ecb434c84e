"""``info``: all that a bug report needs."""

from typing import Any

from mfa._command import backends, machine
from mfa._command.terminal import entry, heading

GIB = 2**30


def collect() -> dict[str, Any]:
    return {
        "library": machine.library(),
        "package": machine.package(),
        "default": backends.default().described(),
        "cpu": [place.described() for place in backends.of_cpu()],
        "metal": [place.described() for place in backends.of_metal()],
        "system": machine.system(),
        "python": machine.python(),
        "environment": machine.environment(),
    }


def show(document: dict[str, Any]) -> None:
    show_library(document["library"], document["package"])
    show_backends(document)
    show_system(document["system"])
    show_python(document["python"])
    heading("Environment")
    for name, value in document["environment"].items():
        entry(name, value)
    if not document["environment"]:
        entry("", "no variable that mfa looks at")


def show_library(library: dict[str, Any], package: dict[str, Any]) -> None:
    heading("mfa")
    entry("version", library["version"])
    entry("package", shown_package(package))
    entry("library", library["path"] or "not found among what is loaded")
    if not library.get("is_of_package", True):
        entry("", "which is not the one in the package")
    if "sha256" in library:
        entry("", f"{library['bytes']:,} bytes, sha256 {library['sha256'][:16]}")
        entry("compiled by", ", ".join(library["compilers"]) or "not recorded in it")


def shown_package(package: dict[str, Any]) -> str:
    if package["version"] is None:
        return "not installed, only on the path"
    kind = "editable" if package["is_editable"] else "wheel"
    return f"{machine.DISTRIBUTION} {package['version']}, {kind}, {package['tag'] or 'tag unknown'}"


def show_backends(document: dict[str, Any]) -> None:
    heading("Backends")
    default = document["default"]
    entry("default", f"none: {default['reason']}" if "reason" in default else shown_place(default))
    for place in document["cpu"]:
        present = "reason" not in place
        entry(f"cpu {place['name']}", f"yes, as {place['isa']}" if present else f"no: {place['reason']}")
    for place in document["metal"]:
        entry(place["name"], f"no: {place['reason']}" if "reason" in place else shown_place(place))


def shown_place(place: dict[str, Any]) -> str:
    threads = place["num_threads"]
    return f"{place['backend']}, {place['device']}, {place['isa']}, {threads} thread{'s' * (threads != 1)}"


def show_system(system: dict[str, Any]) -> None:
    heading("System")
    entry("platform", system["platform"])
    entry("machine", f"{system['machine']}{', translated by Rosetta' * system.get('is_translated', False)}")
    if "model" in system:
        entry("model", system["model"])
    allowed = system.get("cpus_of_process", system["cpus"])
    entry("cpus", f"{system['cpus']}, of which this process may use {allowed}")
    entry("memory", f"{system['memory_bytes'] / GIB:.1f} GiB")


def show_python(python: dict[str, Any]) -> None:
    heading("Python")
    gil = "" if python["has_gil"] else ", without the GIL"
    entry("python", f"{python['implementation']} {python['version']} for {python['platform']}{gil}")
    entry("executable", python["executable"])
    for name, version in python["packages"].items():
        entry(name, version)
