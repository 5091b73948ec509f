"""Verdicts of one shard: which meters it knows, who may speak for them, who has signed, and what the judge says.

Everything of a batch happens in memory, in one pass for what is usual; the tables are asked only for meters that are
new or changed, and for readings whose verdict depends on the past. Signatures are verified in threads of their own.
"""

import asyncio
import struct
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from operator import itemgetter
from typing import Final, NamedTuple, Protocol

from msgspec import Struct

from actors.verification import Claim, check
from engine.metering.messages import ACCEPTED, DUPLICATE, Signed, Submit, SubmitBatch
from engine.metering.readings import Flag, Interval, ReadingCode, Stored, signed_bytes
from engine.metering.records import Ask, MeterRecord, Refused
from engine.metering.runs import SIGNED, Run, Said, accept, interval_of, stored_of
from engine.metering.validation import Accepted, Duplicate, Meter, Past, Rejected, flaw, judge
from engine.metering.windows import Adjustment
from engine.units import TimeUs

METERS_AT_ONCE: Final = 1_000
CLAIMS_AT_ONCE: Final = 64  # in one call of a thread, some 3 ms
JUDGED_AT_ONCE: Final = 500  # then the loop may do something else, such as to go on with a commit
RUNS_AT_ONCE: Final = 2_000  # readings, of whole runs; these take less time
HEAD_END: Final = 0  # as a submitter: what its own meters are has been looked at
VERIFIERS: Final = 2  # threads; libsodium runs beside Python


class History(Protocol):
    """What the tables of readings know of meters."""

    async def states(self, numbers: Collection[int], now_us: TimeUs) -> list[Meter]: ...
    async def past(self, asks: Sequence[Ask]) -> list[Stored]: ...


class Meters(Protocol):
    async def by_ids(self, meter_ids: Collection[bytes]) -> list[MeterRecord]: ...


class Known(Struct):
    """A meter: who it is, as of the last look, and how it stands."""

    record: MeterRecord
    state: Meter


class Line(NamedTuple):
    """One reading of a batch and where its verdict goes."""

    item: int
    place: int
    signed: Signed


class Batch:
    """What one commit will hold, and what is to be said after it."""

    def __init__(self, bodies: Sequence[Submit | SubmitBatch]) -> None:
        self.bodies = bodies
        self.said = [_by_meter(body) if isinstance(body, SubmitBatch) else {} for body in bodies]
        self.past = Past()
        self.codes = [[ACCEPTED] * body.count for body in bodies]
        self.details: list[dict[int, str]] = [{} for _ in bodies]
        self.flags: list[dict[int, int]] = [{} for _ in bodies]
        self.runs: list[Run] = []
        self.others: list[tuple[Stored, bytes | None]] = []  # with their own signatures
        self.adjustments: list[Adjustment] = []
        self.refused: list[Refused] = []
        self.verified: set[int] = set()

    @property
    def accepted(self) -> int:
        return len(self.others) + sum(len(run.kept) for run in self.runs)

    def refuse(self, line: Line, code: ReadingCode, detail: str, meter: int | None = None) -> None:
        self.codes[line.item][line.place] = code.value
        self.details[line.item][line.place] = detail
        if meter is not None:
            self.refused.append(Refused(meter, line.signed.reading.counter, code, detail))


def _by_meter(body: SubmitBatch) -> dict[bytes, list[Said]]:
    said: dict[bytes, list[Said]] = defaultdict(list)
    for one in SIGNED.iter_unpack(body.signed):
        said[one[0]].append(one)
    return said


