"""Limits, the kill switch and rates of messages over the API, with real order books behind it.

Seen to fail for: amends that do not count against the rate, a kill that leaves a market out, an order of a batch
beyond the rate that ends the batch, own limits that do not take the place of the market's rate.
"""

from gateway.limits import Buckets
from tests.unit.gateway.conftest import Person, World, spot
from tests.unit.gateway.ports import DOWN
from tests.unit.gateway.sockets import Socket

FREE = {
    "max_quantity": None,
    "max_open_orders": None,
    "max_open_value": None,
    "max_position": None,
    "messages_per_second": None,
}
MARKET = "/api/v1/markets/Z1-SPOT"


async def boss_and_ann(world: World) -> tuple[Person, Person]:
    return await world.person("boss@campus.example", "admin"), await world.person()


async def put(boss: Person, ann: Person, **limits: object) -> dict[str, object]:
    answer = await boss.call("PUT", f"/api/v1/risk/limits/{ann.user_id}", {"items": [{"market": "Z1-SPOT", **limits}]})
    assert answer.status_code == 200, answer.text
    shown: dict[str, object] = answer.json()
    return shown


async def test_own_limits_hold_at_once_and_are_seen_by_their_owner(world: World) -> None:
    boss, ann = await boss_and_ann(world)

    shown = await put(boss, ann, max_quantity="2", max_open_orders=1)

    items = [{**FREE, "market": "Z1-SPOT", "own": True, "max_quantity": "2.000", "max_open_orders": 1}]
    own = (await ann.get("/api/v1/risk/limits")).json()
    assert own == shown
    assert own["items"] == items
    assert own == (await boss.get(f"/api/v1/risk/limits/{ann.user_id}")).json()
    refused = (await ann.order("sell", "3.000", "2.001")).json()
    assert (refused["code"], refused["detail"]) == ("RISK_LIMIT", "an order has at most 2.000 kWh")
    await ann.placed("sell", "3.000", "2")
    assert (await ann.order("sell", "3.000", "1")).json()["detail"] == "at most 1 orders may be open"
    await boss.call("PUT", f"/api/v1/risk/limits/{ann.user_id}", {"items": []})
    await ann.placed("sell", "3.000", "3")
    assert (await ann.get("/api/v1/risk/limits")).json()["items"] == [{**FREE, "market": "Z1-SPOT", "own": False}]


async def test_limits_of_a_market_hold_for_everybody_without_own(world: World) -> None:
    boss, ann = await boss_and_ann(world)

    limits = {"max_open_value": "10", "max_position": "5"}
    changed = await boss.call("PATCH", MARKET, {"limits": limits, "halt_seconds": 30})

    assert changed.json()["limits"] == {**FREE, "max_open_value": "10.00", "max_position": "5.000"}
    assert changed.json()["halt_seconds"] == 30
    assert (await ann.order("buy", "3.000", "4")).json()["detail"] == "open orders are worth at most 10.000"
    assert (await ann.get("/api/v1/risk/limits")).json()["items"][0]["max_position"] == "5.000"
    await put(boss, ann)
    await ann.placed("buy", "3.000", "4")


async def test_what_is_no_limit_is_refused(world: World) -> None:
    boss, ann = await boss_and_ann(world)
    path = f"/api/v1/risk/limits/{ann.user_id}"
    for item, field in (
        ({"market": "NONE"}, "items.0.market"),
        ({"market": "Z1-SPOT", "max_quantity": "0"}, "items.0.max_quantity"),
        ({"market": "Z1-SPOT", "max_open_value": "-1"}, "items.0.max_open_value"),
        ({"market": "Z1-SPOT", "max_open_orders": 0}, "items[0].max_open_orders"),
    ):
        answer = await boss.call("PUT", path, {"items": [item]})
        assert (answer.status_code, list(answer.json()["fields"])) == (400, [field])
    twice = await boss.call("PUT", path, {"items": [{"market": "Z1-SPOT"}] * 2})
    assert list(twice.json()["fields"]) == ["items.1.market"]
    for method, path in (
        ("GET", "/api/v1/risk/limits/99"),
        ("PUT", "/api/v1/risk/limits/99"),
        ("POST", "/api/v1/admin/users/99/kill"),
        ("DELETE", "/api/v1/admin/users/99/kill"),
    ):
        answer = await boss.call(method, path, {"items": []} if method == "PUT" else None)
        assert answer.status_code == 404, (method, answer.text)


