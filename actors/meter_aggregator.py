"""The actor of one shard of meters: a shell that gives the judge of readings time, durability and a mailbox.

Order of work, always: learn what the verdicts depend on, judge in memory, commit once, then speak; what arrives
meanwhile is the next batch. An answer means: durable. When a commit fails, or its outcome is unknown, memory is thrown
away and read anew from the tables; a reading that is sent again is a duplicate then. Windows close between batches.
"""

import asyncio
import struct
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from time import perf_counter
from typing import Any, Final, NamedTuple, Protocol

import msgspec
import structlog
from msgspec import Struct

from actors import metrics
from actors.dataplane import Connection, Secret
from actors.shell import Shell
from actors.verification import Claim, check
from engine.metering.messages import ACCEPTED, DUPLICATE, Judged, Signed, Submit, Watching, WatchWindows, WindowNews
from engine.metering.readings import Flag, Interval, ReadingCode, Stored, signed_bytes, slot_of
from engine.metering.records import Ask, MeterRecord, PostedWindow, Refused
from engine.metering.validation import Accepted, Duplicate, Meter, Past, Rejected, flaw, judge
from engine.metering.windows import Adjustment, Closing
from engine.units import SECOND_US, TimeUs
from engine.views import Failed, Fault

METERS_AT_ONCE: Final = 1_000
CLAIMS_AT_ONCE: Final = 64  # in one call of the thread, some 5 ms
WATCHERS_MAX: Final = 256
CLOSINGS_MAX: Final = 2_000  # in one transaction
PARTITIONS_EVERY_US: Final = 3_600 * SECOND_US

_decoder: msgspec.msgpack.Decoder[list[tuple[int, Any]]] = msgspec.msgpack.Decoder(
    list[tuple[int, Submit | WatchWindows]]
)
_encode = msgspec.msgpack.Encoder().encode
log = structlog.get_logger()


class Readings(Protocol):
    """The tables of readings, of which this actor's session is the only writer. Any error of `write`: unknown."""

    async def open(self, shard: int, shards: int, changed: Callable[[int], None]) -> None: ...
    async def close(self) -> None: ...
    async def own_meters(self) -> list[bytes]: ...
    async def unposted(self) -> list[int]: ...
    async def states(self, numbers: Collection[int], now_us: TimeUs) -> list[Meter]: ...
    async def past(self, asks: Sequence[Ask]) -> list[Stored]: ...

    async def write(
        self,
        accepted: Sequence[tuple[Stored, bytes | None]],
        adjustments: Sequence[Adjustment],
        refused: Sequence[Refused],
        verified: Collection[int],
        now_us: TimeUs,
    ) -> None: ...

    async def post(
        self, closings: Sequence[Closing], adjusted: Collection[int], now_us: TimeUs
    ) -> tuple[list[PostedWindow], bool]: ...

    async def keep_partitions(self, now_us: TimeUs, keep_readings_us: int, keep_verdicts_us: int) -> None: ...


class Meters(Protocol):
    async def by_ids(self, meter_ids: Collection[bytes]) -> list[MeterRecord]: ...


class AggregatorOptions(Struct, frozen=True):
    """batch_max: readings in one commit, but for a single request that has more; waiting_max: those that may wait."""

    host: str = "127.0.0.1"
    batch_max: int = 2_000
    waiting_max: int = 50_000
    close_every_seconds: float = 0.5
    keep_readings_days: int = 400
    keep_verdicts_days: int = 30
    backoff_seconds_max: float = 2.0


class Known(Struct):
    """A meter: who it is, as of the last look, and how it stands."""

    record: MeterRecord
    state: Meter


class Item(NamedTuple):
    connection: Connection
    request_id: int
    body: Submit
    came: float


class Line(NamedTuple):
    """One reading of a batch and where its verdict goes."""

    item: int
    place: int
    signed: Signed


