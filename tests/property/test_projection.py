"""Projected rows add up to the book, however the journal is cut into batches.

Seen to fail for: grid entries left out, reserved amounts of ended orders left out, makers' rows left out, a candle's
low taken for its high, a batch that begins where the last one began, longer candles that start with their minutes, lose
a high or are left out.
"""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from engine.book.answers import order_view
from engine.book.order_book import OrderBook
from engine.messages import CURRENCY, Entry, Event, Funded, Traded
from engine.projection import CANDLE_SECONDS, Projection, ProjectionBatch
from engine.views import OrderView
from tests.property.histories import ASSETS, PARTICIPANTS, History, Told, histories

cuts = st.sampled_from((1, 2, 7, 1_000))


def project(history: History, every: int) -> tuple[Told, list[ProjectionBatch]]:
    """The history and its batches, taken after every so many entries; the first entry only brings funds."""
    gathering: list[Projection] = []
    batches: list[ProjectionBatch] = []

    def gather(book: OrderBook, entry: Entry, events: list[Event]) -> None:
        if not gathering:
            gathering.append(Projection(book, "THB"))
            return
        gathering[0].add(entry, events)
        if gathering[0].entries >= every:
            batches.append(gathering[0].take())

    told = Told(*history, gather)
    batches.append(gathering[0].take())
    return told, batches


def ledger_asset(asset: str) -> str:
    return "THB" if asset == CURRENCY else f"energy:{asset}"


@given(histories, cuts)
def test_batches_follow_each_other_without_a_gap(history: History, every: int) -> None:
    told, batches = project(history, every)

    ends = [1, *(batch.sequence_to for batch in batches)]
    assert [batch.sequence_from for batch in batches] == ends[:-1]
    assert ends[-1] == told.book.sequence


@given(histories, cuts)
def test_ledger_transfers_balance_and_come_to_the_books_balances(history: History, every: int) -> None:
    told, batches = project(history, every)
    sums: Counter[tuple[str, int, str]] = Counter()
    for event in told.flat:
        if isinstance(event, Funded):
            sums["market", event.participant_id, ledger_asset(event.asset)] += event.amount
    transfers = [transfer for batch in batches for transfer in batch.transfers]
    for transfer in transfers:
        per_asset: Counter[str] = Counter()
        for entry in transfer.entries:
            per_asset[entry.asset] += entry.amount
            sums[entry.kind, entry.participant_id, entry.asset] += entry.amount
        assert not any(per_asset.values()), transfer

    assert len({transfer.reference for transfer in transfers}) == len(transfers)
    assert sums["fees", 0, "THB"] == told.book.fees_micro
    for zone, amount in told.book.grid_micro.items():
        assert sums[f"grid:{zone}", 0, "THB"] == amount
    for participant_id in PARTICIPANTS:
        account = told.book.accounts.get(participant_id)
        for asset in ASSETS:
            held = account.free(asset) + account.reserved(asset) if account else 0
            assert sums["market", participant_id, ledger_asset(asset)] == held


@given(histories, cuts)
def test_the_newest_order_rows_are_the_orders_as_they_are(history: History, every: int) -> None:
    told, batches = project(history, every)
    rows: dict[int, OrderView] = {}
    for batch in batches:
        assert rows.keys().isdisjoint(view.order_id for view in batch.accepted)
        assert rows.keys() >= {view.order_id for view in batch.orders}
        rows.update({view.order_id: view for view in (*batch.accepted, *batch.orders)})

    for order in (*told.book.orders.values(), *told.book.closed.values()):
        assert rows[order.order_id] == order_view(order)
    assert all(view.end_reason for order_id, view in rows.items() if order_id not in told.book.orders)


@given(histories, cuts)
def test_the_newest_reserved_amounts_are_the_books(history: History, every: int) -> None:
    told, batches = project(history, every)
    reserved: dict[tuple[int, str], int] = {}
    for batch in batches:
        reserved.update({(row.participant_id, row.asset): row.amount for row in batch.reserved})

    for participant_id in PARTICIPANTS:
        account = told.book.accounts.get(participant_id)
        for asset in ASSETS:
            held = account.reserved(asset) if account else 0
            assert reserved.get((participant_id, ledger_asset(asset)), 0) == held


@given(histories, cuts)
def test_positions_and_candles_add_up_to_the_trades(history: History, every: int) -> None:
    told, batches = project(history, every)
    trades = [event for event in told.flat if isinstance(event, Traded)]
    positions = [position for batch in batches for position in batch.positions]
    candles = [candle for batch in batches for candle in batch.candles]

    assert [row.number for batch in batches for row in batch.trades] == [trade.number for trade in trades]
    for participant_id in PARTICIPANTS:
        mine = [p for p in positions if p.participant_id == participant_id]
        bought = [trade for trade in trades if trade.buyer_id == participant_id]
        sold = [trade for trade in trades if trade.seller_id == participant_id]
        assert sum(p.bought_wh for p in mine) == sum(t.energy_wh for t in bought)
        assert sum(p.sold_wh for p in mine) == sum(t.energy_wh for t in sold)
        assert sum(p.paid_micro for p in mine) == sum(t.buyer_value_micro for t in bought)
        assert sum(p.received_micro for p in mine) == sum(t.seller_value_micro for t in sold)
        assert sum(p.fees_micro for p in mine) == (
            sum(t.buyer_fee_micro for t in bought) + sum(t.seller_fee_micro for t in sold)
        )
        assert sum(p.trades for p in mine) == len(bought) + len(sold)
    for seconds in CANDLE_SECONDS:
        those = [candle for candle in candles if candle.seconds == seconds]
        assert sum(c.volume_wh for c in those) == sum(t.energy_wh for t in trades)
        assert sum(c.trades for c in those) == len(trades)
        for candle in those:
            assert candle.low_micro <= min(candle.open_micro, candle.close_micro)
            assert candle.high_micro >= max(candle.open_micro, candle.close_micro)
            assert candle.low_micro * candle.volume_wh <= candle.value_micro * 1_000
            assert candle.value_micro * 1_000 <= candle.high_micro * candle.volume_wh
            assert candle.start_us % (seconds * 1_000_000) == 0
