"""The clock that shells hand in is the machine's, unless a test sets it.

Seen to fail for: a setting that stays, a file that is not looked at again, one that is looked for without the variable.
"""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from actors import clock as module
from engine.units import SECOND_US

HOUR_US = 3_600 * SECOND_US


def ahead_us(clock: Callable[[], int]) -> int:
    """To the next hundred seconds."""
    return round((clock() - time.time_ns() // 1_000) / (100 * SECOND_US)) * 100 * SECOND_US


def test_it_is_the_machines_where_nobody_may_set_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(module.VARIABLE, raising=False)
    (tmp_path / "set").write_text("3600")
    monkeypatch.chdir(tmp_path)

    assert ahead_us(module.clock()) == 0
    assert ahead_us(module.clock_us) == 0


def test_it_goes_ahead_and_comes_back_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "set"
    monkeypatch.setenv(module.VARIABLE, str(file))
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.0)
    clock = module.clock()

    shown = [ahead_us(clock)]
    for said in ("", "3600", "-7200"):
        file.write_text(said)
        shown.append(ahead_us(clock))
    file.unlink()

    assert [*shown, ahead_us(clock)] == [0, 0, HOUR_US, -2 * HOUR_US, 0]
