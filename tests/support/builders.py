"""Valid specs, commands and books for tests: a test names only what it is about.

Numbers are small enough to check by hand: with a tick of 1,000 micro, 3 Wh at 5,000 micro per kWh are worth 15 micro.
"""

from typing import Any

import msgspec

from engine.book.order_book import OrderBook
from engine.market import UNLIMITED_WH, MarketSpec, Path, Phase
from engine.messages import (
    CURRENCY,
    AmendOrder,
    CancelOrder,
    Command,
    Entry,
    Event,
    Fund,
    OrderAccepted,
    OrderEnded,
    PlaceOrder,
    Refused,
    RejectCode,
    Side,
    Tick,
    Traded,
)
from engine.units import FUND_MAX, SECOND_US

START_US = 1_800_000_000_000_000  # a multiple of 900 s: stories begin with an epoch
ALICE, BOB, CAROL = 1, 2, 3
A, B = "A", "B"
KWH = 1_000
COIN = 1_000_000  # one unit of currency in micro


def path(
    zone_from: str = A, zone_to: str = A, wheeling_micro: int = 0, loss_bps: int = 0, capacity_wh: int = UNLIMITED_WH
) -> Path:
    """Free and unlimited unless the test says otherwise."""
    return Path(zone_from, zone_to, wheeling_micro, loss_bps, capacity_wh)


def market(**changes: Any) -> MarketSpec:
    """One zone, no charges, no fees, no band."""
    spec = MarketSpec(market_id=1, symbol="CAMPUS", zones=(A,), paths=(path(),), band_bps=0)
    return msgspec.structs.replace(spec, **changes)


def two_zones(**changes: Any) -> MarketSpec:
    """Zones A and B with domain.md's default costs: 0.50 and 100 bps within a zone, 1.00 and 300 bps between them."""
    near, far = (500_000, 100), (1_000_000, 300)
    paths = (path(A, A, *near), path(B, B, *near), path(A, B, *far), path(B, A, *far))
    return market(zones=(A, B), **{"paths": paths, **changes})


def linked(capacity_wh: int, **changes: Any) -> MarketSpec:
    """Zones A and B without charges; from A to B goes only so much in an epoch, from B to A nothing at all."""
    return market(zones=(A, B), **{"paths": (path(A, A), path(B, B), path(A, B, capacity_wh=capacity_wh)), **changes})


class Desk:
    """Feeds a book entry by entry, keeping count of sequence, time and transfer numbers."""

    def __init__(self, spec: MarketSpec | None = None, phase: Phase = Phase.OPEN) -> None:
        self.book = OrderBook(market() if spec is None else spec, phase)
        self.time_us = START_US
        self.entries: list[Entry] = []
        self.steps: list[list[Event]] = []

    def do(self, command: Command) -> list[Event]:
        """Apply the command now; its events."""
        entry = Entry(self.book.sequence + 1, self.time_us, command)
        events = self.book.apply(entry)
        self.entries.append(entry)
        self.steps.append(events)
        return events

    def wait(self, seconds: float) -> None:
        """Let time go by without an entry."""
        self.time_us += round(seconds * SECOND_US)

    def tick(self) -> list[Event]:
        return self.do(Tick())

    def fund(self, participant_id: int, asset: str, amount: int) -> list[Event]:
        return self.do(Fund(self.book.fund_number + 1, participant_id, asset, amount))

    def buy(self, participant_id: int, price_micro: int, quantity_wh: int, **more: Any) -> list[Event]:
        return self.do(order(Side.BUY, participant_id, price_micro, quantity_wh, **more))

    def sell(self, participant_id: int, price_micro: int, quantity_wh: int, **more: Any) -> list[Event]:
        return self.do(order(Side.SELL, participant_id, price_micro, quantity_wh, **more))

    def amend(self, participant_id: int, order_id: int, price_micro: int = 0, quantity_wh: int = 0) -> list[Event]:
        return self.do(AmendOrder(participant_id, order_id, price_micro, quantity_wh))

    def cancel(self, participant_id: int, order_id: int) -> list[Event]:
        return self.do(CancelOrder(participant_id, order_id))

    def free(self, participant_id: int, asset: str = CURRENCY) -> int:
        account = self.book.accounts.get(participant_id)
        return 0 if account is None else account.free(asset)

    def reserved(self, participant_id: int, asset: str = CURRENCY) -> int:
        account = self.book.accounts.get(participant_id)
        return 0 if account is None else account.reserved(asset)

    @property
    def last_id(self) -> int:
        """The id of the order that the last entry placed."""
        return self.book.sequence


def funded_desk(spec: MarketSpec | None = None, *participants: int) -> Desk:
    """A desk whose participants (Alice, Bob and Carol unless named) are rich in money and in every zone's energy."""
    desk = Desk(spec)
    for participant_id in participants or (ALICE, BOB, CAROL):
        desk.fund(participant_id, CURRENCY, FUND_MAX)
        for zone in desk.book.spec.zones:
            desk.fund(participant_id, zone, FUND_MAX)
    return desk


def order(side: Side, participant_id: int, price_micro: int, quantity_wh: int, **more: Any) -> PlaceOrder:
    """A GTC limit order in zone A unless the test says otherwise."""
    return PlaceOrder(participant_id, side, price_micro, quantity_wh, **{"zone": A, **more})


def trades(events: list[Event]) -> list[Traded]:
    return [event for event in events if isinstance(event, Traded)]


def ends(events: list[Event]) -> list[tuple[int, int, int]]:
    """(order, reason, remaining) of every order that ended."""
    return [(e.order_id, e.reason, e.remaining_wh) for e in events if isinstance(e, OrderEnded)]


def accepted(events: list[Event]) -> bool:
    return any(isinstance(event, OrderAccepted) for event in events)


def refusal(events: list[Event]) -> RejectCode | None:
    """Why the command was refused; None if it was not."""
    codes = [event.code for event in events if isinstance(event, Refused)]
    return codes[0] if codes else None
