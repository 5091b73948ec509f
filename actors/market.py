"""The actor of one market: a shell that gives its order book time, durability and a mailbox.

Order of work, always: decide in memory, commit once, then speak. Commands that arrive during a commit wait and share
the next one. The book is doubted from the moment it runs ahead of the journal until the append returns: when that fails
or its outcome is unknown, the book is thrown away and replayed. Memory is never repaired.

    starting -> recovering -> serving -> (recovering ...) -> draining -> stopped
                                      \\-> fenced              another process owns the market now
"""

import asyncio
import gc
from collections import deque
from collections.abc import Callable
from time import monotonic, perf_counter
from typing import Any, Final

import msgspec
import structlog
from msgspec import Struct

from actors import metrics
from actors.crash_points import Reached
from actors.dataplane import Connection, Secret, Server
from actors.feed import Newsroom
from actors.parking import Item, Parking
from actors.ports import Draws, Journal, Rules, Snapshots
from actors.recovery import NothingToRecover, Replica, newest_snapshot, recover, snapshot_of
from actors.stages import Stages
from engine.book import state
from engine.book.answers import answer, reply
from engine.book.order_book import OrderBook
from engine.journal import GENESIS_HASH, NOT_HASHED, Fenced, seal
from engine.messages import (
    AmendOrder,
    CancelAll,
    CancelAllAt,
    CancelOrder,
    Command,
    Defund,
    Entry,
    Event,
    Fund,
    PlaceOrder,
    SetFees,
    SetPhase,
    SetSpec,
    Tick,
    Traded,
)
from engine.units import FUND_MAX, TimeUs
from engine.views import Applied, Failed, Fault, GetBook, GetMarket, GetOrder, ListOpenOrders, Query, Watch

# Fund is missing on purpose: only the market itself turns a draw from the ledger into funds.
WireCommand = (
    PlaceOrder | AmendOrder | CancelOrder | CancelAll | CancelAllAt | Defund | SetPhase | SetSpec | SetFees | Tick
)
_QUERIES: Final = (GetOrder, ListOpenOrders, GetBook, GetMarket, Watch)
_decoder: msgspec.msgpack.Decoder[tuple[int, Any]] = msgspec.msgpack.Decoder(tuple[int, WireCommand | Query])
_encode = msgspec.msgpack.Encoder().encode
_ARRAY_OF_3: Final = b"\x93"  # an encoded pair becomes a triple: the time is known only when the answer leaves

log = structlog.get_logger()


class MarketOptions(Struct, frozen=True):
    """batch_max: entries in one commit; waiting_max: commands that may wait before OVERLOADED."""

    host: str = "127.0.0.1"
    currency: str = "THB"
    batch_max: int = 512
    waiting_max: int = 20_000
    commit_seconds_max: float = 10.0
    idle_return_seconds: float = 5.0
    rules_every_seconds: float = 30.0
    backoff_seconds_max: float = 2.0


