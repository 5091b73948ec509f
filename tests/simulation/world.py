"""What outlives every process of a simulation: journal, ledger, snapshots and tables, in memory, failing by seed.

Each keeps the promises of the real one (persistence/) and breaks none; but every call may be slow, may fail before it
did anything, or do it and then fail, so that nobody knows. What was once sent goes on without the one who sent it.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from actors.ports import Journal
from engine.analytics.presence import Obligation
from engine.journal import Fenced, JournalRow, Snapshot
from engine.market import MarketSpec, Phase
from engine.projection import LedgerTransfer, ProjectionBatch
from engine.records import Draw, MarketBalance, NumberTaken, ParticipantRisk, TradeTotals, TrialLine, Want
from engine.units import TimeUs
from engine.views import OrderView

T = TypeVar("T")
Account = tuple[str, int, str]  # kind, participant, asset
STALL_SECONDS_MAX: Final = 20.0  # longer than a market waits for a commit


class Weather(Struct):
    """How often a call goes wrong, each way; all zero: calm."""

    fails: float = 0.0
    answer_lost: float = 0.0
    stalls: float = 0.0
    seconds_max: float = 0.004


class World:
    """The durable state, and the weather."""

    def __init__(self, chance: random.Random, spec: MarketSpec, currency: str) -> None:
        self.chance, self.spec, self.currency = chance, spec, currency
        self.weather = Weather()
        self.counts: Counter[str] = Counter()
        self.broken: list[str] = []  # promises that somebody has broken
        self.generation = 0
        self.rows: list[JournalRow] = []
        self.snapshots: dict[int, Snapshot] = {}
        self.accounts: Counter[Account] = Counter()
        self.reserved: Counter[tuple[int, str]] = Counter()
        self.draws: list[Draw] = []
        self.references: set[str] = set()
        self.written = 0  # the sequence that the tables have reached
        self.orders: dict[int, OrderView] = {}
        self.trades: dict[int, Any] = {}
        self._owner_row = asyncio.Lock()  # an append holds it while it runs; `open` changes it
        self._sent: set[asyncio.Task[Any]] = set()

    def journal(self) -> "MemoryJournal":
        return MemoryJournal(self)

    def deposit(self, participant_id: int, asset: str, amount: int) -> None:
        self.accounts["main", participant_id, asset] += amount
        self.accounts["issuance", 0, asset] -= amount

    async def call(self, name: str, does: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """One call of a server: what it does, it does even if the caller has gone."""
        chance, weather = self.chance, self.weather
        await asyncio.sleep(chance.uniform(0, weather.seconds_max))
        if chance.random() < weather.fails:
            self.counts[f"{name} failed"] += 1
            raise ConnectionError(f"planted: {name} was not reached")
        task = asyncio.create_task(self._serve(name, does), name=name)
        self._sent.add(task)
        task.add_done_callback(self._served)
        done = await asyncio.shield(task)
        if chance.random() < weather.answer_lost:
            self.counts[f"{name} lost its answer"] += 1
            raise ConnectionError(f"planted: the answer of {name} was lost")
        return done

    async def _serve(self, name: str, does: Callable[[], Coroutine[Any, Any, T]]) -> T:
        if self.chance.random() < self.weather.stalls / 2:  # on its way to the server
            self.counts[f"{name} stalled"] += 1
            await asyncio.sleep(self.chance.uniform(0, STALL_SECONDS_MAX))
        return await does()

    async def work(self, name: str) -> None:
        """The server's own time for it, in which it holds its locks."""
        await asyncio.sleep(self.chance.uniform(0, self.weather.seconds_max))
        if self.chance.random() < self.weather.stalls / 2:
            self.counts[f"{name} stalled inside"] += 1
            await asyncio.sleep(self.chance.uniform(0, STALL_SECONDS_MAX))

    def _served(self, task: "asyncio.Task[Any]") -> None:
        self._sent.discard(task)
        if not task.cancelled():
            task.exception()  # its caller may have gone; the outcome is in the state

    async def settle(self) -> None:
        """Wait for what was sent and is still under way."""
        while self._sent:
            await asyncio.wait(self._sent)

    # --- Snapshots ------------------------------------------------------------------------------------------------

    async def newest_first(self, market_id: int, at_most: int | None = None) -> AsyncIterator[Snapshot]:
        assert market_id == self.spec.market_id
        for sequence in sorted(self.snapshots, reverse=True):
            if at_most is None or sequence <= at_most:
                await self.work("read a snapshot")
                yield self.snapshots[sequence]

    async def save(self, snapshot: Snapshot) -> None:
        async def does() -> None:
            await self.work("save a snapshot")
            self.snapshots.setdefault(snapshot.sequence, snapshot)

        await self.call("save a snapshot", does)

    async def prune(self, market_id: int, keep: int) -> int:
        old = sorted(sequence for sequence in self.snapshots if sequence)[:-keep]
        for sequence in old:
            del self.snapshots[sequence]
        return len(old)

    def damage(self, sequence: int) -> None:
        """Turn over one bit of a snapshot on the disk."""
        old = self.snapshots[sequence]
        state = bytearray(old.state)
        state[self.chance.randrange(len(state))] ^= 1 << self.chance.randrange(8)
        self.snapshots[sequence] = msgspec.structs.replace(old, state=bytes(state))

    # --- Draws ----------------------------------------------------------------------------------------------------

    async def draw(self, market_id: int, number_first: int, wants: list[Want]) -> list[int]:
        async def does() -> list[int]:
            await self.work("draw")
            if number_first <= len(self.draws):
                raise NumberTaken(f"market {market_id}: a draw from number {number_first} on exists")
            if number_first != len(self.draws) + 1:
                self.broken.append(f"draw {number_first} comes after {len(self.draws)}")
            granted = []
            for want in wants:
                main = self.accounts["main", want.participant_id, want.asset]
                amount = 0 if main < want.amount else min(main, max(want.amount, want.at_most))
                granted.append(amount)
                if amount:
                    self.draws.append(Draw(len(self.draws) + 1, want.participant_id, want.asset, amount))
                    self.accounts["main", want.participant_id, want.asset] -= amount
                    self.accounts["market", want.participant_id, want.asset] += amount
            return granted

        return await self.call("draw", does)

    async def draws_after(self, market_id: int, number: int, limit: int = 10_000) -> list[Draw]:
        async def does() -> list[Draw]:
            return self.draws[number : number + limit]

        return await self.call("read draws", does)

    # --- Rules ----------------------------------------------------------------------------------------------------

    async def current(self, market_id: int, now_us: TimeUs) -> tuple[MarketSpec, Phase]:
        return self.spec, Phase.OPEN

    async def risks(self, market_id: int) -> dict[int, ParticipantRisk]:
        return {}

    # --- Projections, and what the audit reads of them ------------------------------------------------------------

    async def obligations(self, market_id: int) -> list[Obligation]:
        return []

    async def cursor(self, market_id: int) -> int:
        async def does() -> int:
            return self.written

        return await self.call("read the cursor", does)

    async def write(self, batch: ProjectionBatch) -> None:
        async def does() -> None:
            await self.work("write the tables")
            if batch.sequence_from != self.written:
                raise RuntimeError("two followers, or one that lost its place")
            for transfer in batch.transfers:
                self._book(transfer)
            if any(order.order_id in self.orders for order in batch.accepted):
                self.broken.append("an order was accepted twice")
            self.orders.update((order.order_id, order) for order in batch.accepted)
            if any(order.order_id not in self.orders for order in batch.orders):
                self.broken.append("an order changed that is not known")
            self.orders.update((order.order_id, order) for order in batch.orders)
            for trade in batch.trades:
                if trade.number in self.trades:
                    self.broken.append(f"trade {trade.number} was written twice")
                self.trades[trade.number] = trade
            for one in batch.reserved:
                self.reserved[one.participant_id, one.asset] = one.amount
            self.written = batch.sequence_to

        await self.call("write the tables", does)

    def _book(self, transfer: LedgerTransfer) -> None:
        if transfer.reference in self.references:
            self.broken.append(f"{transfer.reference} was booked twice")
        self.references.add(transfer.reference)
        sums: Counter[str] = Counter()
        for entry in transfer.entries:
            self.accounts[entry.kind, entry.participant_id, entry.asset] += entry.amount
            sums[entry.asset] += entry.amount
        if any(sums.values()):
            self.broken.append(f"{transfer.reference} does not sum to zero")


