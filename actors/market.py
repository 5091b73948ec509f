"""The actor of one market: a shell that gives its order book time, durability and a mailbox.

Order of work, always: decide in memory, commit once, then speak. Commands that arrive during a commit are decided at
once and share the next one. So the book runs ahead of the journal, and what is ahead is told to nobody: when an append
fails or its outcome is unknown, the book is thrown away and replayed.
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
from actors.asked import Asked, Traced
from actors.clearing import Aside, Clearing
from actors.crash_points import Reached
from actors.dataplane import Connection, Secret
from actors.feed import Newsroom
from actors.market_figures import MarketFigures
from actors.parking import Item, Parking
from actors.ports import Draws, Journal, Rules, Snapshots
from actors.recovery import NothingToRecover, Replica, catch_up, newest_snapshot, recover, snapshot_of
from actors.risk import amiss
from actors.shell import Shell
from actors.stages import Stages
from actors.succession import LEAVING, LEFT, STANDING_BY, Heir, Moved, Standby
from engine.book import state
from engine.book.answers import answer, reply
from engine.book.order_book import OrderBook
from engine.journal import GENESIS_HASH, NOT_HASHED, seal
from engine.market import Phase
from engine.messages import (
    TRADES,
    AmendOrder,
    ClearEpoch,
    Command,
    Defund,
    Entry,
    EpochOpened,
    Event,
    FireStop,
    Fund,
    ParticipantId,
    PlaceOrder,
    SetRisk,
    SetSpec,
    Tick,
    Traded,
)
from engine.units import FUND_MAX, TimeUs
from engine.views import Applied, Await, Failed, Fault, GetBook, GetMarket, GetOrder, ListOpenOrders, Watch

DIGESTED_AT_ONCE: Final = 64  # ended orders after a commit: a tenth of a millisecond
_QUERIES: Final = (GetOrder, ListOpenOrders, GetBook, GetMarket, Watch, Await)
_decoder: msgspec.msgpack.Decoder[list[tuple[int, Any]]] = msgspec.msgpack.Decoder(list[tuple[int, Asked]])
_encode = msgspec.msgpack.Encoder().encode
_ARRAY_OF_3: Final = b"\x93"  # an encoded pair becomes a triple: the time is known only when the answer leaves

Committed = Callable[[str, str, float, float], None]  # parent, market, seconds that it waited, of its commit

_TAKES_ORDERS: Final = (Phase.OPEN, Phase.AUCTION_CALL)

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
    """One commit in the making: what was applied, and what is to be said once it is durable."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.entries: list[Entry] = []
        self.steps: list[list[Event]] = []
        self.letters: list[tuple[Item, bytes]] = []
        self.turns: list[tuple[int, float, float]] = []  # of the engine: its first letter, when it began and ended
        self.traced: list[Item] = []
        self.hash_state = False
        self.step_of_us: TimeUs = 0  # the epoch of whose auction it has trades
        self.trades = self.volume_wh = self.turnover_micro = 0


