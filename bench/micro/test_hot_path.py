"""What an order's way costs, piece by piece: which piece to look at when the whole got slower.

Run:  python -m pytest bench/micro --benchmark-enable --benchmark-columns=median,ops,rounds
"""

from typing import Any

import msgspec
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.bench_engine import SPEC, START_US, ZONE, Workload, entries_for
from engine.book import state
from engine.book.answers import answer, level_changes
from engine.book.order_book import OrderBook
from engine.journal import GENESIS_HASH, check, seal
from engine.messages import AmendOrder, CancelOrder, Command, Entry, Event, PlaceOrder, Side, TimeInForce
from engine.projection import Projection
from engine.views import Answer, LevelChange, OrderAnswer, OrderStatus


@pytest.fixture
def filled() -> OrderBook:
    """1,000 participants with funds, 1,000 resting orders."""
    book = OrderBook(SPEC)
    for entry in entries_for(1)[0]:
        book.apply(entry)
    return book


def next_entry(book: OrderBook, command: Command) -> Entry:
    return Entry(book.sequence + 1, START_US + book.sequence * 50, command)


def test_amend_a_price(benchmark: BenchmarkFixture, filled: OrderBook) -> None:
    order = next(order for order in filled.orders.values() if order.is_buy)
    prices = [3_300_000, 3_301_000]

    def amend() -> Any:
        prices.reverse()
        return filled.apply(next_entry(filled, AmendOrder(order.account.participant_id, order.order_id, prices[0])))

    assert benchmark(amend)


def test_place_and_answer(benchmark: BenchmarkFixture, filled: OrderBook) -> None:
    command = PlaceOrder(7, Side.BUY, 1_000_000, 1, ZONE)

    def place() -> Answer:
        return answer(filled, command, filled.apply(next_entry(filled, command)))

    assert benchmark(place)


def test_place_trade_and_answer(benchmark: BenchmarkFixture, filled: OrderBook) -> None:
    ask = PlaceOrder(8, Side.SELL, 500_000, 1, ZONE)
    bid = PlaceOrder(7, Side.BUY, 3_700_000, 1, ZONE, time_in_force=TimeInForce.IOC)

    def trade() -> Answer:
        filled.apply(next_entry(filled, ask))
        return answer(filled, bid, filled.apply(next_entry(filled, bid)))

    answered = benchmark(trade)

    assert isinstance(answered, OrderAnswer)
    assert answered.order.status is OrderStatus.FILLED


def test_place_and_cancel(benchmark: BenchmarkFixture, filled: OrderBook) -> None:
    def come_and_go() -> list[Event]:
        filled.apply(next_entry(filled, PlaceOrder(7, Side.BUY, 1_000_000, 1, ZONE)))
        return filled.apply(next_entry(filled, CancelOrder(7, filled.sequence)))

    assert benchmark(come_and_go)


def test_shortfall_of_an_amend(benchmark: BenchmarkFixture, filled: OrderBook) -> None:
    order = next(order for order in filled.orders.values() if order.is_buy)
    command = AmendOrder(order.account.participant_id, order.order_id, order.price_micro + 1_000)

    assert benchmark(filled.shortfall, command, START_US + 10**9) is None


def test_levels_that_a_commit_of_100_changed(benchmark: BenchmarkFixture, filled: OrderBook) -> None:
    for entry in entries_for(100)[1]:
        filled.apply(entry)
    touched = [(side, frozenset(side.touched)) for side in filled.sides.values()]

    def changes() -> tuple[LevelChange, ...]:
        for side, prices in touched:
            side.touched.update(prices)
        return level_changes(filled)

    assert benchmark(changes)


def test_project_a_trade(benchmark: BenchmarkFixture, filled: OrderBook) -> None:
    projection = Projection(filled, "THB")
    filled.apply(next_entry(filled, PlaceOrder(8, Side.SELL, 500_000, 1, ZONE)))
    entry = next_entry(filled, PlaceOrder(7, Side.BUY, 3_700_000, 1, ZONE))
    events = filled.apply(entry)

    benchmark(projection.add, entry, events)

    assert projection.take().trades


def test_shortfall_of_a_funded_order(benchmark: BenchmarkFixture, filled: OrderBook) -> None:
    command = PlaceOrder(7, Side.BUY, 1_000_000, 1, ZONE)

    assert benchmark(filled.shortfall, command, START_US + 10**9) is None


def test_seal_a_row_of_100(benchmark: BenchmarkFixture, filled: OrderBook) -> None:
    entries = entries_for(100)[1]
    steps = [filled.apply(entry) for entry in entries]

    row = benchmark(seal, 1, entries, steps, GENESIS_HASH)

    assert len(check(row, entries[0].sequence - 1, GENESIS_HASH)) == 100


def test_encode_a_state_of_1000_orders(benchmark: BenchmarkFixture, filled: OrderBook) -> None:
    encoded = benchmark(state.encode, filled)

    assert state.encode(state.decode(encoded)) == encoded


def test_digest_a_state_of_1000_orders_that_have_not_changed(benchmark: BenchmarkFixture, filled: OrderBook) -> None:
    assert benchmark(state.digest, filled) == state.digest(state.decode(state.encode(filled)))


def test_digest_a_state_of_1000_orders_anew(benchmark: BenchmarkFixture, filled: OrderBook) -> None:
    def digest_anew() -> bytes:
        for order in filled.orders.values():
            order.digested_sequence = 0
        return state.digest(filled)

    assert benchmark(digest_anew) == state.digest(filled)


def test_decode_the_state_of_1000_orders(benchmark: BenchmarkFixture, filled: OrderBook) -> None:
    encoded = state.encode(filled)

    assert len(benchmark(state.decode, encoded).orders) == len(filled.orders)


def test_decode_a_command(benchmark: BenchmarkFixture) -> None:
    frame = msgspec.msgpack.encode((1, Workload(seed=7).rest()))
    decoder = msgspec.msgpack.Decoder(tuple[int, Command])

    assert benchmark(decoder.decode, frame)[0] == 1
