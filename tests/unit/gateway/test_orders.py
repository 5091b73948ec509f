"""Orders over HTTP, against a real order book."""

import asyncio

import pytest

from engine.messages import AmendOrder, Defund
from tests.unit.gateway.conftest import World, spot
from tests.unit.gateway.ports import DOWN


async def test_an_order_shows_every_field_of_the_contract(world: World) -> None:
    ann = await world.person()

    order = await ann.placed("sell", "3.5", "12.25", client_order_id="roof-1", post_only=True)

    assert order["order_id"].startswith("1-")
    assert order | {"order_id": "", "created_at": "", "updated_at": "", "expires_at": ""} == {
        "order_id": "",
        "client_order_id": "roof-1",
        "market": "Z1-SPOT",
        "side": "sell",
        "type": "limit",
        "price": "3.500",
        "quantity": "12.250",
        "filled_quantity": "0.000",
        "remaining_quantity": "12.250",
        "average_price": None,
        "status": "open",
        "stop_price": None,
        "triggered": None,
        "end_reason": None,
        "time_in_force": "gtc",
        "expires_at": "",
        "post_only": True,
        "zone": "Z1",
        "created_at": "",
        "updated_at": "",
        "sequence": order["sequence"],
        "repeated": False,
        "fills": [],
    }


async def test_a_buyer_pays_the_landed_price_and_sees_his_fill(world: World) -> None:
    seller, buyer = await world.person("s@campus.example"), await world.person("b@campus.example")
    await seller.placed("sell", "3.000", "2")

    order = await buyer.placed("buy", "4.000", "1.5")

    assert (order["status"], order["end_reason"]) == ("filled", "filled")
    assert order["average_price"] == "3.530"  # 3.000 + 0.50 wheeling + 1 %
    (fill,) = order["fills"]
    assert (fill["trade_id"], fill["price"], fill["quantity"], fill["value"], fill["liquidity"]) == (
        "1-1",
        "3.530",
        "1.500",
        "5.295",
        "taker",
    )


async def test_a_fill_or_kill_that_cannot_fill_is_no_refusal(world: World) -> None:
    ann = await world.person()

    order = await ann.placed("buy", "4.000", "1", time_in_force="fok")

    assert (order["status"], order["end_reason"]) == ("cancelled", "fok_unfillable")


async def test_a_malformed_order_is_told_which_field_is_wrong(world: World) -> None:
    ann = await world.person()
    good = {"market": "Z1-SPOT", "side": "buy", "type": "limit", "price": "3.500", "quantity": "1"}
    for field, value in (
        ("price", "1e3"),
        ("price", "-1"),
        ("price", "NaN"),
        ("price", 3.5),
        ("price", "0"),
        ("price", "3.5000001"),
        ("price", "100000.001"),
        ("price", "3.5 "),
        ("price", "٣"),
        ("quantity", "1.0001"),
        ("quantity", "1000000.001"),
        ("quantity", 1),
        ("quantity", None),
        ("side", "long"),
        ("type", "iceberg"),
        ("client_order_id", "a b"),
        ("client_order_id", "a" * 65),
        ("client_order_id", "a\n"),
        ("zone", "Z2"),
        ("max_price", "4"),
        ("expires_at", "2100-01-01"),
        ("post_only", "true"),
        ("surprise", 1),
    ):
        answer = await ann.post("/api/v1/orders", good | {field: value})

        problem = answer.json()
        assert (answer.status_code, problem["code"]) == (400, "VALIDATION_FAILED"), (field, value, problem)
        assert list(problem["fields"]) == [field], (field, value, problem)
        assert answer.headers["content-type"] == "application/problem+json"
        assert problem["request_id"] == answer.headers["x-request-id"]


