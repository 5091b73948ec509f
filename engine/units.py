"""Units of measure, and the only divisions of the exchange, each saying how it rounds.

Everything is an integer. These are aliases and not `NewType`s: a `NewType` is called at every arithmetic result, which
the hot path would feel, so here the field's name carries the unit (`_wh`, `_micro`, `_us`) and the alias documents it.
"""

from typing import Final, TypeAlias

TimeUs: TypeAlias = int  # microseconds UTC since 1970
EnergyWh: TypeAlias = int  # watt-hours, never negative; the side says which way it flows
PriceMicro: TypeAlias = int  # micro-currency per kWh, a multiple of 1,000
MoneyMicro: TypeAlias = int  # micro-currency

MICRO: Final = 1_000_000
WH_PER_KWH: Final = 1_000
BPS: Final = 10_000  # basis points in one
SECOND_US: Final = 1_000_000

ENERGY_WH_MAX: Final = 1_000_000 * WH_PER_KWH  # one order's largest quantity
PRICE_MICRO_MAX: Final = 100_000 * MICRO  # times ENERGY_WH_MAX / 1000 fits 64 bits
FUND_MAX: Final = 10**15  # one transfer's largest amount, in micro-currency or Wh
FOREVER_US: Final = 2**62  # later than any instant that is ever asked about


def value_micro(price_micro: PriceMicro, energy_wh: EnergyWh) -> MoneyMicro:
    """What this much energy costs at this price; exact, because every price is a multiple of 1,000 micro."""
    return price_micro * energy_wh // WH_PER_KWH


def ceil_div(numerator: int, denominator: int) -> int:
    """Quotient rounded towards plus infinity."""
    return -(-numerator // denominator)


def ceil_to_tick(numerator: int, denominator: int, tick_micro: PriceMicro) -> PriceMicro:
    """`numerator / denominator` rounded up to a multiple of the tick."""
    return -(-numerator // (denominator * tick_micro)) * tick_micro


def floor_to_tick(price_micro: int, tick_micro: PriceMicro) -> PriceMicro:
    """The largest multiple of the tick that is not above the price."""
    return price_micro // tick_micro * tick_micro


def epoch_start_us(time_us: TimeUs, epoch_us: int) -> TimeUs:
    """Start of the epoch that holds this instant; epochs are counted from 1970."""
    return time_us // epoch_us * epoch_us


def energy_text(energy_wh: EnergyWh) -> str:
    """For people: kWh with three decimals."""
    return f"{energy_wh // WH_PER_KWH}.{energy_wh % WH_PER_KWH:03d}"


def money_text(amount_micro: int) -> str:
    """For people: an amount or a price that is not negative, with three to six decimals."""
    decimals = f"{amount_micro % MICRO:06d}"
    return f"{amount_micro // MICRO}.{decimals[:3]}{decimals[3:].rstrip('0')}"
