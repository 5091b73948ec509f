"""Orders and what becomes of them, through HTTP."""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from threading import Event
from time import monotonic
from typing import Any

from tests.support.installation import Installation, Person
from tests.support.patience import HUNG_SECONDS

# In CAMPUS an ask of 3.000 lands at 3.000 + 0.500 wheeling + 1 % loss = 3.530; takers pay 10 bps.
ASK, LANDED = "3.000", "3.530"
ZERO = Decimal(0)


def test_a_trade_is_seen_by_both_sides_to_the_micro(seller: Person, buyer: Person) -> None:
    sold, bought = seller.balances(), buyer.balances()

    ask = seller.place("sell", ASK, "2.000")
    bid = buyer.place("buy", "4.000", "1.250", client_order_id="first-buy")

    assert ask["status"] == "open"
    assert (bid["status"], bid["end_reason"], bid["average_price"]) == ("filled", "filled", LANDED)
    (fill,) = bid["fills"]
    assert (fill["price"], fill["quantity"], fill["liquidity"]) == (LANDED, "1.250", "taker")
    assert Decimal(fill["value"]) == Decimal(LANDED) * Decimal("1.250")
    own = seller.call("GET", f"/orders/{ask['order_id']}")
    assert (own["status"], own["remaining_quantity"]) == ("partially_filled", "0.750")
    assert own["fills"][0]["trade_id"] == fill["trade_id"]
    assert own["fills"][0]["price"] == ASK
    paid = Decimal(fill["value"]) + Decimal(fill["fee"])
    assert seller.balances()["THB"]["total"] - sold["THB"]["total"] == Decimal("3.75")
    assert buyer.balances()["THB"]["total"] - bought["THB"]["total"] == -paid
    assert buyer.balances()["energy:Z1"]["total"] - bought["energy:Z1"]["total"] == Decimal("1.25")
    assert sold["energy:Z1"]["total"] - seller.balances()["energy:Z1"]["total"] == Decimal("1.25")
    assert seller.call("GET", "/fills?market=CAMPUS&limit=1")["items"][0]["trade_id"] == fill["trade_id"]
    assert buyer.call("GET", "/markets/CAMPUS/trades?limit=1")["items"][0]["trade_id"] == fill["trade_id"]
    assert buyer.call("GET", "/orders/by-client-id/first-buy?market=CAMPUS")["order_id"] == bid["order_id"]


def test_money_and_energy_add_up_at_every_moment(seller: Person, buyer: Person, admin: Person) -> None:
    """The trial balance is one snapshot; balances are looked at while orders fly."""
    over = Event()
    before, owned = _trial(admin), _owned(seller, buyer)

    def trade(person: Person, side: str, seed: int) -> None:
        chance = random.Random(seed)
        resting: list[str] = []
        for _ in range(60):
            if resting and chance.random() < 0.3:
                person.ask("DELETE", f"/orders/{resting.pop()}")
            else:
                price = Decimal(chance.randrange(2_900, 3_100)) / 1_000 + (Decimal("0.53") if side == "buy" else 0)
                order = person.place(side, f"{price:.3f}", f"{chance.randrange(1, 2_000) / 1_000:.3f}")
                if order["status"] in ("open", "partially_filled"):
                    resting.append(order["order_id"])

    def look(person: Person) -> int:
        looks = 0
        while not over.is_set():
            for asset, balance in person.balances().items():
                parts = balance["available"], balance["free_in_markets"], balance["reserved"]
                assert sum(parts) == balance["total"], asset
                assert min(parts) >= 0, asset
            looks += 1
        return looks

    def weigh() -> int:
        looks = 0
        while not over.is_set():
            assert _held(_trial(admin)) == _held(before)
            looks += 1
        return looks

    with ThreadPoolExecutor(8) as threads:
        watching = [threads.submit(look, seller), threads.submit(look, buyer), threads.submit(weigh)]
        try:
            for work in [threads.submit(trade, seller, "sell", 1), threads.submit(trade, buyer, "buy", 2)]:
                work.result(timeout=HUNG_SECONDS)
        finally:
            over.set()
        looks = [watch.result(timeout=HUNG_SECONDS) for watch in watching]

    assert min(looks) >= 3, looks
    fills = buyer.call("GET", "/fills?market=CAMPUS&limit=1000")["items"]
    assert len(fills) > 10
    after = _trial(admin)
    for asset, amount in _owned(seller, buyer).items():
        taken = sum(after[asset].get(kind, ZERO) - before[asset].get(kind, ZERO) for kind in ("fees", "grid"))
        assert amount + taken == owned[asset], asset
    assert after["THB"]["fees"] > before["THB"]["fees"]


