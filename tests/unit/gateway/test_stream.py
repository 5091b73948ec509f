"""The WebSocket: order entry, feeds, both encodings, and what happens to who reads too slowly."""

import asyncio
import zlib
from collections.abc import Iterable

import pytest
from prometheus_client import CollectorRegistry

from tests.support.patience import HUNG_SECONDS
from tests.unit.gateway.conftest import World
from tests.unit.gateway.sockets import Socket


async def test_a_book_built_from_the_feed_is_the_book_of_the_api(world: World) -> None:
    ann, bob = await world.person(), await world.person("bob@campus.example")
    await ann.placed("sell", "4.000", "5")
    async with Socket(world) as socket:
        await socket.ask({"op": "subscribe", "channel": "book", "market": "Z1-SPOT"})
        snapshot = await socket.on("book", "snapshot")
        book = {side: {price: level for price, *level in snapshot[side]} for side in ("bids", "asks")}
        sequence = snapshot["sequence"]

        await ann.placed("sell", "4.100", "1")
        order = await bob.placed("buy", "2.000", "3")
        await bob.placed("buy", "4.600", "2.5")
        await bob.call("DELETE", f"/api/v1/orders/{order['order_id']}")
        truth = (await ann.get("/api/v1/markets/Z1-SPOT/book")).json()

        while sequence < truth["sequence"]:
            delta = await socket.on("book", "delta")
            assert delta["previous_sequence"] == sequence
            sequence = delta["sequence"]
            for side in ("bids", "asks"):
                for price, quantity, orders in delta[side]:
                    if quantity == "0.000":
                        del book[side][price]
                    else:
                        book[side][price] = [quantity, orders]

    assert [[price, *level] for price, level in sorted(book["asks"].items())] == truth["asks"]
    assert delta["checksum"] == truth["checksum"] == zlib.crc32(b"4.000:2.500|4.100:1.000")
    assert book["bids"] == {}


async def test_orders_are_placed_amended_and_cancelled_on_a_socket(world: World) -> None:
    ann = await world.person()
    fields = {"market": "Z1-SPOT", "side": "buy", "type": "limit", "price": "3.000", "quantity": "1"}
    async with Socket(world) as socket:
        await socket.ask({"op": "auth", "token": ann.token})

        nested = await socket.ask({"op": "place", "order": fields})
        flat = await socket.ask({"op": "place", **fields})
        amended = await socket.ask({"op": "amend", "order_id": flat["order"]["order_id"], "price": "3.100"})
        cancelled = await socket.ask({"op": "cancel", "order_id": nested["order"]["order_id"]})
        batch = await socket.ask({"op": "place_batch", "orders": [fields, {}], "cancels": []})
        everything = await socket.ask({"op": "cancel_all"})
        bad = await socket.ask({"op": "place", "order": fields | {"price": 3}})
        switch = await socket.ask({"op": "cancel_all_after", "seconds": 10})

    assert (nested["ok"], nested["order"]["status"]) == (True, "open")
    assert amended["order"]["price"] == "3.100"
    assert cancelled["order"]["end_reason"] == "cancelled_by_owner"
    assert [one.get("code", "order") for one in batch["results"]] == ["order", "VALIDATION_FAILED"]
    assert everything["cancelled"] == 2
    assert (bad["ok"], bad["error"]["code"], list(bad["error"]["fields"])) == (False, "VALIDATION_FAILED", ["price"])
    assert switch["cancel_at"] is not None


async def test_compact_orders_are_integers_in_and_out(world: World) -> None:
    ann = await world.person()
    async with Socket(world, binary=True) as socket:
        await socket.send(["o", 0, "Z1-SPOT", 0, 3_000_000, 1_500, "", 0])
        anonymous = await socket.next()
        await socket.ask({"op": "auth", "token": ann.token})
        await socket.send(["o", 7, "Z1-SPOT", 1, 3_000_000, 1_500, "c-1", 1])
        placed = await socket.next()
        await socket.send(["o", 8, "Z1-SPOT", 0, 3_000_000, 1_500, None, 4])
        killed = await socket.next()
        refusals = []
        for order in (
            ["o", 9, "Z1-SPOT", 2, 3_000_000, 1_500, "", 0],
            ["o", 9, "Z1-SPOT", 0, True, 1_500, "", 0],
            ["o", 9, "Z1-SPOT", 0, 3_000_000, 2**40, "", 0],
            ["o", 9, "Z1-SPOT", 0, 3_000_000, 1_500, "", 6],
            ["o", 9, "Z1-SPOT", 0, 3_000_000, 1_500, "a b", 0],
            ["o", 9],
        ):
            await socket.send(order)
            refusals.append(await socket.next())

    assert anonymous[:3] == ["e", 0, "UNAUTHENTICATED"]
    assert (placed[0], placed[1], placed[3], placed[5]) == ("a", 7, "open", 0)
    assert placed[2].startswith("1-")
    assert (killed[1], killed[3]) == (8, "cancelled")
    assert [one[:3] for one in refusals] == [["e", 9, "VALIDATION_FAILED"]] * 6