async def test_time_in_force_goes_with_what_it_means(world: World) -> None:
    ann = await world.person()
    limit = {"market": "Z1-SPOT", "side": "buy", "type": "limit", "price": "3.500", "quantity": "1"}
    market = {"market": "Z1-SPOT", "side": "buy", "type": "market", "quantity": "1"}
    for body, field in (
        (market | {"time_in_force": "gtc"}, "time_in_force"),
        (market | {"price": "3.500"}, "price"),
        (market | {"side": "sell", "max_price": "3.500"}, "max_price"),
        ({k: v for k, v in limit.items() if k != "price"}, "price"),
        (limit | {"time_in_force": "gtd"}, "expires_at"),
        (limit | {"time_in_force": "gtd", "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        (limit | {"time_in_force": "ioc", "expires_at": "2100-01-01T00:00:00Z"}, "expires_at"),
        (limit | {"time_in_force": "ioc", "post_only": True}, "post_only"),
    ):
        answer = await ann.post("/api/v1/orders", body)
        assert (answer.status_code, list(answer.json()["fields"])) == (400, [field]), body

    bought = (await ann.post("/api/v1/orders", market)).json()
    assert (bought["time_in_force"], bought["end_reason"], bought["price"]) == ("ioc", "ioc_remainder", None)


async def test_refusals_of_the_book_keep_their_code_and_status(world: World) -> None:
    ann = await world.person()
    world.exchange.add(spot("LOTS", lot_wh=100, quantity_wh_min=100, tick_micro=10_000, band_bps=1_000))
    for body, status, code in (
        ({"market": "LOTS", "price": "3.501", "quantity": "1"}, 422, "PRICE_OFF_TICK"),
        ({"market": "LOTS", "price": "3.500", "quantity": "1.05"}, 422, "QUANTITY_OFF_LOT"),
        ({"market": "LOTS", "price": "0.100", "quantity": "1"}, 422, "PRICE_OUTSIDE_CORRIDOR"),
        ({"market": "LOTS", "price": "19.000", "quantity": "1"}, 422, "PRICE_OUTSIDE_BAND"),
        ({"market": "Z1-SPOT", "price": "19.000", "quantity": "500"}, 422, "INSUFFICIENT_FUNDS"),
        ({"market": "Z1-SPOT", "price": "3.000", "quantity": "5000", "side": "sell"}, 422, "INSUFFICIENT_ENERGY"),
        ({"market": "NOWHERE", "price": "3.000", "quantity": "1"}, 404, "NOT_FOUND"),
    ):
        answer = await ann.post("/api/v1/orders", {"side": "buy", "type": "limit"} | body)
        assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text


async def test_a_silent_market_is_503_with_an_outcome(world: World) -> None:
    ann = await world.person()
    world.exchange.failing = DOWN

    answer = await ann.order("buy", "3.000", "1")

    assert (answer.status_code, answer.json()["code"], answer.json()["retryable"]) == (503, "UNAVAILABLE", True)


async def test_a_repeated_client_order_id_gives_the_first_order(world: World) -> None:
    ann = await world.person()
    first = await ann.placed("buy", "3.000", "1", client_order_id="x")

    again = await ann.placed("buy", "3.000", "1", client_order_id="x")
    other = await ann.order("buy", "3.100", "1", client_order_id="x")

    assert (again["order_id"], again["repeated"]) == (first["order_id"], True)
    assert (other.status_code, other.json()["code"]) == (409, "CLIENT_ORDER_ID_REUSED")


async def test_an_idempotency_key_stands_in_for_the_client_order_id(world: World) -> None:
    ann = await world.person()
    body = {"market": "Z1-SPOT", "side": "buy", "type": "limit", "price": "3.000", "quantity": "1"}

    first, again = [await ann.post("/api/v1/orders", body, headers={"Idempotency-Key": "k-1"}) for _ in range(2)]

    assert (first.json()["client_order_id"], again.json()["repeated"]) == ("k-1", True)


async def test_other_peoples_orders_are_not_found(world: World) -> None:
    ann, bob = await world.person(), await world.person("bob@campus.example")
    order = await ann.placed("buy", "3.000", "1", client_order_id="mine")
    path = f"/api/v1/orders/{order['order_id']}"

    answers = [
        await bob.get(path),
        await bob.call("DELETE", path),
        await bob.call("PATCH", path, {"price": "3.100"}),
        await bob.get("/api/v1/orders/by-client-id/mine", market="Z1-SPOT"),
    ]

    assert [(one.status_code, one.json()["code"]) for one in answers] == [(404, "NOT_FOUND")] * 4
    assert (await ann.get(path)).json()["status"] == "open"


async def test_cancel_and_amend_answer_with_the_order(world: World) -> None:
    ann = await world.person()
    order = await ann.placed("buy", "3.000", "2")
    path = f"/api/v1/orders/{order['order_id']}"

    amended = await ann.call("PATCH", path, {"price": "3.100", "quantity": "1"})
    cancelled = await ann.call("DELETE", path)
    again = await ann.call("DELETE", path)

    assert (amended.status_code, amended.json()["price"], amended.json()["quantity"]) == (200, "3.100", "1.000")
    assert (cancelled.status_code, cancelled.json()["end_reason"]) == (200, "cancelled_by_owner")
    assert (again.status_code, again.json()["code"]) == (409, "ORDER_CLOSED")
    assert isinstance(world.exchange.commands[-3], AmendOrder)


async def test_an_order_that_the_market_forgot_is_closed_and_not_unknown(world: World) -> None:
    ann, bob = await world.person(), await world.person("bob@campus.example")
    order = await ann.placed("buy", "3.000", "1")
    path = f"/api/v1/orders/{order['order_id']}"
    await ann.call("DELETE", path)
    world.exchange.books[1].closed.clear()

    assert (await ann.call("DELETE", path)).json()["code"] == "ORDER_CLOSED"
    assert (await bob.call("DELETE", path)).json()["code"] == "NOT_FOUND"
    assert (await ann.get(path)).json()["end_reason"] == "cancelled_by_owner"


async def test_cancel_all_counts_what_it_cancelled(world: World) -> None:
    ann = await world.person()
    for _ in range(3):
        await ann.placed("buy", "3.000", "1")

    answer = await ann.call("DELETE", "/api/v1/orders", params={"market": "Z1-SPOT"})

    assert answer.json() == {"cancelled": 3}


async def test_a_batch_keeps_its_order_and_one_bad_order_harms_nobody(world: World) -> None:
    ann = await world.person()
    old = await ann.placed("buy", "3.000", "1")
    good = {"market": "Z1-SPOT", "side": "buy", "type": "limit", "price": "3.000", "quantity": "1"}
    batch = {"orders": [good, good | {"price": 3}, good | {"price": "90"}], "cancels": [old["order_id"], "9-9", "x"]}

    answer = await ann.post("/api/v1/orders/batch", batch)

    results = answer.json()["results"]
    assert answer.status_code == 200
    assert [one.get("status") if "order_id" in one else one["code"] for one in results] == [
        "open",
        "VALIDATION_FAILED",
        "PRICE_OUTSIDE_CORRIDOR",
        "cancelled",
        "NOT_FOUND",
        "VALIDATION_FAILED",
    ]


async def test_a_batch_of_more_than_a_thousand_is_refused(world: World) -> None:
    ann = await world.person()

    answer = await ann.post("/api/v1/orders/batch", {"cancels": ["1-1"] * 600, "orders": [{}] * 401})

    assert (answer.status_code, answer.json()["code"]) == (400, "VALIDATION_FAILED")


async def test_lists_page_through_everything_once_and_newest_first(world: World) -> None:
    ann = await world.person()
    ids = [(await ann.placed("buy", "3.000", "1"))["order_id"] for _ in range(5)]

    seen, cursor = [], None
    while True:
        params = {"limit": 2, "status": "open"} | ({"cursor": cursor} if cursor else {})
        page = (await ann.get("/api/v1/orders", **params)).json()
        seen += [one["order_id"] for one in page["items"]]
        cursor = page["next"]
        if cursor is None:
            break

    assert seen == ids[::-1]
    assert (await ann.get("/api/v1/orders", cursor="nonsense")).json()["fields"] == {"cursor": "is none of ours"}
    assert (await ann.get("/api/v1/orders", limit=0)).status_code == 400
    assert (await ann.get("/api/v1/orders", status="odd")).status_code == 400


async def test_energy_that_another_market_holds_is_fetched_back_once(world: World) -> None:
    world.exchange.add(spot("OTHER"))
    ann = await world.person()
    order = await ann.placed("buy", "10.000", "90", market="OTHER")
    await ann.call("DELETE", f"/api/v1/orders/{order['order_id']}")

    answer = await ann.order("buy", "10.000", "95")

    assert answer.status_code == 201, answer.text
    assert [c for c in world.exchange.commands if isinstance(c, Defund)] == [Defund(ann.user_id)]


async def test_the_dead_man_switch_cancels_in_every_market(world: World) -> None:
    world.exchange.add(spot("OTHER"))
    ann = await world.person()
    await ann.placed("buy", "3.000", "1")
    await ann.placed("buy", "3.000", "1", market="OTHER")

    answer = await ann.post("/api/v1/users/me/cancel-all-after", {"seconds": 5})
    world.clock.pass_seconds(6)
    world.exchange.tick()

    assert answer.status_code == 200
    statuses = [one["end_reason"] for one in (await ann.get("/api/v1/orders")).json()["items"]]
    assert statuses == ["dead_man", "dead_man"]
    assert (await ann.post("/api/v1/users/me/cancel-all-after", {"seconds": 0})).json() == {"cancel_at": None}


async def test_reads_wait_for_ones_own_writes_and_say_when_they_lag(world: World) -> None:
    ann = await world.person()
    await ann.placed("buy", "3.000", "1")
    fresh = await ann.get("/api/v1/balances")
    world.exchange.lag = True
    world.gateway.barrier._projected.clear()

    answers = await asyncio.gather(*(ann.get("/api/v1/balances") for _ in range(20)))

    assert "x-projection-lag" not in fresh.headers
    assert {one.headers.get("x-projection-lag") for one in answers} == {"1"}
    assert world.history.polls < 100  # twenty readers share one poller


@pytest.mark.parametrize(
    "path", ["/orders/1-999", "/orders/by-client-id/mine?market=Z1-SPOT", "/trades/1-1/settlement"]
)
async def test_nobody_is_told_that_something_does_not_exist_while_history_is_behind(world: World, path: str) -> None:
    ann = await world.person()
    await ann.placed("buy", "3.000", "1")
    missing = await ann.call("GET", f"/api/v1{path}")
    world.exchange.lag = True
    world.gateway.barrier._projected.clear()

    behind = await ann.call("GET", f"/api/v1{path}")

    assert (missing.status_code, missing.json()["code"]) == (404, "NOT_FOUND")
    assert (behind.status_code, behind.json()["code"], behind.json()["retryable"]) == (503, "UNAVAILABLE", True)
    assert behind.headers["x-projection-lag"] == "1"


async def test_reads_that_must_wait_have_the_followers_told(world: World) -> None:
    ann = await world.person()
    world.exchange.lag = True
    placed = await ann.placed("buy", "3.000", "1")

    await asyncio.gather(*(ann.get("/api/v1/balances") for _ in range(20)))

    assert world.exchange.awaited == [placed["sequence"]], "once for all of them"


async def test_a_balance_is_available_plus_free_plus_reserved(world: World) -> None:
    ann = await world.person()
    await ann.placed("buy", "3.000", "10")

    money = next(one for one in (await ann.get("/api/v1/balances")).json()["items"] if one["asset"] == "THB")

    assert money == {
        "asset": "THB",
        "available": "970.00",
        "free_in_markets": "0.00",
        "reserved": "30.00",
        "total": "1000.00",
    }


@pytest.mark.parametrize("word", ["null", "NULL", "Null", "n%75ll"])
async def test_the_word_null_is_not_taken_for_nothing(world: World, word: str) -> None:
    ann = await world.person()
    await ann.placed("buy", "3.000", "1")

    cancelled = await ann.call("DELETE", f"/api/v1/orders?market={word}")

    assert (cancelled.status_code, list(cancelled.json()["fields"])) == (400, ["market"])
    assert len((await ann.get("/api/v1/orders", status="open")).json()["items"]) == 1
