"""The same entries give the same events and the same state, for ever: in another process, elsewhere, next year.

When this test fails, either the change is a mistake, or old journals would now replay differently: then ENGINE_VERSION
goes up by one and the new hashes join the table. Process after process also means: another hash seed each time.
"""

from collections import Counter
from collections.abc import Iterator

import msgspec

from engine.book.state import digest, encode, state_hash
from engine.journal import events_hash
from engine.market import MarketSpec, Mechanism, Phase, RiskLimits
from engine.messages import (
    ENGINE_VERSION,
    AmendOrder,
    AuctionTraded,
    CancelAll,
    CancelAllAt,
    CancelOrder,
    ClearEpoch,
    Command,
    Defund,
    FireStop,
    Fund,
    HaltEnded,
    OrderKind,
    PlaceOrder,
    SelfTrade,
    SetFees,
    SetPhase,
    SetRisk,
    SetSpec,
    Side,
    StopMoved,
    StopTriggered,
    Tick,
    TimeInForce,
)
from tests.support.builders import START_US, Desk, market, path

# Of events, of the encoded state and its digest after the story below, by engine version.
KNOWN = {4: ("878e9ec5eb4633c7", "093ac2766d2ef049", "051e801c317ec184")}
AUCTIONS = {
    4: ("376dddff068c637d", "edef2b06bcec859c", "5ebc37bf05928711")
}  # and of the same story where epochs end with an auction

SPEC = market(
    zones=("A", "B"),
    paths=(path("A", "A", 0, 100), path("B", "B"), path("A", "B", 1_000, 2_500, 40), path("B", "A", 1_000, 300)),
    price_micro_min=1_000,
    price_micro_max=20_000,
    maker_fee_bps=-10,
    taker_fee_bps=25,
    epoch_seconds=60,
    order_life_seconds_max=600,
    closed_orders_kept=20,
)
CHANGED = msgspec.structs.replace(
    SPEC,
    paths=SPEC.paths[:3],
    maker_fee_bps=5,
    quantity_wh_min=2,
    reference_price_micro=4_000,
    band_bps=2_500,
    halt_seconds=3,
)
AUCTION = msgspec.structs.replace(
    SPEC, mechanism=Mechanism.CONTINUOUS_THEN_AUCTION, call_seconds=30, auction_fee_bps=20
)


def numbers() -> Iterator[int]:
    """A plain congruential generator, the same under every Python."""
    x = 1
    while True:
        x = (6_364_136_223_846_793_005 * x + 1_442_695_040_888_963_407) % 2**64
        yield x >> 33


def command(draw: Iterator[int], desk: Desk) -> Command:
    who, dice = 1 + next(draw) % 4, next(draw) % 40
    known = [*desk.book.orders.values(), *desk.book.closed.values()]
    recent = known[next(draw) % len(known)] if known else None
    match dice:
        case 0:
            return SetFees(who, next(draw) % 50 - 20, next(draw) % 60, remove=next(draw) % 2 == 0)
        case 1:
            return CancelAllAt(who, desk.time_us + next(draw) % 30_000_000)
        case 2 if next(draw) % 3 == 0:
            return SetPhase(Phase.HALTED)
        case 2 | 3 | 4 | 5:
            return SetPhase(Phase.OPEN)
        case 6:
            spec = (SPEC, CHANGED)[next(draw) % 2]
            return SetSpec(msgspec.structs.replace(spec, mechanism=desk.book.spec.mechanism))
        case 7:
            return Defund(who, idle_only=next(draw) % 8 != 0)
        case 8:
            return CancelAll(who)
        case 9 if next(draw) % 2 == 0:
            return SetRisk(who, (None, RiskLimits(18, 9, 900_000, 90))[next(draw) % 2], next(draw) % 99 == 0)
        case 9:
            return Tick()
        case 10 | 11 if recent is not None:
            return CancelOrder(recent.placed.participant_id, recent.order_id)
        case 12 | 13 | 14 | 15 if recent is not None:
            return AmendOrder(
                recent.placed.participant_id,
                recent.order_id,
                (2 + next(draw) % 8) * 1_000,
                next(draw) % 9,
                recent.is_waiting * (next(draw) % 2) * 5_000,
            )
        case 16 | 17 | 18 | 19:
            return Fund(desk.book.fund_number + 1, who, ("", "A", "B")[next(draw) % 3], 500)
    stop = 0 if next(draw) % 6 else (3 + next(draw) % 6) * 1_000
    return PlaceOrder(
        who,
        Side(next(draw) % 2),
        (2 + next(draw) % 8) * 1_000,
        1 + next(draw) % 20,
        "AB"[next(draw) % 2],
        client_order_id="" if next(draw) % 3 else f"c{next(draw) % 9}",
        kind=OrderKind(1 + 2 * bool(stop) + (next(draw) % 12 == 0)),
        time_in_force=(TimeInForce.GTC, *TimeInForce, TimeInForce.GTC)[next(draw) % 6],
        expires_us=0 if next(draw) % 3 else desk.time_us + next(draw) % 90_000_000,
        post_only=next(draw) % 7 == 0,
        self_trade=SelfTrade(1 + next(draw) % 4),
        stop_price_micro=stop,
    )


def told(spec: MarketSpec) -> Desk:
    draw, desk = numbers(), Desk(spec)
    for who in range(1, 5):
        for asset in ("", "A", "B"):
            desk.do(Fund(desk.book.fund_number + 1, who, asset, 3_000))
    for _ in range(2_000):
        desk.time_us += (next(draw) % 4_000_000) * (next(draw) % 3 == 0)
        desk.do(command(draw, desk))
        while desk.book.stops.triggered:
            desk.do(FireStop())
        if desk.book.call is not None and next(draw) % 4 == 0:
            desk.do(ClearEpoch(desk.book.call.start_us))
    return desk


def hashes(desk: Desk) -> tuple[str, ...]:
    found = (events_hash(desk.steps), state_hash(encode(desk.book)), digest(desk.book))
    return tuple(one.hex()[:16] for one in found)


def test_the_story_of_two_thousand_commands_ends_as_it_always_did() -> None:
    desk = told(SPEC)

    assert desk.book.trades > 50
    assert desk.time_us > START_US
    seen = Counter(type(event) for events in desk.steps for event in events)
    assert min(seen[HaltEnded], seen[StopTriggered], seen[StopMoved]) > 0
    assert hashes(desk) == KNOWN[ENGINE_VERSION]


def test_so_does_the_story_in_which_epochs_end_with_an_auction() -> None:
    desk = told(AUCTION)

    assert sum(isinstance(event, AuctionTraded) for step in desk.steps for event in step) > 4
    assert hashes(desk) == AUCTIONS[ENGINE_VERSION]