async def test_requests_of_a_burst_start_in_their_order_and_bad_ones_leave_the_others_alone(world: World) -> None:
    ann = await world.person()
    amend = {"op": "cancel_all", "id": 100}
    async with Socket(world, binary=True) as socket:
        await socket.ask({"op": "auth", "token": ann.token})
        for frame in (
            ["o", 1, "Z1-SPOT", 0, 3_000_000, 1_000, "", 0],
            ["o", 2, "Z1-SPOT", 7, 3_000_000, 1_000, "", 0],
            ["o", 3, "NOWHERE", 0, 3_000_000, 1_000, "", 0],
            ["o", 4, "Z1-SPOT", 0, 3_100_000, 1_000, "", 0],
            amend,
            ["o", 5, "Z1-SPOT", 0, 3_200_000, 1_000, "", 0],
        ):
            await socket.send(frame)
        answers = [await socket.next() for _ in range(6)]
        left = await socket.ask({"op": "cancel_all"})

    compact = {answer[1]: answer for answer in answers if isinstance(answer, list)}
    assert {number: answer[0] for number, answer in compact.items()} == {1: "a", 2: "e", 3: "e", 4: "a", 5: "a"}
    assert (compact[2][2], compact[3][2]) == ("VALIDATION_FAILED", "NOT_FOUND")
    assert next(answer for answer in answers if isinstance(answer, dict))["cancelled"] == 2
    assert left["cancelled"] == 1


async def test_a_socket_takes_no_more_than_its_share_at_once(world: World) -> None:
    ann = await world.person()
    most = world.gateway.settings.socket_in_flight_max
    async with Socket(world, binary=True) as socket:
        await socket.ask({"op": "auth", "token": ann.token})
        for number in range(3 * most):
            await socket.send(["o", number, "Z1-SPOT", 0, 1_000_000, 100, "", 0])
        answers = [await socket.next() for _ in range(3 * most)]

    assert [answer[:2] for answer in answers] == [["a", number] for number in range(3 * most)]


async def test_own_channels_tell_of_own_orders_and_of_nobody_elses(world: World) -> None:
    ann, bob = await world.person(), await world.person("bob@campus.example")
    standing = await ann.placed("sell", "3.000", "2")
    async with Socket(world) as anns, Socket(world) as bobs:
        for socket, person in ((anns, ann), (bobs, bob)):
            await socket.ask({"op": "auth", "token": person.token})
            assert (await socket.ask({"op": "subscribe", "channels": ["orders", "fills", "balances"]}))["ok"]
        snapshot = await anns.on("orders", "snapshot")
        await bob.placed("buy", "4.000", "0.5")

        update, fill = await anns.on("orders", "update"), await anns.on("fills")
        balances = await anns.on("balances")
        while not any(one["asset"] == "THB" and one["total"] == "1001.50" for one in balances["items"]):
            balances = await anns.on("balances")
        bobs_update = await bobs.on("orders", "update")

    assert [one["order_id"] for one in snapshot["orders"]] == [standing["order_id"]]
    assert (update["order"]["order_id"], update["order"]["filled_quantity"]) == (standing["order_id"], "0.500")
    assert (fill["fills"][0]["price"], fill["fills"][0]["liquidity"]) == ("3.000", "maker")
    assert bobs_update["order"]["order_id"] != standing["order_id"]


