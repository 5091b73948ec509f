"""The actor that reads what happened on the chain: events as they are confirmed, and for good as they are final.

Two readers. One hears a stream and writes down early what may still be undone; after each connection it reads what it
has missed. The other walks the final lists from a cursor that moves in the transaction that takes events up, so each
counts once. What was confirmed in a slot that is final, and is in no final list, was on a fork: it is dropped.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol

import structlog
from msgspec import Struct

from actors import metrics
from actors.duties import Duty, keep
from engine.submission import ChainDown, ChainEvent, Mention
from engine.units import TimeUs

PART: Final = "listener"
BACKOFF_SECONDS_MAX: Final = 5.0

log = structlog.get_logger()


class Events(Protocol):
    """The tables. `take_up`: events that are final, oldest first, and up to where each program was read by them."""

    @property
    def outages(self) -> tuple[type[Exception], ...]: ...
    async def cursors(self) -> dict[str, str]: ...
    async def known(self, signatures: Sequence[str]) -> dict[str, list[ChainEvent]]: ...
    async def note(self, events: Sequence[ChainEvent], now_us: int) -> int: ...
    async def take_up(self, events: Sequence[ChainEvent], cursors: dict[str, Mention], now_us: int) -> int: ...
    async def drop(self, slot_final: int, now_us: int) -> int: ...
    async def say(self, part: str, said: dict[str, Any], now_us: int) -> None: ...


class Heard(Protocol):
    @property
    def slot(self) -> int: ...
    @property
    def events(self) -> list[ChainEvent]: ...


class Chain(Protocol):
    """Raises ChainDown when nobody answers."""

    @property
    def programs(self) -> tuple[str, ...]: ...
    async def slots(self) -> tuple[int, int]: ...
    async def mentions(self, program: str, after: str, *, final: bool) -> list[Mention]: ...
    async def events_of(self, mentions: Sequence[Mention]) -> list[ChainEvent]: ...
    def stream(self) -> AbstractAsyncContextManager[AsyncIterator[Heard]]: ...


class ListenerOptions(Struct, frozen=True, kw_only=True):
    """silence_seconds: without a slot, then the stream is as good as dead. at_once: transactions in one round."""

    silence_seconds: float = 10.0
    final_seconds: float = 2.0
    say_seconds: float = 1.0
    at_once: int = 500


class ChainListener:
    def __init__(
        self,
        events: Events,
        chain: Chain,
        clock: Callable[[], TimeUs],
        options: ListenerOptions | None = None,
        crash: Callable[[str], None] | None = None,
        duties: Sequence[Duty] = (),
    ) -> None:
        """`duties`: what else is due every so often, and needs events to be known."""
        self._events, self._chain, self._clock, self._duties = events, chain, clock, duties
        self._options = options or ListenerOptions()
        self._crash = crash or (lambda _: None)
        self._outages: tuple[type[Exception], ...] = (ChainDown, TimeoutError, *events.outages)
        self._heard = self._slot = self._slot_final = 0
        self._connected = False
        self.connections = 0  # so far
        self._stopping = asyncio.Event()

    def __repr__(self) -> str:
        return "ChainListener()"

    async def run(self) -> None:
        """Until drained."""
        async with asyncio.TaskGroup() as tasks:
            hearing = tasks.create_task(self._again("hear", 0.1, self._hear))
            tasks.create_task(self._again("take up", self._options.final_seconds, self._take_up))
            tasks.create_task(self._again("say", self._options.say_seconds, self._say))
            for duty in self._duties:
                tasks.create_task(keep(duty, self._clock, self._stopping), name=duty.name)
            await self._stopping.wait()
            hearing.cancel()

    async def drain(self) -> None:
        self._stopping.set()

    def status(self) -> dict[str, Any]:
        return {"state": "serving" if self._connected else "connecting", "lag_slots": self._lag}

    @property
    def _lag(self) -> int:
        """Slots between the chain and what was heard of it."""
        return max(0, self._slot - self._heard)

    async def _again(self, what: str, seconds: float, act: Callable[[], Any]) -> None:
        failures = 0
        while not self._stopping.is_set():
            more = False
            try:
                more = bool(await act())
                failures = 0
            except self._outages as error:
                failures += 1
                metrics.CHAIN_FAULTS.labels(PART).inc()
                log.warning("chain.outage", doing=what, why=repr(error)[:300], failures=failures)
            if not more:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(
                        min(seconds * 2 ** min(failures, 10), max(seconds, BACKOFF_SECONDS_MAX))
                    ):
                        await self._stopping.wait()

    # --- what is confirmed ---

    async def _hear(self) -> None:
        """One connection, until it falls silent or breaks."""
        try:
            async with self._chain.stream() as stream:
                self.connections += 1
                await self._catch_up()
                self._connected = True
                while True:
                    async with asyncio.timeout(self._options.silence_seconds):
                        heard = await anext(stream)
                    if heard.events:
                        self._crash("heard")
                        count = await self._events.note(heard.events, self._clock())
                        metrics.CHAIN_EVENTS.labels("confirmed").inc(count)
                    self._heard = max(self._heard, heard.slot)
        finally:
            self._connected = False

    async def _catch_up(self) -> None:
        """What was confirmed while nobody listened."""
        cursors = await self._events.cursors()
        for program in self._chain.programs:
            mentions = await self._chain.mentions(program, cursors.get(program, ""), final=False)
            for start in range(0, len(mentions), self._options.at_once):
                part = mentions[start : start + self._options.at_once]
                known = await self._events.known([one.signature for one in part])
                fresh = [one for one in part if one.signature not in known]
                await self._events.note(await self._chain.events_of(fresh), self._clock())

    # --- what is final ---

    async def _take_up(self) -> bool:
        """The next transactions that are final, in the order of their slots; whether there are more."""
        self._slot, self._slot_final = await self._chain.slots()
        slot_final = self._slot_final
        cursors = await self._events.cursors()
        lists = {
            program: await self._chain.mentions(program, cursors.get(program, ""), final=True)
            for program in self._chain.programs
        }
        merged = sorted(
            {one.signature: one for mentions in lists.values() for one in mentions}.values(), key=lambda one: one.slot
        )
        more = len(merged) > self._options.at_once
        if more:  # whole slots, so that a cursor never stands in the middle of what another list has
            last = merged[self._options.at_once - 1].slot
            merged = [one for one in merged if one.slot <= last]
        if merged:
            chosen = {one.signature for one in merged}
            read = {
                program: taken[-1]
                for program, mentions in lists.items()
                if (taken := [one for one in mentions if one.signature in chosen])
            }
            events = await self._final_events(merged)
            self._crash("read")
            count = await self._events.take_up(events, read, self._clock())
            self._crash("taken_up")
            metrics.CHAIN_EVENTS.labels("finalized").inc(count)
        if not more and (dropped := await self._events.drop(slot_final, self._clock())):
            metrics.CHAIN_EVENTS.labels("dropped").inc(dropped)
            log.warning("chain.fork", dropped=dropped, slot=slot_final)
        return more

    async def _final_events(self, mentions: Sequence[Mention]) -> list[ChainEvent]:
        """As they were heard, unless the transaction is in another slot by now: then as they are."""
        known = await self._events.known([one.signature for one in mentions])
        same = {one.signature for one in mentions if any(e.slot == one.slot for e in known.get(one.signature, ()))}
        fetched: dict[str, list[ChainEvent]] = {}
        for event in await self._chain.events_of([one for one in mentions if one.signature not in same]):
            fetched.setdefault(event.signature, []).append(event)
        return [
            event
            for one in mentions
            for event in (known[one.signature] if one.signature in same else fetched.get(one.signature, []))
        ]

    async def _say(self) -> None:
        metrics.CHAIN_LAG_SLOTS.set(self._lag)
        said = {**self.status(), "slot": self._slot, "slot_final": self._slot_final, "connected": self._connected}
        await self._events.say(PART, said, self._clock())