class MemoryJournal:
    """One owner's journal: its generation fences it, as in persistence/journal.py."""

    def __init__(self, world: World) -> None:
        self._world, self._generation = world, 0

    async def open(self, market_id: int) -> int:
        async def does() -> int:
            async with self._world._owner_row:  # an append that has begun is decided first
                await self._world.work("open the journal")
                if self._generation and self._generation != self._world.generation:
                    raise Fenced(f"market {market_id}: generation {self._generation} is no longer the owner")
                self._world.generation += 1
                return self._world.generation

        self._generation = await self._world.call("open the journal", does)
        return self._generation

    async def append(self, row: JournalRow) -> None:
        world, generation = self._world, self._generation

        async def does() -> None:
            async with world._owner_row:
                if generation != world.generation:
                    raise Fenced(f"generation {generation} is no longer the owner")
                await world.work("append")
                last = world.rows[-1].last_sequence if world.rows else 0
                if any(other.first_sequence == row.first_sequence for other in world.rows):
                    raise Fenced(f"sequence {row.first_sequence} was written by another owner")
                if row.first_sequence != last + 1:  # the real one does not look; a replay will
                    world.broken.append(f"the journal goes on at {row.first_sequence} after {last}")
                world.rows.append(row)

        await world.call("append", does)

    async def rows(self, market_id: int, after_sequence: int, limit: int = 500) -> list[JournalRow]:
        async def does() -> list[JournalRow]:
            return [row for row in self._world.rows if row.first_sequence > after_sequence][:limit]

        return await self._world.call("read rows", does)

    async def ensure_partitions(self, market_id: int, up_to_sequence: int) -> None:
        """Memory has room."""

    async def close(self) -> None:
        """Nothing is held."""


