"""Answers, feeds and queries: what leaves the book."""

from engine.book.answers import (
    answer,
    book_view,
    changed_orders,
    fill_view,
    fills_of,
    level_changes,
    order_view,
    reply,
    trade_views,
    updates,
)
from engine.market import Phase
from engine.messages import (
    AmendOrder,
    CancelAll,
    CancelOrder,
    Command,
    Defund,
    EndReason,
    OrderKind,
    RejectCode,
    SetPhase,
    Side,
    Tick,
    TimeInForce,
)
from engine.views import (
    Answer,
    Applied,
    BookView,
    GetBook,
    GetMarket,
    GetOrder,
    Level,
    LevelChange,
    Liquidity,
    ListOpenOrders,
    MarketView,
    OrderAnswer,
    Orders,
    OrderStatus,
    Refusal,
    Watch,
)
from tests.support.builders import (
    ALICE,
    BOB,
    CAROL,
    START_US,
    A,
    B,
    Desk,
    funded_desk,
    market,
    order,
    trades,
    two_zones,
)

PRICE = 4_000_000


def ask(desk: Desk, command: Command) -> Answer:
    return answer(desk.book, command, desk.do(command))


# --- answers --------------------------------------------------------------------------------------------------------


def test_placing_is_answered_with_the_order_and_its_fills() -> None:
    desk = funded_desk(market(taker_fee_bps=100))
    desk.sell(BOB, PRICE, 2)

    told = ask(desk, order(Side.BUY, ALICE, 5_000_000, 3, client_order_id="mine"))

    assert isinstance(told, OrderAnswer)
    view, (fill,) = told.order, told.fills
    assert (view.order_id, view.client_order_id, view.status) == (desk.last_id, "mine", OrderStatus.PARTIALLY_FILLED)
    assert (view.quantity_wh, view.filled_wh, view.remaining_wh, view.value_micro) == (3, 2, 1, 8_000)
    assert (fill.price_micro, fill.value_micro, fill.fee_micro) == (PRICE, 8_000, 80)
    assert (fill.liquidity, fill.side, fill.order_id, fill.at_us) == (Liquidity.TAKER, Side.BUY, desk.last_id, START_US)
    assert not told.repeated


def test_a_repeat_is_answered_with_the_order_as_it_is_now() -> None:
    desk = funded_desk()
    command = order(Side.BUY, ALICE, PRICE, 2, client_order_id="mine")
    desk.do(command)
    desk.sell(BOB, PRICE, 2)

    told = ask(desk, command)

    assert isinstance(told, OrderAnswer)
    assert (told.repeated, told.order.status, told.fills) == (True, OrderStatus.FILLED, ())


def test_an_order_that_ended_at_once_is_answered_with_its_reason_though_nothing_is_kept() -> None:
    desk = funded_desk(market(closed_orders_kept=0))

    told = ask(desk, order(Side.BUY, ALICE, PRICE, 2, time_in_force=TimeInForce.IOC))

    assert isinstance(told, OrderAnswer)
    assert (told.order.status, told.order.end_reason) == (OrderStatus.CANCELLED, EndReason.IOC_REMAINDER)


def test_a_refusal_is_answered_with_code_and_reason() -> None:
    told = ask(Desk(), order(Side.BUY, ALICE, PRICE + 1, 2))

    assert told == Refusal(RejectCode.PRICE_OFF_TICK, "price must be a multiple of 0.001")


def test_amending_and_cancelling_are_answered_with_the_order() -> None:
    desk = funded_desk()
    desk.sell(BOB, PRICE, 2)
    desk.buy(ALICE, PRICE - 1_000, 5)
    order_id = desk.last_id

    amended = ask(desk, AmendOrder(ALICE, order_id, PRICE, 4))
    cancelled = ask(desk, CancelOrder(ALICE, order_id))

    assert isinstance(amended, OrderAnswer)
    assert ([fill.quantity_wh for fill in amended.fills], amended.order.quantity_wh) == ([2], 4)
    assert isinstance(cancelled, OrderAnswer)
    assert (cancelled.order.status, cancelled.order.remaining_wh) == (OrderStatus.CANCELLED, 2)


