"""Limits that keep a participant from hurting himself: each is refused with its own words.

Sums over open orders are made when they are asked for, and only of participants that have such a limit.
"""

from engine.accounts import Account
from engine.book.side import Order
from engine.market import RiskLimits
from engine.messages import Refused, RejectCode, Side
from engine.units import EnergyWh, PriceMicro, energy_text, money_text, value_micro


def risk_refusal(
    limits: RiskLimits,
    account: Account | None,
    side: Side,
    price_micro: PriceMicro,
    quantity_wh: EnergyWh,
    amended: Order | None = None,
    *,
    rests: bool = True,
) -> Refused | None:
    """The first limit that an order, or the new terms of one, would go beyond.

    `quantity_wh` is the order's total; `account` is None for somebody who has nothing here; `rests`: it may stay open.
    Of new terms only what they raise is refused: a limit that came later keeps nobody from doing less.
    """
    others = [order for order in account.orders.values() if order is not amended] if account is not None else []
    if 0 < limits.quantity_wh_max < quantity_wh and (amended is None or quantity_wh > amended.quantity_wh):
        return _refused(f"an order has at most {energy_text(limits.quantity_wh_max)} kWh")
    if amended is None and rests and limits.orders_max and len(others) >= limits.orders_max:
        return _refused(f"at most {limits.orders_max} orders may be open")
    remaining_wh = quantity_wh - (amended.filled_wh if amended is not None else 0)
    more_wh = remaining_wh - (amended.remaining_wh if amended is not None else 0)
    if limits.value_micro_max:
        value = value_micro(price_micro, remaining_wh)
        before = value_micro(amended.price_micro, amended.remaining_wh) if amended is not None else 0
        open_micro = sum(value_micro(order.price_micro, order.remaining_wh) for order in others)
        if value > before and open_micro + value > limits.value_micro_max:
            return _refused(f"open orders are worth at most {money_text(limits.value_micro_max)}")
    if limits.position_wh_max and more_wh > 0:
        net_wh = account.net_wh if account is not None else 0
        same_wh = sum(order.remaining_wh for order in others if order.placed.side is side)
        position_wh = (net_wh if side is Side.BUY else -net_wh) + same_wh + remaining_wh
        if position_wh > limits.position_wh_max:
            word = "bought" if side is Side.BUY else "sold"
            return _refused(
                f"at most {energy_text(limits.position_wh_max)} kWh may be {word} in an epoch, open orders included"
            )
    return None


def blocked_refusal() -> Refused:
    return _refused("trading is blocked for this participant")


def _refused(detail: str) -> Refused:
    return Refused(RejectCode.RISK_LIMIT, detail)