def test_a_batch_gives_each_order_its_own_outcome(seller: Person) -> None:
    old = seller.place("sell", "8.000", "1.000")["order_id"]
    order = {"market": "CAMPUS", "side": "sell", "type": "limit", "price": "8.100", "quantity": "0.500"}
    orders = [order, {**order, "price": "8.1005"}, {**order, "quantity": "oops"}, {**order, "market": "NOWHERE"}]

    results = seller.call("POST", "/orders/batch", {"orders": orders, "cancels": [old, "1-999999999"]})["results"]

    assert results[0]["status"] == "open"
    assert [one["code"] for one in results[1:4]] == ["PRICE_OFF_TICK", "VALIDATION_FAILED", "NOT_FOUND"]
    assert (results[4]["order_id"], results[4]["end_reason"]) == (old, "cancelled_by_owner")
    assert results[5]["code"] == "NOT_FOUND"


def test_a_cancelled_order_stays_cancelled_and_releases_what_it_reserved(seller: Person) -> None:
    before = seller.balances()["energy:Z1"]
    order_id = seller.place("sell", "8.000", "5.000")["order_id"]
    assert seller.balances()["energy:Z1"]["reserved"] == before["reserved"] + 5

    cancelled = seller.call("DELETE", f"/orders/{order_id}")

    assert (cancelled["status"], cancelled["end_reason"]) == ("cancelled", "cancelled_by_owner")
    assert seller.balances()["energy:Z1"]["reserved"] == before["reserved"]
    assert seller.refused("DELETE", f"/orders/{order_id}") == "ORDER_CLOSED"
    assert seller.call("GET", f"/orders/{order_id}")["status"] == "cancelled"


def test_less_quantity_keeps_the_place_and_a_new_price_loses_it(
    installation: Installation, seller: Person, buyer: Person
) -> None:
    other = installation.person().register(energy_Z1="10")
    first, second = seller.place("sell", ASK, "2.000"), other.place("sell", ASK, "1.000")

    seller.call("PATCH", f"/orders/{first['order_id']}", {"quantity": "1.000"})
    assert buyer.place("buy", "4.000", "0.500")["status"] == "filled"
    assert _filled(seller, first) == "0.500"

    seller.call("PATCH", f"/orders/{first['order_id']}", {"price": "3.001"})
    seller.call("PATCH", f"/orders/{first['order_id']}", {"price": ASK})
    assert buyer.place("buy", "4.000", "0.250")["status"] == "filled"
    assert (_filled(seller, first), _filled(other, second)) == ("0.500", "0.250")


def test_times_in_force_end_orders_as_they_say(seller: Person, buyer: Person) -> None:
    seller.place("sell", ASK, "1.000")

    fok = buyer.place("buy", "4.000", "1.001", time_in_force="fok")
    post = buyer.place("buy", "4.000", "0.100", post_only=True)
    ioc = buyer.place("buy", "4.000", "1.500", time_in_force="ioc")

    assert (fok["status"], fok["end_reason"], fok["fills"]) == ("cancelled", "fok_unfillable", [])
    assert (post["status"], post["end_reason"], post["fills"]) == ("cancelled", "post_only_would_trade", [])
    assert (ioc["status"], ioc["end_reason"], ioc["filled_quantity"]) == ("cancelled", "ioc_remainder", "1.000")
    assert buyer.call("GET", "/markets/CAMPUS/book")["bids"] == []


