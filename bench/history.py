"""The long past of one market: a journal of many commands and a book with many resting orders, the same for each seed.

Written as the market's own actor writes it: entries through the engine, sealed rows, one append for each. A snapshot
lies as far behind the end as the follower lets it fall at most, and the one at sequence 0 is there too.
"""

import random
from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec import Struct

from actors.recovery import Replica, snapshot_of
from config.markets import DEFAULT_FILE, load_markets
from engine.book import state
from engine.book.order_book import OrderBook
from engine.journal import GENESIS_HASH, NOT_HASHED, seal
from engine.market import Phase
from engine.messages import (
    CURRENCY,
    AmendOrder,
    CancelOrder,
    Command,
    Entry,
    Event,
    Fund,
    OrderAccepted,
    OrderEnded,
    PlaceOrder,
    Side,
)
from persistence.catalogue import PostgresCatalogue
from persistence.journal import PostgresJournal
from persistence.postgres import open_pool
from persistence.snapshots import PostgresSnapshots

SYMBOL: Final = "CAMPUS"
ZONE: Final = "Z1"
PARTICIPANTS: Final = 1_000
ROW_ENTRIES: Final = 100
START_US: Final = 1_790_000_000_000_000
STEP_US: Final = 50


class Past(Struct, frozen=True):
    """What was written: how it ends, and the hash of the state that it ends in."""

    market_id: int
    sequence: int
    open_orders: int
    state_hash: bytes


class Commands:
    """The next command that fits the book: keeps `resting` orders open, mostly by amending prices."""

    def __init__(self, seed: int, resting: int) -> None:
        self._random, self._resting = random.Random(seed), resting
        self._open: dict[int, tuple[int, Side]] = {}
        self._ids: list[int] = []

    def __iter__(self) -> Iterator[Command]:
        for participant in range(1, PARTICIPANTS + 1):
            for place, (asset, amount) in enumerate(((CURRENCY, 10**12), (ZONE, 10**9))):
                yield Fund(participant * 2 - 1 + place, participant, asset, amount)
        while True:
            yield self._next()

    def saw(self, command: Command, events: list[Event]) -> None:
        """What came of it."""
        for event in events:
            if isinstance(event, OrderAccepted) and isinstance(command, PlaceOrder):
                self._open[event.order_id] = (command.participant_id, command.side)
                self._ids.append(event.order_id)
            elif isinstance(event, OrderEnded):
                self._open.pop(event.order_id, None)

    def _next(self) -> Command:
        draw = self._random.randrange(100)
        if draw < 9 or len(self._open) < self._resting:
            side = Side(self._random.randrange(2))
            return PlaceOrder(self._random.randint(1, PARTICIPANTS), side, self._price(side), 1_000, ZONE)
        order_id = self._some_order()
        participant, side = self._open[order_id]
        if draw < 18:
            return CancelOrder(participant, order_id)
        return AmendOrder(participant, order_id, self._price(side))

    def _price(self, side: Side) -> int:
        """Two clouds 100 ticks wide that overlap by a tenth once the asks have landed."""
        return (3_340_000 if side is Side.BUY else 2_900_000) + self._random.randrange(100) * 1_000

    def _some_order(self) -> int:
        ids = self._ids
        while True:
            place = self._random.randrange(len(ids))
            if ids[place] in self._open:
                return ids[place]
            ids[place] = ids[-1]
            ids.pop()


async def write_past(dsn: str, commands: int, resting: int, tail: int, seed: int = 7) -> Past:
    """Fill an empty, migrated database; the newest snapshot lies `tail` commands before the end."""
    pool = await open_pool(dsn, 2, "bench history")
    journal = PostgresJournal(dsn)
    try:
        catalogue, snapshots = PostgresCatalogue(pool), PostgresSnapshots(pool)
        planned = load_markets(DEFAULT_FILE)
        await catalogue.put_zones(planned.zones)
        await catalogue.put_costs(planned.costs, START_US)
        spec = next(one for one in planned.markets if one.symbol == SYMBOL)
        spec = msgspec.structs.replace(spec, paths=await catalogue.paths(spec.zones, START_US))
        spec = await catalogue.create_market(spec, Phase.OPEN, START_US)
        market_id = spec.market_id
        await journal.open(market_id)
        await journal.ensure_partitions(market_id, commands)
        replica = Replica(OrderBook(spec, Phase.OPEN), GENESIS_HASH)
        await snapshots.save(snapshot_of(replica))
        mix = Commands(seed, resting)
        source = iter(mix)
        for first in range(0, commands, ROW_ENTRIES):
            if first == (commands - tail) // ROW_ENTRIES * ROW_ENTRIES and first:
                await snapshots.save(snapshot_of(replica))
            await _append(journal, replica, source, mix, min(ROW_ENTRIES, commands - first))
        book = replica.book
        return Past(market_id, book.sequence, len(book.orders), state.state_hash(state.encode(book)))
    finally:
        await journal.close()
        await pool.close()


async def _append(
    journal: PostgresJournal, replica: Replica, source: Iterator[Command], mix: Commands, count: int
) -> None:
    """One row."""
    book, entries, steps = replica.book, [], []
    for _ in range(count):
        entry = Entry(book.sequence + 1, START_US + book.sequence * STEP_US, next(source))
        events = book.apply(entry)
        mix.saw(entry.command, events)
        entries.append(entry)
        steps.append(events)
    row = seal(book.spec.market_id, entries, steps, replica.journal_hash, NOT_HASHED)
    await journal.append(row)
    replica.journal_hash = row.hash
