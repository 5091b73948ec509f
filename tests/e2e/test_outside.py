"""What the machine around an installation can see of it: pages, metrics, ports, the printed first call."""

import contextlib
import json
import re
import subprocess
import time

import httpx
import psutil
import pytest

from actors.dashboard import MEANINGS
from tests.support.installation import Installation, Person
from tests.support.patience import HUNG_SECONDS

LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")


def test_the_documentation_page_needs_no_other_host(installation: Installation) -> None:
    page = httpx.get(installation.url + "/schema", timeout=HUNG_SECONDS)
    schema = httpx.get(installation.url + "/schema/openapi.json", timeout=HUNG_SECONDS).json()

    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert re.findall(r"""(?:src|href|action)\s*=\s*["']?(?:https?:)?//""", page.text) == []
    assert re.findall(r"""(?:import|fetch|url)\s*\(?\s*["']?(?:https?:)?//""", page.text) == []
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert schema["openapi"].startswith("3.1")
    assert {"/api/v1/orders", "/api/v1/markets/{symbol}/book"} <= set(schema["paths"])


def test_metrics_of_market_follower_and_gateway_answer_on_their_own_port(
    installation: Installation, seller: Person, buyer: Person
) -> None:
    seller.place("sell", "3.000", "1.000")
    buyer.place("buy", "4.000", "1.000")
    buyer.balances()
    time.sleep(1)  # what is measured is handed over twice a second

    metrics = httpx.get(f"http://127.0.0.1:{installation.metrics_port}/metrics", timeout=HUNG_SECONDS).text

    for name in (
        'wattbook_market_commit_seconds_count{market="CAMPUS"}',
        'wattbook_follower_sequence{market="CAMPUS"}',
        'wattbook_http_request_seconds_count{method="POST",route="/api/v1/orders",status="201"}',
        'wattbook_epoch_clock_ticks_total{market="RIVERSIDE"}',
    ):
        values = [line.rpartition(" ")[2] for line in metrics.splitlines() if line.startswith(name)]
        assert len(values) == 1, (name, [line for line in metrics.splitlines() if line.startswith(name.split("{")[0])])
        assert float(values[0]) > 0, name
    assert httpx.get(installation.url + "/metrics", timeout=HUNG_SECONDS).status_code == 404


def test_nothing_listens_beyond_loopback(installation: Installation) -> None:
    """Ray's own ports neither: they run code for whoever reaches them with the token."""
    listening: dict[str, list[str]] = {}
    for process in installation.processes():
        try:
            connections, title = process.net_connections(kind="inet"), " ".join(process.cmdline())
        except psutil.NoSuchProcess:
            continue
        addresses = [one.laddr for one in connections if one.status == psutil.CONN_LISTEN]
        if addresses:
            listening[f"{process.pid} {title}"] = [f"{ip}:{port}" for ip, port in addresses]
    for title, shown in sorted(listening.items()):
        print(title[:90], *shown)

    assert any(f"127.0.0.1:{installation.http_port}" in shown for shown in listening.values())
    assert all(one.rpartition(":")[0] in LOOPBACK for shown in listening.values() for one in shown), listening


@pytest.mark.parametrize("path", ["/api/jobs/", "/api/cluster_status", "/nodes?view=summary"])
def test_the_ray_dashboard_does_nothing_without_its_token(installation: Installation, path: str) -> None:
    address = f"http://127.0.0.1:{installation.dashboard_port}{path}"
    token = (installation.data_dir / "keys" / "ray-token").read_text()

    assert httpx.get(address, timeout=HUNG_SECONDS).status_code == httpx.codes.UNAUTHORIZED
    assert httpx.get(address, headers={"Authorization": f"Bearer {token}"}, timeout=HUNG_SECONDS).is_success


def test_the_ray_dashboard_shows_parts_by_their_names_and_our_figures(installation: Installation) -> None:
    address = f"http://127.0.0.1:{installation.dashboard_port}/api/v0/actors?detail=1"
    token = (installation.data_dir / "keys" / "ray-token").read_text()
    told = httpx.get(address, headers={"Authorization": f"Bearer {token}"}, timeout=HUNG_SECONDS).json()
    shown = {each["repr_name"] for each in told["data"]["result"]["result"] if each["state"] == "ALIVE"}
    figures = {f"ray_wattbook_{name}": "" for name in MEANINGS}
    file = installation.data_dir / "ray" / "prom_metrics_service_discovery.json"
    until = time.monotonic() + HUNG_SECONDS

    while not all(figures.values()) and time.monotonic() < until:  # they are told once in some seconds
        [job] = json.loads(file.read_text())
        for each in job["targets"]:
            with contextlib.suppress(httpx.TransportError):  # two have fixed ports, which another Ray may have here
                lines = httpx.get(f"http://{each}/metrics", timeout=HUNG_SECONDS).text.splitlines()
                figures |= {name: line for name in figures for line in lines if line.startswith(name + "{")}
        time.sleep(0.5)

    assert {"Supervisor()", "Market(CAMPUS)", "Gateway(1)", "ChainSubmitter()", "MeterAggregator(0 of 1)"} <= shown
    assert not [name for name in shown if " object at " in name]
    assert all('part="' in line for line in figures.values()), figures


def test_no_command_line_shows_a_secret(installation: Installation) -> None:
    keys = installation.data_dir / "keys"
    secrets = [installation.environment["WATTBOOK_ADMIN_PASSWORD"], *((keys / n).read_text() for n in _TEXTS)]

    for process in installation.processes():
        try:
            line = " ".join(process.cmdline())
        except psutil.NoSuchProcess:
            continue
        assert not any(secret in line for secret in secrets), process


_TEXTS = ("demo-password", "ray-token")


def test_the_printed_first_call_works_when_pasted(installation: Installation) -> None:
    printed = installation.output.partition("to paste into another terminal:")[2]
    call = printed.partition("Stopping")[0].strip()
    assert call.startswith("TOKEN=$(curl")

    pasted = subprocess.run(["bash", "-c", call], capture_output=True, text=True, timeout=HUNG_SECONDS, check=False)

    assert '"order_id":"1-' in pasted.stdout, pasted
    assert '"status":"open"' in pasted.stdout or '"status":"filled"' in pasted.stdout


def test_keys_are_for_their_owner_only(installation: Installation) -> None:
    keys = installation.data_dir / "keys"

    assert keys.stat().st_mode & 0o777 == 0o700
    assert {path.name: oct(path.stat().st_mode & 0o077) for path in keys.rglob("*") if path.is_file()} == {
        path.name: "0o0" for path in keys.rglob("*") if path.is_file()
    }
