"""Histories of commands that collide: few prices, sizes, participants and names, little money, tight links, big jumps.

A step is (microseconds that pass, command). In a command, order id -n means the n-th newest accepted order and transfer
number 0 the next one: `entries_of` puts the real ones in, by asking the book that it feeds.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any, TypeAlias

import msgspec
from hypothesis import strategies as st

from engine.book.order_book import OrderBook
from engine.market import UNLIMITED_WH, MarketSpec, Path, Phase, RiskLimits
from engine.messages import (
    AmendOrder,
    CancelAll,
    CancelAllAt,
    CancelOrder,
    Command,
    Defund,
    EndReason,
    Entry,
    Event,
    FireStop,
    Fund,
    OrderAccepted,
    OrderKind,
    PlaceOrder,
    SelfTrade,
    SetFees,
    SetPhase,
    SetRisk,
    SetSpec,
    Side,
    Tick,
    TimeInForce,
)
from engine.units import SECOND_US

Step: TypeAlias = tuple[int, Command]
History: TypeAlias = tuple[MarketSpec, list[Step]]

EXAMPLES = int(os.environ.get("WATTBOOK_EXAMPLES", "80"))  # of each law

START_US = 1_800_000_000_000_000
PARTICIPANTS = (1, 2, 3)
ASSETS = ("", "A", "B")

BASE = MarketSpec(
    market_id=1,
    symbol="CAMPUS",
    zones=("A", "B"),
    paths=(
        Path("A", "A", 0, 0),
        Path("B", "B", 1_000, 0),
        Path("A", "B", 1_000, 2_500, 3),
        Path("B", "A", 0, 3_000, 6),
    ),
    price_micro_min=1_000,
    price_micro_max=12_000,
    band_bps=0,
    maker_fee_bps=700,
    taker_fee_bps=1_900,
    epoch_seconds=10,
    order_life_seconds_max=40,
    closed_orders_kept=5,
)
_replace = msgspec.structs.replace
# Losses of a quarter make neighbouring bids equal to a seller; capacities are smaller than two orders.
SPECS = (
    BASE,
    _replace(BASE, paths=(Path("A", "A", 0, 2_500), Path("B", "B", 0, 0), Path("A", "B", 0, 0, 2))),
    _replace(BASE, maker_fee_bps=-1_900, closed_orders_kept=0, limits=RiskLimits(4, 3, 60, 7)),
    _replace(BASE, paths=tuple(_replace(path, capacity_wh=UNLIMITED_WH) for path in BASE.paths)),
    _replace(BASE, lot_wh=2, quantity_wh_min=2, band_bps=5_000, maker_fee_bps=0, taker_fee_bps=0),
    _replace(BASE, reference_price_micro=6_000, band_bps=2_500, halt_seconds=5, maker_fee_bps=-333),
    _replace(BASE, zones=("A",), paths=(Path("A", "A", 0, 0),), maker_fee_bps=-333, taker_fee_bps=3_333),
    _replace(
        BASE,
        tick_micro=2_000,
        price_micro_min=2_000,
        paths=(Path("A", "A", 0, 100), Path("B", "B", 2_000, 0), Path("A", "B", 0, 100, 5)),
    ),
)
assert not [problem for spec in SPECS for problem in spec.problems()]

LINK_SPECS = (
    BASE,
    *SPECS[1:4],
    _replace(BASE, paths=(*BASE.paths[:2], BASE.paths[3])),
)  # one may follow the other while orders rest
_FREE = SPECS[3]
BAND_SPECS = (
    _FREE,
    _replace(_FREE, band_bps=1_500, halt_seconds=3),
    _replace(BASE, band_bps=2_500, halt_seconds=12, reference_price_micro=5_000),
    _replace(BASE, band_bps=2_500),
)
STORM_PAUSES = (*[0] * 40, *[1] * 4, *[SECOND_US] * 4, *[10 * SECOND_US] * 7, 41 * SECOND_US)

participants = st.sampled_from(PARTICIPANTS)
zones = st.sampled_from(("A", "A", "B"))
buy_prices = st.sampled_from((4_000, 5_000, 6_000, 6_000, 7_000, 8_000, 9_000))
sell_prices = st.sampled_from((3_000, 4_000, 4_000, 5_000, 6_000, 7_000))
prices = buy_prices | sell_prices
quantities = st.sampled_from((1, 2, 2, 3, 4, 6))
references = st.integers(-6, -1)
pauses = st.sampled_from(
    (*[0] * 60, *[1, SECOND_US, 5 * SECOND_US] * 2, *[10 * SECOND_US] * 8, 41 * SECOND_US, 3_700 * SECOND_US)
)
expiries = st.sampled_from(
    (0, 0, 0, 0, 0, 0, 1, 5 * SECOND_US, 10 * SECOND_US, 11 * SECOND_US)
)  # from the entry's instant


def _limits(side: Side, price: st.SearchStrategy[int], **more: st.SearchStrategy[Any]) -> st.SearchStrategy[PlaceOrder]:
    return st.builds(
        PlaceOrder,
        participant_id=participants,
        side=st.just(side),
        price_micro=price,
        quantity_wh=quantities,
        zone=zones,
        **more,
    )


plain_limits = _limits(Side.BUY, buy_prices) | _limits(Side.SELL, sell_prices)
_trimmings: dict[str, st.SearchStrategy[Any]] = {
    "client_order_id": st.sampled_from(("", "", "", "", "x", "y")),
    "time_in_force": st.sampled_from((*[TimeInForce.GTC] * 5, TimeInForce.GTD, TimeInForce.IOC, TimeInForce.FOK)),
    "expires_us": expiries,
    "post_only": st.sampled_from((False, False, True)),
    "self_trade": st.sampled_from(SelfTrade),
}
limits = _limits(Side.BUY, buy_prices, **_trimmings) | _limits(Side.SELL, sell_prices, **_trimmings)
markets = st.builds(
    PlaceOrder,
    participant_id=participants,
    side=st.sampled_from(Side),
    price_micro=st.sampled_from((0, 5_000)),
    quantity_wh=quantities,
    zone=zones,
    kind=st.just(OrderKind.MARKET),
    time_in_force=st.sampled_from((TimeInForce.GTC, TimeInForce.FOK)),
)
odd_limits = st.builds(
    PlaceOrder,
    participant_id=participants,
    side=st.sampled_from(Side),
    price_micro=st.sampled_from((-1_000, 0, 500, 1_000, 12_000, 13_000)),
    quantity_wh=st.sampled_from((-1, 0, 1, 3, 10**9, 10**9 + 2)),
    zone=st.sampled_from(("A", "B", "C")),
    expires_us=st.sampled_from((0, -1, 41 * SECOND_US)),
)
owners = st.sampled_from((0, 0, 0, 0, 0, 1))  # 0: whoever owns the order
amends = st.builds(
    AmendOrder,
    participant_id=owners,
    order_id=references,
    price_micro=st.one_of(st.just(0), prices),
    quantity_wh=st.one_of(st.just(0), quantities),
)
cancels = st.builds(CancelOrder, participant_id=owners, order_id=references)
cancel_alls = st.builds(
    CancelAll, st.sampled_from((0, 1, 2)), st.sampled_from((EndReason.CANCELLED_BY_OWNER, EndReason.RISK))
)
dead_men = st.builds(CancelAllAt, participants, st.sampled_from((0, 1, 5 * SECOND_US, 10 * SECOND_US)))
funds = st.builds(
    Fund, st.sampled_from((0, 0, 0, 1)), participants, st.sampled_from(ASSETS), st.sampled_from((1, 7, 30))
)
defunds = st.builds(Defund, participants, st.booleans())
phases = st.builds(SetPhase, st.sampled_from((*[Phase.OPEN] * 6, Phase.HALTED, Phase.AUCTION_CALL)))
closings = st.builds(SetPhase, st.just(Phase.CLOSED))
spec_changes = st.builds(SetSpec, st.sampled_from(SPECS))
fee_changes = st.builds(
    SetFees,
    participants,
    st.sampled_from((-2_000, 0, 450, 10_000)),
    st.sampled_from((0, 1_234, 9_999)),
    st.booleans(),
)


own_limits = st.sampled_from(
    (
        None,
        RiskLimits(),
        RiskLimits(3),
        RiskLimits(0, 2),
        RiskLimits(0, 0, 40),
        RiskLimits(0, 0, 0, 6),
        RiskLimits(5, 4, 70, 9),
        RiskLimits(0, -1),
    )
)
risk_changes = st.builds(SetRisk, participants, own_limits, st.sampled_from((False, False, False, True)))


def weighted(*choices: tuple[int, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """`one_of` with weights that stay: nested one_of is flattened, so rare commands would drown the orders."""
    return st.sampled_from([strategy for weight, strategy in choices for _ in range(weight)]).flatmap(lambda x: x)


commands: st.SearchStrategy[Command] = weighted(
    (18, plain_limits),
    (16, limits),
    (3, markets),
    (5, amends),
    (2, cancels),
    (3, funds),
    (1, st.one_of(odd_limits, defunds, dead_men, st.just(Tick()))),
    (1, st.one_of(cancel_alls, phases, spec_changes, fee_changes, risk_changes)),
)
steps = st.tuples(pauses, commands)
endings = weighted((5, st.just([])), (1, st.tuples(pauses, closings).map(lambda step: [step])))

# Most participants can afford several orders; some can hardly afford one.
purses = st.sampled_from((9, 60, 100_000, 100_000, 100_000))
openings = st.lists(purses, min_size=len(PARTICIPANTS) * len(ASSETS), max_size=len(PARTICIPANTS) * len(ASSETS)).map(
    lambda amounts: [
        (0, Fund(0, participant, asset, amount))
        for (participant, asset), amount in zip(((p, a) for p in PARTICIPANTS for a in ASSETS), amounts, strict=True)
    ]
)


def _tales(chapters: int = 9) -> st.SearchStrategy[History]:
    """Hypothesis' own: many short lists, long on average, that shrink to nothing (one long list takes minutes)."""
    chapter = st.lists(steps, max_size=20)
    return st.tuples(
        st.sampled_from(SPECS),
        st.tuples(openings, *[chapter] * chapters, endings).map(
            lambda parts: [step for part in parts for step in part]
        ),
    )


