"""Small ports for the gateway's tests: everything in memory, with real order books behind the markets.

They are doubles of ports, not of behaviour: orders go through engine.book.order_book, money is drawn from a
ledger as the market actor draws it, and history follows the books' events. `lag` holds projections back.
"""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, TypeVar

from msgspec import json
from msgspec.structs import replace

from engine.audit import SYSTEM, Origin
from engine.book.answers import answer, epoch_events, level_changes, reply, trade_views, updates
from engine.book.order_book import OrderBook
from engine.market import MarketSpec, Path, Phase
from engine.messages import (
    CURRENCY,
    Command,
    Defunded,
    Entry,
    EpochCleared,
    EpochClosed,
    EpochOpened,
    FireStop,
    Fund,
    Tick,
)
from engine.records import (
    AccountBalance,
    CandleRecord,
    CapacityRecord,
    CostRecord,
    DepositRecord,
    EpochRecord,
    Holding,
    LedgerLine,
    PositionRecord,
    ReferenceReused,
    StatsRecord,
    StoredFill,
    StoredOrder,
    SymbolTaken,
    TrialLine,
    ZoneRecord,
)
from engine.units import value_micro
from engine.views import (
    Answer,
    Await,
    BookView,
    EpochEvent,
    EpochPhase,
    Failed,
    Fault,
    Feed,
    FillView,
    OrderView,
    Query,
    TradeView,
    Watch,
)
from gateway.ports import FeedListener

COSTS = {(a, b): (500_000, 100) if a == b else (1_000_000, 300) for a in ("Z1", "Z2") for b in ("Z1", "Z2")}


_T = TypeVar("_T")


class Clock:
    def __init__(self) -> None:
        self.now_us, self._elapsed_us = 1_800_000_000_000_000, 0

    def __call__(self) -> int:
        self.now_us += 1
        return self.now_us

    def elapsed(self) -> int:
        return self._elapsed_us

    def pass_seconds(self, seconds: float) -> None:
        self.now_us += int(seconds * 1_000_000)
        self._elapsed_us += int(seconds * 1_000_000)

    def go_ahead(self, seconds: float) -> None:
        """Somebody sets it; no time passes."""
        self.now_us += int(seconds * 1_000_000)


