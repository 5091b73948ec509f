"""What an admin does to markets, and the grid between zones."""

import time
from time import monotonic
from typing import Any

import httpx

from tests.support.installation import Installation, Person
from tests.support.patience import HUNG_SECONDS


def test_a_market_made_over_the_api_trades(
    installation: Installation, admin: Person, seller: Person, buyer: Person
) -> None:
    began = monotonic()
    made = admin.call("POST", "/markets", {"symbol": "DORM", "zones": ["Z1"], "band_bps": 0, "taker_fee_bps": 10})
    assert (made["symbol"], made["mechanism"]) == ("DORM", "continuous")

    order = {"market": "DORM", "side": "sell", "type": "limit", "price": "3.000", "quantity": "1.000"}
    answer = seller.ask("POST", "/orders", {**order, "client_order_id": "dorm-1"})
    while answer.status_code != httpx.codes.CREATED:
        assert answer.status_code in (404, 503), answer.text
        assert monotonic() - began < HUNG_SECONDS, answer.text
        time.sleep(0.1)
        answer = seller.ask("POST", "/orders", {**order, "client_order_id": "dorm-1"})
    assert buyer.place("buy", "4.000", "1.000", "DORM")["status"] == "filled"

    print(f"the new market traded after {monotonic() - began:.1f} s")
    assert installation.ready()
    assert admin.refused("POST", "/markets", {"symbol": "DORM", "zones": ["Z1"]}) == "CONFLICT"


def test_a_halted_market_takes_cancels_and_no_orders_until_it_resumes(admin: Person, seller: Person) -> None:
    order = seller.place("sell", "8.000", "1.000")
    other = seller.place("sell", "8.001", "1.000")
    try:
        assert admin.call("POST", "/markets/CAMPUS/halt")["phase"] == "halted"
        body = {"market": "CAMPUS", "side": "sell", "type": "limit", "price": "8.000", "quantity": "1.000"}
        assert seller.refused("POST", "/orders", body) == "MARKET_NOT_OPEN"
        assert seller.call("DELETE", f"/orders/{order['order_id']}")["status"] == "cancelled"
        assert seller.call("GET", f"/orders/{other['order_id']}")["status"] == "open"
    finally:
        assert admin.call("POST", "/markets/CAMPUS/resume")["phase"] == "open"
    assert seller.place("sell", "8.000", "1.000")["status"] == "open"


def test_prices_land_in_the_zone_from_which_they_are_seen(
    installation: Installation, admin: Person, seller: Person
) -> None:
    """Z1 to Z2 costs 1.00 and 300 bps, Z1 to Z3 1.70 and 500 bps, within a zone 0.50 and 100 bps."""
    far = installation.person().register(THB="100", energy_Z3="10")
    admin.call("PATCH", f"/admin/users/{far.user_id}", {"zone": "Z3"})
    seller.place("sell", "3.000", "2.000", "RIVERSIDE")

    seen = {
        zone: seller.call("GET", f"/markets/RIVERSIDE/book{zone and '?zone=' + zone}")["asks"]
        for zone in ("", "Z1", "Z2", "Z3")
    }
    bid = _bought_from(far)

    assert seen == {
        "": [["3.000", "2.000", 1]],
        "Z1": [["3.530", "2.000", 1]],
        "Z2": [["4.090", "2.000", 1]],
        "Z3": [["4.850", "2.000", 1]],
    }
    assert (bid["zone"], bid["fills"][0]["price"], bid["filled_quantity"]) == ("Z3", "4.850", "1.000")
    assert far.balances()["energy:Z3"]["total"] == 11
    trade = far.call("GET", "/markets/RIVERSIDE/trades?limit=1")["items"][0]
    assert (trade["price"], trade["seller_zone"], trade["buyer_zone"]) == ("3.000", "Z1", "Z3")
    assert far.refused("POST", "/orders", {**_IN_Z1, "zone": "Z1"}) in ("FORBIDDEN", "VALIDATION_FAILED")


_IN_Z1 = {"market": "RIVERSIDE", "side": "buy", "type": "limit", "price": "4.000", "quantity": "1.000"}


def _bought_from(person: Person) -> dict[str, Any]:
    """The band around 3.500 ends at 4.200, so a market order with a maximum price reaches what a limit may not."""
    answer = person.ask(
        "POST",
        "/orders",
        {"market": "RIVERSIDE", "side": "buy", "type": "market", "quantity": "1.000", "max_price": "4.850"},
    )
    assert answer.status_code == httpx.codes.CREATED, answer.text
    bid: dict[str, Any] = answer.json()
    return bid
