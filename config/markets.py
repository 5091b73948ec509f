"""What a new installation begins with: markets.toml into the engine's records. Decimals become integers here.

Everything wrong is said at once, each with its place in the file.
"""

from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from config.load import SettingsWrong, read_toml
from engine.market import UNLIMITED_WH, MarketSpec, Mechanism
from engine.market import Path as GridPath
from engine.records import CapacityRecord, CostRecord, ZoneRecord
from engine.units import MICRO, WH_PER_KWH

DEFAULT_FILE: Final = Path(__file__).with_name("markets.toml")
DIGITS_MAX: Final = 12


class Beginning(Struct, frozen=True):
    """The specs have market_id 0; costs have valid_from_us 0: from the first day on.

    sharing: symbols of the markets that share a process with others.
    """

    zones: list[ZoneRecord]
    costs: list[CostRecord]
    capacities: list[CapacityRecord]
    markets: list[MarketSpec]
    sharing: frozenset[str]


class ZoneTable(Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    name: str


class CostTable(Struct, frozen=True, forbid_unknown_fields=True, rename={"zone_from": "from", "zone_to": "to"}):
    zone_from: str
    zone_to: str
    wheeling: str
    loss_bps: int


class CapacityTable(Struct, frozen=True, forbid_unknown_fields=True, rename={"zone_from": "from", "zone_to": "to"}):
    zone_from: str
    zone_to: str
    energy_per_epoch: str


class MarketTable(Struct, frozen=True, forbid_unknown_fields=True):
    """Names as in the API; what is not given is as in MarketSpec."""

    symbol: str
    zones: list[str]
    mechanism: str = "continuous"
    tick: str = "0.001"
    lot: str = "0.001"
    min_quantity: str = "0.001"
    price_min: str = "0.500"
    price_max: str = "20.000"
    band_bps: int = 2_000
    reference_price: str = "0"
    maker_fee_bps: int = 0
    taker_fee_bps: int = 0
    auction_fee_bps: int = 0
    epoch_seconds: int = 900
    call_seconds: int = 0
    max_order_life_seconds: int = 7 * 86_400
    halt_seconds: int = 60
    shared_process: bool = False


class MarketsFile(Struct, frozen=True, forbid_unknown_fields=True):
    zones: list[ZoneTable] = []
    costs: list[CostTable] = []
    capacities: list[CapacityTable] = []
    markets: list[MarketTable] = []


def load_markets(path: Path = DEFAULT_FILE) -> Beginning:
    """Raises SettingsWrong with every problem of the file."""
    problems: list[str] = []
    contents = read_toml(path, problems)
    try:
        file = msgspec.convert(contents, MarketsFile)
    except msgspec.ValidationError as error:
        problems.append(f"{path}: {error}")
        raise SettingsWrong(problems) from error
    found = _Reading(path, problems)
    beginning = found.everything(file)
    if problems:
        raise SettingsWrong(problems)
    return beginning


class _Reading:
    """Collects what is wrong while it converts."""

    def __init__(self, path: Path, problems: list[str]) -> None:
        self._path = path
        self._problems = problems

    def everything(self, file: MarketsFile) -> Beginning:
        known = {zone.id for zone in file.zones}
        zones = [ZoneRecord(zone.id, zone.name) for zone in file.zones]
        if len(known) != len(zones):
            self._wrong("zones", "each id may appear once")
        costs = [
            CostRecord(
                cost.zone_from,
                cost.zone_to,
                self._scaled(f"costs {cost.zone_from} to {cost.zone_to}: wheeling", cost.wheeling, MICRO),
                cost.loss_bps,
                0,
            )
            for cost in file.costs
        ]
        capacities = [
            CapacityRecord(
                each.zone_from,
                each.zone_to,
                self._scaled(
                    f"capacities {each.zone_from} to {each.zone_to}: energy_per_epoch",
                    each.energy_per_epoch,
                    WH_PER_KWH,
                ),
            )
            for each in file.capacities
        ]
        for kind, pairs in (
            ("costs", [(cost.zone_from, cost.zone_to) for cost in costs]),
            ("capacities", [(each.zone_from, each.zone_to) for each in capacities]),
        ):
            self._check_pairs(kind, pairs, known)
        markets = [self._market(market, known, costs, capacities) for market in file.markets]
        symbols = [market.symbol for market in markets]
        for symbol in sorted({symbol for symbol in symbols if symbols.count(symbol) > 1}):
            self._wrong(f"markets {symbol}", "each symbol may appear once")
        sharing = frozenset(table.symbol for table in file.markets if table.shared_process)
        return Beginning(zones, costs, capacities, markets, sharing)

    def _market(
        self, table: MarketTable, known: set[str], costs: list[CostRecord], capacities: list[CapacityRecord]
    ) -> MarketSpec:
        place = f"markets {table.symbol}"
        limits = {(each.zone_from, each.zone_to): each.capacity_wh for each in capacities}
        for zone in table.zones:
            if zone not in known:
                self._wrong(f"{place}: zones", f"{zone!r} is not one of the file's zones")
        spec = MarketSpec(
            market_id=0,
            symbol=table.symbol,
            zones=tuple(table.zones),
            paths=tuple(
                GridPath(
                    cost.zone_from,
                    cost.zone_to,
                    cost.wheeling_micro,
                    cost.loss_bps,
                    limits.get((cost.zone_from, cost.zone_to), UNLIMITED_WH),
                )
                for cost in costs
                if cost.zone_from in table.zones and cost.zone_to in table.zones
            ),
            mechanism=self._mechanism(place, table.mechanism),
            tick_micro=self._scaled(f"{place}: tick", table.tick, MICRO),
            lot_wh=self._scaled(f"{place}: lot", table.lot, WH_PER_KWH),
            quantity_wh_min=self._scaled(f"{place}: min_quantity", table.min_quantity, WH_PER_KWH),
            price_micro_min=self._scaled(f"{place}: price_min", table.price_min, MICRO),
            price_micro_max=self._scaled(f"{place}: price_max", table.price_max, MICRO),
            band_bps=table.band_bps,
            reference_price_micro=self._scaled(f"{place}: reference_price", table.reference_price, MICRO),
            maker_fee_bps=table.maker_fee_bps,
            taker_fee_bps=table.taker_fee_bps,
            auction_fee_bps=table.auction_fee_bps,
            epoch_seconds=table.epoch_seconds,
            call_seconds=table.call_seconds,
            order_life_seconds_max=table.max_order_life_seconds,
            halt_seconds=table.halt_seconds,
        )
        for problem in spec.problems():
            self._wrong(place, problem)
        return spec

    def _mechanism(self, place: str, text: str) -> Mechanism:
        names = [each.name.lower() for each in Mechanism]
        if text not in names:
            self._wrong(f"{place}: mechanism", f"{text!r} is not one of {', '.join(names)}")
            return Mechanism.CONTINUOUS
        return Mechanism[text.upper()]

    def _check_pairs(self, kind: str, pairs: list[tuple[str, str]], known: set[str]) -> None:
        for pair in sorted(set(pairs)):
            place = f"{kind} {pair[0]} to {pair[1]}"
            if pairs.count(pair) > 1:
                self._wrong(place, "each pair may appear once")
            for zone in sorted(set(pair) - known):
                self._wrong(place, f"{zone!r} is not one of the file's zones")

    def _scaled(self, place: str, text: str, scale: int) -> int:
        """A plain decimal times scale, exactly; anything else is wrong."""
        whole, point, fraction = text.partition(".")
        places = len(str(scale)) - 1
        plain = whole.isascii() and whole.isdigit() and (not point or (fraction.isascii() and fraction.isdigit()))
        if not plain or len(text) > DIGITS_MAX + places or len(fraction) > places:
            self._wrong(place, f'{text!r} is not a decimal of at most {places} places, such as "1.250"')
            return 0
        return int(whole) * scale + int(fraction.ljust(places, "0"))

    def _wrong(self, place: str, problem: str) -> None:
        self._problems.append(f"{self._path}: {place}: {problem}")