def _storm(seed: int, length: int) -> History:
    """Orders from a plain random generator: nearly all cross, links fill, reopen and change while orders wait."""
    random = Random(seed)
    pick = random.choice
    specs = LINK_SPECS if random.random() < 0.6 else SPECS
    told: list[Step] = [
        (0, Fund(0, who, asset, pick((9, 60, 100_000, 100_000)))) for who in PARTICIPANTS for asset in ASSETS
    ]
    random.shuffle(told)  # accounts come to be in any order
    told += [(pick(STORM_PAUSES), _storm_command(random, specs)) for _ in range(length)]
    return pick(specs), told


def _storm_command(random: Random, specs: Sequence[MarketSpec]) -> Command:
    pick = random.choice
    who = pick(PARTICIPANTS)
    match random.randrange(100):
        case dice if dice < 80:
            side = pick((Side.BUY, Side.SELL))
            price = pick((5_000, 6_000, 8_000, 9_000) if side is Side.BUY else (3_000, 4_000, 4_000, 6_000))
            order = PlaceOrder(who, side, price, pick((1, 2, 2, 3, 4, 6)), pick("AAB"))
            return order if dice < 32 else _trimmed(order, random)
        case dice if dice < 87:
            return AmendOrder(
                pick((0, 0, 0, 0, 1)), random.randint(-8, -1), pick((0, 4_000, 6_000, 8_000)), pick((0, 1, 2, 3, 5))
            )
        case dice if dice < 90:
            return CancelOrder(pick((0, 0, 0, 0, 1)), random.randint(-8, -1))
        case dice if dice < 92:
            return Fund(pick((0, 0, 0, 1)), who, pick(ASSETS), pick((1, 7, 30)))
        case dice if dice < 94:
            return SetSpec(pick(specs))
        case 94:
            limits = RiskLimits(pick((0, 1, 3)), pick((0, 2, 4)), pick((0, 20, 50)), pick((0, 4, 9)))
            return SetRisk(who, pick((None, limits, limits)), random.random() < 0.3)
        case dice if dice < 97:
            return SetPhase(pick((Phase.OPEN, Phase.OPEN, Phase.OPEN, Phase.HALTED)))
        case 97:
            return SetFees(who, pick((-2_000, 0, 450)), pick((0, 1_234, 9_999)), random.random() < 0.3)
        case 98:
            return CancelAllAt(who, pick((0, 1, 5 * SECOND_US, 10 * SECOND_US)))
    return pick((Defund(who), Defund(who, idle_only=True), CancelAll(pick((0, 1, 2)))))


