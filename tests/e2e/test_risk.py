"""Risk, stops, recurring orders, alerts and makers, through the front door of a running exchange."""

from tests.e2e.sockets import Socket
from tests.support.installation import Installation, Person
from tests.support.patience import until


def test_limits_and_the_kill_switch_hold_also_after_a_crash_of_the_market(
    installation: Installation, admin: Person, quiet: None
) -> None:
    ann = installation.person().register(THB="1000", energy_Z1="100")
    item = {"market": "CAMPUS", "max_quantity": "2.000", "max_open_orders": 2}
    admin.call("PUT", f"/risk/limits/{ann.user_id}", {"items": [item]})
    body = {"market": "CAMPUS", "side": "sell", "type": "limit", "price": "4.000", "quantity": "2.001"}
    assert ann.refused("POST", "/orders", body) == "RISK_LIMIT"
    order = ann.place("sell", "4.000", "2.000")

    installation.market_process("CAMPUS").kill()
    killed = admin.call("POST", f"/admin/users/{ann.user_id}/kill", {"reason": "a test"})

    assert killed["blocked"]
    ended = until(lambda: ann.call("GET", f"/orders/{order['order_id']}"), lambda one: one["end_reason"] == "risk")
    assert ended["status"] == "cancelled"
    refused = {**body, "quantity": "1.000"}
    assert until(lambda: ann.ask("POST", "/orders", refused).status_code, lambda code: code != 503) == 422
    assert ann.call("GET", "/risk/limits")["blocked"]
    admin.call("DELETE", f"/admin/users/{ann.user_id}/kill")
    assert ann.place("sell", "4.000", "1.000")["status"] == "open"
    actions = [row["action"] for row in admin.call("GET", f"/admin/audit?subject=user:{ann.user_id}")["items"]]
    assert {"risk.limits_changed", "risk.blocked", "risk.released"} <= set(actions)
    ann.call("DELETE", "/orders")


def test_a_stop_order_outlives_its_market_and_is_triggered_once(
    installation: Installation, seller: Person, buyer: Person, sockets: list[Socket]
) -> None:
    ann = installation.person().register(THB="1000")
    last = seller.place("sell", "3.600", "0.100")
    assert buyer.place("buy", "4.200", "0.100")["status"] == "filled"
    body = {"market": "CAMPUS", "side": "buy", "type": "stop_limit", "quantity": "1.000", "price": "4.100"}
    stop = ann.call("POST", "/orders", {**body, "stop_price": "3.620"})
    assert (stop["status"], stop["triggered"]) == ("open", False)
    installation.market_process("CAMPUS").kill()
    path = f"/orders/{stop['order_id']}"
    until(lambda: ann.ask("GET", path).status_code, lambda code: code == 200)
    installation.until_ready()
    sockets.append(socket := Socket(installation.url).login(ann.login().token))
    alert = socket.ask("alert", market="CAMPUS", price="3.620", when="at_or_above")
    assert alert["ok"], alert["error"]["detail"]

    seller.place("sell", "3.620", "0.100")
    assert buyer.place("buy", "4.200", "0.100")["status"] == "filled"

    shown = until(lambda: ann.call("GET", path), lambda one: one["triggered"])
    assert (shown["status"], shown["remaining_quantity"]) == ("open", "1.000")
    assert socket.on("alerts")["alert_id"] == alert["alert_id"]
    assert ann.call("DELETE", path)["end_reason"] == "cancelled_by_owner"
    assert last["price"] == "3.600"


def test_the_exchange_places_recurring_orders_and_measures_makers(
    installation: Installation, admin: Person, quiet: None
) -> None:
    ann = installation.person().register(THB="1000")
    body = {"market": "CAMPUS", "side": "buy", "quantity": "0.500", "price": "3.000", "every_seconds": 60, "count": 1}
    rule = ann.call("POST", "/recurring-orders", body)

    orders = until(lambda: ann.call("GET", "/orders?status=open")["items"], bool)

    assert [one["client_order_id"] for one in orders] == [f"recurring:{rule['recurring_id']}:0"]
    done = until(lambda: ann.call("GET", f"/recurring-orders/{rule['recurring_id']}"), lambda one: one["placed"] == 1)
    assert (done["active"], done["last_refusal"]) == (False, None)
    terms = {"max_spread_bps": 500, "min_quantity": "1", "min_presence_bps": 9_000, "rebate_bps": 5}
    admin.call("PUT", f"/markets/CAMPUS/makers/{ann.user_id}", terms)
    assert admin.call("GET", "/markets/CAMPUS/makers")["items"][0]["user_id"] == ann.user_id
    assert ann.call("GET", "/analytics/market-makers")["items"] == []
    admin.call("DELETE", f"/markets/CAMPUS/makers/{ann.user_id}")
    ann.call("DELETE", "/orders")