class Batch:
    """What one commit will hold, and what is to be said after it."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items
        self.codes = [[ACCEPTED] * len(item.body.readings) for item in items]
        self.details: list[dict[int, str]] = [{} for _ in items]
        self.flags: list[dict[int, int]] = [{} for _ in items]
        self.accepted: list[tuple[Stored, bytes | None]] = []
        self.adjustments: list[Adjustment] = []
        self.refused: list[Refused] = []
        self.verified: set[int] = set()

    def refuse(self, line: Line, code: ReadingCode, detail: str, meter: int | None = None) -> None:
        self.codes[line.item][line.place] = code.value
        self.details[line.item][line.place] = detail
        if meter is not None:
            self.refused.append(Refused(meter, line.signed.reading.counter, code, detail))


class MeterAggregator(Shell):
    """A plain class: actors/hosting.py makes it a Ray actor, tests run it as it is."""

    def __init__(
        self,
        shard: int,
        shards: int,
        readings: Readings,
        meters: Meters,
        secret: Secret,
        clock: Callable[[], TimeUs],
        options: AggregatorOptions,
    ) -> None:
        super().__init__(secret, options.host, options.backoff_seconds_max)
        self.shard, self._shards = shard, shards
        self._readings, self._meters = readings, meters
        self._clock, self._options = clock, options
        self._known: dict[bytes, Known] = {}
        self._ids: dict[int, bytes] = {}
        self._changed: set[int] = set()  # meters to be looked at again
        self._adjusted: set[int] = set()  # meters with adjustments that wait to be posted
        self._waiting: deque[Item] = deque()
        self._readings_waiting = 0
        self._watchers: set[Connection] = set()
        self._partitions_us = 0
        self._is_posting = False  # windows have left memory, and are not yet in the tables

    # --- life ---------------------------------------------------------------------------------------------------

    def _failed(self, failures: int) -> None:
        log.error("meters.reloads", shard=self.shard, why=self._detail, failures=failures)
        metrics.METER_RELOADS.labels(str(self.shard)).inc()

    async def _close(self) -> None:
        await self._readings.close()

    def status(self) -> dict[str, Any]:
        return {
            "shard": f"{self.shard} of {self._shards}",
            "state": self._state,
            "detail": self._detail,
            "address": self.address,
            "meters": len(self._known),
            "open_windows": sum(len(known.state.windows.open) for known in self._known.values()),
            "posting": self._is_posting,
            "waiting": self._readings_waiting,
        }

    def __repr__(self) -> str:
        return f"MeterAggregator({self.shard} of {self._shards})"

    async def _live(self) -> None:
        self._become("recovering")
        self._known, self._ids = {}, {}
        self._changed.clear()
        await self._readings.open(self.shard, self._shards, self._changed.add)
        await self._keep_partitions()
        ids = await self._readings.own_meters()
        for first in range(0, len(ids), METERS_AT_ONCE):
            await self._learn(ids[first : first + METERS_AT_ONCE])
        self._adjusted = set(await self._readings.unposted())
        self._become("serving")
        log.info("meters.serving", shard=self.shard, meters=len(self._known))
        loop = asyncio.get_running_loop()
        next_close = loop.time()
        while True:
            if self._waiting:
                await self._take_batch()
            if loop.time() >= next_close:
                await self._close_windows()
                next_close = loop.time() + self._options.close_every_seconds
            if self._draining and not self._waiting:
                self._become("stopped")
                return
            if not self._waiting:
                self._wake.clear()
                try:
                    async with asyncio.timeout_at(next_close):
                        await self._wake.wait()
                except TimeoutError:
                    continue

    async def _learn(self, ids: Collection[bytes]) -> None:
        """Look at these meters as the tables have them now; those of other shards, and unknown ones, are left out."""
        records = await self._meters.by_ids(ids)
        states = await self._readings.states([record.number for record in records], self._now())
        state_of = {state.number: state for state in states}
        for record in records:
            self._known[record.meter_id] = Known(record, state_of[record.number])
            self._ids[record.number] = record.meter_id

    def _now(self) -> TimeUs:
        return self._clock()

    async def _keep_partitions(self) -> None:
        now_us, day_us = self._now(), 86_400 * SECOND_US
        if now_us - self._partitions_us < PARTITIONS_EVERY_US:
            return
        options = self._options
        self._partitions_us = now_us
        try:
            await self._readings.keep_partitions(
                now_us, options.keep_readings_days * day_us, options.keep_verdicts_days * day_us
            )
        except Exception as error:  # noqa: BLE001 - without a month of its own a reading is kept with the others
            log.error("meters.partitions_not_kept", shard=self.shard, why=repr(error))

    # --- mail ---------------------------------------------------------------------------------------------------

    def received(self, connection: Connection, frames: list[bytes]) -> None:
        now = perf_counter()
        for frame in frames:
            try:
                messages = _decoder.decode(frame)
            except msgspec.MsgspecError as error:
                log.error("meters.bad_frame", shard=self.shard, why=str(error))
                connection.close()
                return
            for request_id, body in messages:
                if isinstance(body, WatchWindows):
                    self._watch(connection, request_id)
                elif not all(slot_of(one.reading.meter_id) % self._shards == self.shard for one in body.readings):
                    self._fail(connection, request_id, Fault.UNAVAILABLE, "another shard has these meters")
                elif self._draining:
                    self._fail(connection, request_id, Fault.UNAVAILABLE, "this shard of meters stops")
                elif self._readings_waiting + len(body.readings) > self._options.waiting_max:
                    metrics.METER_OVERLOADED.labels(str(self.shard)).inc()
                    self._fail(connection, request_id, Fault.OVERLOADED, "too many readings wait; slow down")
                else:
                    self._waiting.append(Item(connection, request_id, body, now))
                    self._readings_waiting += len(body.readings)
        self._wake.set()

    def lost(self, connection: Connection) -> None:
        self._watchers.discard(connection)

    def _watch(self, connection: Connection, request_id: int) -> None:
        if len(self._watchers) >= WATCHERS_MAX:
            self._fail(connection, request_id, Fault.OVERLOADED, "too many watch")
            return
        self._watchers.add(connection)
        connection.send(_encode((request_id, Watching())))

    def _fail(self, connection: Connection, request_id: int, fault: Fault, detail: str) -> None:
        if connection.is_open:
            connection.send(_encode((request_id, Failed(fault, detail))))

    def _refuse_waiting(self, why: str) -> None:
        items, self._waiting, self._readings_waiting = self._waiting, deque(), 0
        for item in items:
            self._fail(item.connection, item.request_id, Fault.UNAVAILABLE, why)

    # --- readings -------------------------------------------------------------------------------------------------

    async def _take_batch(self) -> None:
        """Judge what waits, commit it, then answer. Whoever is not answered yet when this fails is told so."""
        items: list[Item] = []
        count = 0
        while self._waiting and (not items or count + len(self._waiting[0].body.readings) <= self._options.batch_max):
            items.append(self._waiting.popleft())
            count += len(items[-1].body.readings)
        self._readings_waiting -= count
        batch, began = Batch(items), perf_counter()
        try:
            await self._judge(batch)
            if batch.accepted or batch.refused:
                await self._readings.write(
                    batch.accepted, batch.adjustments, batch.refused, batch.verified, self._now()
                )
        except BaseException:
            for item in items:
                self._fail(item.connection, item.request_id, Fault.OUTCOME_UNKNOWN, "unknown: send the same again")
            raise
        self._adjusted.update(one.meter for one in batch.adjustments)
        metrics.METER_BATCH_SECONDS.labels(str(self.shard)).observe(perf_counter() - began)
        metrics.METER_READINGS.labels(str(self.shard)).inc(len(batch.accepted))
        for place, item in enumerate(items):
            if item.connection.is_open:
                answer = Judged(batch.codes[place], batch.details[place], batch.flags[place])
                item.connection.send(_encode((item.request_id, answer)))

    async def _judge(self, batch: Batch) -> None:
        lines = [
            Line(number, place, signed)
            for number, item in enumerate(batch.items)
            for place, signed in _in_order(item.body.readings)
        ]
        await self._look_again({line.signed.reading.meter_id for line in lines})
        lines = [line for line in lines if self._may_speak(line, batch)]
        lines = await self._verified(lines, batch)
        past = Past(await self._readings.past(self._asks(lines)))
        now_us = self._now()
        for line in lines:
            known = self._known[line.signed.reading.meter_id]
            match judge(known.state, line.signed.reading, past, now_us):
                case Accepted(stored, adjustments):
                    batch.accepted.append((stored, line.signed.signature or None))
                    batch.adjustments += adjustments
                    if known.record.status == "registered" and not batch.items[line.item].body.vouched:
                        batch.verified.add(stored.meter)
                    if stored.flags & Flag.SUSPECT:
                        batch.flags[line.item][line.place] = stored.flags
                case Duplicate():
                    batch.codes[line.item][line.place] = DUPLICATE
                case Rejected(code, detail):
                    batch.refuse(line, code, detail, known.state.number)

    async def _look_again(self, ids: set[bytes]) -> None:
        """Learn of meters that are not known yet, or that somebody has changed."""
        now_us = self._now()
        stale = {self._ids[number] for number in self._changed if number in self._ids}
        self._changed.clear()
        stale |= {
            known.record.meter_id
            for known in map(self._known.get, ids)
            if known is not None and known.record.valid_until_us is not None and known.record.valid_until_us <= now_us
        }
        wanted = list(stale | {meter_id for meter_id in ids if meter_id not in self._known})
        for first in range(0, len(wanted), METERS_AT_ONCE):
            await self._learn(wanted[first : first + METERS_AT_ONCE])

    def _may_speak(self, line: Line, batch: Batch) -> bool:
        """Is there such a meter, and is it this submitter's? One answer for both. And does it mean anything?"""
        known = self._known.get(line.signed.reading.meter_id)
        submitter = batch.items[line.item].body.submitter
        if known is None or known.record.status == "retired" or submitter not in (0, known.record.owner_id):
            batch.refuse(line, ReadingCode.UNKNOWN_METER, "no such meter of yours")
            return False
        wrong = flaw(line.signed.reading)
        if wrong:
            batch.refuse(line, ReadingCode.MALFORMED, wrong)
        return not wrong

    async def _verified(self, lines: list[Line], batch: Batch) -> list[Line]:
        """Those that are signed as they should be. A key that does not fit is looked up once more: it may be new."""
        unproven = [line for line in lines if not batch.items[line.item].body.vouched]
        forged = await self._not_signed(unproven)
        if forged:
            await self._learn({line.signed.reading.meter_id for line in forged})
            forged = await self._not_signed(forged)
        for line in forged:
            number = self._known[line.signed.reading.meter_id].state.number
            batch.refuse(line, ReadingCode.BAD_SIGNATURE, "not signed with the meter's key", number)
        bad = {(line.item, line.place) for line in forged}
        return [line for line in lines if (line.item, line.place) not in bad] if bad else lines

    async def _not_signed(self, lines: list[Line]) -> list[Line]:
        """Verification takes the thread, in pieces, so that the loop can answer meanwhile."""
        failed: list[Line] = []
        for first in range(0, len(lines), CLAIMS_AT_ONCE):
            some = lines[first : first + CLAIMS_AT_ONCE]
            claims = [self._claim(line.signed) for line in some]
            answers = await asyncio.to_thread(check, claims)
            failed += [line for line, good in zip(some, answers, strict=True) if not good]
        return failed

    def _claim(self, signed: Signed) -> Claim:
        record = self._known[signed.reading.meter_id].record
        if signed.algorithm:
            return Claim(record.ecdsa_key, signed.signature, signed.raw, signed.algorithm)
        try:
            message = signed_bytes(signed.reading)
        except struct.error:  # too large for the layout, so nobody can have signed it
            return Claim(None, b"", b"")
        return Claim(record.public_key, signed.signature, message)

    def _asks(self, lines: Iterable[Line]) -> list[Ask]:
        """What the tables must be asked before these are judged; most of the time nothing."""
        asks = []
        for line in lines:
            reading = line.signed.reading
            state = self._known[reading.meter_id].state
            if not state.is_cold(reading):
                continue
            start_us = end_us = 0
            if isinstance(reading, Interval) and reading.corrects is None:
                start_us, end_us = reading.start_us, reading.end_us
            elif not isinstance(reading, Interval) and state.register is not None:
                start_us, end_us = state.register.end_us, reading.at_us
            asks.append(Ask(state.number, state.device, reading.counter, reading.corrects, start_us, end_us))
        return asks

    # --- windows --------------------------------------------------------------------------------------------------

    async def _close_windows(self) -> None:
        """Close what is due, post adjustments, and tell who watches."""
        await self._keep_partitions()
        now_us, more = self._now(), True
        closings: list[Closing] = []
        for known in self._known.values():
            if len(closings) >= CLOSINGS_MAX:
                break
            if known.state.windows.open:
                state = known.state
                closings += state.windows.close_due(state.end_us, state.heard_us, now_us)
        self._is_posting = True  # until all of it is committed; when it fails, everything is loaded anew
        while more and (closings or self._adjusted):
            posted, all_posted = await self._readings.post(closings, self._adjusted, now_us)
            if all_posted:
                self._adjusted.clear()
            metrics.METER_WINDOWS.labels(str(self.shard)).inc(len(closings))
            self._tell(posted)
            closings, more = [], not all_posted
        self._is_posting = False

    def _tell(self, posted: list[PostedWindow]) -> None:
        if posted and self._watchers:
            news = _encode((0, WindowNews(posted)))
            for connection in self._watchers:
                if connection.is_open:
                    connection.send(news)


def _in_order(readings: Sequence[Signed]) -> Iterable[tuple[int, Signed]]:
    """A meter's readings in the order of their counters, whatever the order of a file; places are those of the file."""
    return sorted(enumerate(readings), key=lambda one: (one[1].reading.meter_id, one[1].reading.counter))
