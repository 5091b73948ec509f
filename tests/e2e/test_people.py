"""Registration, login and what a login is good for."""

import httpx
from solders.keypair import Keypair

from tests.support.installation import Installation, Person
from tests.support.patience import HUNG_SECONDS


def test_a_stranger_becomes_a_student_with_an_account(installation: Installation) -> None:
    person = installation.person("New.Student@Example.org").register()

    me = person.call("GET", "/users/me")

    assert me["email"] == "new.student@example.org"
    assert (me["role"], me["zone"], me["status"]) == ("student", "Z1", "active")
    assert isinstance(me["id"], str)


def test_a_role_cannot_be_asked_for(installation: Installation) -> None:
    body = {"email": "climber@example.org", "password": "marble-thicket-oboe-41", "name": "C", "role": "admin"}

    assert installation.person().refused("POST", "/auth/register", body) == "VALIDATION_FAILED"


def test_a_refresh_token_works_once_and_its_second_use_ends_the_family(installation: Installation) -> None:
    person = installation.person().register()
    first = {"refresh_token": person.refresh_token}

    session = person.call("POST", "/auth/refresh", first)
    person.use(session)
    assert person.call("GET", "/users/me")["email"] == person.email

    assert person.refused("POST", "/auth/refresh", first) == "UNAUTHENTICATED"
    assert person.refused("POST", "/auth/refresh", {"refresh_token": session["refresh_token"]}) == "UNAUTHENTICATED"


def test_a_wrong_password_and_a_missing_account_get_the_same_answer(installation: Installation, admin: Person) -> None:
    person = installation.person()

    wrong = person.ask("POST", "/auth/login", {"email": admin.email, "password": "not-the-password-1"})
    missing = person.ask("POST", "/auth/login", {"email": "nobody@example.org", "password": "not-the-password-1"})

    assert wrong.status_code == missing.status_code == 401
    assert wrong.json()["detail"] == missing.json()["detail"]


def test_others_orders_are_not_there_and_admin_routes_are_forbidden(seller: Person, buyer: Person) -> None:
    order_id = seller.place("sell", "9.000", "1.000")["order_id"]

    assert buyer.refused("GET", f"/orders/{order_id}") == "NOT_FOUND"
    assert buyer.refused("DELETE", f"/orders/{order_id}") == "NOT_FOUND"
    assert buyer.refused("GET", "/admin/ledger/trial-balance") == "FORBIDDEN"
    assert buyer.refused("POST", "/markets/CAMPUS/halt") == "FORBIDDEN"


def test_an_address_is_linked_by_a_signature_and_belongs_to_one(installation: Installation) -> None:
    person, other, key = installation.person().register(), installation.person().register(), Keypair()
    address = str(key.pubkey())

    asked = person.call("POST", "/users/me/wallets/challenge", {"address": address})
    body = {"address": address, "signature": str(key.sign_message(asked["challenge"].encode()))}
    assert f"Site: {installation.url}" in asked["challenge"]
    assert other.refused("POST", "/users/me/wallets", body) == "BAD_SIGNATURE"
    wallet = person.call("POST", "/users/me/wallets", body)

    assert (wallet["address"], wallet["kind"], wallet["primary"]) == (address, "linked", True)
    assert person.call("GET", "/users/me/wallets")["items"] == [wallet]
    assert person.refused("POST", "/users/me/wallets", body) == "BAD_SIGNATURE"
    asked = other.call("POST", "/users/me/wallets/challenge", {"address": address})
    body["signature"] = str(key.sign_message(asked["challenge"].encode()))
    assert other.refused("POST", "/users/me/wallets", body) == "CONFLICT"
    assert other.refused("DELETE", f"/users/me/wallets/{address}") == "NOT_FOUND"


def test_a_program_trades_with_a_key_until_it_is_revoked(installation: Installation, seller: Person) -> None:
    made = seller.call("POST", "/users/me/api-keys", {"name": "bot", "scopes": ["trade"]})
    order = {"market": "CAMPUS", "side": "sell", "type": "limit", "price": "9.000", "quantity": "1.000"}
    bot = httpx.Client(
        base_url=installation.url + "/api/v1", headers={"X-API-Key": made["secret"]}, timeout=HUNG_SECONDS
    )

    placed = bot.post("/orders", json=order)
    refused = bot.get("/users/me/sessions")
    seller.call("DELETE", f"/users/me/api-keys/{made['id']}")
    gone = bot.post("/orders", json=order)
    bot.close()

    assert (placed.status_code, refused.status_code, gone.status_code) == (201, 403, 401)
    assert made["secret"] not in "".join(path.read_text() for path in (installation.data_dir / "logs").glob("*.log"))