@pytest.mark.parametrize("fault", ["lags", "is away"])
async def test_balances_are_told_until_they_show_what_happened(
    world: World, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    ann, bob = await world.person(), await world.person("bob@campus.example")
    await ann.placed("sell", "3.000", "2")
    wait, asked = world.gateway.barrier.wait, []

    async def at_first_in_vain(market_ids: Iterable[int]) -> bool:
        asked.append(set(market_ids))
        if len(asked) > 2:
            return await wait(asked[-1])
        if fault == "is away":
            raise ConnectionResetError("the tables")
        return False

    async with Socket(world) as socket:
        await socket.ask({"op": "auth", "token": ann.token})
        assert (await socket.ask({"op": "subscribe", "channels": ["balances"]}))["ok"]
        assert (await socket.on("balances"))["complete"]
        monkeypatch.setattr(world.gateway.barrier, "wait", at_first_in_vain)
        await bob.placed("buy", "4.000", "0.5")
        told = [await socket.on("balances")]
        while not told[-1]["complete"]:
            told.append(await socket.on("balances"))

    assert asked == [{1}] * 3
    assert len(told) == (3 if fault == "lags" else 1)
    assert any(one["asset"] == "THB" and one["total"] == "1001.50" for one in told[-1]["items"])


async def test_public_channels_speak_to_everyone(world: World) -> None:
    ann, bob = await world.person(), await world.person("bob@campus.example")
    async with Socket(world, binary=True) as socket:
        answer = await socket.ask({"op": "subscribe", "channels": ["trades", "ticker", "epochs"], "market": "Z1-SPOT"})
        assert answer["ok"]
        await ann.placed("sell", "3.000", "1")
        await bob.placed("buy", "4.000", "1")

        trade = (await socket.on("trades"))["trades"][0]
        epoch = await socket.on("epochs")
        ticker = await socket.on("ticker")
        while ticker["last"] is None:
            ticker = await socket.on("ticker")
        await socket.ask({"op": "unsubscribe", "channel": "trades", "market": "Z1-SPOT"})

    assert (trade["trade_id"], trade["price"], trade["taker_side"]) == ("1-1", "3.000", "buy")
    assert epoch["start"] == "2027-01-15T08:00:00Z"
    assert ticker["last"] == "3.000"


async def test_a_lost_connection_to_a_market_is_bridged_by_one_contiguous_delta(world: World) -> None:
    ann = await world.person()
    await ann.placed("sell", "4.000", "5")
    async with Socket(world) as socket:
        await socket.ask({"op": "subscribe", "channel": "book", "market": "Z1-SPOT"})
        await socket.ask({"op": "subscribe", "channel": "trades", "market": "Z1-SPOT"})
        snapshot = await socket.on("book", "snapshot")
        watched, listener = world.exchange.watches.pop(1)
        listener(None)
        await ann.placed("sell", "4.100", "1")
        world.exchange.watch(1, watched, True, listener)

        delta = await socket.on("book", "delta")
        gap = await socket.on("trades", "gap")

    assert (delta["previous_sequence"], delta["asks"]) == (snapshot["sequence"], [["4.100", "1.000", 1]])
    assert gap["sequence"] == delta["sequence"]


async def test_who_reads_too_slowly_is_told_and_closed(world: World) -> None:
    world.build(socket_queue_max=10)
    await world.gateway.start()
    ann = await world.person()
    async with Socket(world, stuck=True) as socket:
        await socket.send({"op": "subscribe", "channel": "book", "market": "Z1-SPOT", "id": 0})
        await asyncio.sleep(0.01)
        for _ in range(20):
            await ann.placed("sell", "4.000", "1")
        socket.readable.set()

        code = await asyncio.wait_for(socket.closed, HUNG_SECONDS)
        frames = [socket.frames.get_nowait() for _ in range(socket.frames.qsize())]

    assert code == 4008
    assert frames[-1]["type"] == "lagged"
    assert len(frames) <= 12
    await world.gateway.stop()


async def test_a_frame_that_is_no_request_is_answered_and_harms_nothing(world: World) -> None:
    async with Socket(world) as socket:
        for frame in ("{", "[]", "1", '{"op": "mint"}', '{"op": ["place"]}'):
            await socket.send_raw(frame)
            assert (await socket.next())["error"]["code"] == "VALIDATION_FAILED", frame
        assert (await socket.ask({"op": "ping"}))["op"] == "pong"


async def test_a_frame_that_is_too_large_ends_the_connection(world: World) -> None:
    async with Socket(world) as socket:
        await socket.send_raw("x" * 1_000_001)

        assert await asyncio.wait_for(socket.closed, HUNG_SECONDS) == 1009


async def test_a_connection_lives_no_longer_than_its_login(world: World) -> None:
    ann = await world.person()
    async with Socket(world) as socket:
        await socket.ask({"op": "auth", "token": ann.token})
        await ann.post("/api/v1/auth/logout")

        answer = await socket.ask({"op": "place", "order": {}})
        code = await asyncio.wait_for(socket.closed, HUNG_SECONDS)

    assert (answer["error"]["code"], code) == ("UNAUTHENTICATED", 4001)


async def test_a_market_that_is_away_delays_a_subscription_and_no_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.stream_ops._WATCH_SECONDS", 0.05)
    ann = await world.person()
    world.exchange.watches[1][1](None)  # the connection to the market is lost
    before = len(asyncio.all_tasks())
    async with Socket(world) as socket:
        await socket.ask({"op": "auth", "token": ann.token})

        answer = await socket.ask({"op": "subscribe", "channel": "orders"})

    assert answer["ok"]
    assert len(asyncio.all_tasks()) == before


async def test_messages_are_counted_both_ways(world: World) -> None:
    registry = CollectorRegistry()
    world.build(registry=registry)
    async with Socket(world) as socket:
        await socket.ask({"op": "ping"})
        await socket.ask({"op": "ping"})

    for direction in ("in", "out"):
        assert registry.get_sample_value("wattbook_socket_messages_total", {"direction": direction}) == 2
