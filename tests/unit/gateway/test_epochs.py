"""Epochs over the API: an admin makes a market of auctions, people place orders, everybody sees what came of it.

Seen to fail for: a certificate with participants' ids, an epoch of next month that is called scheduled.
"""

from typing import get_args

import msgspec

from engine.auction.certificate import Published, problems
from engine.messages import ClearEpoch
from engine.views import EpochPhase
from gateway.epochs import EpochPhaseName
from tests.unit.gateway.conftest import World
from tests.unit.gateway.sockets import Socket

BASE = "/api/v1/markets/NOON/epochs"
RULES = {
    "symbol": "NOON",
    "zones": ["Z1"],
    "mechanism": "call_auction",
    "band_bps": 0,
    "auction_fee_bps": 10,
    "epoch_seconds": 60,
}
START, NEXT = "2027-01-15T08:00:00Z", "2027-01-15T08:01:00Z"


def pass_epoch(world: World) -> None:
    """What the clock and the market do at an epoch's end."""
    world.clock.now_us += 60_000_000
    book = world.exchange.books[world.exchange.symbols["NOON"].market_id]
    world.exchange.tick()
    assert book.call is not None
    world.exchange.apply(book, ClearEpoch(book.call.start_us))


async def test_an_auction_from_its_market_to_its_certificate(world: World) -> None:
    boss, ann, bob = [await world.person(f"{role}@campus.example", role) for role in ("admin", "student", "faculty")]
    made = (await boss.post("/api/v1/markets", RULES)).json()
    market = (await world.client.get("/api/v1/markets/NOON")).json()
    assert (made["mechanism"], market["phase"], market["call_seconds"]) == ("call_auction", "auction_call", 60)

    async with Socket(world) as socket:
        await socket.ask({"op": "subscribe", "channel": "epochs", "market": "NOON"})
        sold = await ann.placed("sell", "3.000", "2", market="NOON")
        bought = await bob.placed("buy", "4.000", "1.5", market="NOON")
        at_once = await bob.order("buy", "4.000", "1", market="NOON", time_in_force="ioc")
        before = (await world.client.get(f"{BASE}/{START}")).json()
        pass_epoch(world)
        told = [await socket.on("epochs", "update") for _ in range(4)]

    assert (sold["status"], bought["status"], before["phase"]) == ("open", "open", "open")
    assert (at_once.status_code, at_once.json()["code"]) == (422, "NOT_IN_AUCTION")
    assert [(one["start"], one["epoch_phase"]) for one in told] == [
        (START, "open"), (START, "clearing"), (NEXT, "open"), (START, "cleared"),
    ]  # fmt: skip
    epoch = (await world.client.get(f"{BASE}/{START}")).json()
    assert (epoch["phase"], epoch["volume"], epoch["trades"]) == ("cleared", "1.500", 1)
    assert epoch["clearing_price"] == told[3]["clearing_price"] == epoch["certificate"]["zones"][0]["seller_price"]
    assert epoch["welfare_share_bps"] == 10_000
    assert (await world.client.get(BASE)).json()["items"][1] == epoch
    certificate = await world.client.get(epoch["certificate"]["href"])
    published = msgspec.json.decode(certificate.content, type=Published)
    assert list(problems(published)) == []
    assert published.orders_hash == epoch["certificate"]["orders_hash"]
    assert sorted(order.participant_id for order in published.orders) == [1, 2]  # and not who they are
    (fill,) = (await bob.get("/api/v1/fills")).json()["items"]
    assert (fill["liquidity"], fill["epoch"]) == ("auction", START)
    (trade,) = (await world.client.get("/api/v1/markets/NOON/trades")).json()["items"]
    assert (trade["price"], trade["taker_side"], trade["epoch"]) == (epoch["clearing_price"], None, START)


async def test_epochs_to_come_are_scheduled_for_a_week(world: World) -> None:
    base = "/api/v1/markets/Z1-SPOT/epochs"

    soon = await world.client.get(f"{base}/2027-01-15T08:15:00Z")
    late = await world.client.get(f"{base}/2027-01-22T08:15:00Z")
    odd = await world.client.get(f"{base}/2027-01-15T08:00:01Z")
    none = await world.client.get(f"{base}/{START}/certificate")

    assert (soon.status_code, soon.json()["phase"], soon.json()["certificate"]) == (200, "scheduled", None)
    assert [one.status_code for one in (late, odd, none)] == [404, 404, 404]


async def test_an_order_of_an_auction_that_is_being_cleared_stays_for_a_moment(world: World) -> None:
    boss, ann = await world.person("boss@campus.example", "admin"), await world.person()
    await boss.post("/api/v1/markets", RULES)
    order = await ann.placed("sell", "3.000", "2", market="NOON")
    world.clock.now_us += 60_000_000

    refused = await ann.call("DELETE", f"/api/v1/orders/{order['order_id']}")

    assert (refused.status_code, refused.json()["code"], refused.json()["retryable"]) == (409, "BEING_CLEARED", True)


def test_the_api_names_every_phase_of_an_epoch() -> None:
    assert get_args(EpochPhaseName) == tuple(phase.name.lower() for phase in EpochPhase)
