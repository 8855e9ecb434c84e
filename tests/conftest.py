"""Hypothesis profiles, and the fixtures that run a test once for each backend present."""

import os

import backends
import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("quick", max_examples=50, deadline=None)
settings.register_profile("ci", max_examples=100, deadline=None, derandomize=True)
settings.register_profile("long", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("MFA_HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "quick"))


def pytest_report_header():
    absent = [backend.name for backend in backends.BACKENDS if backend not in backends.PRESENT]
    return [
        f"mfa backends: {', '.join(backend.name for backend in backends.PRESENT)}"
        f" (not on this machine: {', '.join(absent) or 'none'})",
        f"hypothesis profile: {settings.get_current_profile_name()}",
    ]


@pytest.fixture(scope="session", params=backends.PRESENT, ids=lambda backend: backend.name)
def backend(request):
    return request.param


@pytest.fixture(scope="session")
def context(backend):
    with backend.context() as context:
        yield context


@pytest.fixture
def rng():
    return np.random.default_rng(20240607)
