"""Every bench of a whole exchange runs, small, against the shared installation, and its work is what it should be.

Each ends with status 1 by itself when a request fails or an answer is not that of its request. Checksums that stand
here are of work that no chance touches: a changed one is changed behaviour.
"""

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.__main__ import ALONE, TOGETHER
from bench.people import seeded
from tests.support.installation import Installation

TIMES = r"p50=\d+\.\d\dms p99=\d+\.\d\dms p99\.9=\d+\.\d\dms max=\d+\.\d\dms"
TIMES_OF_ORDERS = r"orders alone: p50=\d+\.\d\dms p99=\d+\.\d\dms; beside settlements, parts=\d+: p50="
SAYS = {
    "bench.bench_rest": ["answers=100 ", r"late=0 repeats=0", TIMES],
    "bench.bench_rest_closed": ["acknowledged=200 checksum=48fa74c9", r"ratio=\d\.\d+", TIMES],
    "bench.bench_rest_batch": ["acknowledged=2000 checksum=3498d28c", r"rate=\d+/s", TIMES],
    "bench.bench_ws": ["acknowledged=200 checksum=b05528f5", r"echo=\d+/s ratio=\d\.\d+", TIMES],
    "bench.bench_feed": ["readers=80 updates=1000 checksum=0094f516", r"deltas per reader=\d+", TIMES],
    "bench.bench_readings": [
        "signed: acknowledged=160 checksum=1cb9b0da",
        "batched: acknowledged=480 checksum=ee1f8587",
        r"batched/COPY=\d+\.\d\d",
        TIMES,
    ],
    "bench.bench_commit": ["rows=1 commits=20 checksum=2b0e50ef", "rows=200 commits=20 checksum=7b51bc40", TIMES],
    "bench.bench_energy_queries": ["windows=59520 ", "month of a meter, by days: asked=20 checksum=51c1e09a", TIMES],
    "bench.bench_settlement": [
        r"queue: effects=\d+ in \d+ transactions",
        r"settled=1000 checksum=[0-9a-f]{8} ",
        TIMES_OF_ORDERS,
    ],
    "bench.bench_users": ["answers=200 ", "acknowledged=33 checksum=50911f4e", r"errors=0\.0000%", TIMES],
    "bench.bench_recovery": [r"commands=6000 checksum=[0-9a-f]{16} replay=\d+/s", r"ready=\d+\.\d\ds"],
    "bench.bench_epoch": [r"cleared \d+ orders", "checksum=dbdf81ca", TIMES],
    "bench.bench_kill": [r"kills=1 acknowledged=250 ", "audit: no violations"],
    "bench.bench_memory": [r"whole +\d+ processes +PSS +\d+ MB"],
}


@pytest.mark.parametrize("name", SAYS)
def test_the_bench_does_its_work(name: str, installation: Installation) -> None:
    command = [sys.executable, "-m", name, "--smoke", "--url", installation.url]
    command += ["--data-dir", str(installation.data_dir)]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "machine: " in done.stdout
    for expected in SAYS[name]:
        assert re.search(expected, done.stdout), done.stdout


def test_neighbours_of_one_process_are_measured(installation: Installation) -> None:
    """Not one that `make bench` runs: it makes markets, and they stay."""
    command = [sys.executable, "-m", "bench.neighbours", "--smoke", "--url", installation.url]
    command += ["--data-dir", str(installation.data_dir)]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    for beside in (0, 50):
        assert re.search(
            rf"beside +{beside}/s, 2 in one process .*{TIMES} acknowledged=50 checksum=b630a223", done.stdout
        ), done.stdout


def test_make_bench_runs_every_bench() -> None:
    files = {f"bench.{path.stem}" for path in Path("bench").glob("bench_*.py")}

    assert set(ALONE) | set(TOGETHER) == files
    assert set(TOGETHER) == set(SAYS)


def test_what_idle_and_busy_markets_cost_is_measured(installation: Installation) -> None:
    """Neither: its markets stay, too."""
    command = [sys.executable, "-m", "bench.scale", "--smoke", "--url", installation.url]
    command += ["--data-dir", str(installation.data_dir)]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"1 idle markets, sharing processes, .* PSS \d+ -> \d+ MB", done.stdout), done.stdout
    assert re.search(r"all together: \d+ MB, \d+ processes, \d+ sessions, \d\.\d\d cores", done.stdout), done.stdout
    audited = r"^(\d+) acknowledgements; audit: .* \1 acknowledgements\b.* no violations"
    assert re.search(audited, done.stdout, re.MULTILINE), done.stdout


def test_people_made_without_a_password_check_can_log_in_with_their_password(installation: Installation) -> None:
    """A long run does, when its tokens lapse."""

    async def log_in_again() -> tuple[str, str]:
        (trader,) = await seeded(installation.url, installation.data_dir, 1, ())
        first = trader.token
        await trader.login()
        return first, trader.token

    first, second = asyncio.run(log_in_again())

    assert first != second
