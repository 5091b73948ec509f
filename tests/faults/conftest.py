"""The shared installation, and how long to torment it: `LONG=1 pytest tests/faults` for minutes instead of seconds."""

import os
from collections.abc import Generator

import pytest

from tests.support.installation import Installation, installation

__all__ = ["installation"]


@pytest.fixture(scope="session")
def long() -> bool:
    return bool(os.environ.get("LONG"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure comes with what the daemon said last, for its data are gone when somebody reads of it."""
    report = yield
    shared = item.funcargs.get("installation")
    if report.failed and isinstance(shared, Installation):
        report.sections.append(("the daemon's last words", shared.output[-4_000:]))
    return report
