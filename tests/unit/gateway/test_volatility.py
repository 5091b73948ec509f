"""A volatility halt as a client sees it: in the market, in the feed, and over when its time is."""

from tests.unit.gateway.conftest import World
from tests.unit.gateway.sockets import Socket

MARKET = "/api/v1/markets/Z1-SPOT"


async def test_a_halt_is_seen_with_its_end_and_goes_by_itself(world: World) -> None:
    boss = await world.person("boss@campus.example", "admin")
    seller, buyer = await world.person("s@campus.example"), await world.person()
    await seller.placed("sell", "9.000", "1")
    rules = {"band_bps": 1_000, "halt_seconds": 60, "reference_price": "4.000"}
    assert (await boss.call("PATCH", MARKET, rules)).json()["halted_until"] is None
    async with Socket(world) as socket:
        await socket.ask({"op": "subscribe", "channel": "epochs", "market": "Z1-SPOT"})

        body = {"market": "Z1-SPOT", "side": "buy", "type": "market", "quantity": "1"}
        order = (await buyer.post("/api/v1/orders", body)).json()

        assert (order["status"], order["end_reason"], order["fills"]) == ("cancelled", "halted", [])
        market = (await buyer.get(MARKET)).json()
        assert market["phase"] == "halted"
        told = await socket.next()
        while told.get("phase") != "halted":
            told = await socket.next()
        assert told["halted_until"] == market["halted_until"] is not None
        refused = (await buyer.order("buy", "4.000", "1")).json()
        assert (refused["code"], refused["retryable"]) == ("MARKET_NOT_OPEN", True)

        world.clock.pass_seconds(60)
        world.exchange.tick()

        told = await socket.next()
        assert (told["phase"], told["halted_until"]) == ("open", None)
    market = (await buyer.get(MARKET)).json()
    assert (market["phase"], market["halted_until"], market["reference_price"]) == ("open", None, "4.400")
