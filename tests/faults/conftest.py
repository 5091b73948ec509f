"""The shared installation, and how long to torment it: `LONG=1 pytest tests/faults` for minutes instead of seconds."""

import os

import pytest

from tests.support.installation import installation

__all__ = ["installation"]


@pytest.fixture(scope="session")
def long() -> bool:
    return bool(os.environ.get("LONG"))