class MemoryExchange:
    """Markets, ledger, history and catalogue in one, because they are one truth."""

    def __init__(self, clock: Clock, currency: str = "THB") -> None:
        self.clock, self.currency = clock, currency
        self.books: dict[int, OrderBook] = {}
        self.symbols: dict[str, MarketSpec] = {}
        self.are_known = asyncio.Event()
        self.are_known.set()
        self.main: dict[tuple[int, str], int] = {}
        self.deposited: dict[str, DepositRecord] = {}
        self.orders: dict[tuple[int, int], OrderView] = {}
        self.own_fills: list[tuple[int, StoredFill]] = []
        self.public: dict[int, list[TradeView]] = {}
        self.epochs: dict[int, dict[int, tuple[Any, ...]]] = {}
        self.certificates: dict[tuple[int, int], bytes] = {}
        self.watches: dict[int, tuple[frozenset[int], FeedListener]] = {}
        self.zones: dict[str, ZoneRecord] = {z: ZoneRecord(z, f"Feeder {z}") for z in ("Z1", "Z2")}
        self.capacities: dict[tuple[str, str], CapacityRecord] = {}
        self.costs = dict(COSTS)
        self.failing: Failed | None = None
        self.lag = False
        self.commands: list[Command] = []
        self.awaited: list[int] = []

    def add(self, spec: MarketSpec, phase: Phase = Phase.OPEN) -> MarketSpec:
        spec = replace(spec, market_id=len(self.books) + 1)
        self.books[spec.market_id] = OrderBook(spec, phase)
        self.symbols[spec.symbol] = spec
        self.public[spec.market_id] = []
        return spec

    def asset(self, name: str) -> str:
        return self.currency if name == CURRENCY else f"energy:{name}"

    def apply(self, book: OrderBook, command: Command) -> Answer:
        """One journal entry, with everything that the actor and the persistence actor make of it."""
        entry = Entry(book.sequence + 1, self.clock(), command)
        events = book.apply(entry)
        market_id = book.spec.market_id
        result = answer(book, command, events)
        watched, listener = self.watches.get(market_id, (frozenset[int](), None))
        everyone = frozenset(book.accounts) | {getattr(command, "participant_id", 0)}
        for update in updates(book, events, everyone):
            self.orders[market_id, update.order.order_id] = update.order
            self.own_fills += [(update.order.participant_id, StoredFill(market_id, f)) for f in update.fills]
        for one in epoch_events(events):
            self._note_epoch(book, one)
        trades = trade_views(book, events)
        self.public[market_id] += trades
        for event in events:
            if isinstance(event, Defunded):
                key = (event.participant_id, self.asset(event.asset))
                self.main[key] = self.main.get(key, 0) + event.amount
        if listener is not None:
            told = tuple(updates(book, events, watched))
            feed = (market_id, book.sequence, level_changes(book), tuple(trades), told, book.phase, book.halt_until_us)
            listener(Feed(*feed, epochs=tuple(epoch_events(events))))
        return result

    def _note_epoch(self, book: OrderBook, event: EpochEvent) -> None:
        """What EpochRecord has of it behind its trades."""
        epochs = self.epochs.setdefault(book.spec.market_id, {})
        match event:
            case EpochOpened():
                epochs[event.start_us] = (EpochPhase.OPEN,)
            case EpochClosed():
                epochs[event.start_us] = (EpochPhase.CLEARING,)
            case EpochCleared():
                epochs[event.start_us] = (
                    EpochPhase.CLEARED,
                    event.orders,
                    event.zones[0].seller_price_micro if event.zones else 0,
                    event.volume_wh,
                    event.surplus_wh,
                    event.welfare_micro,
                    event.welfare_max_micro,
                    event.orders_hash,
                    event.zones,
                )
                if event.orders:
                    self.certificates[book.spec.market_id, event.start_us] = json.encode(book.certificate)

    # --- Markets

    def submit(self, market_id: int, command: Command) -> Awaitable[Answer]:
        return answered(self._submit(market_id, command))

    def _submit(self, market_id: int, command: Command) -> Answer:
        if self.failing is not None:
            return self.failing
        self.commands.append(command)
        book = self.books[market_id]
        short = book.shortfall(command, self.clock())
        if short is not None:
            asset, amount = short
            participant_id = command.participant_id  # type: ignore[union-attr]
            key = (participant_id, self.asset(asset))
            if self.main.get(key, 0) >= amount:
                self.main[key] -= amount
                self.apply(book, Fund(book.fund_number + 1, participant_id, asset, amount))
        answer = self.apply(book, command)
        while book.stops.triggered:
            self.apply(book, FireStop())
        return answer

    def submit_many(self, market_id: int, commands: Sequence[Command]) -> Awaitable[list[Answer]]:
        return answered([self._submit(market_id, command) for command in commands])

    def ask(self, market_id: int, query: Query) -> Awaitable[Answer]:
        if isinstance(query, Await):
            self.awaited.append(query.sequence)
        return answered(self.failing or reply(self.books[market_id], query))

    def watch(self, market_id: int, participants: frozenset[int], book: bool, listener: FeedListener) -> None:
        self.watches[market_id] = (participants, listener)
        view = reply(self.books[market_id], Watch(book, tuple(participants)))
        assert isinstance(view, BookView)
        listener(view)

    def markets(self) -> Mapping[str, MarketSpec]:
        return self.symbols

    async def known(self) -> None:
        await self.are_known.wait()

    def tick(self) -> None:
        for book in self.books.values():
            self.apply(book, Tick())

    # --- Ledger

    async def deposit(
        self,
        participant_id: int,
        asset: str,
        amount: int,
        reference: str,
        time_us: int,
        origin: Origin = SYSTEM,
    ) -> DepositRecord:
        known = self.deposited.get(reference)
        if known is not None:
            if (known.asset, known.amount) != (asset, amount):
                raise ReferenceReused
            return known
        row = DepositRecord(len(self.deposited) + 1, participant_id, asset, amount, reference, time_us)
        self.deposited[reference] = row
        self.main[participant_id, asset] = self.main.get((participant_id, asset), 0) + amount
        return row

    async def deposits(self, participant_id: int, before_id: int, limit: int) -> list[DepositRecord]:
        mine = [d for d in self.deposited.values() if d.participant_id == participant_id and d.deposit_id < before_id]
        return mine[::-1][:limit]

    async def holdings(self, participant_id: int) -> list[Holding]:
        found = []
        for market_id, book in self.books.items():
            account = book.accounts.get(participant_id)
            if account is not None:
                for asset in ("", *book.spec.zones):
                    free, reserved = account.free(asset), _reserved(book, participant_id, asset)
                    if free or reserved:
                        found.append(Holding(market_id, self.asset(asset), free + reserved, reserved))
        return found

    async def balances(self, participant_id: int) -> list[AccountBalance]:
        held = await self.holdings(participant_id)
        assets = sorted({asset for one, asset in self.main if one == participant_id} | {h.asset for h in held})
        return [
            AccountBalance(
                asset,
                self.main.get((participant_id, asset), 0),
                sum(h.balance for h in held if h.asset == asset),
                sum(h.reserved for h in held if h.asset == asset),
            )
            for asset in assets
        ]

    async def lines(self, participant_id: int, before_id: int, limit: int) -> list[LedgerLine]:
        return [
            LedgerLine(d.deposit_id, d.deposit_id, "deposit", d.reference, "main", 0, d.asset, d.amount, d.created_us)
            for d in await self.deposits(participant_id, before_id, limit)
        ]

    async def trial_balance(self) -> list[TrialLine]:
        total = sum(d.amount for d in self.deposited.values() if d.asset == self.currency)
        return [TrialLine(self.currency, "participants_available", total), TrialLine(self.currency, "issuance", -total)]