class Tables:
    """What the audit reads: see actors/audit.py."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def cursor(self, market_id: int) -> int:
        return self._world.written

    async def open_orders(self, market_id: int) -> list[OrderView]:
        return [order for order in self._world.orders.values() if not order.end_reason]

    async def count_orders(self, market_id: int) -> int:
        return len(self._world.orders)

    async def trade_totals(self, market_id: int) -> TradeTotals:
        trades = self._world.trades.values()
        return TradeTotals(
            len(trades),
            sum(trade.energy_wh for trade in trades),
            sum(trade.buyer_value_micro for trade in trades),
            sum(trade.seller_value_micro for trade in trades),
            sum(trade.buyer_fee_micro + trade.seller_fee_micro for trade in trades),
        )

    async def market_balances(self, market_id: int) -> list[MarketBalance]:
        return [
            MarketBalance(who, asset, amount, self._world.reserved[who, asset])
            for (kind, who, asset), amount in self._world.accounts.items()
            if kind == "market" and amount
        ]

    async def drawn_after(self, market_id: int, number: int) -> list[tuple[int, str, int]]:
        return [(draw.participant_id, draw.asset, draw.amount) for draw in self._world.draws[number:]]

    async def unbalanced_transfers(self) -> int:
        return 0  # `World._book` refuses them

    async def accounts_off_their_entries(self) -> int:
        return 0  # there are no accounts beside the entries

    async def trial_balance(self) -> list[TrialLine]:
        lines = [TrialLine(asset, kind, amount) for (kind, _, asset), amount in self._world.accounts.items()]
        overdrawn = [key for key, amount in self._world.accounts.items() if key[0] in ("main", "market") and amount < 0]
        assert not overdrawn, overdrawn
        return lines


def _is_a_journal(journal: MemoryJournal) -> Journal:
    """For the type checker."""
    return journal
