"""Hypothesis profiles, and the fixtures that run a test once for each backend present."""

import os

import numpy as np
import pytest
from hypothesis import settings
from support import backends, emulated

settings.register_profile("quick", max_examples=50, deadline=None)
settings.register_profile("ci", max_examples=100, deadline=None, derandomize=True)
# The emulator compiles kernels for each new combination of features and head dimension.
settings.register_profile("emulated", max_examples=8, deadline=None, derandomize=True)
settings.register_profile("long", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("MFA_HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "quick"))


def pytest_report_header():
    absent = [backend.name for backend in backends.BACKENDS if backend not in backends.PRESENT]
    return [
        f"mfa backends: {', '.join(backend.name for backend in backends.PRESENT)}"
        f" (not on this machine: {', '.join(absent) or 'none'})",
        f"hypothesis profile: {settings.get_current_profile_name()}",
    ]


def is_asked(item, emulated):
    """Whether the test is for its backend: see the markers in pyproject.toml."""
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    backend = next((x for x in parameters if isinstance(x, backends.Backend)), None)
    if backend is None and backends.CHOSEN:
        return False
    if item.get_closest_marker("cpu") and not (backend.is_cpu if backend else backends.default_is_cpu()):
        return False
    return not (item.get_closest_marker("hardware") and backend in emulated)


def pytest_collection_modifyitems(config, items):
    emulated = [backend for backend in backends.PRESENT if backend.is_emulated()]
    dropped = [item for item in items if not is_asked(item, emulated)]
    items[:] = [item for item in items if is_asked(item, emulated)]
    config.hook.pytest_deselected(items=dropped)


@pytest.fixture(scope="session", params=backends.PRESENT, ids=lambda backend: backend.name)
def backend(request):
    return request.param


@pytest.fixture(scope="session")
def context(backend):
    with backend.context() as context:
        yield context


@pytest.fixture(scope="session")
def library():
    """The folder of the build with the emulated Metal device."""
    return emulated.built_library()


@pytest.fixture
def rng():
    return np.random.default_rng(20240607)
