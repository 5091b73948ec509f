"""A gateway's way to the meter aggregators: one connection to each shard, readings sent to the shard of their meter.

Requests are pipelined; answers find their request by id. A broken connection fails what was under way: those readings
may have been counted, and are duplicates if they are sent again. Nothing here waits without a bound.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import msgspec
import structlog

from actors.dataplane import Connection, Secret
from actors.dialling import Dialler
from engine.metering.messages import Judged, Signed, Submit, SubmitBatch, Watching, WatchWindows, WindowNews
from engine.metering.readings import slot_of
from engine.metering.records import PostedWindow
from engine.metering.runs import SIGNED
from engine.views import Failed, Fault

PENDING_MAX: Final = 2_000  # requests under way on one link
ANSWER_SECONDS_MAX: Final = 20.0
UP_SECONDS_MAX: Final = 5.0
DIRECTORY_SECONDS: Final = 0.5
EXPIRE_SECONDS: Final = 0.5

Listener: TypeAlias = Callable[[list[PostedWindow]], None]
_encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[list[tuple[int, Any]]] = msgspec.msgpack.Decoder(
    list[tuple[int, Judged | Watching | WindowNews | Failed]]
)
log = structlog.get_logger()


class Directory(Protocol):
    """Where each shard listens; empty: nowhere at the moment. `waits`: as in links.Directory."""

    async def __call__(self, *, waits: bool = False) -> list[str]: ...


class MeterLinks:
    """All shards."""

    def __init__(self, directory: Directory, secret: Secret) -> None:
        self._directory, self._secret = directory, secret
        self._links: list[MeterLink] = []
        self._dialling: list[asyncio.Task[None]] = []  # one for each link
        self._listener: Listener | None = None

    def listen(self, listener: Listener) -> None:
        """Be told of windows that close, in any shard."""
        self._listener = listener

    async def run(self) -> None:
        """Keep the directory fresh and the links open; the owner cancels it."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._expire())
            while True:
                try:
                    addresses = await self._directory(waits=True)
                    self._arrange(addresses, tasks)
                except Exception as error:  # noqa: BLE001 - whatever the control plane's trouble, the data plane goes on
                    log.warning("meter_links.directory_unreachable", why=repr(error))
                await asyncio.sleep(DIRECTORY_SECONDS)

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(EXPIRE_SECONDS)
            for link in self._links:
                link.expire()

    def _arrange(self, addresses: Sequence[str], tasks: asyncio.TaskGroup) -> None:
        while len(self._links) > len(addresses):
            self._links.pop()
            self._dialling.pop().cancel()
        while len(self._links) < len(addresses):
            link = MeterLink(len(self._links), self._secret, self._tell)
            self._links.append(link)
            self._dialling.append(tasks.create_task(link.run()))
        for link, address in zip(self._links, addresses, strict=True):
            link.moved_to(address)

    def _tell(self, windows: list[PostedWindow]) -> None:
        if self._listener is not None:
            self._listener(windows)

    async def submit(self, submitter: int, readings: Sequence[Signed], vouched: bool) -> Judged | Failed:
        """Verdicts in the order of the readings. Failed when any shard fails: what the others took is taken, and is a
        duplicate when it is sent again.
        """
        links = self._links
        if not links:
            return _NOWHERE
        if len(links) == 1:
            return await links[0].request(Submit(submitter, list(readings), vouched))
        places = self._places(one.reading.meter_id for one in readings)
        return await self._gather(
            [
                Part(link, Submit(submitter, [readings[place] for place in some], vouched), some)
                for link, some in places
            ],
            len(readings),
        )

    async def submit_batch(self, signed: bytes) -> Judged | Failed:
        """The same for a batch whose signature has been verified: SubmitBatch."""
        links = self._links
        if not links:
            return _NOWHERE
        if len(links) == 1:
            return await links[0].request(SubmitBatch(signed))
        size = SIGNED.size
        places = self._places(one[0] for one in SIGNED.iter_unpack(signed))
        parts = [
            Part(link, SubmitBatch(b"".join([signed[place * size : (place + 1) * size] for place in some])), some)
            for link, some in places
        ]
        return await self._gather(parts, len(signed) // size)

    def _places(self, meter_ids: Iterable[bytes]) -> list[tuple["MeterLink", list[int]]]:
        """Which readings go to which shard, by their places."""
        links = self._links
        places: list[list[int]] = [[] for _ in links]
        for place, meter_id in enumerate(meter_ids):
            places[slot_of(meter_id) % len(links)].append(place)
        return [(link, some) for link, some in zip(links, places, strict=True) if some]

    async def _gather(self, parts: Sequence["Part"], count: int) -> Judged | Failed:
        answers = await asyncio.gather(*(part.link.request(part.body) for part in parts))
        codes, details, flags = [0] * count, dict[int, str](), dict[int, int]()
        failed: Failed | None = None
        for (_, _, some), answer in zip(parts, answers, strict=True):
            if isinstance(answer, Failed):
                failed = answer if failed is None or answer.fault is Fault.OUTCOME_UNKNOWN else failed
                continue
            for place, code in zip(some, answer.codes, strict=True):
                codes[place] = code
            details |= {some[place]: detail for place, detail in answer.details.items()}
            flags |= {some[place]: flag for place, flag in answer.flags.items()}
        if failed is not None and len(parts) > 1:  # some of it may have been done
            return Failed(Fault.OUTCOME_UNKNOWN, failed.detail)
        return failed or Judged(codes, details, flags)


class MeterLink:
    """The connection to one shard, with what is under way on it."""

    def __init__(self, shard: int, secret: Secret, tell: Listener) -> None:
        self._shard, self._tell = shard, tell
        self._dialler = Dialler(f"meters {shard}", secret, self)
        self._pending: dict[int, tuple[asyncio.Future[Any], float]] = {}
        self._next_id = 1
        self.run, self.moved_to = self._dialler.run, self._dialler.moved_to

    async def request(self, body: Submit | SubmitBatch) -> Judged | Failed:
        """The answer, or why there is none. Waits a while for a connection that is being made again."""
        if len(self._pending) >= PENDING_MAX:
            return Failed(Fault.OVERLOADED, "too many requests are under way")
        connection = self._dialler.connection or await self._dialler.until_up(UP_SECONDS_MAX)
        if connection is None:
            return Failed(Fault.UNAVAILABLE, "the meters cannot be reached at the moment; nothing was done")
        request_id, answer = self._next_id, asyncio.get_running_loop().create_future()
        self._next_id += 1
        self._pending[request_id] = answer, monotonic()
        connection.send(_encode((request_id, body)))
        told: Judged | Failed = await answer
        return told

    def expire(self) -> None:
        """Give up on answers that are overdue; requests are in order of their time."""
        overdue = monotonic() - ANSWER_SECONDS_MAX
        for request_id, (_, since) in list(self._pending.items()):
            if since > overdue:
                break
            self._answer(request_id, _UNKNOWN)

    def _answer(self, request_id: int, told: Any) -> None:
        waiting = self._pending.pop(request_id, None)
        if waiting is not None and not waiting[0].done():
            waiting[0].set_result(told)

    # --- Receiver -------------------------------------------------------------------------------------------------

    def connected(self, connection: Connection) -> None:
        connection.send(_encode((self._next_id, WatchWindows())))
        self._next_id += 1

    def received(self, connection: Connection, frames: list[bytes]) -> None:
        for frame in frames:
            try:
                messages = _decoder.decode(frame)
            except msgspec.MsgspecError as error:
                log.error("meter_link.bad_frame", shard=self._shard, why=str(error))
                connection.close()
                return
            for request_id, message in messages:
                if isinstance(message, WindowNews):
                    self._tell(message.windows)
                else:
                    self._answer(request_id, message)

    def lost(self, connection: Connection) -> None:  # noqa: ARG002 - the dialler had but this one
        for request_id in list(self._pending):
            self._answer(request_id, _UNKNOWN)


class Part(NamedTuple):
    """What goes to one shard, and the places that its answers have in the whole."""

    link: MeterLink
    body: Submit | SubmitBatch
    places: list[int]


_NOWHERE: Final = Failed(Fault.UNAVAILABLE, "the meters are not in the directory yet")
_UNKNOWN: Final = Failed(Fault.OUTCOME_UNKNOWN, "no answer: send the same readings again")
