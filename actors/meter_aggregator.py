"""The actor of one shard of meters: a shell that gives the judge of readings time, durability and a mailbox.

Order of work, always: learn what the verdicts depend on, judge in memory, commit once, then speak. While one batch is
committed the next is judged, and what arrives meanwhile is the one after. An answer means: durable. When a commit
fails, or its outcome is unknown, memory is thrown away and read anew from the tables; a reading that is sent again is a
duplicate then. Windows close between batches, and are posted beside those that do not touch what is closed.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from itertools import chain
from time import perf_counter
from typing import Any, Final, NamedTuple, Protocol

import msgspec
import structlog
from msgspec import Struct

from actors import metrics
from actors.dataplane import Connection, Secret
from actors.judging import Batch, History, Judge, Meters
from actors.shell import Shell
from engine.metering.messages import (
    ACCEPTED,
    DUPLICATE,
    Judged,
    Submit,
    SubmitBatch,
    Watching,
    WatchWindows,
    WindowNews,
)
from engine.metering.readings import ReadingCode, Stored, slot_of
from engine.metering.records import PostedWindow, Refused
from engine.metering.runs import SIGNED, Run
from engine.metering.windows import WINDOW_US, Adjustment, Closing
from engine.units import SECOND_US, TimeUs
from engine.views import Failed, Fault

WATCHERS_MAX: Final = 256
BACKLOG_SECONDS: Final = 0.1  # between two looks at windows of which more are due, while readings wait
QUIET_SECONDS: Final = 0.01  # the same while none do
CLOSINGS_MAX: Final = 100  # or a few more in one transaction, some 20 ms: readings wait for it
PARTITIONS_EVERY_US: Final = 3_600 * SECOND_US
LAG_EVERY_US: Final = 10 * SECOND_US  # all meters are walked through

_decoder: msgspec.msgpack.Decoder[list[tuple[int, Any]]] = msgspec.msgpack.Decoder(
    list[tuple[int, Submit | SubmitBatch | WatchWindows]]
)
_encode = msgspec.msgpack.Encoder().encode
log = structlog.get_logger()


class Readings(History, Protocol):
    """The tables of readings, of which this actor's session is the only writer. Any error of `write`: unknown."""

    async def open(self, shard: int, shards: int, changed: Callable[[int], None]) -> None: ...
    async def close(self) -> None: ...
    async def own_meters(self) -> list[bytes]: ...
    async def unposted(self) -> list[int]: ...

    async def write(
        self,
        runs: Sequence[Run],
        others: Sequence[tuple[Stored, bytes | None]],
        adjustments: Sequence[Adjustment],
        refused: Sequence[Refused],
        verified: Collection[int],
        now_us: TimeUs,
    ) -> None: ...

    async def post(
        self, closings: Sequence[Closing], adjusted: Collection[int], now_us: TimeUs
    ) -> tuple[list[PostedWindow], bool]: ...

    async def keep_partitions(self, now_us: TimeUs, keep_readings_us: int, keep_verdicts_us: int) -> None: ...


class AggregatorOptions(Struct, frozen=True):
    """batch_max: readings in one commit, but for a single request that has more; waiting_max: those that may wait."""

    host: str = "127.0.0.1"
    batch_max: int = 2_000
    waiting_max: int = 50_000
    close_every_seconds: float = 0.5
    keep_readings_days: int = 400
    keep_verdicts_days: int = 30
    backoff_seconds_max: float = 2.0