def _trimmed(order: PlaceOrder, random: Random) -> PlaceOrder:
    pick = random.choice
    return _replace(
        order,
        client_order_id=pick(("", "", "", "x")),
        kind=pick((*[OrderKind.LIMIT] * 6, OrderKind.MARKET)),
        time_in_force=pick((*[TimeInForce.GTC] * 4, *TimeInForce)),
        expires_us=pick((0, 0, 0, 0, 1, 5 * SECOND_US, 10 * SECOND_US)),
        post_only=random.random() < 0.25,
        self_trade=pick(tuple(SelfTrade)),
    )


def _link_storm(seed: int, length: int) -> History:
    """Rich participants trade across one link whose rules keep changing within its epochs."""
    random = Random(seed)
    pick = random.choice
    told: list[Step] = [(0, Fund(0, who, asset, 100_000)) for who in PARTICIPANTS for asset in ASSETS]
    for _ in range(length):
        side = pick((Side.BUY, Side.SELL))
        order = PlaceOrder(pick(PARTICIPANTS), side, 9_000 - 6_000 * side, pick((1, 2, 3, 6)), "BA"[side])
        time_in_force = pick((*[TimeInForce.GTC] * 4, TimeInForce.FOK))
        command: Command = _replace(order, self_trade=SelfTrade.CANCEL_OLDEST, time_in_force=time_in_force)
        match random.randrange(20):
            case 0 | 1 | 2 | 3:
                command = SetSpec(pick(LINK_SPECS))
            case 4:
                command = SetPhase(pick((Phase.OPEN, Phase.OPEN, Phase.HALTED)))
        told.append((pick((*[0] * 20, 10 * SECOND_US)), command))
    return BASE, told


