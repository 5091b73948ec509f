"""What an order's way costs, piece by piece: which piece to look at when the whole got slower.

Run:  python -m pytest bench/micro --benchmark-enable --benchmark-columns=median,ops,rounds
"""

from typing import Any

import msgspec
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.bench_engine import SPEC, START_US, ZONE, Workload, entries_for
from engine.book import state
from engine.book.answers import answer
from engine.book.order_book import OrderBook
from engine.journal import GENESIS_HASH, check, seal
from engine.messages import AmendOrder, Command, Entry, PlaceOrder, Side
from engine.views import Answer


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


def test_shortfall_of_a_funded_order(benchmark: BenchmarkFixture, filled: OrderBook) -> None:
    command = PlaceOrder(7, Side.BUY, 1_000_000, 1, ZONE)

    assert benchmark(filled.shortfall, command, START_US + 10**9) is None


def test_seal_a_row_of_100(benchmark: BenchmarkFixture, filled: OrderBook) -> None:
    entries = entries_for(100)[1]
    steps = [filled.apply(entry) for entry in entries]

    row = benchmark(seal, 1, entries, steps, GENESIS_HASH)

    assert len(check(row, entries[0].sequence - 1, GENESIS_HASH)) == 100


def test_encode_the_state_of_1000_orders(benchmark: BenchmarkFixture, filled: OrderBook) -> None:
    encoded = benchmark(state.encode, filled)

    assert state.encode(state.decode(encoded)) == encoded


def test_decode_a_command(benchmark: BenchmarkFixture) -> None:
    frame = msgspec.msgpack.encode((1, Workload(seed=7).rest()))
    decoder = msgspec.msgpack.Decoder(tuple[int, Command])

    assert benchmark(decoder.decode, frame)[0] == 1
