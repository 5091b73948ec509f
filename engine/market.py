"""What a market is: its rules, the cost of each path through the grid, its phases.

A path leads from the seller's zone to the buyer's. `landed` and `ask_equivalent` are each other's inverse: what the
buyer pays per kWh for an ask, and the highest ask that a bid can pay. Source: docs/glossary.md, "landed price".
"""

from enum import IntEnum
from typing import Final

from msgspec import Struct

from engine.units import (
    BPS,
    ENERGY_WH_MAX,
    PRICE_MICRO_MAX,
    SECOND_US,
    EnergyWh,
    MoneyMicro,
    PriceMicro,
    ceil_to_tick,
    floor_to_tick,
)

UNLIMITED_WH: Final = -1  # a path's capacity when nothing limits it


class Phase(IntEnum):
    """Trading phase of a market; every change is a journaled command."""

    SCHEDULED = 1
    OPEN = 2
    AUCTION_CALL = 3
    HALTED = 4
    CLOSED = 5


class Mechanism(IntEnum):
    """How a market trades."""

    CONTINUOUS = 1
    CALL_AUCTION = 2
    CONTINUOUS_THEN_AUCTION = 3


class Path(Struct, frozen=True, array_like=True):
    """Cost and capacity of moving energy from a seller's zone to a buyer's zone.

    wheeling_micro: per kWh; loss_bps: of the seller's price; capacity_wh: per epoch, UNLIMITED_WH for no limit.
    """

    zone_from: str
    zone_to: str
    wheeling_micro: PriceMicro
    loss_bps: int
    capacity_wh: EnergyWh = UNLIMITED_WH


def landed(ask_micro: PriceMicro, wheeling_micro: PriceMicro, loss_bps: int, tick_micro: PriceMicro) -> PriceMicro:
    """What a buyer at the end of the path pays per kWh for this ask; never below the ask."""
    return ask_micro + wheeling_micro + ceil_to_tick(ask_micro * loss_bps, BPS, tick_micro)