async def test_the_kill_switch_ends_all_orders_everywhere_until_it_is_released(world: World) -> None:
    world.exchange.add(spot("Z1-OTHER"))
    boss, ann = await boss_and_ann(world)
    await ann.placed("sell", "3.000", "1")
    await ann.placed("sell", "3.000", "1", market="Z1-OTHER")
    path = f"/api/v1/admin/users/{ann.user_id}/kill"

    killed = (await boss.post(path, {"reason": "runs amok"})).json()

    assert (killed["blocked"], killed["cancelled"], killed["pending"]) == (True, 2, [])
    orders = (await ann.get("/api/v1/orders")).json()["items"]
    assert [order["end_reason"] for order in orders] == ["risk", "risk"]
    for market in ("Z1-SPOT", "Z1-OTHER"):
        answer = (await ann.order("sell", "3.000", "1", market=market)).json()
        assert (answer["code"], answer["detail"]) == ("RISK_LIMIT", "trading is blocked for this participant")
    async with Socket(world) as socket:
        await socket.ask({"op": "auth", "token": ann.token})
        order = {"market": "Z1-SPOT", "side": "sell", "type": "limit", "price": "3.000", "quantity": "1"}
        assert (await socket.ask({"op": "place", **order}))["error"]["code"] == "RISK_LIMIT"
    assert (await ann.get("/api/v1/risk/limits")).json()["blocked_at"] == killed["blocked_at"]
    assert (await boss.call("DELETE", path)).json()["blocked"] is False
    await ann.placed("sell", "3.000", "1")


async def test_markets_that_do_not_answer_are_named(world: World) -> None:
    boss, ann = await boss_and_ann(world)
    world.exchange.failing = DOWN

    killed = (await boss.post(f"/api/v1/admin/users/{ann.user_id}/kill")).json()

    assert (killed["blocked"], killed["pending"]) == (True, ["Z1-SPOT"])


async def test_messages_beyond_the_rate_wait_and_cancels_are_free(world: World) -> None:
    boss, ann = await boss_and_ann(world)
    await boss.call("PATCH", MARKET, {"limits": {"messages_per_second": 3}})
    order = await ann.placed("sell", "3.000", "1")
    path = f"/api/v1/orders/{order['order_id']}"
    for price in ("3.100", "3.200"):
        assert (await ann.call("PATCH", path, {"price": price})).status_code == 200

    for refused in (await ann.order("sell", "3.000", "1"), await ann.call("PATCH", path, {"price": "3.300"})):
        assert (refused.status_code, refused.json()["code"]) == (429, "RATE_LIMITED")
        assert refused.headers["retry-after"] == "1"
    assert (await ann.call("DELETE", path)).status_code == 200
    await boss.placed("sell", "3.000", "1")  # others have their own


async def test_each_order_of_a_batch_counts_and_what_is_beyond_the_rate_leaves_the_others_alone(world: World) -> None:
    boss, ann = await boss_and_ann(world)
    await put(boss, ann, messages_per_second=2)
    order = {"market": "Z1-SPOT", "side": "sell", "type": "limit", "price": "3.000", "quantity": "1"}

    results = (await ann.post("/api/v1/orders/batch", {"orders": [order] * 4})).json()["results"]

    assert [one.get("status") for one in results] == ["open", "open", 429, 429]
    async with Socket(world, binary=True) as socket:
        await socket.ask({"op": "auth", "token": ann.token})
        await socket.send(["o", 1, "Z1-SPOT", 0, 3_000_000, 1_000, "", 0])
        assert (await socket.next())[:3] == ["e", 1, "RATE_LIMITED"]


async def test_own_limits_replace_the_markets_rate_too_and_buckets_that_nobody_needs_go(world: World) -> None:
    boss, ann = await boss_and_ann(world)
    await boss.call("PATCH", MARKET, {"limits": {"messages_per_second": 1}})
    await ann.placed("sell", "3.000", "1")
    assert (await ann.order("sell", "3.000", "1")).status_code == 429

    await put(boss, ann, max_open_orders=50)

    for _ in range(5):
        await ann.placed("sell", "3.000", "1")
    await boss.call("PATCH", MARKET, {"limits": {}})
    await world.gateway.message_rates.read()
    buckets: dict[tuple[int, int], Buckets] = vars(world.gateway.message_rates)["_buckets"]
    assert buckets == {}