class Market(Shell):
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
        aside: Aside = asyncio.to_thread,
        *,
        stands_by: bool = False,
        traced: Committed | None = None,
    ) -> None:
        """`stands_by`: another process owns the market until `take_over` says that it does not."""
        super().__init__(secret, options.host, options.backoff_seconds_max)
        self.market_id, self.symbol = market_id, symbol
        self._journal, self._snapshots, self._draws, self._rules = journal, snapshots, draws, rules
        self._clock, self._options, self._crash = clock, options, crash
        self._standby = Standby(market_id, journal, snapshots) if stands_by else None
        self._heir: Heir | None = None
        self._has_left = asyncio.Event()
        self._book: OrderBook | None = None  # None: not known, replay before use
        self._journal_hash = GENESIS_HASH
        self._first: deque[Item] = deque()  # goes before what waits: funds that arrived and what they were for
        self._waiting: deque[Item] = deque()
        self._draft = Draft()
        self._is_writing = False  # the journal has the draft before, and what comes is applied to this one
        self._bug: Exception | None = None  # of the engine, while the journal wrote
        self._parking = Parking(options.currency)
        self._wants_wake = asyncio.Event()
        self._news = Newsroom(market_id)
        self._clearing = Clearing(symbol, self._submit_own, crash, aside)
        self._stages = Stages()
        self._traced = traced
        self._apply_seconds = metrics.APPLY_SECONDS.labels(symbol)
        self._commit_seconds = metrics.COMMIT_SECONDS.labels(symbol)
        self._draw_seconds = metrics.DRAW_SECONDS.labels(symbol)
        self._batch_entries = metrics.BATCH_ENTRIES.labels(symbol)
        self._active: set[ParticipantId] = set()  # who did something, or traded, since idle ones were looked for
        self._idle: dict[ParticipantId, float] = {}  # participants without open orders, since when
        self._figures = MarketFigures(symbol)
        self._risk_told: set[ParticipantId] = set()  # of whom the journal has learned since the tables were last read
        self._recovered_seconds = 0.0
        self._commits = 0

    # --- life ---------------------------------------------------------------------------------------------------

    def _failed(self, failures: int) -> None:
        if self._state == "fenced":
            log.error("market.fenced", market=self.symbol, why=self._detail)
            return
        log.error("market.replays", market=self.symbol, why=self._detail, failures=failures)
        metrics.REPLAYS.labels(self.symbol).inc()

    async def _close(self) -> None:
        await self._journal.close()

    def status(self) -> dict[str, Any]:
        """What an operator wants to know at a glance."""
        book = self._book
        return {
            "market": self.symbol,
            "state": self._state,
            "detail": self._standby.flaw if self._standby is not None else self._detail,
            "address": self.address,
            "phase": book.phase.name.lower() if book else "",
            "sequence": self._reached,
            "open_orders": len(book.orders) if book else 0,
            "participants": len(book.accounts) if book else 0,
            "waiting": self._load,
            "commits": self._commits,
            "recovered_seconds": round(self._recovered_seconds, 3),
        }

    @property
    def _reached(self) -> int:
        if self._book is None and self._standby is not None and self._standby.replica is not None:
            return self._standby.replica.book.sequence
        return self._book.sequence if self._book is not None else 0

    def measure(self) -> dict[str, float]:
        """Sampled twice a second: the gauges of this market, and the few that Ray's dashboard shows."""
        if self._state in (STANDING_BY, LEFT):
            return {}  # another process speaks for the market
        is_open = self._state == "serving" and self._book is not None and self._book.phase in _TAKES_ORDERS
        return self._figures.look(self._book, self._load, is_open=is_open)

    def __repr__(self) -> str:
        return f"Market({self.symbol})"

    async def _live(self) -> None:
        followed = await self._stand_by()
        if self._draining and self._standby is not None:
            self._become("stopped")
            return
        self._become("recovering")
        started = perf_counter()
        self._book = None
        await self._journal.open(self.market_id)
        self._standby = None
        replica = await self._recover() if followed is None else await catch_up(followed, self._journal)
        book, self._journal_hash = replica.book, replica.journal_hash
        self._unpark()
        await self._take_up_draws(book)
        risks = await self._rules.risks(self.market_id)  # who was blocked meanwhile trades no more
        self._first.extendleft(Item(None, 0, command) for command in reversed(amiss(book, risks)))
        if book.stops.triggered:  # the process before this one ended in between
            self._first.appendleft(Item(None, 0, FireStop()))
        gc.collect()
        gc.freeze()  # a hundred thousand orders need not be walked through again and again
        gc.set_threshold(100_000, 20, 100)
        now = monotonic()
        self._idle = {p: now for p, account in book.accounts.items() if not account.orders and account.assets()}
        self._clearing.start_over(book)
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
            auctions = tasks.create_task(self._clearing.run(book))
            await self._serve(book)
            for task in (draws, idle, rules, auctions):
                task.cancel()
        if self._state == LEFT:
            await self._stay_behind(book)

    # --- succession -----------------------------------------------------------------------------------------------

    async def _stand_by(self) -> Replica | None:
        """Follow while another process owns the market; what was reached when that is over."""
        if self._standby is None:
            return None
        self._become(STANDING_BY)
        return await self._standby.follow()

    def take_over(self) -> None:
        """Stand by no longer; nothing for a market that serves."""
        if self._standby is not None:
            self._standby.end()

    async def hand_over(self, heir: Heir) -> int:
        """Take no more commands and finish what was taken; the last sequence, once it is durable.

        From now on whoever asks is told where the heir listens. Returns as well when the market has come to its end.
        """
        self._heir = heir
        self._wake.set()
        waits = [asyncio.ensure_future(event.wait()) for event in (self._has_left, self._ended)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for one in waits:
            one.cancel()
        return self._reached

    async def _stay_behind(self, book: OrderBook) -> None:
        """Tell those who still come where the market is, until nobody needs us."""
        assert self._heir is not None
        self._figures.look(book, 0, is_open=False)  # what was counted since the last sample
        if self._heir.by_snapshot:
            await self._snapshots.save(snapshot_of(Replica(book, self._journal_hash)))
        log.info("market.left", market=self.symbol, sequence=book.sequence, to=self._heir.address)
        self._has_left.set()
        while not self._draining:
            self._wake.clear()
            await self._wake.wait()
        self._become("stopped")

    async def drain(self) -> None:
        self.take_over()
        await super().drain()

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

    # --- mail ---------------------------------------------------------------------------------------------------

    @property
    def _load(self) -> int:
        return len(self._waiting) + len(self._first) + self._parking.count

    def received(self, connection: Connection, frames: list[bytes]) -> None:
        """Frames of one read, in order. What does not decode ends the connection: gateways speak the protocol."""
        room, now = max(0, self._options.waiting_max - self._load), perf_counter()
        for frame in frames:
            try:
                messages = _decoder.decode(frame)
            except msgspec.MsgspecError as error:
                log.error("market.bad_frame", market=self.symbol, why=str(error))
                connection.close()
                break
            if self._heir is not None:
                for request_id, _ in messages:
                    connection.send(_encode((request_id, Moved(self._heir.address), 0)))
                continue
            if self._draining or self._state == "fenced":
                self._refuse(connection, messages, Fault.UNAVAILABLE, f"the market is {self._state}")
                continue
            if len(messages) > room:
                metrics.OVERLOADED.labels(self.symbol).inc(len(messages) - room)
                self._refuse(connection, messages[room:], Fault.OVERLOADED, "too many commands wait; slow down")
                del messages[room:]
            room -= len(messages)
            self._waiting.extend([Item(connection, request_id, body, now) for request_id, body in messages])
        self._go_on()

    def _refuse(self, connection: Connection, messages: list[tuple[int, Any]], fault: Fault, detail: str) -> None:
        for request_id, _ in messages:
            connection.send(_encode((request_id, Failed(fault, detail), 0)))

    def lost(self, connection: Connection) -> None:
        self._news.forget(connection)

    def _refuse_waiting(self, why: str) -> None:
        self._unpark()
        items = [*self._first, *self._waiting]
        self._first.clear()
        self._waiting.clear()
        self._fail(items, Fault.UNAVAILABLE, why)

    def _fail(self, items: list[Item], fault: Fault, detail: str) -> None:
        for item in items:
            if item.connection is not None and item.connection.is_open:
                item.connection.send(_encode((item.request_id, Failed(fault, detail), 0)))

    # --- the loop -------------------------------------------------------------------------------------------------

    async def _serve(self, book: OrderBook) -> None:
        """One commit after the other; each has what was applied while the one before was written."""
        self._draft = Draft()
        try:
            while True:
                self._fill(book)
                if self._draining or self._heir is not None:
                    self._become("draining" if self._draining else LEAVING)
                if self._draft.items:
                    draft, self._draft = self._draft, Draft()
                    await self._commit(draft, book)
                elif (self._draining or self._heir is not None) and not self._parking.count:
                    self._become("stopped" if self._draining else LEFT)
                    return
                elif not self._first and not self._waiting:
                    self._wake.clear()
                    while book.undigested and not self._wake.is_set():
                        state.digest_some(book, DIGESTED_AT_ONCE)
                        await asyncio.sleep(0)
                    await self._wake.wait()
        except BaseException:
            self._forget(self._draft)
            raise

    def _submit_own(self, command: Command) -> None:
        """A command that nobody sent waits with the others."""
        self._waiting.append(Item(None, 0, command))
        self._go_on()

    def _go_on(self) -> None:
        """Something was put where commands wait."""
        if not self._is_writing:
            self._wake.set()
            return
        assert self._book is not None
        try:
            self._fill(self._book)
        except Exception as error:  # noqa: BLE001 - raised where the market's owner hears of it
            self._is_writing, self._bug = False, error

    def _fill(self, book: OrderBook) -> None:
        """Apply what waits, as far as the draft has room."""
        draft, first, waiting = self._draft, self._first, self._waiting
        room = self._options.batch_max - len(draft.items)
        if room <= 0 or not (first or waiting):
            return
        letter, began = len(draft.letters), perf_counter()
        while room > 0 and (first or waiting):
            self._do(first.popleft() if first else waiting.popleft(), book, draft)
            room -= 1
        draft.turns.append((letter, began, perf_counter()))

    async def _commit(self, draft: Draft, book: OrderBook) -> None:
        """Append one row, then speak: answers to those who asked, news to those who watch."""
        if not draft.entries:
            self._send(draft.letters)
            return
        began = perf_counter()
        try:
            state_hash = state.digest(book) if draft.hash_state else NOT_HASHED
            row = seal(self.market_id, draft.entries, draft.steps, self._journal_hash, state_hash)
            news = self._news.compose(book)
            if self._crash is not None:
                self._crash("apply")
            self._is_writing = True
            async with asyncio.timeout(self._options.commit_seconds_max):
                await self._journal.append(row)
        except BaseException:
            self._forget(draft)
            raise
        finally:
            self._is_writing = False
        self._journal_hash = row.hash
        self._commits += 1
        self._clearing.committed(book, draft.step_of_us, others_wait=bool(self._draft.entries))
        self._measure(draft, began, perf_counter())
        self._figures.count(draft.trades, draft.volume_wh, draft.turnover_micro)
        if self._crash is not None:
            await self._answer_some(draft, self._crash)
        self._send(draft.letters)
        self._news.tell(news)
        state.digest_some(book, DIGESTED_AT_ONCE + len(book.undigested) // DIGESTED_AT_ONCE)
        if self._bug is not None:
            bug, self._bug = self._bug, None
            raise bug

    def _forget(self, draft: Draft) -> None:
        """What was applied for nothing; whether it was written is not known of all."""
        self._fail(draft.items, Fault.OUTCOME_UNKNOWN, "the outcome is unknown: repeat with the same client_order_id")

    def _send(self, letters: list[tuple[Item, bytes]]) -> None:
        """Answers leave, each with the microseconds that its request has spent here."""
        now = perf_counter()
        for item, letter in letters:
            if item.connection is not None and item.connection.is_open:
                item.connection.send(_ARRAY_OF_3 + letter[1:] + _encode(int((now - item.came) * 1_000_000)))

    def _measure(self, draft: Draft, began: float, committed: float) -> None:
        """`began`: when the append did. Until then an order waits, but for its turn of the engine."""
        letters, applied_seconds, last = draft.letters, 0.0, len(draft.letters)
        for first, started, ended in reversed(draft.turns):
            for item, _ in letters[first:last]:
                self._stages.wait(started - item.came + began - ended)
            self._stages.apply(ended - started, last - first)
            applied_seconds += ended - started
            last = first
        self._stages.commit(committed - began, len(letters))
        if self._traced is not None:
            for item in draft.traced:
                self._traced(item.parent, self.symbol, began - item.came, committed - began)
        self._batch_entries.observe(len(draft.entries))
        self._apply_seconds.observe(applied_seconds)
        self._commit_seconds.observe(committed - began)

    async def _answer_some(self, draft: Draft, crash: Reached) -> None:
        """The first half of the answers, on their way before the rest is sent or never will be."""
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
        if isinstance(body, Traced):
            item.parent, item.body = body.parent, body.body
            body = item.body
        if isinstance(body, _QUERIES):
            draft.items.append(item)
            if item.connection is not None:
                draft.letters.append((item, _encode((item.request_id, reply(book, body)))))
                if isinstance(body, Watch):
                    self._news.watch(item.connection, body, book)
                elif isinstance(body, Await):
                    self._news.hurry(body.sequence, book.phase)
            return
        if self._crash is not None and isinstance(body, Fund):
            self._crash("fund")
        now_us = max(self._clock(), book.time_us)
        if now_us >= book.due_us and (book.sequence or isinstance(body, Tick)):
            # on its own, so that what a command is short of is known before it is applied
            events = self._apply(Tick(), book, now_us, draft)
            # once an epoch, for it looks at every order; an order's expiry alone must not.
            # When an auction is to be cleared, its first step: until then its orders are digested aside
            draft.hash_state |= book.call is None and any(isinstance(event, EpochOpened) for event in events)
            self._fire_stops(book, now_us, draft)
        if isinstance(body, Tick):
            draft.items.append(item)
            if item.connection is not None:
                draft.letters.append((item, _encode((item.request_id, Applied(book.sequence)))))
        elif not self._park_if_short(item, book, now_us):
            draft.items.append(item)
            if item.parent:
                draft.traced.append(item)
            draft.hash_state |= isinstance(body, ClearEpoch) and book.call is not None and book.call.outcome is None
            events = self._apply(body, book, now_us, draft)
            if item.connection is not None:
                draft.letters.append((item, _encode((item.request_id, answer(book, body, events)))))
            self._fire_stops(book, now_us, draft)

    def _fire_stops(self, book: OrderBook, now_us: TimeUs, draft: Draft) -> None:
        """Stop orders that were triggered enter the book before anybody's next command."""
        while book.stops.triggered:
            self._apply(FireStop(), book, now_us, draft)

    def _apply(self, command: Command, book: OrderBook, now_us: TimeUs, draft: Draft) -> list[Event]:
        entry = Entry(book.sequence + 1, now_us, command)
        events = book.apply(entry)
        draft.entries.append(entry)
        draft.steps.append(events)
        self._news.gather(book, events)
        self._active.add(getattr(command, "participant_id", 0))
        if type(command) is ClearEpoch:
            draft.step_of_us = command.start_us
        if type(command) is SetRisk:
            self._risk_told.add(command.participant_id)
        for event in events:
            if type(event) in TRADES:
                assert isinstance(event, Traded)
                self._active.update((event.buyer_id, event.seller_id))
                draft.trades += 1
                draft.volume_wh += event.energy_wh
                draft.turnover_micro += event.seller_value_micro
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
            self._go_on()

    def _unpark(self) -> None:
        """What waited for the ledger waits for the market again, before whatever its participant sent later."""
        drawn_for = [item for item in self._first if not isinstance(item.body, Fund)]  # the ledger tells its draws anew
        self._first = deque([*self._parking.release(), *drawn_for])

    async def _return_what_is_idle(self) -> None:
        """Free funds of participants without open orders go back to the ledger after a while."""
        while True:
            await asyncio.sleep(self._options.idle_return_seconds / 10)
            assert self._book is not None
            now = monotonic()
            for participant_id in self._active:
                self._idle.pop(participant_id, None)
                account = self._book.accounts.get(participant_id)
                if account is not None and not account.orders and account.assets():
                    self._idle[participant_id] = now
            self._active.clear()
            due = now - self._options.idle_return_seconds
            for participant_id, since in list(self._idle.items()):
                if since > due or self._load >= self._options.waiting_max:
                    break
                del self._idle[participant_id]
                self._waiting.append(Item(None, 0, Defund(participant_id, idle_only=True)))
            self._parking.forget_quiet()
            self._go_on()

    async def _follow_rules(self) -> None:
        """Journal the catalogue's rules when they differ from the book's: an update that got lost, a cost now valid."""
        while True:
            spec, _ = await self._rules.current(self.market_id, self._clock())
            book = self._book
            if book is not None and spec != book.spec:
                self._submit_own(SetSpec(spec))
            await self._follow_risks()
            await asyncio.sleep(self._options.rules_every_seconds)

    async def _follow_risks(self) -> None:
        """Journal limits and blocks that differ from the tables: somebody set them while this market was away.

        Whoever was told of while the tables were read is left for the next time: they may be older than his command.
        """
        self._risk_told.clear()
        wanted = await self._rules.risks(self.market_id)
        if self._book is not None:
            commands = amiss(self._book, wanted, self._risk_told)
            self._waiting.extend(Item(None, 0, command) for command in commands)
            self._go_on()
