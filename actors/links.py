"""A gateway's (or any other actor's) way to the markets: who exists, where each listens, one connection to each.

Requests are pipelined; answers find their request by id. A broken connection fails what was under way, is resolved
again through the directory, and is opened again with back-off. Nothing here waits without a bound.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, Final, get_args

import msgspec
import structlog
from msgspec import Struct

from actors import metrics
from actors.dataplane import Connection, Secret, connect
from actors.stages import Stages
from engine.market import MarketSpec
from engine.messages import Command, ParticipantId
from engine.views import Answer, BookView, Failed, Fault, Feed, Query, Watch

PENDING_MAX: Final = 20_000
ANSWER_SECONDS_MAX: Final = 10.0
DIRECTORY_SECONDS: Final = 0.5
DIRECTORY_SECONDS_WHILE_DOWN: Final = 0.1
WATCH_AGAIN_SECONDS: Final = 0.2
_BACKOFF_SECONDS_MAX: Final = 0.5

_QUERIES: Final = get_args(Query)
_encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[tuple[int, Any, int]] = msgspec.msgpack.Decoder(tuple[int, Answer | Feed, int])
log = structlog.get_logger()


class Place(Struct, frozen=True):
    """A market and where it listens; an empty address: nowhere at the moment."""

    spec: MarketSpec
    address: str


Directory = Callable[[], Awaitable[list[Place]]]
Listener = Callable[[BookView | Feed | None], None]


class Links:
    """Every market of the directory by id and by symbol."""

    def __init__(self, directory: Directory, secret: Secret) -> None:
        self._directory, self._secret = directory, secret
        self._links: dict[int, Link] = {}
        self._specs: dict[str, MarketSpec] = {}
        self._changed = asyncio.Event()

    def markets(self) -> dict[str, MarketSpec]:
        """What is known now, by symbol."""
        return self._specs

    async def run(self) -> None:
        """Keep the directory fresh and the links open; the owner cancels it."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._refresh(tasks)
                for link in self._links.values():
                    link.expire()
                self._changed.clear()
                try:
                    down = any(not link.is_up for link in self._links.values())
                    async with asyncio.timeout(DIRECTORY_SECONDS_WHILE_DOWN if down else DIRECTORY_SECONDS):
                        await self._changed.wait()
                except TimeoutError:
                    continue

    def refresh_soon(self) -> None:
        """Somebody knows that the directory has changed."""
        self._changed.set()

    async def submit(self, market_id: int, command: Command) -> Answer:
        """The answer to one command; Failed when there is none. Never raises for what the other side does."""
        link = self._links.get(market_id)
        return await link.request(command) if link is not None else _unknown(market_id)

    async def submit_many(self, market_id: int, commands: list[Command]) -> list[Answer]:
        """Answers in the order of the commands, which leave in one write."""
        link = self._links.get(market_id)
        if link is None:
            return [_unknown(market_id)] * len(commands)
        return list(await asyncio.gather(*(link.request(command) for command in commands)))

    async def ask(self, market_id: int, query: Query) -> Answer:
        """The answer to a query; nothing is journaled for it."""
        link = self._links.get(market_id)
        return await link.request(query) if link is not None else _unknown(market_id)

    def watch(self, market_id: int, participants: frozenset[ParticipantId], book: bool, listener: Listener) -> None:
        """Be told of every commit from now on: a BookView first, then a Feed each; None when the link broke."""
        link = self._links.get(market_id)
        if link is not None:
            link.watch(Watch(book, tuple(sorted(participants))), listener)

    async def _refresh(self, tasks: asyncio.TaskGroup) -> None:
        try:
            places = await self._directory()
        except Exception as error:  # noqa: BLE001 - whatever the control plane's trouble, the data plane goes on
            log.warning("links.directory_unreachable", why=repr(error))
            return
        self._specs = {place.spec.symbol: place.spec for place in places}
        for place in places:
            link = self._links.get(place.spec.market_id)
            if link is None:
                link = self._links[place.spec.market_id] = Link(place.spec.symbol, self._secret, self.refresh_soon)
                tasks.create_task(link.run())
            link.moved_to(place.address)