def _volatile_storm(seed: int, length: int) -> History:
    """Bands that come and go while orders rest, so that many would trade outside of them."""
    random = Random(seed)
    pick = random.choice
    told: list[Step] = [(0, Fund(0, who, asset, 100_000)) for who in PARTICIPANTS for asset in ASSETS]
    for _ in range(length):
        command = _storm_command(random, BAND_SPECS)
        match random.randrange(20):
            case 0 | 1 | 2:
                command = SetSpec(pick(BAND_SPECS))
            case 3 | 4:
                command = Tick()
        told.append((pick((*[0] * 20, SECOND_US, SECOND_US, 4 * SECOND_US)), command))
    return pick(BAND_SPECS), told


storms = st.builds(_storm, st.integers(0, 2**32), st.integers(1, 150))
link_storms = st.builds(_link_storm, st.integers(0, 2**32), st.integers(1, 100))


def _stop_storm(seed: int, length: int) -> History:
    """Stops on both sides of a price that moves, fired at once as a market does, or later as none does."""
    random = Random(seed)
    pick = random.choice
    told: list[Step] = [(0, Fund(0, who, asset, 100_000)) for who in PARTICIPANTS for asset in ASSETS]
    for _ in range(length):
        command = _storm_command(random, (*BAND_SPECS, *[BAND_SPECS[0]] * 5))
        match random.randrange(20):
            case 0 | 1 | 2 | 3 | 4 | 5:
                side = pick((Side.BUY, Side.SELL))
                stop = pick((5_000, 6_000, 7_000, 8_000) if side is Side.BUY else (3_000, 4_000, 5_000))
                limit = pick((0, 4_000, 6_000, 8_000))
                order = PlaceOrder(pick(PARTICIPANTS), side, limit, pick((1, 2, 3, 6)), pick("AAB"))
                kind = pick((OrderKind.STOP, OrderKind.STOP_LIMIT, OrderKind.STOP_LIMIT))
                command = _replace(
                    _trimmed(order, random), kind=kind, stop_price_micro=pick((stop, stop, stop, 0, 500))
                )
            case 6:
                command = AmendOrder(
                    0, random.randint(-8, -1), pick((0, 5_000)), pick((0, 2, 4)), pick((0, 5_000, 6_000))
                )
            case 7:
                command = PlaceOrder(pick(PARTICIPANTS), pick((Side.BUY, Side.SELL)), 0, 2, "A", kind=OrderKind.MARKET)
        told.append((pick((*[0] * 20, SECOND_US, 4 * SECOND_US, 11 * SECOND_US)), command))
        told += [(0, FireStop())] * pick((0, 1, 3, 3, 3))
    return BAND_SPECS[0], told


