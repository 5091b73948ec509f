"""What a listener who hears only entries and events knows: the open orders. Laws are checked against it."""

from dataclasses import dataclass
from fractions import Fraction

from engine.market import MarketSpec
from engine.messages import (
    AmendOrder,
    EndReason,
    Entry,
    Event,
    OrderAccepted,
    OrderAmended,
    OrderEnded,
    OrderKind,
    OrderReduced,
    PlaceOrder,
    Side,
    SpecChanged,
    Traded,
)
from engine.units import SECOND_US


@dataclass
class Heard:
    """An order, and the rates at which it pays."""

    placed: PlaceOrder
    price: int
    quantity: int
    priority: int
    expires_us: int
    filled: int = 0
    fee_exact: Fraction = Fraction(0)

    @property
    def remaining(self) -> int:
        return self.quantity - self.filled


class Mirror:
    """Hear events in their order; ask in between."""

    def __init__(self, spec: MarketSpec) -> None:
        self.spec = spec
        self.open: dict[int, Heard] = {}
        self.ended: dict[int, EndReason] = {}

    def hear(self, entry: Entry, event: Event) -> None:
        match event:
            case OrderAccepted(order_id=order_id):
                placed = entry.command
                assert isinstance(placed, PlaceOrder)
                life_us = self.spec.order_life_seconds_max * SECOND_US
                expires_us = placed.expires_us or entry.time_us + life_us
                self.open[order_id] = Heard(placed, self._limit(placed), placed.quantity_wh, order_id, expires_us)
            case OrderAmended(order_id=order_id):
                assert isinstance(entry.command, AmendOrder)
                order = self.open[order_id]
                if event.price_micro != order.price or event.quantity_wh > order.quantity:
                    order.priority = entry.sequence
                order.price, order.quantity = event.price_micro, event.quantity_wh
            case OrderReduced(order_id=order_id):
                self.open[order_id].quantity -= event.by_wh
            case Traded():
                self.open[event.maker_order_id].filled += event.energy_wh
                self.open[event.taker_order_id].filled += event.energy_wh
            case OrderEnded(order_id=order_id):
                del self.open[order_id]
                self.ended[order_id] = event.reason
            case SpecChanged():
                self.spec = event.spec

    def _limit(self, placed: PlaceOrder) -> int:
        if placed.kind in (OrderKind.MARKET, OrderKind.STOP) and not placed.price_micro:
            return self.spec.price_micro_max if placed.side is Side.BUY else self.spec.price_micro_min
        return placed.price_micro
