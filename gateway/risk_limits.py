"""Limits of risk on the wire: of a market's rules, and of one participant in a market."""

from typing import Annotated

from msgspec import Meta, Struct

from engine.market import RiskLimits
from gateway.decimals import format_energy, format_money, parse_energy, parse_energy_amount, parse_money
from gateway.wire import Energy, Money


class Limits(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of each participant; null: no limit. `max_position`: bought less sold in an epoch, either way, open orders
    included. `max_open_value`: of all open orders at their limits. Messages are orders and amends."""

    max_quantity: Energy | None = None
    max_open_orders: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    max_open_value: Money | None = None
    max_position: Energy | None = None
    messages_per_second: Annotated[int, Meta(ge=1, le=100_000)] | None = None


def parse_limits(limits: Limits, where: str) -> RiskLimits:
    """Raises VALIDATION_FAILED with the field, below `where`."""
    quantity, value, position = limits.max_quantity, limits.max_open_value, limits.max_position
    return RiskLimits(
        parse_energy(quantity, f"{where}.max_quantity") if quantity is not None else 0,
        limits.max_open_orders or 0,
        parse_money(value, f"{where}.max_open_value") if value is not None else 0,
        parse_energy_amount(position, f"{where}.max_position") if position is not None else 0,
    )


def show_limits(limits: RiskLimits, messages_per_second: int) -> Limits:
    return Limits(
        max_quantity=format_energy(limits.quantity_wh_max) if limits.quantity_wh_max else None,
        max_open_orders=limits.orders_max or None,
        max_open_value=format_money(limits.value_micro_max) if limits.value_micro_max else None,
        max_position=format_energy(limits.position_wh_max) if limits.position_wh_max else None,
        messages_per_second=messages_per_second or None,
    )