class Judge:
    """`known` are the meters of the shard; `changed` takes the numbers of those to be looked at again.

    Memory may be ahead of the tables: `settled` is awaited before anything is read from them.
    """

    def __init__(
        self, history: History, meters: Meters, clock: Callable[[], TimeUs], settled: Callable[[], Awaitable[None]]
    ) -> None:
        self._history, self._meters, self._clock, self._settled = history, meters, clock, settled
        self.known: dict[bytes, Known] = {}
        self._ids: dict[int, bytes] = {}
        self.changed: set[int] = set()
        self._verifiers = ThreadPoolExecutor(VERIFIERS, "verifier")

    def close(self) -> None:
        self._verifiers.shutdown(cancel_futures=True)

    async def begin(self, ids: Sequence[bytes]) -> None:
        """Know these meters, as the tables have them now, and no others."""
        self.known, self._ids = {}, {}
        await self._learn(ids)

    async def judge(self, batch: Batch) -> None:
        """A verdict on each reading; what is accepted is counted in, and to be committed before anybody is told."""
        await self._look_again(batch)
        lines: list[Line] = []
        for item, body in enumerate(batch.bodies):
            if isinstance(body, Submit):
                lines += self._spoken_for(batch, item, body.submitter, _in_order(enumerate(body.readings)))
            else:  # in the order in which they came, so first those before it, and what is left of it before the next
                await self._judge_lines(lines, batch)
                left = await self._accept_runs(batch, item, body)
                lines = self._spoken_for(batch, item, HEAD_END, left)
        await self._judge_lines(lines, batch)

    async def _accept_runs(self, batch: Batch, item: int, body: SubmitBatch) -> list[tuple[int, Signed]]:
        """Take what is usual, meter by meter; what is left, with its places, is to be judged one by one."""
        now_us, left, since = self._clock(), list[tuple[int, Signed]](), 0
        for meter_id, said in batch.said[item].items():
            meter, taken = self.known.get(meter_id), 0
            said.sort(key=_counter_of)
            if meter is not None and meter.record.status != "retired":
                run = accept(meter.state, said, now_us)
                taken = len(run.kept)
                if taken:
                    batch.runs.append(run)
                if any(map(_flags_of, run.kept)):
                    places = _places(body, meter_id)
                    batch.flags[item] |= {places[nth]: one[-1] for nth, one in enumerate(run.kept) if one[-1]}
            if taken < len(said):
                rest = zip(_places(body, meter_id)[taken:], said[taken:], strict=True)
                left += [(place, Signed(interval_of(one))) for place, one in rest]
            since += len(said)
            if since >= RUNS_AT_ONCE:
                since = 0
                await asyncio.sleep(0)
        return left

    async def _judge_lines(self, lines: list[Line], batch: Batch) -> None:
        if not lines:
            return
        lines = await self._proven(lines, batch)
        past = await self._past(lines, batch)
        now_us = self._clock()
        for first in range(0, len(lines), JUDGED_AT_ONCE):
            self._judge(lines[first : first + JUDGED_AT_ONCE], batch, past, now_us)
            await asyncio.sleep(0)

    def _judge(self, lines: list[Line], batch: Batch, past: Past, now_us: TimeUs) -> None:
        known, bodies, others = self.known, batch.bodies, batch.others
        for line in lines:
            item, place, signed = line
            meter = known[signed.reading.meter_id]
            verdict = judge(meter.state, signed.reading, past, now_us)
            if isinstance(verdict, Accepted):  # first, because nearly all are
                stored, vouched = verdict.stored, bodies[item].vouched
                others.append((stored, None if vouched else signed.signature or None))
                if verdict.adjustments:
                    batch.adjustments += verdict.adjustments
                if not vouched and meter.record.status == "registered":
                    batch.verified.add(stored.meter)
                if stored.flags & _SUSPECT:
                    batch.flags[item][place] = stored.flags
            elif isinstance(verdict, Rejected):
                batch.refuse(line, verdict.code, verdict.detail, meter.state.number)
            else:
                assert isinstance(verdict, Duplicate)
                batch.codes[item][place] = DUPLICATE

    async def _learn(self, ids: Sequence[bytes]) -> None:
        """Look at these meters as the tables have them now; those of other shards, and unknown ones, are left out."""
        if ids:
            await self._settled()
        for first in range(0, len(ids), METERS_AT_ONCE):
            records = await self._meters.by_ids(ids[first : first + METERS_AT_ONCE])
            states = await self._history.states([record.number for record in records], self._clock())
            state_of = {state.number: state for state in states}
            for record in records:
                self.known[record.meter_id] = Known(record, state_of[record.number])
                self._ids[record.number] = record.meter_id

    async def _look_again(self, batch: Batch) -> None:
        """Learn of meters that are not known yet, or that somebody has changed."""
        ids = set(chain.from_iterable(batch.said))
        ids.update(one.reading.meter_id for body in batch.bodies if isinstance(body, Submit) for one in body.readings)
        now_us = self._clock()
        stale = {self._ids[number] for number in self.changed if number in self._ids}
        self.changed.clear()
        for meter_id in ids:
            meter = self.known.get(meter_id)
            if meter is None or (meter.record.valid_until_us is not None and meter.record.valid_until_us <= now_us):
                stale.add(meter_id)
        await self._learn(list(stale))

    def _spoken_for(
        self, batch: Batch, item: int, submitter: int, readings: Sequence[tuple[int, Signed]]
    ) -> list[Line]:
        """Readings that mean something, of meters that their submitter may speak for; refusals do not tell which."""
        lines = []
        for place, signed in readings:
            line, meter = Line(item, place, signed), self.known.get(signed.reading.meter_id)
            if meter is None or meter.record.status == "retired" or submitter not in (HEAD_END, meter.record.owner_id):
                batch.refuse(line, ReadingCode.UNKNOWN_METER, "no such meter of yours")
            elif wrong := flaw(signed.reading):
                batch.refuse(line, ReadingCode.MALFORMED, wrong)
            else:
                lines.append(line)
        return lines

    async def _proven(self, lines: list[Line], batch: Batch) -> list[Line]:
        """Those that are signed as they should be. A key that does not fit is looked up once more: it may be new."""
        unproven = [line for line in lines if not batch.bodies[line.item].vouched]
        forged = await self._not_signed(unproven)
        if forged:
            await self._learn(list({line.signed.reading.meter_id for line in forged}))
            forged = await self._not_signed(forged)
        for line in forged:
            number = self.known[line.signed.reading.meter_id].state.number
            batch.refuse(line, ReadingCode.BAD_SIGNATURE, "not signed with the meter's key", number)
        bad = {(line.item, line.place) for line in forged}
        return [line for line in lines if (line.item, line.place) not in bad] if bad else lines

    async def _not_signed(self, lines: list[Line]) -> list[Line]:
        """In pieces, so that all threads have some, and the loop can answer meanwhile."""
        loop, size = asyncio.get_running_loop(), min(CLAIMS_AT_ONCE, -(-len(lines) // VERIFIERS))
        pieces = [lines[first : first + size] for first in range(0, len(lines), size)] if lines else []
        answers = await asyncio.gather(
            *(
                loop.run_in_executor(self._verifiers, check, [self._claim(line.signed) for line in piece])
                for piece in pieces
            )
        )
        return [
            line
            for piece, told in zip(pieces, answers, strict=True)
            for line, good in zip(piece, told, strict=True)
            if not good
        ]

    def _claim(self, signed: Signed) -> Claim:
        record = self.known[signed.reading.meter_id].record
        if signed.algorithm:
            return Claim(record.ecdsa_key, signed.signature, signed.raw, signed.algorithm)
        try:
            message = signed_bytes(signed.reading)
        except struct.error:  # too large for the layout, so nobody can have signed it
            return Claim(None, b"", b"")
        return Claim(record.public_key, signed.signature, message)

    async def _past(self, lines: Iterable[Line], batch: Batch) -> Past:
        """What the tables, and this batch, know of what matters for these; most of the time nothing does."""
        asks, past = self._asks(lines), batch.past
        if asks:
            await self._settled()
            meters = {ask.meter for ask in asks}
            rows = await self._history.past(asks)
            for row in chain(rows, *(stored_of(run) for run in batch.runs if run.meter in meters)):
                past.add(row)
        return past

    def _asks(self, lines: Iterable[Line]) -> list[Ask]:
        asks = []
        for line in lines:
            reading = line.signed.reading
            state = self.known[reading.meter_id].state
            if not state.is_cold(reading):
                continue
            start_us = end_us = 0
            if isinstance(reading, Interval) and reading.corrects is None:
                start_us, end_us = reading.start_us, reading.end_us
            elif not isinstance(reading, Interval) and state.register is not None:
                start_us, end_us = state.register.end_us, reading.at_us
            asks.append(Ask(state.number, state.device, reading.counter, reading.corrects, start_us, end_us))
        return asks


_SUSPECT: Final = Flag.SUSPECT.value


_counter_of: Final = itemgetter(1)  # of what is said
_flags_of: Final = itemgetter(-1)  # of what is kept


def _places(body: SubmitBatch, meter_id: bytes) -> list[int]:
    """Where in the file the readings of this meter are, in the order of their counters."""
    said = [(place, one[1]) for place, one in enumerate(SIGNED.iter_unpack(body.signed)) if one[0] == meter_id]
    return [place for place, _ in sorted(said, key=itemgetter(1))]


def _in_order(readings: Iterable[tuple[int, Signed]]) -> list[tuple[int, Signed]]:
    """A meter's readings in the order of their counters, whatever the order of a file; places are those of the file."""
    return sorted(readings, key=_place_of)


def _place_of(one: tuple[int, Signed]) -> tuple[bytes, int]:
    reading = one[1].reading
    return reading.meter_id, reading.counter
