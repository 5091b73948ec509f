"""A gateway's (or any other actor's) way to the markets: who exists, where each listens, one connection to each.

Requests are pipelined; answers find their request by id. A broken connection fails what was under way, is resolved
again through the directory, and is opened again with back-off. Nothing here waits without a bound.

A market that has moved says so instead of answering, and the directory may say so before: then what is under way is
waited for, what comes is held, and when the market's next process is reached it gets it all in order. Nothing that
could have been done is sent a second time.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from time import monotonic
from typing import Any, Final, NamedTuple, Protocol, cast, get_args

import msgspec
import structlog
from msgspec import Struct

from actors import metrics
from actors.asked import Traced, WireCommand
from actors.dataplane import Connection, Secret
from actors.dialling import Dialler
from actors.stages import Stages
from actors.succession import Moved
from engine.market import MarketSpec
from engine.messages import Command, ParticipantId
from engine.views import Answer, BookView, Failed, Fault, Feed, Query, Watch

PENDING_MAX: Final = 20_000
ANSWER_SECONDS_MAX: Final = 10.0
DIRECTORY_SECONDS: Final = 0.5
DIRECTORY_SECONDS_WHILE_DOWN: Final = 0.1
EXPIRE_SECONDS: Final = 0.5
WATCH_AGAIN_SECONDS: Final = 0.2
LEAVE_SECONDS_MAX: Final = 2.0  # for the answers that a process which is left still owes
HELD_SECONDS_MAX: Final = 5.0

_QUERIES: Final = get_args(Query)
_NOT_YET: Final = Failed(Fault.OUTCOME_UNKNOWN, "not answered yet")
_encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[list[tuple[int, Any, int]]] = msgspec.msgpack.Decoder(
    list[tuple[int, Answer | Feed | Moved, int]]
)
log = structlog.get_logger()


class Place(Struct, frozen=True):
    """A market and where it listens; an empty address: nowhere at the moment."""

    spec: MarketSpec
    address: str


class Directory(Protocol):
    """Who knows the markets. `waits`: it answers when something is not as it said the last time, or after a while."""

    async def __call__(self, *, waits: bool = False) -> list[Place]: ...


Carried = Callable[[], str]
Listener = Callable[[BookView | Feed | None], None]


class Links:
    """Every market of the directory by id and by symbol."""

    def __init__(self, directory: Directory, secret: Secret, carried: Carried | None = None) -> None:
        """`carried` gives the `traceparent` of what is going on, where requests are traced."""
        self._directory, self._secret, self._carried = directory, secret, carried
        self._links: dict[int, Link] = {}
        self._specs: dict[str, MarketSpec] = {}
        self._known = asyncio.Event()  # the directory has answered once
        self._changed = asyncio.Event()

    async def known(self) -> None:
        """Return when it is known which markets there are; whether they can be reached is another matter."""
        await self._known.wait()

    def markets(self) -> dict[str, MarketSpec]:
        """What is known now, by symbol."""
        return self._specs

    async def run(self) -> None:
        """Keep the directory fresh and the links open; the owner cancels it."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._expire())
            while True:
                await self._refresh(tasks)
                seconds = DIRECTORY_SECONDS if self._all_up() else DIRECTORY_SECONDS_WHILE_DOWN
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await self._changed.wait()

    def _all_up(self) -> bool:
        return all(link.is_up for link in self._links.values())

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(EXPIRE_SECONDS)
            for link in self._links.values():
                link.expire()

    def refresh_soon(self) -> None:
        """Somebody knows that the directory has changed."""
        self._changed.set()

    # Not coroutines: what can be sent is sent by the call itself, so that calls keep their order whoever awaits them.

    def submit(self, market_id: int, command: Command) -> Coroutine[Any, Any, Answer]:
        """The answer to one command; Failed when there is none. Never raises for what the other side does."""
        return _only(self._request(market_id, (command,)))

    def submit_many(self, market_id: int, commands: Sequence[Command]) -> Coroutine[Any, Any, list[Answer]]:
        """Answers in the order of the commands, which leave together."""
        return self._request(market_id, commands)

    def ask(self, market_id: int, query: Query) -> Coroutine[Any, Any, Answer]:
        """The answer to a query; nothing is journaled for it."""
        return _only(self._request(market_id, (query,)))

    def _request(self, market_id: int, bodies: Sequence[Command | Query]) -> Coroutine[Any, Any, list[Answer]]:
        link = self._links.get(market_id)
        if link is not None:
            return link.request(bodies)
        return _told([Failed(Fault.UNAVAILABLE, f"market {market_id} is not in the directory yet")] * len(bodies))

    def watch(self, market_id: int, participants: frozenset[ParticipantId], book: bool, listener: Listener) -> None:
        """Be told of every commit from now on: a BookView first, then a Feed each; None when the link broke."""
        link = self._links.get(market_id)
        if link is not None:
            link.watch(Watch(book, tuple(sorted(participants))), listener)

    async def _refresh(self, tasks: asyncio.TaskGroup) -> None:
        waits = self._all_up() and not self._changed.is_set()
        self._changed.clear()
        asking = asyncio.create_task(self._directory(waits=waits))
        changed = asyncio.create_task(self._changed.wait())
        try:
            await asyncio.wait((asking, changed), return_when=asyncio.FIRST_COMPLETED)
            if waits and not asking.done():  # somebody knows better: ask anew, without waiting
                return
            places = await asking
            if not waits:
                self._changed.clear()  # else links that cannot dial have it asked again and again without a pause
        except Exception as error:  # noqa: BLE001 - whatever the control plane's trouble, the data plane goes on
            log.warning("links.directory_unreachable", why=repr(error))
            return
        finally:
            asking.cancel()
            changed.cancel()
        # A supervisor that has just been started may know fewer than it did: what was a market is still one.
        # A dict of its own each time: somebody may be in the midst of the one before.
        self._specs = self._specs | {place.spec.symbol: place.spec for place in places}
        for place in places:
            link = self._links.get(place.spec.market_id)
            if link is None:
                link = self._links[place.spec.market_id] = Link(
                    place.spec.symbol, self._secret, self.refresh_soon, self._carried
                )
                tasks.create_task(link.run())
            link.moved_to(place.address)
        self._known.set()