def test_a_repeated_client_order_id_gives_the_first_order(seller: Person) -> None:
    first = seller.place("sell", "8.000", "1.000", client_order_id="once")
    again = seller.place("sell", "8.000", "1.000", client_order_id="once")

    assert (again["order_id"], first["repeated"], again["repeated"]) == (first["order_id"], False, True)
    changed = {"market": "CAMPUS", "side": "sell", "type": "limit", "price": "8.001", "quantity": "1.000"}
    assert seller.refused("POST", "/orders", {**changed, "client_order_id": "once"}) == "CLIENT_ORDER_ID_REUSED"
    assert len(seller.call("GET", "/orders?market=CAMPUS&status=open")["items"]) == 1


def test_an_order_expires_by_itself_in_a_quiet_market(seller: Person) -> None:
    at = datetime.now(UTC) + timedelta(seconds=1)
    order = seller.place("sell", "8.000", "1.000", time_in_force="gtd", expires_at=at.isoformat())
    assert order["status"] == "open"

    _until(lambda: seller.call("GET", f"/orders/{order['order_id']}")["status"] == "expired", 15)

    expired = seller.call("GET", f"/orders/{order['order_id']}")
    assert expired["end_reason"] == "expired"
    late = datetime.fromisoformat(expired["updated_at"]) - datetime.fromisoformat(expired["expires_at"])
    print(f"expired {late.total_seconds():.3f} s after its instant")
    assert seller.balances()["energy:Z1"]["reserved"] == 0


def test_nobody_spends_what_he_does_not_have(installation: Installation, quiet: None) -> None:
    person = installation.person().register(THB="10", energy_Z1="1")

    refusals = [
        person.refused("POST", "/orders", {**_ORDER, "side": "buy", "price": "4.000", "quantity": "2.500"}),
        person.refused("POST", "/orders", {**_ORDER, "side": "sell", "price": "4.000", "quantity": "1.001"}),
    ]
    both = [person.ask("POST", "/orders", {**_ORDER, "side": "sell", "market": m}) for m in ("CAMPUS", "RIVERSIDE")]

    assert refusals == ["INSUFFICIENT_FUNDS", "INSUFFICIENT_ENERGY"]
    assert sorted(answer.status_code for answer in both) == [201, 422]


_ORDER = {"market": "CAMPUS", "type": "limit", "price": "4.000", "quantity": "0.600"}


def _filled(person: Person, order: dict[str, Any]) -> str:
    return str(person.call("GET", f"/orders/{order['order_id']}")["filled_quantity"])


def _trial(admin: Person) -> dict[str, dict[str, Decimal]]:
    """The trial balance, of which every asset must sum to zero."""
    trial = {}
    for line in admin.call("GET", "/admin/ledger/trial-balance")["items"]:
        trial[line["asset"]] = {kind: Decimal(amount) for kind, amount in line["accounts"].items()}
        assert sum(trial[line["asset"]].values()) == Decimal(line["sum"]) == 0, line
    return trial


def _held(trial: dict[str, dict[str, Decimal]]) -> dict[str, Decimal]:
    """Of each asset, all that participants, fees and grid have."""
    return {
        asset: sum((amount for kind, amount in kinds.items() if kind not in ("issuance", "generation")), ZERO)
        for asset, kinds in trial.items()
    }


def _owned(*people: Person) -> dict[str, Decimal]:
    owned: dict[str, Decimal] = {}
    for person in people:
        for asset, balance in person.balances().items():
            owned[asset] = owned.get(asset, ZERO) + balance["total"]
    return owned


def _until(holds: Any, seconds: float) -> None:
    deadline = monotonic() + seconds
    while not holds():
        assert monotonic() < deadline, f"not so after {seconds} s"
        time.sleep(0.05)
