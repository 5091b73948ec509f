"""The replica of a book: whatever changes come, it is the book that they describe.

Seen to fail for: a level that is gone kept, bids sorted the wrong way.
"""

from hypothesis import given
from hypothesis import strategies as st

from engine.messages import Side
from engine.views import BookView, Level, LevelChange
from gateway.levels import BookReplica
from gateway.wire import checksum, show_level

changes = st.lists(
    st.builds(
        LevelChange,
        side=st.sampled_from(Side),
        price_micro=st.integers(1, 30).map(lambda ticks: ticks * 1_000),
        quantity_wh=st.integers(0, 3),
        orders=st.integers(1, 3),
    ),
    max_size=80,
)


def naive(applied: list[LevelChange]) -> BookView:
    levels: dict[tuple[Side, int], Level] = {}
    for change in applied:
        levels.pop((change.side, change.price_micro), None)
        if change.quantity_wh:
            levels[change.side, change.price_micro] = Level(change.price_micro, change.quantity_wh, change.orders)
    bids = sorted((x for (side, _), x in levels.items() if side is Side.BUY), key=lambda x: -x.price_micro)
    asks = sorted((x for (side, _), x in levels.items() if side is Side.SELL), key=lambda x: x.price_micro)
    return BookView(len(applied), tuple(bids), tuple(asks))


def shown(view: BookView) -> tuple[list[object], list[object]]:
    return [show_level(level) for level in view.bids], [show_level(level) for level in view.asks]


@given(changes)
def test_a_replica_is_the_book_that_the_changes_describe(applied: list[LevelChange]) -> None:
    replica = BookReplica()
    replica.apply(len(applied), applied)

    assert replica.shown(100) == shown(naive(applied))
    assert replica.checksum() == checksum(*replica.shown(100))


@given(changes, changes)
def test_the_changes_to_a_snapshot_lead_to_it(before: list[LevelChange], after: list[LevelChange]) -> None:
    replica, view = BookReplica(), naive(after)
    replica.apply(len(before), before)

    replica.apply(view.sequence, replica.changes_to(view))

    assert replica.shown(100) == shown(view)
    assert replica.changes_to(view) == []
