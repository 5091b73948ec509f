"""The canonical bytes of a book, and bytes that are none."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from msgspec import Raw
from msgspec.structs import replace

from engine.book.state import BookState, OrderState, StateUnreadable, decode, digest, encode, state_hash
from engine.market import Phase, RiskLimits
from engine.messages import CURRENCY, CancelAllAt, Defund, OrderRepeated, SetFees, SetPhase, SetRisk, TimeInForce
from engine.units import ENERGY_WH_MAX, FUND_MAX, PRICE_MICRO_MAX
from tests.support.builders import ALICE, BOB, CAROL, START_US, A, B, Desk, funded_desk, linked, market, trades

PRICE = 4_000_000


def busy_desk() -> Desk:
    """Something of everything that a state holds."""
    desk = funded_desk(linked(3, maker_fee_bps=10, taker_fee_bps=33))
    desk.do(SetFees(CAROL, -5, 7))
    desk.do(SetRisk(CAROL, RiskLimits(10, 3, 0, 20)))
    desk.do(SetRisk(4, None, is_blocked=True))
    desk.do(CancelAllAt(ALICE, START_US + 60_000_000))
    desk.sell(ALICE, PRICE, 10, zone=A, client_order_id="a")
    desk.buy(BOB, PRICE, 5, zone=B, client_order_id="b")
    desk.buy(CAROL, PRICE, 1, time_in_force=TimeInForce.IOC, client_order_id="c")
    desk.amend(ALICE, desk.last_id - 2, PRICE - 1_000)
    desk.do(SetPhase(Phase.HALTED))
    return desk


def state() -> BookState:
    return msgspec.msgpack.decode(encode(busy_desk().book), type=BookState)


def unreadable(changed: BookState) -> str:
    with pytest.raises(StateUnreadable) as caught:
        decode(msgspec.msgpack.encode(changed))
    return str(caught.value)


def test_a_decoded_book_encodes_to_the_same_bytes() -> None:
    data = encode(busy_desk().book)

    assert encode(decode(data)) == data
    assert len(state_hash(data)) == 32


def later(encoded: Raw) -> Raw:
    """An order that arrived a microsecond later."""
    told = msgspec.msgpack.decode(encoded, type=OrderState)
    return Raw(msgspec.msgpack.encode(replace(told, created_us=told.created_us + 1)))


@pytest.mark.parametrize(
    "changed",
    [
        lambda state: {"closed": state.closed[1:]},
        lambda state: {"orders": [*state.orders[:-1], later(state.orders[-1])]},
        lambda state: {"trades": state.trades + 1},
        lambda state: {"accounts": [replace(state.accounts[0], cash_free=1), *state.accounts[1:]]},
        lambda state: {"minutes": [*state.minutes, [START_US, 1, 1]]},
        lambda state: {"triggered": [15]},
    ],
)
def test_whatever_the_state_holds_is_in_its_digest(changed: Callable[[BookState], dict[str, Any]]) -> None:
    told = state()
    book, other = decode(encode(busy_desk().book)), decode(encode(busy_desk().book))
    assert digest(book) == digest(other)

    made = replace(told, **changed(told))

    assert made != told
    assert digest(decode(msgspec.msgpack.encode(made))) != digest(book)


def test_a_fresh_book_survives_too() -> None:
    data = encode(Desk().book)
    book = decode(data)

    assert encode(book) == data
    assert (book.sequence, book.due_us) == (0, 0)


def test_derived_things_are_made_anew() -> None:
    desk = busy_desk()
    book = decode(encode(desk.book))

    assert book.lanes["A", "B"].left_wh == desk.book.lanes["A", "B"].left_wh == 0
    assert set(book.blocked) == set(desk.book.blocked) != set()
    assert book.due_us == START_US + 60_000_000
    assert book.reference.price_micro == desk.book.reference.price_micro
    best = book.sides[1, A].best  # type: ignore[index]
    assert best is not None
    assert (best.price_micro, best.count) == (PRICE - 1_000, 1)


def test_a_decoded_book_still_knows_client_order_ids() -> None:
    desk = busy_desk()
    ended = next(order for order in desk.book.closed.values() if order.placed.client_order_id == "c")
    desk.book = decode(encode(desk.book))

    assert desk.do(ended.placed) == [OrderRepeated(ended.order_id)]


def test_an_ended_order_outlives_its_account() -> None:
    desk = Desk()
    desk.fund(ALICE, CURRENCY, 4_000)
    desk.buy(ALICE, PRICE, 1, time_in_force=TimeInForce.IOC)
    desk.do(Defund(ALICE))
    assert not desk.book.accounts

    book = decode(encode(desk.book))

    assert not book.accounts
    assert list(book.closed) == list(desk.book.closed)
    assert encode(book) == encode(desk.book)


def test_the_largest_orders_fit_into_a_state() -> None:
    desk = Desk(market(price_micro_max=PRICE_MICRO_MAX, taker_fee_bps=9_999, maker_fee_bps=9_999))
    for _ in range(400):
        desk.fund(ALICE, CURRENCY, FUND_MAX)
    desk.fund(BOB, A, FUND_MAX)
    for _ in range(2):
        desk.sell(BOB, PRICE_MICRO_MAX, ENERGY_WH_MAX)
    assert len(trades(desk.buy(ALICE, PRICE_MICRO_MAX, ENERGY_WH_MAX))) == 1
    desk.buy(ALICE, PRICE_MICRO_MAX, ENERGY_WH_MAX // 2)

    data = encode(desk.book)

    assert encode(decode(data)) == data


@pytest.mark.parametrize("data", [b"", b"\x90", b"\xff" * 40, msgspec.msgpack.encode({"a": 1})])
def test_bytes_that_are_no_state(data: bytes) -> None:
    with pytest.raises(StateUnreadable):
        decode(data)


def test_a_truncated_state_is_unreadable() -> None:
    data = encode(busy_desk().book)
    for length in range(0, len(data), 50):
        with pytest.raises(StateUnreadable):
            decode(data[:length])


def test_a_state_with_a_broken_spec_is_unreadable() -> None:
    changed = state()
    changed.spec = msgspec.structs.replace(changed.spec, tick_micro=7)

    assert "tick" in unreadable(changed)


def test_open_orders_without_their_account_are_unreadable() -> None:
    changed = state()
    changed.accounts = []

    assert "do not fit together" in unreadable(changed)


def test_an_order_that_is_none_is_unreadable() -> None:
    changed = state()
    changed.closed[0] = msgspec.Raw(msgspec.msgpack.encode([1, 2, 3]))

    assert "orders and accounts" in unreadable(changed)


def test_an_order_in_a_zone_that_the_market_lacks_is_unreadable() -> None:
    changed = state()
    order = msgspec.msgpack.decode(changed.orders[0], type=OrderState)
    order.placed = msgspec.structs.replace(order.placed, zone="Z9")
    changed.orders[0] = msgspec.Raw(msgspec.msgpack.encode(order))

    assert "do not fit together" in unreadable(changed)


def test_a_blocked_order_that_is_not_open_is_unreadable() -> None:
    changed = state()
    changed.blocked = [999]

    assert "do not fit together" in unreadable(changed)


def test_use_of_a_link_without_a_path_is_kept() -> None:
    changed = state()
    changed.lanes_used = [("B", "A", 2)]

    assert decode(msgspec.msgpack.encode(changed)).pathless_wh == {("B", "A"): 2}
