"""A devnet of its own for each test; its time passes when the test says so."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.devnet import DevnetProcess


@pytest.fixture
def devnet(tmp_path: Path) -> Iterator[DevnetProcess]:
    process = DevnetProcess(tmp_path / "chain.sqlite").start()
    try:
        yield process
    finally:
        process.kill()
