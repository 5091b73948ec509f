"""The programs of Debian's package `prometheus`, and a server that has lived through a recorded run.

A recording is one answer of the metrics port. It becomes twelve minutes in which counters grow and gauges stay,
because what is asked of it is whether a query finds series, not which values.
"""

import contextlib
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from bench.installation import free_ports
from tests.support.patience import HUNG_SECONDS

STEP_SECONDS: Final = 15
STEPS: Final = 48
SAMPLE: Final = re.compile(r"^(\w+)(\{.*\})? (\S+)$", re.MULTILINE)
KIND: Final = re.compile(r"^# TYPE (\w+) (\w+)$", re.MULTILINE)


def program(name: str) -> str:
    """Its path; the test is skipped where it is not installed."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed (Debian's package prometheus), so rules and queries were not run")
    return path


def run(*command: str) -> str:
    """What it says; fails with that when its status is not 0."""
    done = subprocess.run(
        [program(command[0]), *command[1:]], capture_output=True, text=True, timeout=HUNG_SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def history(recording: str, until: float) -> str:
    """OpenMetrics with a sample every STEP_SECONDS; the samples of a name stand together, in the order of time."""
    kinds = dict(KIND.findall(recording))
    lines: list[str] = []
    for name, labels, value in SAMPLE.findall(recording):
        family = re.sub(r"_(bucket|count|sum|total)$", "", name)
        kind = kinds.get(name) or kinds.get(family) or kinds.get(f"{family}_total", "gauge")
        for step in range(STEPS):
            grown = float(value) * (1 + step / STEPS) if kind != "gauge" else float(value)
            lines.append(f"{name}{labels} {grown} {until - (STEPS - step) * STEP_SECONDS:.3f}")
    return "\n".join([*lines, "# EOF", ""])


class Server:
    """Answers queries over the recorded run."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=HUNG_SECONDS)

    def series(self, query: str) -> list[dict[str, Any]]:
        """What the query finds now. Fails with the server's words when it is no query."""
        answer = self._client.get("/api/v1/query", params={"query": query}).json()
        assert answer["status"] == "success", (query, answer.get("error"))
        return list(answer["data"]["result"])

    def wait_for(self, query: str) -> None:
        """Until it finds something; recorded series come with the first evaluation."""
        deadline = time.monotonic() + HUNG_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError, ValueError):
                if self.series(query):
                    return
            time.sleep(0.1)
        raise AssertionError(f"prometheus does not answer {query}")


@contextlib.contextmanager
def recorded(recording: str, rules: Path, folder: Path) -> Iterator[Server]:
    """A Prometheus on loopback that has lived through the recording, with the rules applied each second."""
    server, (port,) = program("prometheus"), free_ports(1)
    text, data, config = folder / "history.txt", folder / "data", folder / "prometheus.yml"
    text.write_text(history(recording, time.time()))
    run("promtool", "tsdb", "create-blocks-from", "openmetrics", str(text), str(data))
    config.write_text(f"global: {{evaluation_interval: 1s}}\nrule_files: ['{rules}']\n")
    arguments = [f"--config.file={config}", f"--storage.tsdb.path={data}", f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen([server, *arguments], stdout=said, stderr=said)
        try:
            serving = Server(f"http://127.0.0.1:{port}")
            serving.wait_for("wattbook:ready")
            yield serving
        finally:
            process.terminate()
            process.wait(HUNG_SECONDS)
