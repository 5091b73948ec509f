"""What may be done to a running installation, each as a function that returns when the fault has happened.

Processes are found by what they are, never by a name that another exchange's could have too, and killed by their ids.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import monotonic
from typing import Any, Final

import psutil

from actors import crash_points
from tests.support.installation import Installation
from tests.support.patience import HUNG_SECONDS
from tests.support.traders import SYMBOLS

STOPPED_SECONDS: Final = 5.0
PARTS: Final = {
    "ray::SupervisorActor": 1,
    "ray::PersistenceActor": 1,
    "ray::EpochClockActor": 1,
    "ray::GatewayActor": 1,
    "ray::MarketActor": len(SYMBOLS),
    "ray::MeterAggregatorActor": 1,
    "ray::ChainSubmitterActor": 1,
    "ray::ChainListenerActor": 1,
    "valkey-server": 1,
    "/bin/postgres -D": 1,
    "/gcs/gcs_server": 1,
}


Fault = Callable[[Installation], Awaitable[None]]


async def kill(process: Any) -> None:
    """SIGKILL, and wait until it has gone."""
    process.kill()
    await asyncio.to_thread(_gone, process)


async def kill_market(installation: Installation) -> None:
    await kill(await asyncio.to_thread(installation.market_process, "CAMPUS"))


async def kill_actor(installation: Installation, kind: str) -> None:
    """Every process of this kind of actor."""
    victims = await asyncio.to_thread(installation.actors, kind)
    assert victims, f"no {kind} runs"
    for victim in victims:
        await kill(victim)


async def kill_postgres(installation: Installation) -> None:
    await kill(server(installation, "postgres"))


async def kill_backend(installation: Installation) -> None:
    """One of Postgres' own processes: it ends all sessions, recovers and goes on by itself."""
    children = await asyncio.to_thread(server(installation, "postgres").children)
    sessions = [child for child in children if "postgres: wattbook" in " ".join(child.cmdline())]
    await kill(sessions[0])


async def kill_valkey(installation: Installation) -> None:
    await kill(server(installation, "valkey"))


async def kill_devnet(installation: Installation) -> None:
    await kill(server(installation, "devnet"))


async def kill_control_service(installation: Installation) -> None:
    await kill(await asyncio.to_thread(control_service, installation))


async def stop_postgres(installation: Installation) -> None:
    """All of its processes stand still for a while, and go on."""
    postmaster = server(installation, "postgres")
    everyone = [*await asyncio.to_thread(postmaster.children), postmaster]
    try:
        for process in everyone:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(STOPPED_SECONDS)
    finally:
        for process in everyone:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)


def server(installation: Installation, name: str) -> Any:
    """The private server: whose socket or data lies in the installation's folder."""
    if name == "postgres":
        pid = int((installation.data_dir / "postgres" / "data" / "postmaster.pid").read_text().split()[0])
        return psutil.Process(pid)
    for process in installation.processes():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if name == "valkey" and "valkey-server" in "".join(words[:1]):
                return process
            if name == "devnet" and words[1:2] == ["-c"] and "chain.devnet.server" in words[2]:
                return process
    raise AssertionError(f"no {name} runs")


def control_service(installation: Installation) -> Any:
    """Of Ray."""
    for process in installation.processes():
        with contextlib.suppress(psutil.Error):
            if process.cmdline()[0].endswith("/gcs/gcs_server"):
                return process
    raise AssertionError("Ray has no control service")


async def crash(installation: Installation, part: str, point: str, times: int) -> None:
    """Have this part die at the point, and wait until it really has: by its own word and by its end."""
    order, died = installation.crash_order, installation.crash_order.with_name(installation.crash_order.name + ".died")
    died.unlink(missing_ok=True)
    crash_points.order(order, part, point, times)
    try:
        async with asyncio.timeout(HUNG_SECONDS):
            words = await _words(died)
    except TimeoutError:
        raise AssertionError(f"{part} never came to {point} for the {times}. time") from None
    finally:
        order.unlink(missing_ok=True)
    assert words[0] == f"{part}:{point}:{times}"
    pid = int(words[1])
    assert pid != os.getpid()
    with contextlib.suppress(psutil.NoSuchProcess):
        await asyncio.to_thread(psutil.Process(pid).wait, HUNG_SECONDS)


async def whole(installation: Installation) -> None:
    """Wait until every part has its processes again."""
    deadline = monotonic() + HUNG_SECONDS
    while True:
        titles = await asyncio.to_thread(_titles, installation)
        missing = [part for part, count in PARTS.items() if sum(part in title for title in titles) < count]
        if not missing:
            return
        assert monotonic() < deadline, f"not there: {missing}; there: {titles}"
        await asyncio.sleep(0.2)


def _titles(installation: Installation) -> list[str]:
    found = []
    for process in installation.processes():
        with contextlib.suppress(psutil.Error):
            found.append(" ".join(process.cmdline()))
    return found


async def _words(file: Path) -> list[str]:
    """Of a file that somebody is about to write."""
    while True:
        words = file.read_text().split() if file.exists() else []
        if words:
            return words
        await asyncio.sleep(0.01)


def _gone(process: Any) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.wait(HUNG_SECONDS)