def test_cancel_all_and_defund_are_answered_with_how_many() -> None:
    desk = funded_desk()
    desk.buy(ALICE, PRICE, 1, expires_us=START_US + 1)
    desk.buy(ALICE, PRICE, 1)
    desk.buy(ALICE, PRICE, 1)
    desk.time_us += 1  # the first one expires on the way

    assert ask(desk, CancelAll(ALICE)) == Applied(desk.book.sequence, 2)
    assert ask(desk, Defund(ALICE)) == Applied(desk.book.sequence, 2)  # money and energy
    assert ask(desk, Tick()) == Applied(desk.book.sequence)


def test_a_side_of_a_trade_sees_its_own_price_value_and_fee() -> None:
    desk = funded_desk(two_zones(maker_fee_bps=10, taker_fee_bps=20))
    desk.sell(ALICE, 3_500_000, 1_000, zone=A)
    (trade,) = trades(desk.buy(BOB, 6_000_000, 1_000, zone=B))

    bought, sold = fill_view(trade, Side.BUY, 7, 5), fill_view(trade, Side.SELL, 7, 5)

    assert (bought.price_micro, bought.value_micro, bought.fee_micro) == (4_605_000, 4_605_000, 9_210)
    assert (sold.price_micro, sold.value_micro, sold.fee_micro) == (3_500_000, 3_500_000, 3_500)
    assert (bought.liquidity, sold.liquidity) == (Liquidity.TAKER, Liquidity.MAKER)
    assert (bought.order_id, sold.order_id) == (trade.taker_order_id, trade.maker_order_id)
    assert (bought.at_us, bought.epoch_start_us) == (7, 5)


def test_only_the_orders_own_fills_are_its_fills() -> None:
    desk = funded_desk()
    desk.sell(BOB, PRICE, 1)
    desk.sell(CAROL, PRICE, 1)
    events = desk.buy(ALICE, PRICE, 2)

    assert [len(fills_of(desk.last_id - i, events, desk.book)) for i in (0, 1, 2)] == [2, 1, 1]
    assert fills_of(999, events, desk.book) == ()


# --- feeds ----------------------------------------------------------------------------------------------------------


def test_updates_go_to_watchers_only_once_per_order() -> None:
    desk = funded_desk()
    desk.sell(BOB, PRICE, 1)
    desk.sell(BOB, PRICE, 1)

    events = desk.buy(ALICE, PRICE, 3)

    assert changed_orders(events) == [desk.last_id, desk.last_id - 2, desk.last_id - 1]
    (alices,) = updates(desk.book, events, frozenset({ALICE, CAROL}))
    assert (alices.order.filled_wh, len(alices.fills)) == (2, 2)
    assert [u.order.participant_id for u in updates(desk.book, events, frozenset({BOB}))] == [BOB, BOB]
    assert updates(desk.book, events, frozenset()) == []


def test_trades_are_public_at_the_makers_price() -> None:
    desk = funded_desk(two_zones())
    desk.sell(ALICE, 3_500_000, 10, zone=A)

    (view,) = trade_views(desk.book, desk.buy(BOB, 6_000_000, 10, zone=B))

    assert (view.number, view.sequence, view.price_micro, view.quantity_wh) == (1, desk.last_id, 3_500_000, 10)
    assert (view.taker_side, view.buyer_zone, view.seller_zone, view.at_us) == (Side.BUY, B, A, START_US)


def test_level_changes_tell_of_each_level_once_over_all_zones() -> None:
    desk = funded_desk(two_zones())
    desk.sell(ALICE, PRICE, 2, zone=A)
    desk.sell(ALICE, PRICE, 3, zone=B)

    assert level_changes(desk.book) == (LevelChange(Side.SELL, PRICE, 5, 2),)
    assert level_changes(desk.book) == ()
    desk.do(CancelAll(ALICE))
    assert level_changes(desk.book) == (LevelChange(Side.SELL, PRICE, 0, 0),)


