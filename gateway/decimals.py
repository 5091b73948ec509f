"""Where decimal strings become integers and back: the only such place.

In: digits with at most one point; no sign, exponent, space or NaN. A value that does not fit exactly is refused,
never rounded. Out: prices with at least 3 decimals, energy with exactly 3, money with 2 to 6,
kg with at least 3, shares with exactly 4.
"""

import re
from functools import lru_cache
from typing import Final

from engine.units import (
    BPS,
    ENERGY_WH_MAX,
    FUND_MAX,
    MICRO,
    PRICE_MICRO_MAX,
    WH_PER_KWH,
    EnergyWh,
    MoneyMicro,
    PriceMicro,
)
from gateway.errors import invalid

_REMEMBERED: Final = 16_384  # texts of amounts: prices lie on ticks and quantities on lots, so the same ones come again
_DECIMAL: Final = re.compile(r"([0-9]{1,16})(?:\.([0-9]{1,12}))?", re.ASCII)


def parse_price(text: str, field: str) -> PriceMicro:
    """Currency per kWh to micro; above zero. Whether it is on the tick is the market's question."""
    return _parse(text, field, 6, PRICE_MICRO_MAX, "100000")


def parse_energy(text: str, field: str) -> EnergyWh:
    """kWh to Wh, of an order; above zero."""
    return _parse(text, field, 3, ENERGY_WH_MAX, "1000000")


def parse_money(text: str, field: str) -> MoneyMicro:
    """Currency to micro, of a transfer; above zero."""
    return _parse(text, field, 6, FUND_MAX, "1000000000")


def parse_energy_amount(text: str, field: str, *, zero: bool = False) -> EnergyWh:
    """kWh to Wh, of a transfer, or of a capacity, which may be zero."""
    return _parse(text, field, 3, FUND_MAX, "1000000000000", zero=zero)


def parse_charge(text: str, field: str) -> PriceMicro:
    """Like a price, but it may be zero: wheeling costs nothing within some zones."""
    return _parse(text, field, 6, PRICE_MICRO_MAX, "100000", zero=True)


def parse_scaled(text: str, field: str, decimals: int, largest: int) -> int:
    """A value that may be zero or below, such as an oracle's, in steps of its last decimal."""
    digits = text.removeprefix("-")
    match = _DECIMAL.fullmatch(digits)
    if match is None:
        raise invalid(field, 'must be a decimal string such as "4.500"')
    whole, part = match[1], match[2] or ""
    if len(part) > decimals:
        raise invalid(field, f"has more than {decimals} decimals")
    value = int(whole + part.ljust(decimals, "0"))
    if value > largest:
        raise invalid(field, f"must be at most {format_scaled(largest, decimals)}")
    return value if digits is text else -value


def format_scaled(value: int, decimals: int) -> str:
    """With all its decimals."""
    sign, digits = "-" if value < 0 else "", f"{abs(value):0{decimals + 1}d}"
    return f"{sign}{digits[:-decimals]}.{digits[-decimals:]}" if decimals else f"{sign}{digits}"


@lru_cache(_REMEMBERED)
def format_price(price_micro: int) -> str:
    return _format(price_micro, 6, 3)


@lru_cache(_REMEMBERED)
def format_energy(energy_wh: int) -> str:
    """A sign only where an account line has one."""
    sign, size = ("-", -energy_wh) if energy_wh < 0 else ("", energy_wh)
    whole, rest = divmod(size, WH_PER_KWH)
    return f"{sign}{whole}.{rest:03d}"


def format_money(amount_micro: int) -> str:
    return _format(amount_micro, 6, 2)


def format_mass(mass_mg: int) -> str:
    """mg as kg."""
    return _format(mass_mg, 6, 3)


def format_share(share_bps: int) -> str:
    """Basis points as a decimal: 0.4213 is 42.13 %."""
    return _format(share_bps * (MICRO // BPS), 6, 4)


def _parse(text: str, field: str, decimals: int, largest: int, largest_text: str, zero: bool = False) -> int:
    match = _DECIMAL.fullmatch(text)
    if match is None:
        raise invalid(field, 'must be a decimal string such as "1.250"')
    whole, part = match[1], match[2] or ""
    if len(part) > decimals:
        raise invalid(field, f"has more than {decimals} decimals")
    value = int(whole + part.ljust(decimals, "0"))
    if value > largest:
        raise invalid(field, f"must be at most {largest_text}")
    if value == 0 and not zero:
        raise invalid(field, "must be above zero")
    return value


def _format(value: int, decimals: int, decimals_min: int) -> str:
    sign, size = ("-", -value) if value < 0 else ("", value)
    whole, rest = divmod(size, MICRO)
    part = f"{rest:0{decimals}d}"
    kept = part[decimals_min:].rstrip("0")
    return f"{sign}{whole}.{part[:decimals_min]}{kept}"
