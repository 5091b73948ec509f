"""One market and nothing else: what its actor's process does, joined as the daemon joins it, without Ray around it.

`python -m bench.market_process MARKET_ID SYMBOL`, told by the environment where its database is, recovers the market
and prints one JSON object when it serves; it ends when its input ends. bench_recovery starts it and reads the figures.
"""

import asyncio
import resource
import sys
from pathlib import Path
from time import perf_counter

import msgspec
import psutil
import uvloop
from msgspec import Struct

from actors import handles  # brings Ray, which every actor has loaded
from config.load import load
from config.logs import log_to
from recipes import make_market
from wiring import Wiring

POLL_SECONDS = 0.01
MB = 1_000_000


class Serving(Struct, frozen=True):
    """seconds from opening the journal to serving; memory of the process before and after, and its peak, in MB."""

    seconds: float
    sequence: int
    open_orders: int
    loaded_mb: float
    serving_mb: float
    peak_mb: float


async def main() -> None:
    assert handles.SUPERVISOR, "Ray is loaded"
    settings = load()
    log_to(Path(settings.data_dir) / "logs", "market", settings.log_level)  # not to our output, which is read
    loaded_mb = _resident_mb()
    market = await make_market(Wiring(settings, settings.database_url, ""), int(sys.argv[1]), sys.argv[2])
    started = perf_counter()
    life = asyncio.create_task(market.run())
    while market.status()["state"] != "serving":
        if life.done():
            await life
        await asyncio.sleep(POLL_SECONDS)
    seconds, status = perf_counter() - started, market.status()
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1_024 / MB  # Linux counts in KiB
    figures = Serving(seconds, status["sequence"], status["open_orders"], loaded_mb, _resident_mb(), peak_mb)
    print(msgspec.json.encode(figures).decode(), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await market.drain()
    await life


def _resident_mb() -> float:
    return psutil.Process().memory_info().rss / MB


if __name__ == "__main__":
    uvloop.run(main())
