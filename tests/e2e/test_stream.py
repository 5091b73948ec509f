"""Order entry and data over one WebSocket, by a client of its own."""

import random
from decimal import Decimal
from typing import Any

import pytest

from tests.e2e.sockets import Book, Socket
from tests.support.installation import Installation, Person


@pytest.mark.parametrize("binary", [False, True], ids=["json", "msgpack"])
def test_orders_and_own_channels_on_one_connection(
    installation: Installation, seller: Person, buyer: Person, sockets: list[Socket], binary: bool
) -> None:
    socket = Socket(installation.url, binary=binary).login(seller.token)
    sockets.append(socket)
    assert socket.ask("subscribe", channels=["orders", "fills", "balances"])["ok"]
    order = {"market": "CAMPUS", "side": "sell", "type": "limit", "price": "3.000", "quantity": "1.000"}

    placed = socket.ask("place", order=order)["order"]
    assert socket.on("orders", "update")["order"]["order_id"] == placed["order_id"]
    amended = socket.ask("amend", order_id=placed["order_id"], quantity="0.800")["order"]
    assert (amended["quantity"], amended["status"]) == ("0.800", "open")
    assert socket.on("orders", "update")["order"]["quantity"] == "0.800"
    bought = buyer.place("buy", "4.000", "0.300")

    fill = socket.on("fills", "update")["fills"][0]
    update = socket.on("orders", "update")["order"]
    assert (fill["trade_id"], fill["quantity"]) == (bought["fills"][0]["trade_id"], "0.300")
    assert (update["status"], update["remaining_quantity"]) == ("partially_filled", "0.500")

    def reserved(message: Any) -> bool:
        items = message.get("items", []) if message.get("channel") == "balances" else []
        return any(one["asset"] == "energy:Z1" and Decimal(one["reserved"]) == Decimal("0.5") for one in items)

    socket.until(reserved)
    assert socket.ask("cancel", order_id=placed["order_id"])["order"]["status"] == "cancelled"
    assert socket.ask("cancel", order_id=placed["order_id"])["error"]["code"] == "ORDER_CLOSED"
    assert socket.ask("ping")["op"] == "pong"


def test_compact_orders_are_answered_compactly(
    installation: Installation, seller: Person, buyer: Person, sockets: list[Socket]
) -> None:
    first, second = (Socket(installation.url, binary=True).login(one.token) for one in (seller, buyer))
    sockets += [first, second]

    asked = first.compact("CAMPUS", 1, 3_000_000, 2_000, "compact-ask", 0)
    bought = second.compact("CAMPUS", 0, 4_000_000, 500, "", 2)
    refused = second.compact("CAMPUS", 0, 4_000_500, 500, "", 0)

    assert (asked[0], asked[3], asked[5]) == ("a", "open", 0)
    assert (bought[0], bought[3], bought[5]) == ("a", "filled", 500)
    assert bought[4] > asked[4]
    assert refused[0::2][:2] == ["e", "PRICE_OFF_TICK"]
    assert seller.call("GET", f"/orders/{asked[2]}")["client_order_id"] == "compact-ask"
    repeated = first.compact("CAMPUS", 1, 3_000_000, 2_000, "compact-ask", 0)
    assert repeated[2] == asked[2]


def test_the_book_feed_is_contiguous_and_its_checksum_can_be_recomputed(
    installation: Installation, seller: Person, buyer: Person, sockets: list[Socket]
) -> None:
    watching = Socket(installation.url)
    sockets.append(watching)
    watching.ask("subscribe", channels=["book", "trades", "ticker"], market="CAMPUS")
    book = Book()
    book.take(watching.on("book", "snapshot"))
    chance, last = random.Random(5), 0
    resting: list[list[str]] = []
    for round_ in range(8):
        for person, side, low in ((seller, "sell", 2_950), (buyer, "buy", 3_430)):
            orders = [
                {
                    "market": "CAMPUS",
                    "side": side,
                    "type": "limit",
                    "price": f"{chance.randrange(low, low + 120) / 1_000:.3f}",
                    "quantity": f"{chance.randrange(1, 900) / 1_000:.3f}",
                }
                for _ in range(12)
            ]
            cancels = resting.pop(0) if round_ > 3 else []
            results = person.call("POST", "/orders/batch", {"orders": orders, "cancels": cancels})["results"]
            open_ = [one["order_id"] for one in results if one.get("status") in ("open", "partially_filled")]
            resting.append(open_)
            last = max(last, *(one["sequence"] for one in results if "sequence" in one))
    while book.sequence < last:
        book.take(watching.on("book", "delta"))

    shown = seller.call("GET", "/markets/CAMPUS/book?depth=1000")
    assert shown["sequence"] >= book.sequence
    while book.sequence < shown["sequence"] and _levels(shown["bids"]) != book.bids:
        book.take(watching.on("book", "delta"))
    assert (_levels(shown["bids"]), _levels(shown["asks"])) == (book.bids, book.asks)
    assert shown["checksum"] == book.checksum()
    assert book.deltas > 20
    assert watching.on("trades")["trades"]
    assert watching.on("ticker")["phase"] == "open"


def test_the_dead_man_switch_cancels_when_nobody_calls(
    installation: Installation, seller: Person, sockets: list[Socket]
) -> None:
    socket = Socket(installation.url).login(seller.token)
    sockets.append(socket)
    socket.ask("subscribe", channel="orders")
    order_id = seller.place("sell", "8.000", "1.000")["order_id"]

    assert socket.ask("cancel_all_after", seconds=1)["cancel_at"]

    def ended(message: Any) -> bool:
        order = message.get("order", {})
        return bool(order.get("order_id") == order_id and order["status"] == "cancelled")

    assert socket.until(ended)["order"]["end_reason"] == "dead_man"
    assert seller.call("POST", "/users/me/cancel-all-after", {"seconds": 0}) == {"cancel_at": None}
    assert seller.place("sell", "8.000", "1.000")["status"] == "open"


def test_own_channels_and_orders_need_a_login(installation: Installation, sockets: list[Socket]) -> None:
    socket = Socket(installation.url)
    sockets.append(socket)

    assert socket.ask("subscribe", channel="orders")["error"]["code"] == "UNAUTHENTICATED"
    assert socket.ask("cancel_all")["error"]["code"] == "UNAUTHENTICATED"
    assert socket.ask("subscribe", channel="ticker", market="CAMPUS")["ok"]


def _levels(shown: list[list[Any]]) -> dict[Decimal, str]:
    return {Decimal(price): quantity for price, quantity, _ in shown}