class Draft:
    """One commit in the making."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.steps: list[list[Event]] = []
        self.letters: list[tuple[Item, bytes]] = []  # answers, to be sent once durable
        self.hash_state = False


class Market:
    """A plain class: actors/hosting.py makes it a Ray actor, simulations run it as it is."""

    def __init__(
        self,
        market_id: int,
        symbol: str,
        journal: Journal,
        snapshots: Snapshots,
        draws: Draws,
        rules: Rules,
        secret: Secret,
        clock: Callable[[], TimeUs],
        options: MarketOptions,
        crash: Reached | None = None,
    ) -> None:
        self.market_id, self.symbol = market_id, symbol
        self._journal, self._snapshots, self._draws, self._rules = journal, snapshots, draws, rules
        self._clock, self._options, self._crash = clock, options, crash
        self._server = Server(secret, self)
        self._book: OrderBook | None = None  # None: not known, replay before use
        self._journal_hash = GENESIS_HASH
        self._first: deque[Item] = deque()  # goes before what waits: funds that arrived and what they were for
        self._waiting: deque[Item] = deque()
        self._parking = Parking(options.currency)
        self._wake = asyncio.Event()
        self._wants_wake = asyncio.Event()
        self._ended = asyncio.Event()
        self._news = Newsroom(market_id)
        self._stages = Stages()
        self._apply_seconds = metrics.APPLY_SECONDS.labels(symbol)
        self._commit_seconds = metrics.COMMIT_SECONDS.labels(symbol)
        self._draw_seconds = metrics.DRAW_SECONDS.labels(symbol)
        self._batch_entries = metrics.BATCH_ENTRIES.labels(symbol)
        self._idle: dict[int, float] = {}  # participants without open orders, since when
        self._state = "starting"
        self._detail = ""
        self._recovered_seconds = 0.0
        self._commits = 0
        self._draining = False

    # --- life ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until drained or fenced. Whatever goes wrong ends in a replay; nothing ends this silently."""
        await self._server.start(self._options.host)
        failures = 0
        try:
            while self._state not in ("stopped", "fenced"):
                try:
                    await self._live()
                except* Fenced as group:
                    self._become("fenced", str(group.exceptions[0]))
                    log.error("market.fenced", market=self.symbol, why=self._detail)
                except* Exception as group:  # noqa: BLE001 - a task's end: kept, logged, answered by a replay
                    failures = 1 if self._state in ("serving", "draining") else failures + 1
                    self._become("stopped" if self._draining else "recovering", repr(group.exceptions[0]))
                    log.error("market.replays", market=self.symbol, why=self._detail, failures=failures)
                    metrics.REPLAYS.labels(self.symbol).inc()
                    if failures > 1:
                        self._fail_all(Fault.UNAVAILABLE, "the market cannot reach its journal; nothing was done")
                    await asyncio.sleep(min(0.05 * 2**failures, self._options.backoff_seconds_max))
        finally:
            self._fail_all(Fault.UNAVAILABLE, f"the market is {self._state} on this node; nothing was done")
            await self._server.stop()
            await self._journal.close()
            self._ended.set()

    async def drain(self) -> None:
        """Take no more commands, finish those that wait, stop."""
        self._draining = True
        self._wake.set()
        await self._ended.wait()

    @property
    def address(self) -> str:
        """host:port of the data plane; empty until it listens."""
        return self._server.address

    def status(self) -> dict[str, Any]:
        """What an operator wants to know at a glance."""
        book = self._book
        return {
            "market": self.symbol,
            "state": self._state,
            "detail": self._detail,
            "address": self.address,
            "phase": book.phase.name.lower() if book else "",
            "sequence": book.sequence if book else 0,
            "open_orders": len(book.orders) if book else 0,
            "participants": len(book.accounts) if book else 0,
            "waiting": self._load,
            "commits": self._commits,
            "recovered_seconds": round(self._recovered_seconds, 3),
        }

    def __repr__(self) -> str:
        return f"Market({self.symbol})"

    async def _live(self) -> None:
        self._become("recovering")
        started = perf_counter()
        self._book = None
        await self._journal.open(self.market_id)
        replica = await self._recover()
        book, self._journal_hash = replica.book, replica.journal_hash
        self._unpark()
        await self._take_up_draws(book)
        gc.collect()
        gc.freeze()  # a hundred thousand orders need not be walked through again and again
        gc.set_threshold(100_000, 20, 100)
        now = monotonic()
        self._idle = {p: now for p, account in book.accounts.items() if not account.orders and account.assets()}
        self._recovered_seconds = perf_counter() - started
        metrics.RECOVERY_SECONDS.labels(self.symbol).set(self._recovered_seconds)
        self._book = book
        self._news.start_over()
        self._become("serving")
        log.info(
            "market.serving", market=self.symbol, sequence=book.sequence, seconds=round(self._recovered_seconds, 3)
        )
        async with asyncio.TaskGroup() as tasks:
            draws = tasks.create_task(self._draw_what_is_wanted())
            idle = tasks.create_task(self._return_what_is_idle())
            rules = tasks.create_task(self._follow_rules())
            await self._serve()
            for task in (draws, idle, rules):
                task.cancel()

    async def _recover(self) -> Replica:
        """The book as the journal has it; a market that opens for the first time gets its snapshot at sequence 0."""
        try:
            return await recover(self.market_id, self._journal, self._snapshots)
        except NothingToRecover:
            if await self._journal.rows(self.market_id, 0, 1):
                raise
            spec, phase = await self._rules.current(self.market_id, self._clock())
            await self._snapshots.save(snapshot_of(Replica(OrderBook(spec, phase), GENESIS_HASH)))
            return await newest_snapshot(self.market_id, self._snapshots)

    async def _take_up_draws(self, book: OrderBook) -> None:
        """Funds that the ledger has moved here and that the journal does not know of yet."""
        draws = await self._draws.draws_after(self.market_id, book.fund_number)
        self._first.extendleft(self._parking.fund(draw) for draw in reversed(draws))
        self._parking.drawn = draws[-1].number if draws else book.fund_number
        if self._first or self._waiting:
            self._wake.set()

    def _become(self, state_: str, detail: str = "") -> None:
        self._state, self._detail = state_, detail

    # --- mail ---------------------------------------------------------------------------------------------------

    @property
    def _load(self) -> int:
        return len(self._waiting) + len(self._first) + self._parking.count

    def connected(self, connection: Connection) -> None:
        """A gateway has proved itself; it will say what it wants."""

    def received(self, connection: Connection, frames: list[bytes]) -> None:
        """Frames of one read, in order. What does not decode ends the connection: gateways speak the protocol."""
        room, now = self._options.waiting_max - self._load, perf_counter()
        for frame in frames:
            try:
                request_id, body = _decoder.decode(frame)
            except msgspec.MsgspecError as error:
                log.error("market.bad_frame", market=self.symbol, why=str(error))
                connection.close()
                return
            if self._draining or self._state == "fenced":
                connection.send(_encode((request_id, Failed(Fault.UNAVAILABLE, f"the market is {self._state}"), 0)))
            elif room <= 0:
                metrics.OVERLOADED.labels(self.symbol).inc()
                connection.send(_encode((request_id, Failed(Fault.OVERLOADED, "too many commands wait; slow down"), 0)))
            else:
                room -= 1
                self._waiting.append(Item(connection, request_id, body, now))
        self._wake.set()

    def lost(self, connection: Connection) -> None:
        self._news.forget(connection)

    def _fail_all(self, fault: Fault, detail: str) -> None:
        self._unpark()
        items = [*self._first, *self._waiting]
        self._first.clear()
        self._waiting.clear()
        self._fail(items, fault, detail)

    def _fail(self, items: list[Item], fault: Fault, detail: str) -> None:
        for item in items:
            if item.connection is not None and item.connection.is_open:
                item.connection.send(_encode((item.request_id, Failed(fault, detail), 0)))

    # --- the loop -------------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        """One batch after the other; a batch is whatever waits when the commit before has returned."""
        while True:
            if not self._first and not self._waiting:
                if self._draining and not self._parking.count:
                    self._become("stopped")
                    return
                self._wake.clear()
                await self._wake.wait()
            if self._draining:
                self._become("draining")
            batch = self._take_batch()
            if batch:
                await self._commit(batch)

    def _take_batch(self) -> list[Item]:
        first, waiting, room = self._first, self._waiting, self._options.batch_max
        batch = [first.popleft() for _ in range(min(len(first), room))]
        batch += [waiting.popleft() for _ in range(min(len(waiting), room - len(batch)))]
        return batch

    async def _commit(self, batch: list[Item]) -> None:
        """Apply, append one row, then speak: answers to those who asked, news to those who watch."""
        book, self._book = self._book, None  # about to run ahead of the journal: not trusted until the append returns
        assert book is not None
        started = perf_counter()
        draft = Draft()
        if self._crash is not None and any(isinstance(item.body, Fund) for item in batch):
            self._crash("fund")
        try:
            for item in batch:
                self._do(item, book, draft)
            if draft.entries:
                applied = perf_counter()
                state_hash = state.state_hash(state.encode(book)) if draft.hash_state else NOT_HASHED
                row = seal(self.market_id, draft.entries, draft.steps, self._journal_hash, state_hash)
                if self._crash is not None:
                    self._crash("apply")
                async with asyncio.timeout(self._options.commit_seconds_max):
                    await self._journal.append(row)
        except BaseException:
            self._news.drop_gathered()
            parked = {id(item) for item in self._parking.items()}
            self._fail(
                [item for item in batch if id(item) not in parked],
                Fault.OUTCOME_UNKNOWN,
                "the outcome is unknown: repeat with the same client_order_id",
            )
            raise
        if draft.entries:
            self._journal_hash = row.hash
            self._commits += 1
            self._measure(draft, started, applied, perf_counter())
            self._note_idle(book, draft)
        self._book = book
        if self._crash is not None:
            await self._answer_some(draft, self._crash)
        self._send(draft.letters)
        if draft.entries:
            self._news.publish(book)

    def _send(self, letters: list[tuple[Item, bytes]]) -> None:
        """Answers leave, each with the microseconds that its request has spent here."""
        now = perf_counter()
        for item, letter in letters:
            if item.connection is not None and item.connection.is_open:
                item.connection.send(_ARRAY_OF_3 + letter[1:] + _encode(int((now - item.came) * 1_000_000)))

    def _measure(self, draft: Draft, started: float, applied: float, committed: float) -> None:
        self._batch_entries.observe(len(draft.entries))
        self._apply_seconds.observe(applied - started)
        self._commit_seconds.observe(committed - applied)
        answers = len(draft.letters)
        for item, _ in draft.letters:
            self._stages.wait(started - item.came)
        self._stages.apply(applied - started, answers)
        self._stages.commit(committed - applied, answers)

    async def _answer_some(self, draft: Draft, crash: Reached) -> None:
        """The first half of the answers, on their way before the rest is sent or never will be."""
        if draft.entries:
            crash("commit")
        some = len(draft.letters) // 2
        self._send(draft.letters[:some])
        del draft.letters[:some]
        if some:
            await asyncio.sleep(0)  # the turn of the loop ends, and what was sent leaves
            crash("answer")

    def _do(self, item: Item, book: OrderBook, draft: Draft) -> None:
        """Answer a query, or give a command its place and instant and apply it, or set it aside."""
        body = item.body
        if isinstance(body, _QUERIES):
            if item.connection is not None:
                draft.letters.append((item, _encode((item.request_id, reply(book, body)))))
                if isinstance(body, Watch):
                    self._news.watch(item.connection, body, book)
            return
        now_us = max(self._clock(), book.time_us)
        if now_us >= book.due_us and (book.sequence or isinstance(body, Tick)):
            # on its own, so that what a command is short of is known before it is applied
            self._apply(Tick(), book, now_us, draft)
            draft.hash_state = True
        if isinstance(body, Tick):
            if item.connection is not None:
                draft.letters.append((item, _encode((item.request_id, Applied(book.sequence)))))
        elif not self._park_if_short(item, book, now_us):
            events = self._apply(body, book, now_us, draft)
            if item.connection is not None:
                draft.letters.append((item, _encode((item.request_id, answer(book, body, events)))))

    def _apply(self, command: Command, book: OrderBook, now_us: TimeUs, draft: Draft) -> list[Event]:
        entry = Entry(book.sequence + 1, now_us, command)
        events = book.apply(entry)
        draft.entries.append(entry)
        draft.steps.append(events)
        self._news.gather(book, events)
        return events

    # --- funds ----------------------------------------------------------------------------------------------------

    def _park_if_short(self, item: Item, book: OrderBook, now_us: TimeUs) -> bool:
        """Set a command aside while the ledger is asked for what it lacks, and its participant's others behind it."""
        body = item.body
        participant_id = getattr(body, "participant_id", 0)
        parked = self._parking.of(participant_id)
        if parked is not None:
            if isinstance(body, Fund):
                return False
            need = book.reservation(body) if isinstance(body, PlaceOrder) else None
            self._parking.park_behind(item, parked, need)
            return True
        if item.drawn or not isinstance(body, PlaceOrder | AmendOrder):
            return False
        short = book.shortfall(body, now_us)
        if short is None or short[1] > FUND_MAX:
            return False
        self._parking.park(item, participant_id, *short)
        self._wants_wake.set()
        return True

    async def _draw_what_is_wanted(self) -> None:
        """Ask the ledger, one transaction at a time; what it grants becomes Fund entries in the order of numbers."""
        parking = self._parking
        while True:
            if not parking.has_wants:
                self._wants_wake.clear()
                await self._wants_wake.wait()
            wants = parking.take_wants(self._options.batch_max)
            started = perf_counter()
            if self._crash is not None:
                self._crash("reserve")
            async with asyncio.timeout(self._options.commit_seconds_max):
                granted = await self._draws.draw(self.market_id, parking.drawn + 1, wants)
            self._draw_seconds.observe(perf_counter() - started)
            if self._crash is not None:
                self._crash("reserved")
            self._first = parking.resume(wants, granted, self._first)
            self._wake.set()

    def _unpark(self) -> None:
        """What waited for the ledger waits for the market again, before whatever its participant sent later."""
        drawn_for = [item for item in self._first if not isinstance(item.body, Fund)]  # the ledger tells its draws anew
        self._first = deque([*self._parking.release(), *drawn_for])

    def _note_idle(self, book: OrderBook, draft: Draft) -> None:
        """Remember who has funds here and no open order, and since when."""
        touched = {getattr(entry.command, "participant_id", 0) for entry in draft.entries}
        for events in draft.steps:
            for event in events:
                if isinstance(event, Traded):
                    touched.add(event.buyer_id)
                    touched.add(event.seller_id)
        now = monotonic()
        for participant_id in touched:
            self._idle.pop(participant_id, None)
            account = book.accounts.get(participant_id)
            if account is not None and not account.orders and account.assets():
                self._idle[participant_id] = now

    async def _return_what_is_idle(self) -> None:
        """Free funds of participants without open orders go back to the ledger after a while."""
        while True:
            await asyncio.sleep(self._options.idle_return_seconds / 10)
            due = monotonic() - self._options.idle_return_seconds
            for participant_id, since in list(self._idle.items()):
                if since > due or self._load >= self._options.waiting_max:
                    break
                del self._idle[participant_id]
                self._waiting.append(Item(None, 0, Defund(participant_id, idle_only=True)))
            self._parking.forget_quiet()
            self._wake.set()

    async def _follow_rules(self) -> None:
        """Journal the catalogue's rules when they differ from the book's: an update that got lost, a cost now valid."""
        while True:
            spec, _ = await self._rules.current(self.market_id, self._clock())
            book = self._book
            if book is not None and spec != book.spec:
                self._waiting.append(Item(None, 0, SetSpec(spec)))
                self._wake.set()
            await asyncio.sleep(self._options.rules_every_seconds)