stop_storms = st.builds(_stop_storm, st.integers(0, 2**32), st.integers(1, 80))
volatile_storms = st.builds(_volatile_storm, st.integers(0, 2**32), st.integers(1, 120))
histories = st.one_of(
    _tales(), *[storms] * 3, volatile_storms
)  # a market's first rules, funds for its participants, what happens then


Watcher: TypeAlias = Callable[[OrderBook, Entry, list[Event]], None]


class Told:
    """A history as it was played: the book at its end, and each entry with its events."""

    def __init__(self, spec: MarketSpec, steps: list[Step], watch: Watcher | None = None) -> None:
        self.spec = spec
        self.book = OrderBook(spec)
        self.entries: list[Entry] = []
        self.events: list[list[Event]] = []
        self._owners: dict[int, int] = {}  # of every accepted order
        now_us = START_US
        for pause_us, command in steps:
            now_us += pause_us
            entry = Entry(self.book.sequence + 1, now_us, self._real(command, now_us))
            events = self.book.apply(entry)
            if isinstance(entry.command, PlaceOrder) and any(isinstance(event, OrderAccepted) for event in events):
                self._owners[entry.sequence] = entry.command.participant_id
            self.entries.append(entry)
            self.events.append(events)
            if watch is not None:
                watch(self.book, entry, events)

    def _real(self, command: Command, now_us: int) -> Command:
        match command:
            case AmendOrder() | CancelOrder():
                known = list(self._owners) or [0]
                order_id = known[max(command.order_id, -len(known))]
                owner = command.participant_id or self._owners.get(order_id, 1)
                return _replace(command, order_id=order_id, participant_id=owner)
            case Fund(number=0):
                return _replace(command, number=self.book.fund_number + 1)
            case PlaceOrder() if command.expires_us:
                return _replace(command, expires_us=now_us + command.expires_us)
            case CancelAllAt() if command.at_us:
                return _replace(command, at_us=now_us + command.at_us)
        return command

    def told(self) -> Iterator[tuple[Entry, Event]]:
        """Every event with the entry that caused it."""
        for entry, events in zip(self.entries, self.events, strict=True):
            for event in events:
                yield entry, event

    @property
    def flat(self) -> list[Event]:
        return [event for events in self.events for event in events]