class Together:
    """Requests that are waited for together: their answers, in the order of the requests."""

    __slots__ = ("_answers", "_done", "_missing")

    def __init__(self, count: int) -> None:
        self._answers: list[Answer] = [_NOT_YET] * count
        self._missing = count
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not count:
            self._done.set_result(None)

    def take(self, place: int, answer: Answer) -> None:
        self._answers[place] = answer
        self._missing -= 1
        if not self._missing and not self._done.done():
            self._done.set_result(None)

    async def wait(self) -> list[Answer]:
        await self._done
        return self._answers


class Waiting(NamedTuple):
    """A request without an answer, since when (seconds of monotonic), and as it goes over the wire."""

    together: Together
    place: int
    since: float
    is_query: bool
    letter: bytes


class Link:
    """One market's connection, with what is under way on it."""

    def __init__(
        self, symbol: str, secret: Secret, lost_sight: Callable[[], None], carried: Carried | None = None
    ) -> None:
        self._symbol, self._carried = symbol, carried
        self._dialler = Dialler(f"market {symbol}", secret, self, lost_sight)
        self._pending: dict[int, Waiting] = {}
        self._held: dict[int, Waiting] = {}  # not sent, or sent back undone: for the market's next process
        self._is_leaving = False  # until connected to the next process
        self._heir = ""  # its address, until it is dialled
        self._left = ""  # whose process has said that it moved: the directory may still name it for a moment
        self._leaving: asyncio.TimerHandle | None = None
        self._next_id = 1
        self._watch: Watch | None = None
        self._watch_id = 0
        self._listener: Listener | None = None
        self._hop = Stages().hop
        self.run = self._dialler.run

    @property
    def is_up(self) -> bool:
        return self._dialler.connection is not None and not self._is_leaving

    def request(self, bodies: Sequence[Command | Query]) -> Coroutine[Any, Any, list[Answer]]:
        """Send all or none, at once if the link is up, else when it is; then wait for all answers."""
        if len(self._pending) + len(self._held) + len(bodies) > PENDING_MAX:
            return _told([Failed(Fault.OVERLOADED, f"{self._symbol}: too many requests are under way")] * len(bodies))
        if self._is_leaving:
            return self._send(None, bodies).wait()
        connection = self._dialler.connection
        if connection is None:
            return self._request_when_up(bodies)
        return self._send(connection, bodies).wait()

    async def _request_when_up(self, bodies: Sequence[Command | Query]) -> list[Answer]:
        """Waits for a reconnection at most half as long as for an answer."""
        connection = await self._dialler.until_up(ANSWER_SECONDS_MAX / 2)
        return self._unreachable(len(bodies)) if connection is None else await self._send(connection, bodies).wait()

    def _send(self, connection: Connection | None, bodies: Sequence[Command | Query]) -> Together:
        """Without a connection: hold them for the next one."""
        together, now, request_id = Together(len(bodies)), monotonic(), self._next_id
        self._next_id += len(bodies)
        parent = self._carried() if self._carried is not None else ""
        for place, body in enumerate(bodies):
            asked = Traced(parent, cast(WireCommand, body)) if parent else body
            waiting = Waiting(together, place, now, isinstance(body, _QUERIES), _encode((request_id, asked)))
            if connection is None:
                self._held[request_id] = waiting
            else:
                self._pending[request_id] = waiting
                connection.send(waiting.letter)
            request_id += 1
        return together

    def _unreachable(self, count: int) -> list[Answer]:
        metrics.UNREACHABLE.labels(self._symbol).inc(count)
        return [Failed(Fault.UNAVAILABLE, f"{self._symbol} cannot be reached at the moment; nothing was done")] * count

    def watch(self, watch: Watch, listener: Listener) -> None:
        self._watch, self._listener = watch, listener
        self._send_watch()

    def expire(self) -> None:
        """Give up on answers that are overdue; requests are in order of their time."""
        now = monotonic()
        for request_id, waiting in list(self._pending.items()):
            if now - waiting.since < ANSWER_SECONDS_MAX:
                break
            del self._pending[request_id]
            self._give_up(waiting)
        for request_id, waiting in list(self._held.items()):
            if now - waiting.since >= HELD_SECONDS_MAX:
                del self._held[request_id]
                waiting.together.take(waiting.place, *self._unreachable(1))

    # --- from one process of the market to the next -----------------------------------------------------------------

    def moved_to(self, address: str) -> None:
        """Where the directory says that the market listens; empty: nobody knows."""
        if not address or address in (self._left, self._heir):
            return
        self._left = ""
        if address == self._dialler.address:
            return
        if self._is_leaving or self._dialler.connection is not None:
            self._leave_for(address)
        else:
            self._dialler.moved_to(address)

    def _leave_for(self, address: str) -> None:
        """Hold what comes from now on, and dial this address when nothing is under way any more."""
        self._heir, self._is_leaving = address, True
        if self._leaving is None:
            self._leaving = asyncio.get_running_loop().call_later(LEAVE_SECONDS_MAX, self._leave)
        if not self._pending:
            self._leave()

    def _leave(self) -> None:
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        heir, self._heir = self._heir, ""
        self._dialler.moved_to(heir)

    def _send_held(self, connection: Connection) -> None:
        """In the order in which the requests were made: what came back undone is older than what waited."""
        self._is_leaving = False
        held, self._held = self._held, {}
        for request_id in sorted(held):
            self._pending[request_id] = held[request_id]
            connection.send(held[request_id].letter)

    # --- Receiver -------------------------------------------------------------------------------------------------

    def connected(self, connection: Connection) -> None:
        self._send_watch()
        self._send_held(connection)

    def received(self, connection: Connection, frames: list[bytes]) -> None:
        now, pending = monotonic(), self._pending
        for frame in frames:
            try:
                messages = _decoder.decode(frame)
            except msgspec.MsgspecError as error:
                log.error("link.bad_frame", market=self._symbol, why=str(error))
                connection.close()
                return
            for request_id, message, market_us in messages:
                waiting = pending.pop(request_id, None)
                if type(message) is Moved:
                    if waiting is not None:
                        self._held[request_id] = waiting
                    if message.address != self._dialler.address:
                        self._left = self._dialler.address
                        self._leave_for(message.address)
                elif waiting is not None:
                    waiting.together.take(waiting.place, message)
                    self._hop(now - waiting.since - market_us / 1_000_000)
                elif request_id == 0 or request_id == self._watch_id:
                    self._hear(request_id, message)
        if self._heir and not pending:
            self._leave()

    def _hear(self, request_id: int, news: BookView | Feed | Failed) -> None:
        if not isinstance(news, Failed):
            self._tell(news)
            return
        self._tell(None)
        if request_id == 0:  # the market has lost its watchers
            self._send_watch()
        else:  # it does not want any now: asking again at once would keep both ends busy with nothing else
            asyncio.get_running_loop().call_later(WATCH_AGAIN_SECONDS, self._send_watch)

    def lost(self, connection: Connection) -> None:  # noqa: ARG002 - the dialler had but this one
        pending, self._pending = self._pending, {}
        for waiting in pending.values():
            self._give_up(waiting)
        if self._heir:
            self._leave()
        self._tell(None)

    def _give_up(self, waiting: Waiting) -> None:
        metrics.UNREACHABLE.labels(self._symbol).inc()
        waiting.together.take(waiting.place, _no_answer(self._symbol, waiting.is_query))

    def _tell(self, news: BookView | Feed | None) -> None:
        if self._listener is not None:
            self._listener(news)

    def _send_watch(self) -> None:
        connection = self._dialler.connection
        if self._watch is not None and connection is not None:
            self._watch_id = self._next_id
            self._next_id += 1
            connection.send(_encode((self._watch_id, self._watch)))


def _no_answer(symbol: str, is_query: bool) -> Failed:
    if is_query:
        return Failed(Fault.UNAVAILABLE, f"{symbol} did not answer; ask again")
    return Failed(Fault.OUTCOME_UNKNOWN, f"{symbol} did not answer: repeat with the same client_order_id")


async def _told(answers: list[Answer]) -> list[Answer]:
    return answers


async def _only(answers: Coroutine[Any, Any, list[Answer]]) -> Answer:
    return (await answers)[0]
