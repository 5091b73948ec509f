"""From the book to the views that leave it: what a command's sender hears, what watchers see, what queries return.

Events and commands are told apart by their exact type: `isinstance` takes six times as long to say no to a Struct.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from engine.book.order_book import OrderBook
from engine.book.side import Level as SideLevel
from engine.book.side import Order
from engine.messages import (
    AmendOrder,
    CancelAll,
    CancelOrder,
    Command,
    Defunded,
    EndReason,
    Event,
    OrderAccepted,
    OrderAmended,
    OrderEnded,
    OrderReduced,
    OrderRepeated,
    ParticipantId,
    PlaceOrder,
    Refused,
    RejectCode,
    SetRisk,
    Side,
    StopTriggered,
    Traded,
)
from engine.units import PriceMicro, TimeUs
from engine.views import (
    Answer,
    Applied,
    Await,
    BookView,
    FillView,
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
    OrderUpdate,
    OrderView,
    Query,
    Refusal,
    TradeView,
    Watch,
    status_of,
)

DEPTH_MAX = 20_000

_ABOUT_AN_ORDER: Final = (OrderAmended, OrderAccepted, OrderEnded, OrderReduced, StopTriggered)
_BUY: Final = Side.BUY
_TAKER: Final = Liquidity.TAKER
_MAKER: Final = Liquidity.MAKER


def order_view(order: Order) -> OrderView:
    placed = order.placed
    return OrderView(
        order.order_id,
        placed.participant_id,
        placed.client_order_id,
        placed.side,
        placed.kind,
        order.price_micro,
        order.quantity_wh,
        order.filled_wh,
        order.remaining_wh,
        order.value_micro,
        status_of(order.filled_wh, order.end_reason),
        int(order.end_reason),
        placed.time_in_force,
        order.expires_us,
        placed.post_only,
        placed.zone,
        order.created_us,
        order.updated_us,
        order.updated_sequence,
        order.stop_micro,
        order.is_waiting,
    )


def fill_view(trade: Traded, side: Side, at_us: TimeUs) -> FillView:
    """One side's part of a trade."""
    if side is trade.taker_side:
        order_id, liquidity = trade.taker_order_id, _TAKER
    else:
        order_id, liquidity = trade.maker_order_id, _MAKER
    if side is _BUY:
        price, value, fee = trade.buyer_price_micro, trade.buyer_value_micro, trade.buyer_fee_micro
    else:
        price, value, fee = trade.seller_price_micro, trade.seller_value_micro, trade.seller_fee_micro
    return FillView(trade.number, order_id, side, price, trade.energy_wh, value, fee, liquidity, at_us)


def answer(book: OrderBook, command: Command, events: Sequence[Event]) -> Answer:
    """What the sender of the command that was just applied hears."""
    for event in events:
        if type(event) is Refused:
            return Refusal(event.code, event.detail)
    if type(command) is PlaceOrder:
        for event in events:
            if type(event) is OrderAccepted:
                return _order_answer(book, event.order_id, events)
            if type(event) is OrderRepeated:
                return OrderAnswer(order_view(_known(book, event.order_id)), (), repeated=True)
    elif type(command) is AmendOrder or type(command) is CancelOrder:
        return _order_answer(book, command.order_id, events)
    elif type(command) is CancelAll:
        ended = (event for event in events if isinstance(event, OrderEnded))
        return Applied(book.sequence, sum(event.reason is command.reason for event in ended))
    elif type(command) is SetRisk:
        return Applied(
            book.sequence, sum(type(event) is OrderEnded and event.reason is EndReason.RISK for event in events)
        )
    return Applied(book.sequence, sum(isinstance(event, Defunded) for event in events))


def _order_answer(book: OrderBook, order_id: int, events: Sequence[Event]) -> OrderAnswer:
    order = _known(book, order_id)
    return OrderAnswer(order_view(order), fills_of(order_id, events, book.time_us))


def fills_of(order_id: int, events: Iterable[Event], at_us: TimeUs) -> tuple[FillView, ...]:
    """The order's own part of each trade among the events."""
    fills = []
    for event in events:
        if type(event) is Traded:
            if event.taker_order_id == order_id:
                fills.append(fill_view(event, event.taker_side, at_us))
            elif event.maker_order_id == order_id:
                fills.append(fill_view(event, Side(1 - event.taker_side), at_us))
    return tuple(fills)


def changed_orders(events: Iterable[Event]) -> list[int]:
    """Ids of the orders that the events tell something about, each once, in order of first mention."""
    changed: dict[int, None] = {}
    for event in events:
        if type(event) is Traded:
            changed[event.maker_order_id] = changed[event.taker_order_id] = None
        elif isinstance(event, _ABOUT_AN_ORDER):
            changed[event.order_id] = None
    return list(changed)