class Item(NamedTuple):
    connection: Connection
    request_id: int
    body: Submit | SubmitBatch
    came: float


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
        self._readings, self._clock, self._options = readings, clock, options
        self._judge = Judge(readings, meters, clock, self._settled)
        self._committing: asyncio.Task[None] | None = None  # the batch before, of which nobody has been told yet
        self._posting: asyncio.Task[None] | None = None  # windows that have left memory, and are not yet in the tables
        self._adjusted: set[int] = set()  # meters with adjustments that wait to be posted
        self._waiting: deque[Item] = deque()
        self._readings_waiting = 0
        self._watchers: set[Connection] = set()
        self._partitions_us = 0
        self._lag_looked_us = 0

    # --- life ---------------------------------------------------------------------------------------------------

    def _failed(self, failures: int) -> None:
        log.error("meters.reloads", shard=self.shard, why=self._detail, failures=failures)
        metrics.METER_RELOADS.labels(str(self.shard)).inc()

    async def _close(self) -> None:
        self._judge.close()
        await self._readings.close()

    def status(self) -> dict[str, Any]:
        return {
            "shard": f"{self.shard} of {self._shards}",
            "state": self._state,
            "detail": self._detail,
            "address": self.address,
            "meters": len(self._judge.known),
            "open_windows": sum(len(known.state.windows.open) for known in self._judge.known.values()),
            "posting": self._posting is not None,
            "waiting": self._readings_waiting,
        }

    def __repr__(self) -> str:
        return f"MeterAggregator({self.shard} of {self._shards})"

    async def _live(self) -> None:
        self._become("recovering")
        judge = self._judge
        judge.changed.clear()
        await self._readings.open(self.shard, self._shards, judge.changed.add)
        await self._keep_partitions()
        await judge.begin(await self._readings.own_meters())
        self._adjusted = set(await self._readings.unposted())
        self._become("serving")
        log.info("meters.serving", shard=self.shard, meters=len(judge.known))
        try:
            await self._serve()
        finally:
            await self._give_up()

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        next_close = loop.time()
        while True:
            if self._waiting:
                await self._take_batch()
            if loop.time() >= next_close:
                all_closed = await self._close_windows()
                backlog_seconds = BACKLOG_SECONDS if self._waiting else QUIET_SECONDS
                next_close = loop.time() + (self._options.close_every_seconds if all_closed else backlog_seconds)
            if self._draining and not self._waiting:
                await self._settled()
                self._become("stopped")
                return
            if not self._waiting:
                self._wake.clear()
                try:
                    async with asyncio.timeout_at(next_close):
                        await self._wake.wait()
                except TimeoutError:
                    continue

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
                self._bad_frame(connection, str(error))
                return
            for request_id, body in messages:
                if isinstance(body, WatchWindows):
                    self._watch(connection, request_id)
                elif isinstance(body, SubmitBatch) and len(body.signed) != body.count * SIGNED.size:
                    self._bad_frame(connection, "a batch of broken readings")
                    return
                elif not self._is_ours(body):
                    self._fail(connection, request_id, Fault.UNAVAILABLE, "another shard has these meters")
                elif self._draining:
                    self._fail(connection, request_id, Fault.UNAVAILABLE, "this shard of meters stops")
                elif self._readings_waiting + body.count > self._options.waiting_max:
                    metrics.METER_OVERLOADED.labels(str(self.shard)).inc()
                    self._fail(connection, request_id, Fault.OVERLOADED, "too many readings wait; slow down")
                else:
                    self._waiting.append(Item(connection, request_id, body, now))
                    self._readings_waiting += body.count
        self._wake.set()

    def _bad_frame(self, connection: Connection, why: str) -> None:
        log.error("meters.bad_frame", shard=self.shard, why=why)
        connection.close()

    def _is_ours(self, body: Submit | SubmitBatch) -> bool:
        if self._shards == 1:
            return True
        if isinstance(body, Submit):
            ids = {one.reading.meter_id for one in body.readings}
        else:
            ids = {one[0] for one in SIGNED.iter_unpack(body.signed)}
        return all(slot_of(one) % self._shards == self.shard for one in ids)

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
        """Judge what waits while the batch before is committed, then begin to commit this one.

        Whoever is not answered yet when this fails is told so.
        """
        items: list[Item] = []
        count = 0
        while self._waiting and (not items or count + self._waiting[0].body.count <= self._options.batch_max):
            items.append(self._waiting.popleft())
            count += items[-1].body.count
        self._readings_waiting -= count
        batch, began = Batch([item.body for item in items]), perf_counter()
        try:
            await self._judge.judge(batch)
            await (self._settled() if batch.adjustments or batch.verified else self._committed())
        except BaseException:
            self._outcome_unknown(items)
            raise
        self._committing = asyncio.create_task(self._commit(items, batch, began))

    async def _commit(self, items: list[Item], batch: Batch, began: float) -> None:
        try:
            if batch.runs or batch.others or batch.refused:
                await self._readings.write(
                    batch.runs, batch.others, batch.adjustments, batch.refused, batch.verified, self._now()
                )
        except BaseException:
            self._outcome_unknown(items)
            raise
        self._adjusted.update(one.meter for one in batch.adjustments)
        metrics.METER_BATCH_SECONDS.labels(str(self.shard)).observe(perf_counter() - began)
        metrics.METER_READINGS.labels(str(self.shard)).inc(batch.accepted)
        for code, count in Counter(chain.from_iterable(batch.codes)).items():
            if code != ACCEPTED:
                verdict = "duplicate" if code == DUPLICATE else ReadingCode(code).name.lower()
                metrics.METER_REJECTED.labels(str(self.shard), verdict).inc(count)
        for place, item in enumerate(items):
            if item.connection.is_open:
                answer = Judged(batch.codes[place], batch.details[place], batch.flags[place])
                item.connection.send(_encode((item.request_id, answer)))

    async def _committed(self) -> None:
        committing, self._committing = self._committing, None
        if committing is not None:
            await committing

    async def _settled(self) -> None:
        """Return once the tables have everything that memory has, but for the batch that is being judged.

        Adjustments are of windows that are closed in the tables, too, so they wait for this. So does the first proof of
        a meter's key: a window is credited by what its posting has found.
        """
        await self._committed()
        if self._posting is not None:
            await self._posting
            self._posting = None

    async def _give_up(self) -> None:
        """Whatever is under way when a life ends ends with it; who waits for it has been told that nobody knows."""
        tasks = [task for task in (self._committing, self._posting) if task is not None]
        self._committing = self._posting = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _outcome_unknown(self, items: list[Item]) -> None:
        for item in items:
            self._fail(item.connection, item.request_id, Fault.OUTCOME_UNKNOWN, "unknown: send the same again")

    # --- windows --------------------------------------------------------------------------------------------------

    async def _close_windows(self) -> bool:
        """Close what is due and begin to post it, with adjustments. False: there is more to close or to post.

        Readings go on meanwhile; what is read of closed windows has been committed before.
        """
        if self._posting is not None and not self._posting.done():
            return False
        await self._settled()
        await self._keep_partitions()
        now_us = self._now()
        closings: list[Closing] = []
        if now_us - self._lag_looked_us >= LAG_EVERY_US:
            self._lag_looked_us = now_us
            metrics.METER_WINDOW_LAG_SECONDS.labels(str(self.shard)).set(self._window_lag_us(now_us) / SECOND_US)
        for known in self._judge.known.values():
            if len(closings) >= CLOSINGS_MAX:
                break
            if known.state.windows.open:
                state = known.state
                closings += state.windows.close_due(state.end_us, state.heard_us, now_us)
        if not closings and not self._adjusted:
            return True
        self._posting = asyncio.create_task(self._post(closings, now_us))  # when it fails, all is loaded anew
        return len(closings) < CLOSINGS_MAX and not self._adjusted

    async def _post(self, closings: Sequence[Closing], now_us: TimeUs) -> None:
        """In one transaction; tells who watches."""
        posted, all_posted = await self._readings.post(closings, self._adjusted, now_us)
        if all_posted:
            self._adjusted.clear()
        metrics.METER_WINDOWS.labels(str(self.shard)).inc(len(closings))
        self._tell(posted)

    def _window_lag_us(self, now_us: TimeUs) -> int:
        """How long ago the oldest window that is still open ended, by the meters' time; 0: none is late."""
        starts = (min(known.state.windows.open) for known in self._judge.known.values() if known.state.windows.open)
        oldest = min(starts, default=now_us)
        return max(0, now_us - oldest - WINDOW_US)

    def measure(self) -> dict[str, float]:
        """Sampled twice a second."""
        metrics.METER_WAITING.labels(str(self.shard)).set(self._readings_waiting)
        return {"waiting": self._readings_waiting}

    def _tell(self, posted: list[PostedWindow]) -> None:
        if posted and self._watchers:
            news = _encode((0, WindowNews(posted)))
            for connection in self._watchers:
                if connection.is_open:
                    connection.send(news)
