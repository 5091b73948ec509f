"""Free and reserved funds of each participant inside one market.

Free money and energy may back new orders; what backs an open order is reserved to the micro and to the watt-hour. Both
are moved only here, in pairs, so that what leaves one place arrives in another. Source: docs/glossary.md, "allowance".
"""

from typing import TYPE_CHECKING

from engine.market import MarketSpec, RiskLimits
from engine.messages import CURRENCY, ParticipantId
from engine.units import BPS, MoneyMicro

if TYPE_CHECKING:
    from engine.book.side import Order


class FeeRates:
    """In basis points of a side's own value; a negative maker rate is a rebate. An order keeps those it came with."""

    __slots__ = ("auction_bps", "maker_bps", "taker_bps", "worst_bps")

    def __init__(self, maker_bps: int, taker_bps: int, auction_bps: int = 0) -> None:
        self.maker_bps = maker_bps
        self.taker_bps = taker_bps
        self.auction_bps = auction_bps  # of both sides
        self.worst_bps = max(maker_bps, taker_bps, auction_bps, 0)  # what a reservation assumes


def fees_of(spec: MarketSpec, own: tuple[int, int] | None = None) -> FeeRates:
    """The market's rates, or a participant's own (maker, taker); in its auctions all pay the same."""
    maker_bps, taker_bps = own or (spec.maker_fee_bps, spec.taker_fee_bps)
    return FeeRates(maker_bps, taker_bps, spec.auction_fee_bps if spec.has_auctions else 0)


class Account:
    """What one participant has in this market. Energy is kept by zone."""

    __slots__ = (
        "cash_free",
        "cash_reserved",
        "client_ids",
        "dead_man_us",
        "energy_free",
        "energy_reserved",
        "fees",
        "has_own_fees",
        "is_blocked",
        "limits",
        "net_wh",
        "orders",
        "participant_id",
    )

    def __init__(self, participant_id: ParticipantId, fees: FeeRates) -> None:
        self.participant_id = participant_id
        self.cash_free: MoneyMicro = 0
        self.cash_reserved: MoneyMicro = 0
        self.energy_free: dict[str, int] = {}
        self.energy_reserved: dict[str, int] = {}
        self.orders: dict[int, Order] = {}  # the open ones, by order id, oldest first
        self.client_ids: dict[str, Order] = {}  # of open orders and of the ended ones that are still known
        self.fees = fees
        self.has_own_fees = False
        self.dead_man_us = 0  # 0: switched off
        self.limits: RiskLimits | None = None  # None: the market's
        self.is_blocked = False
        self.net_wh = 0  # bought less sold in this epoch

    def free(self, asset: str) -> int:
        """What may back a new order: micro-currency for CURRENCY, Wh for a zone."""
        return self.cash_free if asset == CURRENCY else self.energy_free.get(asset, 0)

    def reserved(self, asset: str) -> int:
        """What backs open orders, in the asset's unit."""
        return self.cash_reserved if asset == CURRENCY else self.energy_reserved.get(asset, 0)

    def add_free(self, asset: str, amount: int) -> None:
        """Change the free amount; it never falls below zero."""
        if asset == CURRENCY:
            self.cash_free += amount
            assert self.cash_free >= 0, (self.participant_id, asset, self.cash_free)
        else:
            left = self.energy_free.get(asset, 0) + amount
            assert left >= 0, (self.participant_id, asset, left)
            if left:
                self.energy_free[asset] = left
            else:
                self.energy_free.pop(asset, None)

    def reserve_energy(self, zone: str, energy_wh: int) -> None:
        """Move free energy to reserved; a negative amount moves it back."""
        self.add_free(zone, -energy_wh)
        self.add_reserved_energy(zone, energy_wh)

    def add_reserved_energy(self, zone: str, energy_wh: int) -> None:
        left = self.energy_reserved.get(zone, 0) + energy_wh
        assert left >= 0, (self.participant_id, zone, left)
        if left:
            self.energy_reserved[zone] = left
        else:
            self.energy_reserved.pop(zone, None)

    def reserve_cash(self, amount_micro: MoneyMicro) -> None:
        """Move free money to reserved; a negative amount moves it back."""
        self.cash_free -= amount_micro
        self.cash_reserved += amount_micro
        assert self.cash_free >= 0, (self.participant_id, amount_micro)
        assert self.cash_reserved >= 0, (self.participant_id, amount_micro)

    def assets(self) -> list[str]:
        """Every asset of which something is here, money first, zones by name."""
        zones = sorted(self.energy_free.keys() | self.energy_reserved.keys())
        return [CURRENCY, *zones] if self.cash_free or self.cash_reserved else zones

    def is_empty(self) -> bool:
        """Nothing would be lost by forgetting this account."""
        return not (
            self.cash_free
            or self.cash_reserved
            or self.energy_free
            or self.energy_reserved
            or self.orders
            or self.client_ids
            or self.has_own_fees
            or self.dead_man_us
            or self.limits is not None
            or self.is_blocked
            or self.net_wh
        )


def reservation_micro(value_micro: MoneyMicro, fee_numerator: int, fee_bps_worst: int) -> MoneyMicro:
    """What a buy order whose rest is worth `value_micro` at its limit can still cost at worst.

    An order's fee is the rounded-up sum over its fills (fee_numerator, in 1/10,000 micro), not the sum of rounded-up
    fees: so the reservation at placing is exactly value plus fee, and no number of partial fills can exceed it.
    """
    # fee_micro written out: this is asked for at every placing, amend and fill
    return value_micro - (-(fee_numerator + fee_bps_worst * value_micro) // BPS) + (-fee_numerator // BPS)


def fee_micro(fee_numerator: int, increase: int) -> MoneyMicro:
    """How much an order's rounded-up fee grows when its numerator grows by `increase`."""
    return -(-(fee_numerator + increase) // BPS) + (-fee_numerator // BPS)
