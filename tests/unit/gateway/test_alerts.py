"""Price alerts: told once, by the first trade at the price or beyond, to the connection that asked.

Seen to fail for: > for >= at the price, an alert that is told twice, one that a closed connection leaves behind, a
bound that counts what was told.
"""

import pytest

from gateway.alerts import OF_ONE_MAX
from tests.unit.gateway.conftest import Person, World
from tests.unit.gateway.sockets import Socket

ALERT = {"op": "alert", "market": "Z1-SPOT"}


async def login(socket: Socket, person: Person) -> None:
    assert (await socket.ask({"op": "auth", "token": person.token}))["ok"]


async def trade_at(seller: Person, buyer: Person, price: str) -> None:
    await seller.placed("sell", price, "0.1")
    await buyer.placed("buy", "15.000", "0.1")


async def test_each_alert_is_told_once_by_the_first_trade_that_reaches_it(world: World) -> None:
    ann, seller, buyer = [await world.person(f"{name}@campus.example") for name in "asb"]
    async with Socket(world) as socket:
        await login(socket, ann)
        ids = {}
        for when, price in (("at_or_above", "4.000"), ("at_or_above", "5.000"), ("at_or_below", "2.000")):
            ids[when, price] = (await socket.ask({**ALERT, "when": when, "price": price}))["alert_id"]
        for price in ("3.000", "3.999", "4.000", "4.500", "2.001"):
            await trade_at(seller, buyer, price)

        told = await socket.on("alerts")
        assert (told["alert_id"], told["price"]) == (ids["at_or_above", "4.000"], "4.000")
        assert told["trade"]["price"] == "4.000"
        await trade_at(seller, buyer, "1.000")
        told = await socket.on("alerts")
        assert (told["alert_id"], told["trade"]["price"]) == (ids["at_or_below", "2.000"], "1.000")
        await trade_at(seller, buyer, "6.000")
        assert (await socket.on("alerts"))["alert_id"] == ids["at_or_above", "5.000"]
        assert vars(world.gateway.feeds.alerts)["_alerts"] == {}


async def test_an_alert_is_dropped_by_its_owner_and_goes_with_its_connection(world: World) -> None:
    ann, bob = await world.person(), await world.person("bob@campus.example")
    async with Socket(world) as socket, Socket(world) as other:
        await login(socket, ann)
        await login(other, bob)
        first, second = [
            (await socket.ask({**ALERT, "when": "at_or_above", "price": "4.000"}))["alert_id"] for _ in range(2)
        ]
        for alert_id in (first, "99", "x"):
            assert (await other.ask({"op": "drop_alert", "alert_id": alert_id}))["error"]["code"] == "NOT_FOUND"
        assert (await socket.ask({"op": "drop_alert", "alert_id": first}))["ok"]
        assert list(vars(world.gateway.feeds.alerts)["_alerts"]) == [int(second)]

    alerts = vars(world.gateway.feeds.alerts)
    assert (alerts["_alerts"], alerts["_of_one"]) == ({}, {})
    assert not any(alerts["_keys"].values())


async def test_one_has_so_many_at_a_time(world: World) -> None:
    ann, seller, buyer = [await world.person(f"{name}@campus.example") for name in "asb"]
    async with Socket(world) as socket:
        await login(socket, ann)
        for _ in range(OF_ONE_MAX):
            assert (await socket.ask({**ALERT, "when": "at_or_above", "price": "4.000"}))["ok"]
        assert (await socket.ask({**ALERT, "when": "at_or_above", "price": "4.000"}))["error"]["code"] == "CONFLICT"
        await trade_at(seller, buyer, "4.000")
        for _ in range(OF_ONE_MAX):
            await socket.on("alerts")
        assert (await socket.ask({**ALERT, "when": "at_or_above", "price": "5.000"}))["ok"]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"market": "NONE"}, "NOT_FOUND"),
        ({"price": "0"}, "VALIDATION_FAILED"),
        ({"when": "sometimes"}, "VALIDATION_FAILED"),
    ],
)
async def test_what_is_no_alert_is_refused(world: World, fields: dict[str, str], code: str) -> None:
    async with Socket(world) as socket:
        await login(socket, await world.person())

        answer = await socket.ask({**ALERT, "when": "at_or_above", "price": "4.000", **fields})

    assert answer["error"]["code"] == code
