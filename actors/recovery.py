"""From snapshot and journal to a book: the one way in which any process comes to know a market.

Start-up and recovery are the same code, for the market actor, its follower and the offline replay. A snapshot that does
not decode, or is not what its hash says, is skipped for the one before it; a journal row that does not fit stops
everything, because guessing would invent money.
"""

from collections.abc import Callable

import structlog
from msgspec import Struct

from actors.ports import Journal, Snapshots
from engine.book import state
from engine.book.order_book import OrderBook
from engine.journal import NOT_HASHED, JournalBroken, JournalRow, Snapshot, check, events_hash
from engine.messages import ENGINE_VERSION, VERSIONS_REPLAYED, Entry, Event

ROWS_AT_ONCE = 200

log = structlog.get_logger()
Visit = Callable[[Entry, list[Event]], None]


class NothingToRecover(Exception):
    """The market has no usable snapshot; a market that was ever opened has at least the one at sequence 0."""


class OtherEngine(JournalBroken):
    """The next row is of an engine that this one does not replay. The replica stands where that engine began."""


class Replica(Struct):
    """A book, with the hash of the journal row that it has reached."""

    book: OrderBook
    journal_hash: bytes


async def recover(
    market_id: int, journal: Journal, snapshots: Snapshots, up_to: int | None = None, visit: Visit | None = None
) -> Replica:
    """The market's book as of the last row, or of the row that ends at `up_to`.

    Raises NothingToRecover, JournalBroken.
    """
    return await catch_up(await newest_snapshot(market_id, snapshots, up_to), journal, up_to, visit)


async def catch_up(replica: Replica, journal: Journal, up_to: int | None = None, visit: Visit | None = None) -> Replica:
    """The same replica, as of the last row or of the row that ends at `up_to`. Raises JournalBroken."""
    market_id = replica.book.spec.market_id
    while up_to is None or replica.book.sequence < up_to:
        rows = await journal.rows(market_id, replica.book.sequence, ROWS_AT_ONCE)
        for row in rows:
            if up_to is not None and row.first_sequence > up_to:
                break
            if up_to is not None and row.last_sequence > up_to:
                raise JournalBroken(f"market {market_id}: no row ends at sequence {up_to}")
            advance(replica, row, visit)
        if not rows:
            break
    return replica


async def newest_snapshot(market_id: int, snapshots: Snapshots, at_most: int | None = None) -> Replica:
    """The newest snapshot that proves to be what was saved. Raises NothingToRecover."""
    async for snapshot in snapshots.newest_first(market_id, at_most):
        why = _flaw(snapshot)
        if why is None:
            try:
                return Replica(state.decode(snapshot.state), snapshot.journal_hash)
            except state.StateUnreadable as error:
                why = str(error)
        log.warning("snapshot.skipped", market_id=market_id, sequence=snapshot.sequence, why=why)
    raise NothingToRecover(f"market {market_id} has no usable snapshot")


def advance(replica: Replica, row: JournalRow, visit: Visit | None = None) -> None:
    """Apply the next row, proving first that it continues the chain and then that it had the same effects.

    Raises JournalBroken; the replica is then to be thrown away. Raises OtherEngine before anything has changed.
    """
    if row.engine_version not in VERSIONS_REPLAYED:
        older = "start that version once for a snapshot, then upgrade"
        newer = "end this process, so that it starts with that version"
        raise OtherEngine(
            f"market {row.market_id}, row at sequence {row.first_sequence}: written by engine version "
            f"{row.engine_version}, this is {ENGINE_VERSION}; {newer if row.engine_version > ENGINE_VERSION else older}"
        )
    book = replica.book
    steps = []
    for entry in check(row, book.sequence, replica.journal_hash):
        events = book.apply(entry)
        steps.append(events)
        if visit is not None:
            visit(entry, events)
    where = f"market {row.market_id}, row at sequence {row.first_sequence}"
    if events_hash(steps, row.engine_version) != row.events_hash:
        raise JournalBroken(f"{where}: replaying it gives other events than those that were answered")
    # An older version wrote the same state in another form: that its events are the same must do.
    hashed = row.state_hash != NOT_HASHED and row.engine_version == ENGINE_VERSION
    if hashed and state.digest(book) != row.state_hash:
        raise JournalBroken(f"{where}: replaying it gives another state")
    replica.journal_hash = row.hash


def snapshot_of(replica: Replica) -> Snapshot:
    """The replica as it stands, sealed with its hash."""
    encoded = state.encode(replica.book)
    return Snapshot(
        market_id=replica.book.spec.market_id,
        sequence=replica.book.sequence,
        engine_version=ENGINE_VERSION,
        state_hash=state.state_hash(encoded),
        journal_hash=replica.journal_hash,
        state=encoded,
    )


def _flaw(snapshot: Snapshot) -> str | None:
    if snapshot.engine_version > ENGINE_VERSION:
        return f"written by engine version {snapshot.engine_version}, this is {ENGINE_VERSION}"
    if state.state_hash(snapshot.state) != snapshot.state_hash:
        return "is not what its hash says"
    return None
