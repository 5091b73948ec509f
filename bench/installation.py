"""An exchange of its own for a bench: started as `make run` does it, on free ports, its data thrown away afterwards."""

import argparse
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import httpx
import psutil
from msgspec import Struct

READY_SECONDS_MAX: Final = 240.0
STOP_SECONDS_MAX: Final = 120.0


class Installation:
    """A context manager; `url` is the API's root while it is open. Raises RuntimeError with what the daemon said."""

    def __init__(self, **settings: str) -> None:
        """`settings`: variables of the daemon that differ from its defaults."""
        self.data_dir = Path(tempfile.mkdtemp(prefix="wb-"))
        self.port, metrics_port, dashboard_port = free_ports(3)
        self.url = f"http://127.0.0.1:{self.port}"
        self.metrics_url = f"http://127.0.0.1:{metrics_port}/metrics"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("WATTBOOK_")},
            "WATTBOOK_DATA_DIR": str(self.data_dir),
            "WATTBOOK_HTTP_PORT": str(self.port),
            "WATTBOOK_METRICS_PORT": str(metrics_port),
            "WATTBOOK_RAY_DASHBOARD_PORT": str(dashboard_port),
            **settings,
        }
        self._daemon: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        end_on_sigterm()
        said = self.data_dir / "said"
        with said.open("wb") as output:
            self._daemon = subprocess.Popen(
                [Path(sys.executable).with_name("wattbookd")],
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait(said)
        except BaseException:  # Ctrl-C, too: nobody else would end it
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _wait(self, said: Path) -> None:
        """Until it is ready."""
        assert self._daemon is not None
        deadline = time.monotonic() + READY_SECONDS_MAX
        while time.monotonic() < deadline and self._daemon.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/health/ready", timeout=READY_SECONDS_MAX).status_code == httpx.codes.OK:
                    return
            time.sleep(0.2)
        raise RuntimeError(f"the exchange did not start:\n{said.read_text(errors='replace')}")

    def _stop(self) -> None:
        assert self._daemon is not None
        if self._daemon.poll() is None:
            self._daemon.send_signal(signal.SIGINT)
        try:
            self._daemon.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self._daemon.kill()
        shutil.rmtree(self.data_dir, ignore_errors=True)


def end_on_sigterm() -> None:
    """From here on SIGTERM ends this process as Ctrl-C does, and the exchange that it started with it."""
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _end)


def _end(number: int, _frame: object) -> None:
    sys.exit(128 + number)


class Target(Struct, frozen=True):
    """The exchange that a bench asks. data_dir is None for one of which only the address is known."""

    url: str
    data_dir: Path | None = None
    metrics_url: str = ""


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """The options that all benches of a whole exchange have."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a small run that proves that the bench works")
    parser.add_argument("--url", default="", help="an exchange that runs already; else one is started for the bench")
    parser.add_argument("--data-dir", type=Path, help="the data directory of that exchange, if it is on this machine")
    return parser


@contextlib.contextmanager
def target(given: argparse.Namespace) -> Iterator[Target]:
    """The exchange that the options name, or one that lives as long as the bench; then what others took meanwhile."""
    before = psutil.cpu_times()
    if given.url:
        yield Target(given.url.rstrip("/"), given.data_dir)
    else:
        with Installation() as installation:
            yield Target(installation.url, installation.data_dir, installation.metrics_url)
    print(f"stolen: {stolen_percent(before, psutil.cpu_times()):.0f} % of the processors, by other guests of this host")


def stolen_percent(before: tuple[float, ...], after: tuple[float, ...]) -> float:
    """Of the time between two answers of psutil.cpu_times(), what the host gave to others; 0.0 where that is unsaid."""
    spent = sum(after) - sum(before)
    stolen: float = getattr(after, "steal", 0.0) - getattr(before, "steal", 0.0)
    return 100 * stolen / spent if spent else 0.0


def audit(data_dir: Path, acknowledged: Path) -> "subprocess.CompletedProcess[str]":
    """What `wattbook audit` of that exchange says of its clients' log."""
    return subprocess.run(
        [Path(sys.executable).with_name("wattbook"), "audit", "--acknowledged", str(acknowledged)],
        env={**os.environ, "WATTBOOK_DATA_DIR": str(data_dir), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


def settle(percent: float = 20.0, seconds_max: float = 15.0) -> None:
    """Wait until the machine is idle: what an earlier round left to do must not be counted against the next one."""
    deadline = time.monotonic() + seconds_max
    while time.monotonic() < deadline:
        if psutil.cpu_percent(0.5) < percent:
            return
    print(f"(the machine is still busy after {seconds_max:g} s; the figures are lower than they could be)")


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on at the moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
