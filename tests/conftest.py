"""Hypothesis profiles, and the fixtures that run a test once for each backend present."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from support import backends, emulated

settings.register_profile("quick", max_examples=50, deadline=None)
settings.register_profile("ci", max_examples=100, deadline=None, derandomize=True)
# The emulator compiles kernels for each new combination of features and head dimension.
settings.register_profile("emulated", max_examples=6, deadline=None, derandomize=True)
settings.register_profile("long", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("MFA_HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "quick"))


# Frameworks are large, and are changed as a whole: their tests have processes of their own in tests/run.
FRAMEWORKS = Path(__file__).parent / "torch"


def is_chosen(path):
    """Whether the tests at this path are for this process."""
    is_framework = path == FRAMEWORKS or FRAMEWORKS in path.parents
    return os.environ.get("MFA_TEST_FRAMEWORKS") != ("none" if is_framework else "only")


def pytest_ignore_collect(collection_path):
    # Not the folders that have both.
    return None if is_chosen(collection_path) or collection_path in FRAMEWORKS.parents else True


def pytest_report_header():
    absent = [backend.name for backend in backends.BACKENDS if backend not in backends.PRESENT]
    return [
        f"mfa backends: {', '.join(backend.name for backend in backends.PRESENT)}"
        f" (not on this machine: {', '.join(absent) or 'none'})",
        f"hypothesis profile: {settings.get_current_profile_name()}",
    ]


# Tests in these folders that take no backend use the default one; elsewhere they are about something else.
OF_DEFAULT = [Path(__file__).parent / name for name in ("attention", "python")]


def is_asked(item):
    """Whether the test is for the backend that it takes, or else uses: see the markers in pyproject.toml."""
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    backend = next((x for x in parameters if isinstance(x, backends.Backend)), backends.DEFAULT)
    if not is_chosen(item.path):
        return False
    if backends.CHOSEN and backend is backends.DEFAULT:
        folder = item.path.parent
        if folder not in OF_DEFAULT or os.environ.get("MFA_BACKEND") not in backends.CHOSEN:
            return False
    if item.get_closest_marker("cpu") and not backend.is_cpu:
        return False
    return not (item.get_closest_marker("hardware") and backend.is_emulated)


def pytest_collection_modifyitems(config, items):
    asked = [is_asked(item) for item in items]
    config.hook.pytest_deselected(items=[item for item, is_in in zip(items, asked, strict=True) if not is_in])
    items[:] = [item for item, is_in in zip(items, asked, strict=True) if is_in]


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
