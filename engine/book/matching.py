"""How an order meets the orders that rest: whom first, at which price, who pays whom.

A buyer takes the lowest landed price first, a seller the bid that leaves him most; equals go by time. The maker's own
price holds. What the buyer pays beyond what the seller receives is the grid's, to the micro.
"""

from abc import abstractmethod
from collections.abc import Iterator
from heapq import merge
from itertools import groupby
from typing import Final

from engine.accounts import reservation_micro
from engine.book.lanes import Lane
from engine.book.side import BookSide, Order
from engine.book.stops import Stops
from engine.book.volatility import Volatility
from engine.market import Phase
from engine.messages import EndReason, Event, OrderReduced, SelfTrade, Side, StopTriggered, Traded
from engine.units import BPS, EnergyWh, MoneyMicro, PriceMicro, value_micro

_FILLED: Final = EndReason.FILLED  # looking up an enum's member takes as long as a small function's call


class Matching(Volatility):
    """The trading half of OrderBook, which gives it its state and the way in which orders end."""

    sequence: int
    trades: int
    fees_micro: MoneyMicro
    grid_micro: dict[str, MoneyMicro]
    sides: dict[tuple[Side, str], BookSide]
    lanes: dict[tuple[str, str], Lane]
    stops: Stops

    @abstractmethod
    def _end(self, order: Order, reason: EndReason, events: list[Event]) -> None:
        """Close the order for this reason."""

    def _bind_lanes(self) -> None:
        """Tell each side which lanes lead to those it trades with: a buyer's into its zone, a seller's out of it."""
        lanes = self.lanes.values()
        for side in self.sides.values():
            side.lanes = tuple(lane for lane in lanes if (lane.bids if side.is_buy else lane.asks) is side)
        self._has_limits = any(lane.limited for lane in lanes)

    def _match(self, taker: Order, events: list[Event]) -> None:
        """Trade with the best makers while prices cross and stay in the band; the taker rests nowhere meanwhile."""
        band = self._band()  # as it is now: the taker's own trades move it for the next one
        while taker.remaining_wh:
            best = self._best_at(taker, taker.price_micro)
            if best is None:
                return
            lane, maker, price = best
            if maker.account is taker.account:
                self._prevent_self_trade(taker, maker, events)
                if taker.end_reason:
                    return
                continue
            if band is not None and not band[0] <= maker.price_micro <= band[1]:
                self._halt(maker.price_micro, band, events)
                return
            energy_wh = min(taker.remaining_wh, maker.remaining_wh, lane.left_wh)
            self._trade(taker, maker, lane, energy_wh, price, events)
        self._end(taker, _FILLED, events)

    def _best_at(self, taker: Order, limit_micro: PriceMicro) -> tuple[Lane, Order, PriceMicro] | None:
        """The lane and the maker that are next within the limit, and what the taker then pays or receives per kWh."""
        found: tuple[Lane, Order, PriceMicro] | None = None
        if taker.is_buy:
            for lane in taker.home.lanes:
                level = lane.asks.best
                if level is None or level.price_micro + lane.wheeling_micro > limit_micro or not lane.left_wh:
                    continue
                price = lane.landed(level.price_micro)
                if price > limit_micro:
                    continue
                maker = level.oldest
                assert maker is not None
                if found is None or price < found[2] or (price == found[2] and maker.priority < found[1].priority):
                    found = (lane, maker, price)
        else:
            for lane in taker.home.lanes:
                level = lane.bids.best
                if level is None or level.price_micro - lane.wheeling_micro < limit_micro or not lane.left_wh:
                    continue
                price = lane.ask_equivalent(level.price_micro)
                if price < limit_micro:
                    continue
                maker = _oldest_of_equals(lane, price) if lane.loss_bps else level.oldest
                assert maker is not None
                if found is None or price > found[2] or (price == found[2] and maker.priority < found[1].priority):
                    found = (lane, maker, price)
        return found

    def _trade(
        self,
        taker: Order,
        maker: Order,
        lane: Lane,
        energy_wh: EnergyWh,
        taker_price_micro: PriceMicro,
        events: list[Event],
    ) -> None:
        """Both orders move on by one fill; what one account loses, the other, the grid and the fees gain."""
        maker_price_micro = maker.price_micro
        taker_value = value_micro(taker_price_micro, energy_wh)
        maker_value = value_micro(maker_price_micro, energy_wh)
        taker_fee = _charge(taker, taker.fees.taker_bps * taker_value)
        if maker.fees.maker_bps >= 0:
            maker_fee = _charge(maker, maker.fees.maker_bps * maker_value)
        else:
            maker_fee = -min(-maker.fees.maker_bps * maker_value // BPS, taker_fee)

        taker.remaining_wh -= energy_wh
        taker.filled_wh += energy_wh
        taker.value_micro += taker_value
        taker.updated_us, taker.updated_sequence = self.time_us, self.sequence
        maker.home.reduce(maker, energy_wh)
        maker.filled_wh += energy_wh
        maker.value_micro += maker_value
        maker.updated_us, maker.updated_sequence = self.time_us, self.sequence

        if taker.is_buy:
            buyer, buyer_price_micro, buyer_value, buyer_fee = taker, taker_price_micro, taker_value, taker_fee
            seller, seller_price_micro, seller_value, seller_fee = maker, maker_price_micro, maker_value, maker_fee
        else:
            buyer, buyer_price_micro, buyer_value, buyer_fee = maker, maker_price_micro, maker_value, maker_fee
            seller, seller_price_micro, seller_value, seller_fee = taker, taker_price_micro, taker_value, taker_fee
        paying, receiving = buyer.account, seller.account
        reserved = _reservation(buyer)
        paying.cash_free += buyer.reserved_micro - reserved - buyer_value - buyer_fee
        paying.cash_reserved += reserved - buyer.reserved_micro
        assert paying.cash_free >= 0, (buyer.order_id, paying.cash_free)
        assert paying.cash_reserved >= 0, (buyer.order_id, paying.cash_reserved)
        buyer.reserved_micro = reserved
        paying.add_free(buyer.zone, energy_wh)
        paying.net_wh += energy_wh
        receiving.net_wh -= energy_wh
        receiving.cash_free += seller_value - seller_fee
        receiving.add_reserved_energy(seller.zone, -energy_wh)
        self.fees_micro += buyer_fee + seller_fee
        self.grid_micro[buyer.zone] = self.grid_micro.get(buyer.zone, 0) + buyer_value - seller_value

        if lane.is_link:
            lane.set_used(lane.used_wh + energy_wh)
        self.trades += 1
        self.reference.add(maker_price_micro, energy_wh, maker_value, self.time_us)
        stopped = self.stops.trigger(maker_price_micro) if self.stops else ()
        events.append(
            Traded(
                self.trades,
                maker.order_id,
                taker.order_id,
                paying.participant_id,
                receiving.participant_id,
                taker.placed.side,
                energy_wh,
                maker_price_micro,
                buyer_price_micro,
                seller_price_micro,
                buyer_value,
                seller_value,
                buyer_fee,
                seller_fee,
                buyer.zone,
                seller.zone,
            )
        )
        for order in stopped:
            order.updated_us, order.updated_sequence = self.time_us, self.sequence
            events.append(StopTriggered(order.order_id))
        if maker.remaining_wh == 0:
            self._end(maker, _FILLED, events)

    def _prevent_self_trade(self, taker: Order, maker: Order, events: list[Event]) -> None:
        """The taker's choice holds for both orders."""
        match taker.placed.self_trade:
            case SelfTrade.CANCEL_NEWEST:
                self._end(taker, EndReason.SELF_TRADE, events)
            case SelfTrade.CANCEL_OLDEST:
                self._end(maker, EndReason.SELF_TRADE, events)
            case SelfTrade.CANCEL_BOTH:
                self._end(maker, EndReason.SELF_TRADE, events)
                self._end(taker, EndReason.SELF_TRADE, events)
            case SelfTrade.DECREMENT:
                by_wh = min(taker.remaining_wh, maker.remaining_wh)
                for order in (maker, taker):
                    self._reduce(order, by_wh)
                    events.append(OrderReduced(order.order_id, by_wh))
                for order in (maker, taker):
                    if order.remaining_wh == 0:
                        self._end(order, EndReason.SELF_TRADE, events)

    def _reduce(self, order: Order, by_wh: EnergyWh) -> None:
        """Take energy off an order without a trade, and release what had backed it."""
        if order.level is not None:
            order.home.reduce(order, by_wh)
        else:
            order.remaining_wh -= by_wh
        order.quantity_wh -= by_wh
        order.updated_us, order.updated_sequence = self.time_us, self.sequence
        if order.is_buy:
            reserved = _reservation(order)
            order.account.reserve_cash(reserved - order.reserved_micro)
            order.reserved_micro = reserved
        else:
            order.account.reserve_energy(order.zone, -by_wh)

    def _fillable(self, taker: Order) -> bool:
        """Whether the whole order would trade now: within limit, lanes and band, before it meets one of its own."""
        missing, band = taker.remaining_wh, self._band()
        left = {lane: lane.left_wh for lane in self.lanes.values()}
        for _, _, maker, lane in self._makers(taker):
            if not left[lane]:
                continue
            if maker.account is taker.account:
                if taker.placed.self_trade is SelfTrade.CANCEL_OLDEST:
                    continue
                return False
            if band is not None and not band[0] <= maker.price_micro <= band[1]:
                return False
            energy_wh = min(missing, maker.remaining_wh, left[lane])
            left[lane] -= energy_wh
            missing -= energy_wh
            if missing == 0:
                return True
        return False

    def _makers(self, taker: Order) -> Iterator[tuple[int, int, Order, Lane]]:
        """Makers within the taker's limit as they would trade: (rank, priority, maker, lane)."""
        makers_on = _asks_on if taker.is_buy else _bids_on
        return merge(*(makers_on(lane, taker.price_micro) for lane in taker.home.lanes))

    def _meets_full_lane(self, order: Order) -> bool:
        """Whether a lane at the order's zone carries nothing more in this epoch."""
        return any(not lane.left_wh for lane in order.home.lanes)

    def _trade_blocked(self, events: list[Event]) -> None:
        """Let the orders that full lanes kept apart arrive again, in their old order, keeping their places."""
        if not self.blocked or self.phase is not Phase.OPEN:
            return
        waiting = sorted(self.blocked.values(), key=lambda order: order.priority)
        self.blocked = {}
        for order in waiting:
            order.home.remove(order)
        for order in waiting:
            if self.phase is not Phase.OPEN:  # one before it has halted the market
                order.home.add(order)
                self.blocked[order.order_id] = order
                continue
            if order.placed.post_only and self._best_at(order, order.price_micro) is not None:
                self._end(order, EndReason.POST_ONLY_WOULD_TRADE, events)
                continue
            self._match(order, events)
            if order.end_reason == 0:
                order.home.add(order)
                if self.phase is not Phase.OPEN or self._meets_full_lane(order):
                    self.blocked[order.order_id] = order


def _charge(order: Order, increase: int) -> MoneyMicro:
    """Add to the order's fee numerator; the fee of this fill is what the rounded-up sum grows by.

    Only what is left of whole micros matters to the next fill, and a sum of large fills would outgrow 64 bits.
    """
    before = order.fee_numerator
    order.fee_numerator = (before + increase) % BPS
    return -(-(before + increase) // BPS) + (-before // BPS)  # fee_micro, written out for the hot path


def _reservation(order: Order) -> MoneyMicro:
    """What the rest of a buy order can still cost."""
    if order.remaining_wh == 0:
        return 0
    return reservation_micro(
        value_micro(order.price_micro, order.remaining_wh), order.fee_numerator, order.fees.worst_bps
    )


def _oldest_of_equals(lane: Lane, ask_equivalent_micro: PriceMicro) -> Order:
    """The oldest bid among the best levels that leave the seller the same: with losses, neighbouring bids may."""
    oldest: Order | None = None
    depth = 0
    while (level := lane.bids.next_after(depth)) and lane.ask_equivalent(level.price_micro) == ask_equivalent_micro:
        assert level.oldest is not None
        if oldest is None or level.oldest.priority < oldest.priority:
            oldest = level.oldest
        depth += 1
    assert oldest is not None
    return oldest


def _asks_on(lane: Lane, limit_micro: PriceMicro) -> Iterator[tuple[int, int, Order, Lane]]:
    for level in lane.asks.levels():
        price = lane.landed(level.price_micro)
        if price > limit_micro:
            return
        order = level.oldest
        while order is not None:
            yield price, order.priority, order, lane
            order = order.newer


def _bids_on(lane: Lane, limit_micro: PriceMicro) -> Iterator[tuple[int, int, Order, Lane]]:
    for price, levels in groupby(lane.bids.levels(), key=lambda level: lane.ask_equivalent(level.price_micro)):
        if price < limit_micro:
            return
        queue: list[Order] = []
        for level in levels:
            order = level.oldest
            while order is not None:
                queue.append(order)
                order = order.newer
        for order in sorted(queue, key=lambda order: order.priority):
            yield -price, order.priority, order, lane
