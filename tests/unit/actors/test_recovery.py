"""A snapshot is used only if it is what its hash says, and a row only if it leaves the state that it says.

Seen to fail for: a recovery that does not look at the hash, where the changed balance below came to life; a replay that
does not compare states.
"""

from collections.abc import AsyncIterator

import msgspec
import pytest

from actors.ports import Snapshots
from actors.recovery import NothingToRecover, Replica, advance, newest_snapshot, snapshot_of
from engine.book import state
from engine.journal import GENESIS_HASH, NOT_HASHED, JournalBroken, JournalRow, Snapshot, seal
from engine.messages import ENGINE_VERSION
from tests.support.builders import ALICE, COIN, Desk


class Kept:
    """Snapshots, newest first."""

    def __init__(self, *snapshots: Snapshot) -> None:
        self._snapshots = snapshots

    async def newest_first(self, market_id: int, at_most: int | None = None) -> AsyncIterator[Snapshot]:
        for snapshot in self._snapshots:
            if snapshot.market_id == market_id and (at_most is None or snapshot.sequence <= at_most):
                yield snapshot

    async def save(self, snapshot: Snapshot) -> None:
        raise AssertionError(f"recovery only reads, and saved {snapshot.sequence}")

    async def prune(self, market_id: int, keep: int) -> int:
        raise AssertionError(f"recovery only reads, and pruned market {market_id} to {keep}")


def pair() -> tuple[Snapshot, Snapshot]:
    """Two snapshots of one market: Alice has 1, then 2 units of money."""
    desk = Desk()
    desk.fund(ALICE, "", COIN)
    older = snapshot_of(Replica(desk.book, GENESIS_HASH))
    desk.fund(ALICE, "", COIN)
    return older, snapshot_of(Replica(desk.book, GENESIS_HASH))


async def money(snapshots: Snapshots) -> int:
    return (await newest_snapshot(1, snapshots)).book.accounts[ALICE].cash_free


async def test_a_snapshot_that_reads_well_and_is_not_what_was_saved_is_skipped() -> None:
    older, newer = pair()
    forged_state = newer.state.replace(_packed(2 * COIN), _packed(9 * COIN))
    assert state.decode(forged_state).accounts[ALICE].cash_free == 9 * COIN, "it reads well"
    forged = msgspec.structs.replace(newer, state=forged_state)

    assert await money(Kept(newer, older)) == 2 * COIN
    assert await money(Kept(forged, older)) == COIN
    with pytest.raises(NothingToRecover):
        await newest_snapshot(1, Kept(forged))


async def test_a_snapshot_of_a_later_engine_is_skipped() -> None:
    older, newer = pair()
    later = msgspec.structs.replace(newer, engine_version=ENGINE_VERSION + 1)

    assert await money(Kept(later, older)) == COIN


def test_a_row_that_was_sealed_with_another_state_stops_the_replay() -> None:
    desk = Desk()
    desk.fund(ALICE, "", COIN)

    def row_with(state_hash: bytes) -> JournalRow:
        return seal(desk.book.spec.market_id, desk.entries, desk.steps, GENESIS_HASH, state_hash)

    def replayed(row: JournalRow) -> Replica:
        replica = Replica(Desk().book, GENESIS_HASH)
        advance(replica, row)
        return replica

    assert replayed(row_with(state.digest(desk.book))).book.sequence == 1
    assert replayed(row_with(NOT_HASHED)).book.sequence == 1
    with pytest.raises(JournalBroken, match="another state"):
        replayed(row_with(state.digest(Desk().book)))


def _packed(number: int) -> bytes:
    return msgspec.msgpack.encode(number)
