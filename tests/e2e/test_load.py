"""Every scenario of `wattbook load`, small, against the shared installation; and the page that one of them leaves."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from bench.client import AckLog
from bench.installation import Target
from bench.report import is_error
from bench.scenarios import SCENARIOS, play
from commands.traffic import NAMES
from tests.support.installation import Installation

SIZE = 0.05
RATE_MAX = 100
EXPECTED = {
    "mixed": {"book", "place"},
    "slow-readers": {"slow readers"},
    "reconnect-storm": {"connections"},
    "reading-flood": {"readings acknowledged"},
}


@pytest.mark.parametrize("name", NAMES)
def test_a_scenario_runs_and_nothing_fails(name: str, installation: Installation) -> None:
    small = msgspec.structs.replace(SCENARIOS[name], seconds=1.0, rate=min(RATE_MAX, SCENARIOS[name].rate))

    recorder, beside = asyncio.run(play(Target(installation.url, installation.data_dir), small, AckLog(), size=SIZE))

    assert recorder.answers > 5
    assert not [status for status in recorder.statuses if is_error(status)], recorder.statuses
    assert all(beside[one] for one in EXPECTED.get(name, ())), beside
    assert not beside["connections that failed"]


def test_the_command_knows_every_scenario() -> None:
    assert set(NAMES) == set(SCENARIOS)


def test_a_report_is_written(installation: Installation, tmp_path: Path) -> None:
    file = tmp_path / "report.html"

    done = installation.command(
        "wattbook", "load", "--scenario", "burst", "--rate", "20", "--seconds", "2", "--report", str(file)
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "p99" in done.stdout
    assert "Wattbook load: burst" in file.read_text("utf-8")
