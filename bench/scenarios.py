"""Loads with a name: what happens to an exchange on ordinary and on bad days, each open loop (bench/load.py).

A scenario is a plan of orders, and sometimes somebody beside it who does what clients do at their worst. Latencies are
the traders'. Refusals of who asks for too much (429) are answers; what counts as an error is in bench/report.py.
"""

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import monotonic
from typing import Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from actors.clock import clock_us
from bench.bench_users import Evening
from bench.client import AckLog, Trader
from bench.installation import Target
from bench.load import Plan
from bench.load import run as send_orders
from bench.meters import Device, ReadingLog, install, submit
from bench.people import PLENTY, people
from bench.report import Recorder
from bench.sockets import Socket, frame
from config.load import load
from engine.units import SECOND_US

SLOW_READERS, RECONNECTING, METERS = 50, 200, 20
RECONNECT_EVERY_SECONDS: Final = 2.0
READINGS_AT_ONCE: Final = 100
READING_S: Final = 60
MIXED_PER_MINUTE: Final = 10_000

_encode = msgspec.msgpack.Encoder().encode


class Beside(Struct):
    """What somebody beside the traders needs, and what he counts."""

    url: str
    traders: list[Trader]
    over: asyncio.Event
    seen: Counter[str]
    size: float  # 1: as it is meant; less for a run that is only to prove that it works


Companion = Callable[[Beside], Awaitable[None]]


class Scenario(Struct, frozen=True):
    about: str
    rate: int = 200
    seconds: float = 30.0
    users: int = 20
    surge: int = 1
    cancel_percent: int = 15
    filling_percent: int = 5
    beside: Companion | None = None
    mixed: bool = False


async def slow_readers(beside: Beside) -> None:
    """They subscribe to everything and never read; the exchange must end them and nobody else may notice."""
    sockets = []
    for _ in range(max(1, int(SLOW_READERS * beside.size))):
        socket = await _opened(beside, lambda *_: None)
        for channel in ("book", "trades", "ticker"):
            socket.write([frame(_encode({"op": "subscribe", "channel": channel, "market": "CAMPUS"}))])
        socket.pause()
        beside.seen["slow readers"] += 1
        sockets.append(socket)
    await beside.over.wait()
    for socket in sockets:
        socket.close()


async def reconnect_storm(beside: Beside) -> None:
    """All connect at once, log in, subscribe, hear the book, and are gone; again and again, as after an outage."""
    hellos = itertools.cycle(beside.traders)
    while not beside.over.is_set():
        began = monotonic()
        count = max(1, int(RECONNECTING * beside.size))
        done = await asyncio.gather(*(_visit(beside, next(hellos)) for _ in range(count)), return_exceptions=True)
        beside.seen["connections"] += count
        beside.seen["connections that failed"] += sum(isinstance(one, BaseException) for one in done)
        beside.seen["slowest storm, ms"] = max(beside.seen["slowest storm, ms"], int((monotonic() - began) * 1_000))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RECONNECT_EVERY_SECONDS):
                await beside.over.wait()