def ask_equivalent(
    bid_micro: PriceMicro, wheeling_micro: PriceMicro, loss_bps: int, tick_micro: PriceMicro
) -> PriceMicro:
    """The largest ask on the tick whose landed price is not above the bid; zero or less when there is none."""
    return floor_to_tick((bid_micro - wheeling_micro) * BPS // (BPS + loss_bps), tick_micro)


class RiskLimits(Struct, frozen=True, array_like=True):
    """What one participant may do in one market; 0: no limit.

    quantity_wh_max: of an order. orders_max: open at once. value_micro_max: of all open orders at their limits.
    position_wh_max: bought less sold in an epoch, either way, as it would be if all open orders of that side filled.
    """

    quantity_wh_max: EnergyWh = 0
    orders_max: int = 0
    value_micro_max: MoneyMicro = 0
    position_wh_max: EnergyWh = 0

    def problems(self) -> list[str]:
        """Every field that means nothing, as a sentence."""
        return [f"{name}: must be 0 or more" for name in self.__struct_fields__ if getattr(self, name) < 0]


NO_LIMITS: Final = RiskLimits()


class MarketSpec(Struct, frozen=True, kw_only=True, array_like=True):
    """The rules of one market. `problems()` is empty for every spec that may reach an order book."""

    market_id: int
    symbol: str
    zones: tuple[str, ...]
    paths: tuple[Path, ...]
    mechanism: Mechanism = Mechanism.CONTINUOUS
    tick_micro: PriceMicro = 1_000
    lot_wh: EnergyWh = 1
    quantity_wh_min: EnergyWh = 1
    price_micro_min: PriceMicro = 500_000
    price_micro_max: PriceMicro = 20_000_000
    band_bps: int = 2_000  # around the reference price; 0 for none
    reference_price_micro: PriceMicro = 0  # before the first trade; 0 for the corridor's middle
    maker_fee_bps: int = 0  # negative: a rebate
    taker_fee_bps: int = 0
    auction_fee_bps: int = 0
    epoch_seconds: int = 900
    order_life_seconds_max: int = 7 * 86_400
    closed_orders_kept: int = 100_000  # how many ended orders stay known, for repeats of a client_order_id
    limits: RiskLimits = NO_LIMITS  # of everybody who has none of his own
    messages_per_second: int = 0  # of each participant; 0: no limit. Gateways keep it, for the engine counts no time
    halt_seconds: int = 0  # a trade that would leave the band halts the market so long; 0: it only ends the order

    def problems(self) -> list[str]:
        """Every rule that this spec breaks, each as a sentence naming its field."""
        found = [
            message
            for broken, message in (
                (not self.symbol, "symbol: is empty"),
                (not self.zones, "zones: a market needs at least one"),
                (len(set(self.zones)) != len(self.zones), "zones: each may appear once"),
                ("" in self.zones, "zones: each needs a name; the empty one would be money as an asset"),
                (self.tick_micro <= 0 or self.tick_micro % 1_000 != 0, "tick: must be a multiple of 0.001"),
                (self.lot_wh <= 0, "lot: must be at least 1 Wh"),
                (not 0 < self.quantity_wh_min <= ENERGY_WH_MAX, "min_quantity: must be above 0, at most 1000000 kWh"),
                (not 0 < self.price_micro_min <= self.price_micro_max, "price_min: must be above 0, at most price_max"),
                (self.price_micro_max > PRICE_MICRO_MAX, "price_max: must be at most 100000"),
                (not 0 <= self.band_bps < BPS, "band_bps: must be 0 to 9999"),
                (not 0 <= self.taker_fee_bps < BPS, "taker_fee_bps: must be 0 to 9999"),
                (not 0 <= self.auction_fee_bps < BPS, "auction_fee_bps: must be 0 to 9999"),
                (
                    not -self.taker_fee_bps <= self.maker_fee_bps < BPS,
                    "maker_fee_bps: a rebate may not exceed the taker fee; at most 9999",
                ),
                (not 1 <= self.epoch_seconds <= 86_400, "epoch_seconds: must be 1 to 86400"),
                (
                    not 1 <= self.order_life_seconds_max <= 366 * 86_400,
                    "max_order_life_seconds: must be 1 to 31622400",
                ),
                (not 0 <= self.closed_orders_kept <= 10_000_000, "closed_orders_kept: must be 0 to 10000000"),
                (not 0 <= self.messages_per_second <= 100_000, "messages_per_second: must be 0 to 100000"),
                (not 0 <= self.halt_seconds <= 86_400, "halt_seconds: must be 0 to 86400"),
            )
            if broken
        ]
        found += [f"limits: {problem}" for problem in self.limits.problems()]
        if found:
            return found
        if self.quantity_wh_min % self.lot_wh != 0:
            found.append("min_quantity: must be a multiple of lot")
        for name, price in (
            ("price_min", self.price_micro_min),
            ("price_max", self.price_micro_max),
            ("reference_price", self.reference_price_micro),
        ):
            if price % self.tick_micro != 0:
                found.append(f"{name}: must be a multiple of tick")
        if self.reference_price_micro and not (
            self.price_micro_min <= self.reference_price_micro <= self.price_micro_max
        ):
            found.append("reference_price: must lie in the corridor from price_min to price_max")
        pairs = [(path.zone_from, path.zone_to) for path in self.paths]
        if len(set(pairs)) != len(pairs):
            found.append("costs: each pair of zones may appear once")
        for path in self.paths:
            pair = f"costs {path.zone_from} to {path.zone_to}"
            if path.zone_from not in self.zones or path.zone_to not in self.zones:
                found.append(f"{pair}: a zone that this market does not have")
            if path.wheeling_micro < 0 or path.wheeling_micro % self.tick_micro != 0:
                found.append(f"{pair}: wheeling must be 0 or more and a multiple of tick")
            if not 0 <= path.loss_bps < BPS:
                found.append(f"{pair}: loss_bps must be 0 to 9999")
            if path.capacity_wh < UNLIMITED_WH:
                found.append(f"{pair}: energy_per_epoch must be 0 or more")
        found.extend(
            f"costs {zone} to {zone}: every zone needs the cost of trading within itself"
            for zone in self.zones
            if (zone, zone) not in pairs
        )
        return found

    @property
    def epoch_us(self) -> int:
        return self.epoch_seconds * SECOND_US