class Link:
    """One market's connection, with what is under way on it."""

    def __init__(self, symbol: str, secret: Secret, lost_sight: Callable[[], None]) -> None:
        self._symbol, self._secret, self._lost_sight = symbol, secret, lost_sight
        self._address = ""
        self._connection: Connection | None = None
        self._pending: dict[int, tuple[asyncio.Future[Answer], float, bool]] = {}  # answer, since when, is it a query
        self._next_id = 1
        self._up = asyncio.Event()
        self._moved = asyncio.Event()
        self._down = asyncio.Event()
        self._watch: Watch | None = None
        self._watch_id = 0
        self._listener: Listener | None = None
        self._hop = Stages().hop

    @property
    def is_up(self) -> bool:
        return self._connection is not None and self._connection.is_open

    async def run(self) -> None:
        """Stay connected wherever the market is."""
        failures = 0
        while True:
            if not self._address:
                self._moved.clear()
                await self._moved.wait()
                continue
            self._moved.clear()
            self._down.clear()
            try:
                await connect(self._address, self._secret, self)
                await self._down.wait()
                failures = 0
            except (OSError, TimeoutError) as error:
                failures += 1
                log.info("link.unreachable", market=self._symbol, address=self._address, why=repr(error))
            self._lost_sight()
            with contextlib.suppress(TimeoutError):  # a new address ends the wait
                async with asyncio.timeout(min(0.02 * 2**failures, _BACKOFF_SECONDS_MAX)):
                    await self._moved.wait()

    def moved_to(self, address: str) -> None:
        """Where the directory says that the market listens now."""
        if address and address != self._address:
            self._address = address
            self._moved.set()
            if self._connection is not None:
                self._connection.close()

    async def request(self, body: Command | Query) -> Answer:
        """Send, and wait for the answer, for a reconnection at most as long as for an answer."""
        if len(self._pending) >= PENDING_MAX:
            return Failed(Fault.OVERLOADED, f"{self._symbol}: too many requests are under way")
        connection = self._connection
        if connection is None or not connection.is_open:
            try:
                async with asyncio.timeout(ANSWER_SECONDS_MAX / 2):
                    await self._up.wait()
            except TimeoutError:
                metrics.UNREACHABLE.labels(self._symbol).inc()
                return Failed(Fault.UNAVAILABLE, f"{self._symbol} cannot be reached at the moment; nothing was done")
            connection = self._connection
            if connection is None or not connection.is_open:  # it closes at this moment: what is sent would be lost
                return Failed(Fault.UNAVAILABLE, f"{self._symbol} cannot be reached at the moment; nothing was done")
        request_id = self._next_id
        self._next_id += 1
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._pending[request_id] = (answer, monotonic(), isinstance(body, _QUERIES))
        connection.send(_encode((request_id, body)))
        return await answer

    def watch(self, watch: Watch, listener: Listener) -> None:
        self._watch, self._listener = watch, listener
        self._send_watch()

    def expire(self) -> None:
        """Give up on answers that are overdue; requests are in order of their time."""
        now = monotonic()
        for request_id, (answer, since, is_query) in list(self._pending.items()):
            if now - since < ANSWER_SECONDS_MAX:
                break
            del self._pending[request_id]
            metrics.UNREACHABLE.labels(self._symbol).inc()
            if not answer.done():
                answer.set_result(_no_answer(self._symbol, is_query))

    # --- Receiver -------------------------------------------------------------------------------------------------

    def connected(self, connection: Connection) -> None:
        self._connection = connection
        self._up.set()
        self._send_watch()

    def received(self, connection: Connection, frames: list[bytes]) -> None:
        now = monotonic()
        for frame in frames:
            try:
                request_id, message, market_us = _decoder.decode(frame)
            except msgspec.MsgspecError as error:
                log.error("link.bad_frame", market=self._symbol, why=str(error))
                connection.close()
                return
            if request_id == 0 or request_id == self._watch_id:
                if isinstance(message, Failed):
                    self._tell(None)
                    if request_id == 0:  # the market has lost its watchers
                        self._send_watch()
                    else:  # it does not want any now: asking again at once would keep both ends busy with nothing else
                        asyncio.get_running_loop().call_later(WATCH_AGAIN_SECONDS, self._send_watch)
                else:
                    self._tell(message)
                continue
            waiting = self._pending.pop(request_id, None)
            if waiting is not None and not waiting[0].done():
                waiting[0].set_result(message)
                self._hop(now - waiting[1] - market_us / 1_000_000)

    def lost(self, connection: Connection) -> None:
        if connection is not self._connection and self._connection is not None:
            return
        self._connection = None
        self._up.clear()
        self._down.set()
        pending, self._pending = self._pending, {}
        for answer, _, is_query in pending.values():
            metrics.UNREACHABLE.labels(self._symbol).inc()
            if not answer.done():
                answer.set_result(_no_answer(self._symbol, is_query))
        self._tell(None)

    def _tell(self, news: BookView | Feed | None) -> None:
        if self._listener is not None:
            self._listener(news)

    def _send_watch(self) -> None:
        if self._watch is not None and self._connection is not None and self._connection.is_open:
            self._watch_id = self._next_id
            self._next_id += 1
            self._connection.send(_encode((self._watch_id, self._watch)))


def _no_answer(symbol: str, is_query: bool) -> Failed:
    if is_query:
        return Failed(Fault.UNAVAILABLE, f"{symbol} did not answer; ask again")
    return Failed(Fault.OUTCOME_UNKNOWN, f"{symbol} did not answer: repeat with the same client_order_id")


def _unknown(market_id: int) -> Failed:
    return Failed(Fault.UNAVAILABLE, f"market {market_id} is not in the directory yet")
