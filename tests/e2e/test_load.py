"""Every scenario of `wattbook load`, a soak and a look at a deployment, small, against the shared installation."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from bench.client import AckLog
from bench.installation import Target
from bench.report import is_error
from bench.scenarios import SCENARIOS, play
from bench.soak import judged, soak
from commands.deploy import UNDECIDED
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


def test_a_soak_sees_memory_tables_and_queues(installation: Installation) -> None:
    target = Target(installation.url, installation.data_dir)
    metrics_url = f"http://127.0.0.1:{installation.metrics_port}/metrics"

    watch, recorder = asyncio.run(soak(target, metrics_url, seconds=3.0, every_seconds=1.0))

    assert recorder.answers > 100
    assert not recorder.errors
    seen = {one.name: one for one in judged(watch.samples)}
    assert {"memory: market", "memory: postgres", "disk: entries", "disk: logs"} <= set(seen)
    assert "queues: wattbook_market_waiting CAMPUS" in seen
    assert seen["disk: entries"].last > 0


def test_without_traffic_a_deployment_is_undecided(installation: Installation) -> None:
    done = installation.command("wattbook", "deploy", "check", "--seconds", "0.2", "--audit")

    assert done.returncode == UNDECIDED, done.stdout + done.stderr
    assert "too little traffic" in done.stdout
    assert "entries agree" in done.stdout
