"""The audit's memory of client_order_ids: as long as the market's own, and no longer.

Seen to fail for: a memory without an end, which calls every reuse a double execution; a memory of nothing.
"""

from collections.abc import AsyncIterator
from typing import Any, cast

from actors.audit import _History, verify
from actors.ports import Journal, Snapshots
from actors.recovery import Replica, snapshot_of
from engine.book.order_book import OrderBook
from engine.journal import GENESIS_HASH, JournalRow, Snapshot, seal
from engine.messages import EndReason, Entry, OrderAccepted, OrderEnded, Side
from tests.support.builders import ALICE, START_US, accepted, funded_desk, market, order

KEPT = 3


class Memory:
    """A journal of one row, and the snapshot before it."""

    def __init__(self, row: JournalRow, first: Snapshot) -> None:
        self._row, self._first = row, first

    async def rows(self, _: int, after_sequence: int, limit: int = 500) -> list[JournalRow]:
        return [self._row][:limit] if after_sequence < self._row.first_sequence else []

    async def newest_first(self, *_: Any) -> AsyncIterator[Snapshot]:
        yield self._first


async def test_a_client_order_id_that_the_market_had_forgotten_may_be_used_again() -> None:
    spec = market(closed_orders_kept=KEPT)
    desk = funded_desk(spec, ALICE)
    for number in range(KEPT + 1):
        desk.buy(ALICE, 3_000_000, 1_000, client_order_id=f"c{number}")
        desk.cancel(ALICE, desk.last_id)
    assert accepted(desk.buy(ALICE, 3_000_000, 1_000, client_order_id="c0")), "forgotten"
    assert not accepted(desk.buy(ALICE, 3_000_000, 1_000, client_order_id="c3")), "still known"

    memory = Memory(
        seal(1, desk.entries, desk.steps, GENESIS_HASH), snapshot_of(Replica(OrderBook(spec), GENESIS_HASH))
    )
    replay = await verify(spec, cast("Journal", memory), cast("Snapshots", memory))

    assert replay.violations == []


def test_a_client_order_id_executed_again_while_it_is_known_is_found() -> None:
    """No real book does this, so the audit is told of it."""
    seen = _History(OrderBook(market(closed_orders_kept=KEPT)))
    place = order(Side.BUY, ALICE, 3_000_000, 1_000, client_order_id="c")
    seen.visit(Entry(1, START_US, place), [OrderAccepted(1)])

    seen.visit(Entry(2, START_US, place), [OrderAccepted(2)])
    assert len(seen.doubled) == 1, "open"
    seen.visit(Entry(3, START_US, place), [OrderEnded(2, EndReason.EXPIRED, 1_000), OrderAccepted(3)])
    assert len(seen.doubled) == 2, "just ended"
    seen.visit(
        Entry(4, START_US, place), [*(OrderEnded(n, EndReason.EXPIRED, 1) for n in (3, 90, 91, 92)), OrderAccepted(4)]
    )
    assert len(seen.doubled) == 2, "forgotten"
