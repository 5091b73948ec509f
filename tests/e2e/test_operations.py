"""What an operator does beside the running exchange: back it up, restore it elsewhere, ask where an order's time went.

Seen to fail for: an order that the gateway's process does not keep, a daemon that starts on half a restore; a
dashboard whose other threads, or whose heads, stay as they were.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import processes
from tests.support.installation import Installation
from tests.support.patience import HUNG_SECONDS


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """Another data directory, which the servers' user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="wb-", dir="/tmp"))
    folder.chmod(0o711)
    yield folder / "again"
    shutil.rmtree(folder, ignore_errors=True)


def test_a_backup_of_the_running_exchange_is_an_exchange_elsewhere(
    installation: Installation, elsewhere: Path, quiet: None
) -> None:
    seller = installation.person().register(THB="100", energy_Z1="50")
    buyer = installation.person().register(THB="100")
    seller.place("sell", "3.000", "2.000")
    assert buyer.place("buy", "3.600", "1.000")["status"] == "filled"
    folder, keys = elsewhere.with_name("backup"), installation.data_dir / "keys"

    taken = installation.command("wattbook", "backup", str(folder))
    seller.place("sell", "3.100", "1.000")  # the exchange goes on
    again = {"WATTBOOK_DATA_DIR": str(elsewhere)}
    restored = installation.command("wattbook", "restore", str(folder), "--master-keys", str(keys), **again)
    audit = installation.command("wattbook", "audit", **again)
    replay = installation.command("wattbook", "replay", **again)

    for done, said in ((taken, "backed up"), (restored, "restored"), (audit, "no violations"), (replay, "verified")):
        assert done.returncode == 0, done.stdout + done.stderr
        assert said in done.stdout
    heads = [line for line in taken.stdout.splitlines() if "journal to" in line]
    assert {"CAMPUS", "RIVERSIDE"} <= {head.partition(":")[0] for head in heads}  # others make markets, too
    assert all(head in restored.stdout for head in heads)
    assert (elsewhere / "devnet" / "chain.sqlite").exists()
    secrets = {file.name for file in (elsewhere / "keys").rglob("*") if file.is_file()}
    assert {"wallet-0001.key", "jwt-0001.pem", "cluster-secret"} <= secrets


def test_half_a_restore_is_no_exchange(installation: Installation, elsewhere: Path) -> None:
    elsewhere.mkdir()
    (elsewhere / "restore.unfinished").touch()
    ports = {"HTTP_PORT": "1", "METRICS_PORT": "2", "RAY_DASHBOARD_PORT": "3"}
    again = {"WATTBOOK_DATA_DIR": str(elsewhere), **{f"WATTBOOK_{name}": port for name, port in ports.items()}}

    for program, *arguments in (("wattbookd",), ("wattbook", "audit")):
        refused = installation.command(program, *arguments, **again)
        assert refused.returncode == 1
        assert "was not finished" in refused.stdout


def test_an_orders_way_is_shown_from_its_request_to_its_settlement(installation: Installation, quiet: None) -> None:
    seller = installation.person().register(THB="100", energy_Z1="50")
    buyer = installation.person().register(THB="100")
    seller.place("sell", "3.000", "2.000")
    order = {"market": "CAMPUS", "side": "buy", "type": "limit", "price": "3.600", "quantity": "1.000"}
    answer = buyer.ask("POST", "/orders", order)
    request_id, deadline = answer.headers["x-request-id"], time.monotonic() + HUNG_SECONDS

    while ", part 0: " not in (shown := installation.command("wattbook", "trace", request_id)).stdout:
        assert shown.returncode == 0, shown.stdout + shown.stderr
        assert time.monotonic() < deadline, shown.stdout

    order_id, sequence = answer.json()["order_id"], answer.json()["sequence"]
    assert f"order {order_id}, sequence {sequence}, through gateway-1" in shown.stdout
    steps = ["came", "read and handed", "the market had answered", "answered", "trade", "took its trades", "part 0"]
    places = [shown.stdout.find(step) for step in steps]
    assert min(places) >= 0, shown.stdout
    assert "committed with sequences" in shown.stdout


def test_what_no_gateway_knows_is_said_so(installation: Installation) -> None:
    shown = installation.command("wattbook", "trace", "never-was")

    assert shown.returncode == 1
    assert "no gateway of this machine knows" in shown.stdout


def test_the_logs_of_all_parts_are_shown(installation: Installation) -> None:
    shown = installation.command("wattbook", "logs", "--lines", "1000")

    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert len(shown.stdout.splitlines()) > 1
    assert "Traceback" not in shown.stderr


def test_what_only_shows_the_exchange_steps_back(installation: Installation) -> None:
    """On each thread: the kernel weighs those, and a process that steps back does not take them along."""
    ours, deadline = os.getpriority(os.PRIO_PROCESS, 0), time.monotonic() + HUNG_SECONDS
    while (nices := _nices(installation, _SHOWING)) != {max(10, ours)}:
        assert time.monotonic() < deadline, nices
        time.sleep(0.5)

    assert _nices(installation, _SERVING) == {ours}


_SHOWING = ("ray-dashboard-", "ray::DashboardAgent", "/dashboard/dashboard.py", "/autoscaler/_private/monitor.py")
_SERVING = ("/gcs/gcs_server", "/raylet/raylet", "ray::MarketActor", "ray::GatewayActor")


def _nices(installation: Installation, marks: tuple[str, ...]) -> set[int]:
    """Of all threads of the processes whose titles have these in them; there is one of each."""
    titles = [(processes.title(one), one.pid) for one in installation.processes()]
    found = {mark: [pid for title, pid in titles if mark in title.partition("--")[0]] for mark in marks}
    assert all(found.values()), found
    threads = [
        int(path.name) for pids in found.values() for pid in pids for path in Path(f"/proc/{pid}/task").iterdir()
    ]
    return {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads}