def updates(book: OrderBook, events: Sequence[Event], watched: frozenset[ParticipantId]) -> list[OrderUpdate]:
    """What the watched participants must hear of the entry that was just applied."""
    found = []
    for order_id in changed_orders(events):
        order = _known(book, order_id)
        if order.placed.participant_id in watched:
            found.append(OrderUpdate(order_view(order), fills_of(order_id, events, book.time_us)))
    return found


def trade_views(book: OrderBook, events: Iterable[Event]) -> list[TradeView]:
    return [
        TradeView(
            event.number,
            book.sequence,
            event.price_micro,
            event.energy_wh,
            event.taker_side,
            event.buyer_zone,
            event.seller_zone,
            book.time_us,
        )
        for event in events
        if type(event) is Traded
    ]


def level_changes(book: OrderBook) -> tuple[LevelChange, ...]:
    """The levels that changed since the last call, over all zones, as they are now."""
    touched: dict[tuple[Side, PriceMicro], None] = {}
    for (side, _), queue in book.sides.items():
        if queue.touched:
            for price in sorted(queue.touched):
                touched[side, price] = None
            queue.touched.clear()
    return tuple(_level_change(book, side, price) for side, price in touched)


def _level_change(book: OrderBook, side: Side, price_micro: PriceMicro) -> LevelChange:
    quantity_wh = orders = 0
    for zone in book.spec.zones:
        level = book.sides[side, zone].level_at(price_micro)
        if level is not None:
            quantity_wh += level.total_wh
            orders += level.count
    return LevelChange(side, price_micro, quantity_wh, orders)


def reply(book: OrderBook, query: Query) -> Answer:
    """Answer a query from the book as it stands."""
    match query:
        case GetOrder():
            return _find_order(book, query)
        case ListOpenOrders():
            account = book.accounts.get(query.participant_id)
            orders = account.orders.values() if account is not None else ()
            newer = [order for order in orders if order.order_id > query.after_order_id]
            return Orders(tuple(order_view(order) for order in newer[: query.limit]))
        case GetBook():
            return book_view(book, min(query.depth, DEPTH_MAX), query.zone)
        case Watch():
            return book_view(book, DEPTH_MAX, "")
        case Await():
            return Applied(book.sequence)
        case GetMarket():
            return MarketView(
                sequence=book.sequence,
                spec=book.spec,
                phase=book.phase,
                epoch_start_us=book.epoch_start_us,
                reference_price_micro=book.reference.price_micro,
                last_price_micro=book.reference.last_price_micro,
                open_orders=len(book.orders),
                trades=book.trades,
                halted_until_us=book.halt_until_us,
            )


def book_view(book: OrderBook, depth: int, zone: str) -> BookView:
    """Levels best first. With a zone: asks at what they cost there, bids at the ask that they could pay from there."""
    totals: dict[Side, dict[PriceMicro, list[int]]] = {Side.BUY: {}, Side.SELL: {}}
    if zone:
        for lane in book.lanes.values():
            if lane.path.zone_to == zone:
                _add_levels(totals[Side.SELL], ((lane.landed(x.price_micro), x) for x in lane.asks.levels()))
            if lane.path.zone_from == zone:
                _add_levels(totals[Side.BUY], ((lane.ask_equivalent(x.price_micro), x) for x in lane.bids.levels()))
    else:
        for (side, _), queue in book.sides.items():
            _add_levels(totals[side], ((level.price_micro, level) for level in queue.levels()))
    bids = sorted(totals[Side.BUY].items(), reverse=True)[:depth]
    asks = sorted(totals[Side.SELL].items())[:depth]
    return BookView(
        book.sequence,
        tuple(Level(price, wh, count) for price, (wh, count) in bids if price > 0),
        tuple(Level(price, wh, count) for price, (wh, count) in asks),
    )


def _add_levels(totals: dict[PriceMicro, list[int]], levels: Iterable[tuple[PriceMicro, SideLevel]]) -> None:
    for price, level in levels:
        total = totals.setdefault(price, [0, 0])
        total[0] += level.total_wh
        total[1] += level.count


def _find_order(book: OrderBook, query: GetOrder) -> Answer:
    order: Order | None
    if query.order_id:
        order = book.orders.get(query.order_id) or book.closed.get(query.order_id)
    else:
        account = book.accounts.get(query.participant_id)
        order = account.client_ids.get(query.client_order_id) if account is not None else None
    if order is None or order.placed.participant_id != query.participant_id:
        return Refusal(RejectCode.NOT_FOUND, "no such order")
    return OrderAnswer(order_view(order))


def _known(book: OrderBook, order_id: int) -> Order:
    order = book.orders.get(order_id)
    return order if order is not None else book.closed[order_id]