async def reading_flood(beside: Beside) -> None:
    """Meters that speak all at once, as after an outage: each list signed by its meters, one after the other."""
    log, zone = ReadingLog(), load().default_zone
    owners = beside.traders[: max(1, min(4, len(beside.traders)))]
    lanes = [
        (owner, [await install(owner, zone) for _ in range(max(1, int(METERS * beside.size) // len(owners)))])
        for owner in owners
    ]
    await asyncio.gather(*(_speak(beside, owner, devices, log) for owner, devices in lanes))
    beside.seen["readings acknowledged"] = log.count


SCENARIOS: Final[dict[str, Scenario]] = {
    "steady": Scenario("the same orders every second", rate=200, seconds=10, users=10),
    "burst": Scenario("calm, and ten times as many for a second every five", rate=100, surge=10),
    "mixed": Scenario("1,000 people who look, wait, and now and then place an order", users=1_000, mixed=True),
    "order-storm": Scenario("more orders than people are allowed: what is too much is refused", rate=3_000, seconds=15),
    "cancel-storm": Scenario(
        "a full book, and everybody takes his orders back", rate=800, seconds=20, cancel_percent=95, filling_percent=45
    ),
    "slow-readers": Scenario("trading, and connections that subscribe and do not read", beside=slow_readers),
    "reconnect-storm": Scenario("trading, and hundreds who connect at once, again and again", beside=reconnect_storm),
    "reading-flood": Scenario("trading, and meters that all speak at once", beside=reading_flood),
}


async def play(
    target: Target,
    scenario: Scenario,
    log: AckLog,
    markets: tuple[str, ...] = ("CAMPUS",),
    size: float = 1.0,
    progress: Callable[[float], None] | None = None,
) -> tuple[Recorder, Counter[str]]:
    """Every answer, and what went on beside. Raises what the load raises."""
    traders = await people(target.url, target.data_dir, max(2, int(scenario.users * size)), PLENTY)
    recorder, seen, over = Recorder(), Counter[str](), asyncio.Event()
    if scenario.mixed:
        evening = Evening(target, traders, int(MIXED_PER_MINUTE * size), scenario.seconds, recorder.observe)
        await evening.run()
        return recorder, Counter(evening.kinds)
    plan = Plan(
        target.url,
        scenario.rate,
        scenario.seconds,
        len(traders),
        markets,
        cancel_percent=scenario.cancel_percent,
        filling_percent=scenario.filling_percent,
        surge=scenario.surge,
    )
    company: list[asyncio.Task[None]] = []
    if scenario.beside is not None:
        beside = Beside(target.url, traders, over, seen, size)
        company.append(asyncio.ensure_future(scenario.beside(beside)))
    try:
        outcome = await send_orders(plan, log, traders, progress, recorder.observe)
    finally:
        over.set()
        await asyncio.gather(*company)
    seen["could not leave in time"] = outcome.late
    seen["sent again"] = outcome.repeats
    return recorder, seen


async def _opened(beside: Beside, received: Callable[[Socket, bytes], None]) -> Socket:
    parts = urlsplit(beside.url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80

    def lost() -> None:
        if not beside.over.is_set():
            beside.seen["ended by the exchange"] += 1

    loop = asyncio.get_running_loop()
    _, socket = await loop.create_connection(lambda: Socket(f"{host}:{port}", received, lost), host, port)
    await socket.opened
    return socket


async def _visit(beside: Beside, trader: Trader) -> None:
    """Log in, subscribe, hear where the book is, leave."""
    parts = urlsplit(beside.url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def received(_: Socket, payload: bytes) -> None:
        message = msgspec.msgpack.decode(payload)
        if isinstance(message, dict) and message.get("channel") == "book" and not heard.done():
            heard.set_result(None)

    def lost() -> None:
        if not heard.done():
            heard.set_exception(ConnectionError("ended before the book came"))

    loop = asyncio.get_running_loop()
    async with asyncio.timeout(30):
        _, socket = await loop.create_connection(lambda: Socket(f"{host}:{port}", received, lost), host, port)
        await socket.opened
        hello = _encode({"op": "auth", "token": trader.token})
        socket.write([frame(hello), frame(_encode({"op": "subscribe", "channel": "book", "market": "CAMPUS"}))])
        await heard
    socket.close()


async def _speak(beside: Beside, owner: Trader, devices: list[Device], log: ReadingLog) -> None:
    """Minute by minute over the last days, as fast as answers come."""
    start_us = (clock_us() // (900 * SECOND_US) - 6 * 96) * 900 * SECOND_US
    minutes = max(1, READINGS_AT_ONCE // len(devices))
    while not beside.over.is_set():
        said = [
            device.says(start_us + minute * READING_S * SECOND_US, place % 7, place % 90, READING_S)
            for minute in range(minutes)
            for place, device in enumerate(devices)
        ]
        start_us += minutes * READING_S * SECOND_US
        await submit(owner, [one.shown() for one in said], said, log)


def data_dir_of(url: str) -> Path | None:
    """The data directory of the exchange, if it is the private one of these settings: people are made faster there."""
    settings = load()
    is_private = url == settings.url and not settings.database_url and (settings.keys / "cluster-secret").exists()
    return settings.folder if is_private else None
