"""Stop orders over the API: how they are asked for, shown, changed and ended; that nobody else sees them.

Seen to fail for: a stop price that a limit order may have, an amend that loses the stop price.
"""

from typing import Any

import pytest

from tests.unit.gateway.conftest import Person, World
from tests.unit.gateway.sockets import Socket


async def traded_at(world: World, price: str) -> None:
    """Two others trade at this price."""
    seller, buyer = await world.person("s@campus.example"), await world.person("b@campus.example")
    await seller.placed("sell", price, "0.1")
    landed = (await seller.get("/api/v1/markets/Z1-SPOT/book", zone="Z1")).json()["asks"][0][0]
    await buyer.placed("buy", landed, "0.1")


async def stopped(person: Person, **more: Any) -> dict[str, Any]:
    fields = {"market": "Z1-SPOT", "side": "buy", "type": "stop_limit", "quantity": "1", "price": "5.000"}
    answer = await person.post("/api/v1/orders", {**fields, "stop_price": "4.000", **more})
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def test_a_stop_limit_order_waits_unseen_and_rests_once_a_trade_has_reached_it(world: World) -> None:
    ann = await world.person()
    order = await stopped(ann)
    assert (order["type"], order["status"], order["stop_price"], order["triggered"], order["price"]) == (
        "stop_limit",
        "open",
        "4.000",
        False,
        "5.000",
    )
    assert (await ann.get("/api/v1/markets/Z1-SPOT/book")).json()["bids"] == []
    path = f"/api/v1/orders/{order['order_id']}"

    async with Socket(world) as socket:
        await socket.ask({"op": "auth", "token": ann.token})
        await socket.ask({"op": "subscribe", "channel": "orders"})
        await traded_at(world, "4.000")
        told = await socket.next()
        while not told.get("order", {}).get("triggered"):
            told = await socket.next()

    shown = (await ann.get(path)).json()
    assert (shown["status"], shown["triggered"], shown["remaining_quantity"]) == ("open", True, "1.000")
    assert (await ann.get("/api/v1/markets/Z1-SPOT/book")).json()["bids"] == [["5.000", "1.000", 1]]


async def test_a_stop_is_amended_listed_and_cancelled_like_any_order(world: World) -> None:
    ann = await world.person()
    order = await stopped(ann, type="stop", price=None)
    assert (order["type"], order["price"], order["time_in_force"]) == ("stop", None, "gtc")
    path = f"/api/v1/orders/{order['order_id']}"

    amended = (await ann.call("PATCH", path, {"stop_price": "4.500", "quantity": "2"})).json()

    assert (amended["stop_price"], amended["quantity"]) == ("4.500", "2.000")
    await traded_at(world, "4.200")
    (listed,) = (await ann.get("/api/v1/orders", status="open")).json()["items"]
    assert (listed["stop_price"], listed["triggered"]) == ("4.500", False)
    assert (await ann.call("DELETE", path)).json()["end_reason"] == "cancelled_by_owner"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"stop_price": None}, "stop_price"),
        ({"type": "limit"}, "stop_price"),
        ({"price": None}, "price"),
        ({"type": "stop"}, "price"),
        ({"type": "stop", "price": None, "time_in_force": "ioc"}, "time_in_force"),
        ({"type": "stop", "price": None, "post_only": True}, "post_only"),
        ({"type": "stop", "price": None, "side": "sell", "max_price": "5"}, "max_price"),
    ],
)
async def test_what_does_not_go_together_is_refused(world: World, fields: dict[str, Any], field: str) -> None:
    ann = await world.person()
    order = {"market": "Z1-SPOT", "side": "buy", "type": "stop_limit", "quantity": "1", "price": "5.000"}

    answer = await ann.post("/api/v1/orders", {**order, "stop_price": "4.000", **fields})

    assert (answer.status_code, list(answer.json()["fields"])) == (400, [field])


async def test_a_stop_that_the_last_trade_has_reached_is_refused(world: World) -> None:
    ann = await world.person()
    await traded_at(world, "4.000")
    order = {"market": "Z1-SPOT", "side": "buy", "type": "stop", "quantity": "1", "stop_price": "4.000"}

    answer = await ann.post("/api/v1/orders", order)

    assert (answer.status_code, answer.json()["code"]) == (409, "CONFLICT")
    assert answer.json()["detail"] == "the last trade, at 4.000, is at the stop price already"