# --- queries --------------------------------------------------------------------------------------------------------


def test_a_zones_view_shows_what_orders_mean_there() -> None:
    desk = funded_desk(two_zones())
    desk.sell(ALICE, 3_500_000, 1, zone=A)
    desk.buy(BOB, 1_600_000, 2, zone=A)

    assert book_view(desk.book, 10, "") == BookView(
        desk.book.sequence, (Level(1_600_000, 2, 1),), (Level(3_500_000, 1, 1),)
    )
    assert book_view(desk.book, 10, A).asks == (Level(4_035_000, 1, 1),)
    assert book_view(desk.book, 10, B).asks == (Level(4_605_000, 1, 1),)
    assert book_view(desk.book, 10, A).bids == (Level(1_089_000, 2, 1),)  # lands at 1.089 + 0.50 + 0.011 = 1.600
    assert book_view(desk.book, 10, B).bids == (Level(582_000, 2, 1),)  # lands at 0.582 + 1.00 + 0.018 = 1.600
    assert book_view(desk.book, 10, "Z9") == BookView(desk.book.sequence, (), ())


def test_bids_that_no_ask_can_reach_are_not_shown() -> None:
    desk = funded_desk(two_zones())
    desk.buy(BOB, 900_000, 2, zone=A)

    assert book_view(desk.book, 10, B).bids == ()


def test_depth_cuts_the_worst_levels() -> None:
    desk = funded_desk()
    for price in (1_000_000, 3_000_000, 2_000_000):
        desk.buy(ALICE, price, 1)

    view = reply(desk.book, GetBook(depth=2))

    assert isinstance(view, BookView)
    assert [level.price_micro for level in view.bids] == [3_000_000, 2_000_000]
    assert reply(desk.book, Watch(book=True)) == book_view(desk.book, 100, "")


def test_an_order_is_found_by_either_id_and_by_its_owner_only() -> None:
    desk = funded_desk()
    desk.buy(ALICE, PRICE, 1, client_order_id="mine")
    order_id = desk.last_id
    nothing = Refusal(RejectCode.NOT_FOUND, "no such order")
    for _ in ("open", "ended"):
        found = OrderAnswer(order_view(desk.book.orders.get(order_id) or desk.book.closed[order_id]))
        assert reply(desk.book, GetOrder(ALICE, order_id)) == found
        assert reply(desk.book, GetOrder(ALICE, client_order_id="mine")) == found
        assert reply(desk.book, GetOrder(BOB, order_id)) == nothing
        assert reply(desk.book, GetOrder(BOB, client_order_id="mine")) == nothing
        desk.cancel(ALICE, order_id)
    assert reply(desk.book, GetOrder(ALICE, 999)) == nothing
    assert reply(desk.book, GetOrder(77, client_order_id="mine")) == nothing
    assert reply(desk.book, GetOrder(ALICE)) == nothing


def test_open_orders_of_a_stranger_are_none() -> None:
    assert reply(Desk().book, ListOpenOrders(ALICE)) == Orders(())


def test_a_market_shows_its_state() -> None:
    desk = funded_desk(market(reference_price_micro=PRICE))
    desk.sell(BOB, 5_000_000, 2)
    desk.do(order(Side.BUY, ALICE, 0, 1, kind=OrderKind.MARKET))
    desk.do(SetPhase(Phase.HALTED))

    assert reply(desk.book, GetMarket()) == MarketView(
        sequence=desk.book.sequence,
        spec=desk.book.spec,
        phase=Phase.HALTED,
        epoch_start_us=START_US,
        reference_price_micro=5_000_000,
        last_price_micro=5_000_000,
        open_orders=1,
        trades=1,
    )
