"""An exchange of its own for a bench: started as `make run` does it, on free ports, its data thrown away afterwards."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import httpx

READY_SECONDS_MAX: Final = 120.0
STOP_SECONDS_MAX: Final = 30.0


class Installation:
    """A context manager; `url` is the API's root while it is open. Raises RuntimeError with what the daemon said."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="wb-"))
        self.port, metrics_port, dashboard_port = _free_ports(3)
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("WATTBOOK_")},
            "WATTBOOK_DATA_DIR": str(self.folder),
            "WATTBOOK_HTTP_PORT": str(self.port),
            "WATTBOOK_METRICS_PORT": str(metrics_port),
            "WATTBOOK_RAY_DASHBOARD_PORT": str(dashboard_port),
        }
        self._daemon: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        said = self.folder / "said"
        with said.open("wb") as output:
            self._daemon = subprocess.Popen(
                [Path(sys.executable).with_name("wattbookd")],
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + READY_SECONDS_MAX
        while time.monotonic() < deadline and self._daemon.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/health/ready", timeout=2).status_code == httpx.codes.OK:
                    return self
            time.sleep(0.2)
        self._stop()
        raise RuntimeError(f"the exchange did not start:\n{said.read_text(errors='replace')}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _stop(self) -> None:
        assert self._daemon is not None
        if self._daemon.poll() is None:
            self._daemon.send_signal(signal.SIGINT)
        try:
            self._daemon.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self._daemon.kill()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
