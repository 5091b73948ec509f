"""The figures of the parts that run on this machine, for a node of a cluster where no daemon does it."""

import os
import signal
import threading
from types import FrameType

import typer

from commands.shared import console
from config.load import load

app = typer.Typer()


@app.command()
def metrics() -> None:
    """Serve the figures that this machine's processes leave in data_dir, until Ctrl-C: the daemon does it by itself."""
    settings = load()
    settings.metrics_folder.mkdir(parents=True, exist_ok=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(settings.metrics_folder)  # looked at when prometheus is imported
    from prometheus_client import CollectorRegistry, start_http_server
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    stop = threading.Event()

    def ends(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ends)
    server, thread = start_http_server(settings.metrics_port, settings.metrics_host, registry)
    console.print(f"http://{settings.metrics_host}:{settings.metrics_port}/metrics")
    stop.wait()
    server.shutdown()
    thread.join(2)
