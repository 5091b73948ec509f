"""Price-time queues: the best level first, the oldest order first within it."""

from engine.accounts import Account, FeeRates
from engine.book.side import BookSide, Order
from engine.messages import PlaceOrder, Side, TimeInForce
from tests.support.builders import order


def resting(order_id: int, price_micro: int, quantity_wh: int = 1, side: Side = Side.BUY) -> Order:
    return new(order_id, order(side, 1, price_micro, quantity_wh))


def new(order_id: int, placed: PlaceOrder) -> Order:
    return Order(order_id, placed, Account(1, FeeRates(0, 0)), BookSide(placed.side), placed.price_micro, 0)


def filled(side: Side, *orders: Order) -> BookSide:
    queue = BookSide(side)
    for each in orders:
        queue.add(each)
    return queue


def ids(queue: BookSide, price_micro: int) -> list[int]:
    """Orders at a price, oldest first, checking the links in both directions."""
    level = queue.level_at(price_micro)
    assert level is not None
    found, each = [], level.oldest
    while each is not None:
        found.append(each.order_id)
        assert each.newer is not None or each is level.newest
        assert each.newer is None or each.newer.older is each
        each = each.newer
    assert len(found) == level.count
    return found


def test_the_best_bid_is_the_highest_and_the_best_ask_the_lowest() -> None:
    prices = (5_000, 7_000, 6_000)
    bids = filled(Side.BUY, *(resting(i, p) for i, p in enumerate(prices, 1)))
    asks = filled(Side.SELL, *(resting(i, p, side=Side.SELL) for i, p in enumerate(prices, 1)))

    assert [level.price_micro for level in bids.levels()] == [7_000, 6_000, 5_000]
    assert [level.price_micro for level in asks.levels()] == [5_000, 6_000, 7_000]
    assert bids.best is bids.level_at(7_000)
    assert asks.best is asks.level_at(5_000)


def test_orders_at_one_price_queue_by_priority() -> None:
    bids = filled(Side.BUY, resting(1, 5_000), resting(2, 5_000), resting(3, 5_000))

    assert ids(bids, 5_000) == [1, 2, 3]


def test_an_order_that_comes_back_gets_its_old_place() -> None:
    first, second, third = (resting(i, 5_000) for i in (1, 2, 3))
    bids = filled(Side.BUY, first, second, third)
    for back in (second, first, third):
        bids.remove(back)
        bids.add(back)
        assert ids(bids, 5_000) == [1, 2, 3]


def test_removing_from_the_middle_keeps_the_others_in_order() -> None:
    orders = [resting(i, 5_000, quantity_wh=i) for i in (1, 2, 3)]
    bids = filled(Side.BUY, *orders)

    bids.remove(orders[1])

    assert ids(bids, 5_000) == [1, 3]
    assert bids.best is not None
    assert bids.best.total_wh == 4
    assert (orders[1].level, orders[1].older, orders[1].newer) == (None, None, None)


def test_the_last_order_takes_its_level_along() -> None:
    best, next_best = resting(1, 7_000), resting(2, 6_000)
    bids = filled(Side.BUY, best, next_best, resting(3, 5_000))

    bids.remove(best)
    assert bids.best is bids.level_at(6_000)
    assert bids.level_at(7_000) is None
    bids.remove(next_best)
    assert [level.price_micro for level in bids.levels()] == [5_000]


def test_an_emptied_side_has_no_best() -> None:
    only = resting(1, 5_000)
    bids = filled(Side.BUY, only)

    bids.remove(only)

    assert bids.best is None
    assert bids.levels() == []


def test_a_level_that_is_not_the_best_can_go() -> None:
    worse = resting(1, 5_000)
    bids = filled(Side.BUY, worse, resting(2, 6_000))

    bids.remove(worse)

    assert bids.best is bids.level_at(6_000)


def test_reducing_keeps_the_place_and_lowers_the_total() -> None:
    first = resting(1, 5_000, quantity_wh=10)
    bids = filled(Side.BUY, first, resting(2, 5_000, quantity_wh=1))

    bids.reduce(first, 4)

    assert ids(bids, 5_000) == [1, 2]
    assert first.remaining_wh == 6
    assert bids.best is not None
    assert bids.best.total_wh == 7


def test_levels_can_be_walked_from_the_best_by_depth() -> None:
    asks = filled(Side.SELL, *(resting(i, i * 1_000, side=Side.SELL) for i in (3, 1, 2)))

    depths = [asks.next_after(depth) for depth in range(4)]

    assert [level and level.price_micro for level in depths] == [1_000, 2_000, 3_000, None]


def test_every_price_that_changed_is_noted() -> None:
    bids = BookSide(Side.BUY)
    one, two = resting(1, 5_000, 2), resting(2, 6_000)
    bids.add(one)
    bids.add(two)
    assert bids.touched == {5_000, 6_000}
    bids.touched.clear()

    bids.reduce(one, 1)
    assert bids.touched == {5_000}
    bids.remove(two)
    assert bids.touched == {5_000, 6_000}


def test_only_gtc_and_gtd_orders_may_rest() -> None:
    def may_rest(time_in_force: TimeInForce) -> bool:
        placed = order(Side.BUY, 1, 5_000, 1, time_in_force=time_in_force)
        return new(1, placed).may_rest

    assert [may_rest(tif) for tif in (TimeInForce.GTC, TimeInForce.GTD)] == [True, True]
    assert [may_rest(tif) for tif in (TimeInForce.IOC, TimeInForce.FOK)] == [False, False]