def _reserved(book: OrderBook, participant_id: int, asset: str) -> int:
    account = book.accounts[participant_id]
    return account.reserved(asset)


class MemoryHistory:
    """What the persistence actor would have written; with `exchange.lag` it never catches up."""

    def __init__(self, exchange: MemoryExchange) -> None:
        self._exchange = exchange
        self.polls = 0

    async def cursor(self, market_ids: list[int]) -> dict[int, int]:
        self.polls += 1
        return {m: 0 if self._exchange.lag else self._exchange.books[m].sequence for m in market_ids}

    async def orders(
        self,
        participant_id: int,
        market_id: int | None,
        statuses: tuple[int, ...],
        from_us: int,
        to_us: int,
        before: tuple[int, int, int] | None,
        limit: int,
    ) -> list[StoredOrder]:
        found = [
            StoredOrder(m, view)
            for (m, _), view in self._exchange.orders.items()
            if view.participant_id == participant_id
            and market_id in (None, m)
            and view.status in statuses
            and from_us <= view.created_us < to_us
            and (before is None or (view.created_us, m, view.order_id) < before)
        ]
        found.sort(key=lambda one: (one.view.created_us, one.market_id, one.view.order_id), reverse=True)
        return found[:limit]

    async def order(self, market_id: int, order_id: int, participant_id: int) -> StoredOrder | None:
        view = self._exchange.orders.get((market_id, order_id))
        return StoredOrder(market_id, view) if view is not None and view.participant_id == participant_id else None

    async def order_by_client_id(self, market_id: int, participant_id: int, client_order_id: str) -> StoredOrder | None:
        found = [
            view
            for (m, _), view in self._exchange.orders.items()
            if m == market_id and view.participant_id == participant_id and view.client_order_id == client_order_id
        ]
        return StoredOrder(market_id, found[-1]) if found else None

    async def fills(
        self,
        participant_id: int,
        market_id: int | None,
        before: tuple[int, int, int] | None,
        limit: int,
    ) -> list[StoredFill]:
        found = [
            fill
            for owner, fill in self._exchange.own_fills
            if owner == participant_id
            and market_id in (None, fill.market_id)
            and (before is None or _fill_key(fill.market_id, fill.view) < before)
        ]
        return sorted(found, key=lambda one: _fill_key(one.market_id, one.view), reverse=True)[:limit]

    async def fills_of_orders(
        self, participant_id: int, orders: Sequence[tuple[int, int]], limit: int
    ) -> list[StoredFill]:
        mine = [fill for owner, fill in self._exchange.own_fills if owner == participant_id]
        found = [fill for fill in mine if (fill.market_id, fill.view.order_id) in orders]
        return sorted(found, key=lambda one: (one.market_id, one.view.trade_number))[:limit]

    async def trades(self, market_id: int, before_number: int, limit: int) -> list[TradeView]:
        return [t for t in reversed(self._exchange.public[market_id]) if t.number < before_number][:limit]

    async def candles(self, market_id: int, seconds: int, from_us: int, to_us: int, limit: int) -> list[CandleRecord]:
        groups: dict[int, list[TradeView]] = {}
        for trade in self._exchange.public[market_id]:
            if from_us <= trade.at_us < to_us:
                groups.setdefault(trade.at_us // (seconds * 1_000_000) * seconds * 1_000_000, []).append(trade)
        return [
            CandleRecord(
                start,
                trades[0].price_micro,
                max(t.price_micro for t in trades),
                min(t.price_micro for t in trades),
                trades[-1].price_micro,
                sum(t.quantity_wh for t in trades),
                sum(value_micro(t.price_micro, t.quantity_wh) for t in trades),
                len(trades),
            )
            for start, trades in groups.items()
        ][:limit]

    async def positions(
        self,
        participant_id: int,
        market_id: int | None,
        from_us: int,
        to_us: int,
        before: tuple[int, int] | None,
        limit: int,
    ) -> list[PositionRecord]:
        mine = [fill for owner, fill in self._exchange.own_fills if owner == participant_id]
        if not mine:
            return []
        bought = sum(f.view.quantity_wh for f in mine if f.view.side == 0)
        sold = sum(f.view.quantity_wh for f in mine if f.view.side == 1)
        return [PositionRecord(mine[0].market_id, 1_800_000_000_000_000, bought, sold, 0, 0, 0, len(mine))]

    async def stats(self, market_id: int, since_us: int) -> StatsRecord:
        trades = [t for t in self._exchange.public[market_id] if t.at_us >= since_us]
        if not trades:
            return StatsRecord(0, 0, 0, 0, 0, 0, 0)
        prices = [t.price_micro for t in trades]
        return StatsRecord(
            prices[0],
            max(prices),
            min(prices),
            prices[-1],
            sum(t.quantity_wh for t in trades),
            sum(value_micro(t.price_micro, t.quantity_wh) for t in trades),
            len(trades),
        )

    async def epochs(self, market_id: int, before_start_us: int, limit: int) -> list[EpochRecord]:
        candles = await self.candles(market_id, 900, 0, before_start_us, limit)
        traded = {c.start_us: (c.volume_wh, c.value_micro, c.trades) for c in candles}
        told = self._exchange.epochs.get(market_id, {})
        starts = sorted((start_us for start_us in traded | told if start_us < before_start_us), reverse=True)
        return [EpochRecord(one, *traded.get(one, (0, 0, 0)), *told.get(one, ())) for one in starts[:limit]]

    async def epoch(self, market_id: int, start_us: int) -> EpochRecord | None:
        return next((e for e in await self.epochs(market_id, 2**62, 10) if e.start_us == start_us), None)

    async def certificate(self, market_id: int, start_us: int) -> bytes | None:
        return self._exchange.certificates.get((market_id, start_us))


class MemoryCatalogue:
    def __init__(self, exchange: MemoryExchange) -> None:
        self._exchange = exchange
        self.shared: dict[str, bool] = {}

    async def markets(self) -> list[MarketSpec]:
        return list(self._exchange.symbols.values())

    async def create_market(
        self, spec: MarketSpec, phase: Phase, now_us: int, origin: Origin, *, shared: bool
    ) -> MarketSpec:
        self.shared[spec.symbol] = shared
        if spec.symbol in self._exchange.symbols:
            raise SymbolTaken
        return self._exchange.add(spec, phase)

    async def update_market(self, spec: MarketSpec, origin: Origin) -> None:
        self._exchange.symbols[spec.symbol] = spec

    async def zones(self) -> list[ZoneRecord]:
        return list(self._exchange.zones.values())

    async def put_zones(self, zones: list[ZoneRecord], origin: Origin) -> None:
        self._exchange.zones |= {zone.zone_id: zone for zone in zones}

    async def costs(self) -> list[CostRecord]:
        return [CostRecord(a, b, w, loss, 0) for (a, b), (w, loss) in self._exchange.costs.items()]

    async def put_costs(self, costs: list[CostRecord], now_us: int, origin: Origin) -> None:
        self._exchange.costs |= {(c.zone_from, c.zone_to): (c.wheeling_micro, c.loss_bps) for c in costs}

    async def capacities(self) -> list[CapacityRecord]:
        return list(self._exchange.capacities.values())

    async def put_capacities(self, capacities: list[CapacityRecord], origin: Origin) -> None:
        self._exchange.capacities |= {(c.zone_from, c.zone_to): c for c in capacities}

    async def paths(self, zones: tuple[str, ...], now_us: int) -> tuple[Path, ...]:
        unlimited = CapacityRecord("", "", -1)
        return tuple(
            Path(a, b, *self._exchange.costs[a, b], self._exchange.capacities.get((a, b), unlimited).capacity_wh)
            for a in zones
            for b in zones
            if (a, b) in self._exchange.costs
        )


def _fill_key(market_id: int, view: FillView) -> tuple[int, int, int]:
    return (view.at_us, market_id, view.trade_number)


DOWN = Failed(Fault.UNAVAILABLE, "the market does not answer")


async def answered(answer: _T) -> _T:
    return answer
