"""Writes with an Idempotency-Key happen once, and a repeat hears what the first one heard.

Seen to fail for: a key that any caller's repeat finds, a fingerprint without the query, an answer that is not
stored, a claim given back when the handler fails, a curable refusal kept, a secret route that is not excluded.
"""

import asyncio
from typing import Any

import msgspec
import pytest

from engine.records import FirstAnswer
from engine.units import SECOND_US
from gateway import repeats
from gateway.permissions import ROUTES
from gateway.repeats import JOURNALED, SECRET
from tests.unit.gateway.conftest import Person, World

KEY = {"Idempotency-Key": "k-1"}
ME = "/api/v1/users/me"


async def rename(person: Person, name: str, key: dict[str, str] | None = None) -> Any:
    return await person.call("PATCH", ME, {"name": name}, headers=KEY if key is None else key)


async def test_a_repeat_gets_the_first_answer_and_nothing_happens_again(world: World) -> None:
    ann = await world.person()
    order = await ann.placed("buy", "3.000", "1")
    path = f"/api/v1/orders/{order['order_id']}"

    first, again = [await ann.call("DELETE", path, headers=KEY) for _ in range(2)]
    without = await ann.call("DELETE", path)

    assert (first.status_code, first.json()["status"]) == (200, "cancelled")
    assert (again.status_code, again.content) == (200, first.content)
    assert again.headers["content-type"] == first.headers["content-type"]
    assert again.headers.get_list("idempotent-replayed") == ["true"]
    assert "idempotent-replayed" not in first.headers
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    assert (without.status_code, without.json()["code"]) == (409, "ORDER_CLOSED")


async def test_a_refusal_is_an_answer_too(world: World) -> None:
    ann = await world.person()

    first, again = [await ann.call("DELETE", "/api/v1/orders/1-99", headers=KEY) for _ in range(2)]

    assert first.status_code == again.status_code == 404
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["content-type"] == "application/problem+json"


async def test_an_answer_without_a_body_comes_again_without_one(world: World) -> None:
    ann = await world.person()
    wallet = await ann.post("/api/v1/users/me/wallets", {"platform": True}, headers=KEY)
    again = await ann.post("/api/v1/users/me/wallets", {"platform": True}, headers=KEY)

    assert (again.status_code, again.json()) == (wallet.status_code, wallet.json())
    sessions = (await ann.get(ME + "/sessions")).json()["items"]
    assert len(sessions) == 1


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PATCH", ME, {"name": "Bea"}),
        ("PATCH", ME + "?x=1", {"name": "Ann"}),
        ("DELETE", "/api/v1/orders", None),
        ("POST", "/api/v1/users/me/cancel-all-after", {"seconds": 0}),
    ],
)
async def test_a_key_belongs_to_one_request(world: World, method: str, path: str, body: Any) -> None:
    ann = await world.person()
    await rename(ann, "Ann")

    other = await ann.call(method, path, body, headers=KEY)

    assert (other.status_code, other.json()["code"]) == (409, "CONFLICT")
    assert "retry-after" not in other.headers


async def test_a_key_belongs_to_one_caller(world: World) -> None:
    ann, bob = await world.person(), await world.person("bob@campus.example")
    await rename(ann, "Ann")

    answer = await rename(bob, "Bob")

    assert (answer.status_code, answer.json()["name"]) == (200, "Bob")


async def test_while_the_first_one_runs_the_second_is_told_to_wait(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, began, go = await world.person(), asyncio.Event(), asyncio.Event()
    update = world.people.update

    async def slow(*given: Any, **more: Any) -> Any:
        began.set()
        await go.wait()
        return await update(*given, **more)

    monkeypatch.setattr(world.people, "update", slow)
    running = asyncio.create_task(rename(ann, "Ann"))
    await began.wait()

    second = await rename(ann, "Ann")
    go.set()
    first = await running

    assert (second.status_code, second.json()["code"], second.headers["retry-after"]) == (409, "CONFLICT", "1")
    assert (first.status_code, (await rename(ann, "Ann")).content) == (200, first.content)


async def test_what_died_under_way_is_never_done_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ann = await world.person()
    world.build(request_seconds_max=0.05)
    calls = []

    async def stuck(*given: Any, **_: Any) -> Any:
        calls.append(given)
        await asyncio.Event().wait()

    monkeypatch.setattr(world.people, "update", stuck)

    first = await rename(ann, "Ann")
    soon = await rename(ann, "Ann")
    world.clock.now_us += 6 * SECOND_US
    later = await rename(ann, "Ann")

    assert (first.status_code, first.json()["code"]) == (503, "OUTCOME_UNKNOWN")
    assert (soon.status_code, soon.json()["code"]) == (409, "CONFLICT")
    assert (later.status_code, later.json()["code"]) == (503, "OUTCOME_UNKNOWN")
    assert "another key" in later.json()["detail"]
    assert len(calls) == 1


async def test_a_bug_leaves_the_outcome_unknown(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ann = await world.person()

    async def bug(*_: Any, **__: Any) -> Any:
        raise KeyError("half done")

    monkeypatch.setattr(world.people, "update", bug)

    assert (await rename(ann, "Ann")).status_code == 500
    assert (await rename(ann, "Ann")).json()["code"] == "CONFLICT"


async def test_what_repeating_may_cure_leaves_the_key_free(world: World) -> None:
    ann = await world.person()
    first = await ann.post("/api/v1/orders/batch", {"cancels": ["1-1"] * 6}, headers=KEY)
    world.build(orders_limit=type(world.settings.orders_limit)(0.001, 5))
    refused = await ann.post("/api/v1/orders/batch", {"cancels": ["1-2"] * 6}, headers={"Idempotency-Key": "k-2"})
    world.build(orders_limit=type(world.settings.orders_limit)(0.001, 50))
    cured = await ann.post("/api/v1/orders/batch", {"cancels": ["1-2"] * 6}, headers={"Idempotency-Key": "k-2"})

    assert (first.status_code, refused.status_code, cured.status_code) == (200, 429, 200)
    assert "idempotent-replayed" not in cured.headers


async def test_a_store_that_is_away_refuses_before_anything_happens(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = await world.person()

    async def down(*_: Any) -> Any:
        raise ConnectionRefusedError

    monkeypatch.setattr(world.first_answers, "claim", down)

    answer = await rename(ann, "Bea")

    assert (answer.status_code, answer.json()["code"]) == (503, "UNAVAILABLE")
    assert (await ann.get(ME)).json()["name"] == "Ann"


async def test_an_answer_that_cannot_be_stored_is_given_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = await world.person()

    async def down(*_: Any) -> Any:
        raise ConnectionRefusedError

    monkeypatch.setattr(world.first_answers, "keep", down)

    assert (await rename(ann, "Bea")).json()["name"] == "Bea"
    assert (await rename(ann, "Bea")).json()["code"] == "CONFLICT"


async def test_a_day_later_the_key_is_free(world: World) -> None:
    ann = await world.person()
    await rename(ann, "Ann")
    known = dict(world.first_answers.rows)
    world.clock.now_us += repeats.KEPT_SECONDS * SECOND_US + 1
    again = await world.client.post(
        "/api/v1/auth/login", json={"email": "ann@campus.example", "password": "sunny-roof-and-battery"}
    )
    headers = {"Authorization": f"Bearer {again.json()['access_token']}", **KEY}

    answer = await world.client.patch(ME, json={"name": "Bea"}, headers=headers)

    assert (answer.status_code, answer.json()["name"]) == (200, "Bea")
    assert set(known) == set(world.first_answers.rows)


async def test_a_caller_keeps_a_bounded_number(world: World) -> None:
    ann = await world.person()
    for number in range(world.first_answers.keys_max):
        assert (await rename(ann, "Ann", {"Idempotency-Key": f"k-{number}"})).status_code == 200

    full = await rename(ann, "Ann", {"Idempotency-Key": "one-more"})

    assert (full.status_code, full.headers["retry-after"]) == (429, "3600")
    assert (await rename(ann, "Ann", {})).status_code == 200


async def test_a_large_answer_is_not_kept_and_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "ANSWER_BYTES_MAX", 10)
    ann = await world.person()

    first, again = await rename(ann, "Ann"), await rename(ann, "Ann")

    assert (first.status_code, again.status_code, again.json()["code"]) == (200, 409, "CONFLICT")
    assert "too large" in again.json()["detail"]


@pytest.mark.parametrize("key", ["", " ", "a b", "a" * 65, "k\x7f", "k-1,k-2", "\u00e9"])
@pytest.mark.parametrize("path", ["/api/v1/orders", "/api/v1/deposits", ME])
async def test_an_odd_key_is_refused(world: World, key: str, path: str) -> None:
    ann = await world.person()
    headers: Any = [(b"Idempotency-Key", key.encode("latin-1"))]
    body = {
        "/api/v1/orders": {"market": "Z1-SPOT", "side": "buy", "type": "limit", "price": "3.000", "quantity": "1"},
        "/api/v1/deposits": {"asset": "THB", "amount": "1"},
        ME: {"name": "Ann"},
    }[path]

    answer = await world.client.request(
        "PATCH" if path == ME else "POST",
        path,
        json=body,
        headers=[*headers, (b"Authorization", f"Bearer {ann.token}".encode())],
    )

    assert (answer.status_code, list(answer.json()["fields"])) == (400, ["Idempotency-Key"])


async def test_a_repeat_may_ask_for_msgpack(world: World) -> None:
    ann = await world.person()
    first = await rename(ann, "Ann")

    again = await rename(ann, "Ann", {**KEY, "Accept": "application/msgpack"})

    assert msgspec.msgpack.decode(again.content) == first.json()


async def test_an_order_is_known_by_its_journal_and_says_that_it_is_a_repeat(world: World) -> None:
    ann = await world.person()
    body = {"market": "Z1-SPOT", "side": "buy", "type": "limit", "price": "3.000", "quantity": "1"}

    first, again = [await ann.post("/api/v1/orders", body, headers=KEY) for _ in range(2)]

    assert first.json()["order_id"] == again.json()["order_id"]
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert world.first_answers.rows == {}


async def test_nothing_is_stored_of_what_is_secret(world: World) -> None:
    ann = await world.person()
    for route, body in {
        "/api/v1/users/me/api-keys": {"name": "bot", "scopes": ["read"]},
        "/api/v1/auth/refresh": {"refresh_token": ann.refresh_token},
        "/api/v1/users/me/password": {"current_password": "x", "new_password": "y"},
        "/api/v1/auth/login": {"email": "ann@campus.example", "password": "sunny-roof-and-battery"},
        "/api/v1/auth/register": {"email": "b@c.example", "password": "sunny-roof-and-battery", "name": "B"},
    }.items():
        first, again = [await ann.post(route, body, headers=KEY) for _ in range(2)]
        assert "idempotent-replayed" not in again.headers, route
        assert not first.is_success or first.content != again.content, route

    assert world.first_answers.rows == {}


async def test_every_route_that_takes_or_gives_a_secret_is_one_of_those(world: World) -> None:
    description = (await world.client.get("/schema/openapi.json")).json()
    schemas = description["components"]["schemas"]

    def is_secret(part: Any, seen: frozenset[str] = frozenset()) -> bool:
        if isinstance(part, list):
            return any(is_secret(one, seen) for one in part)
        if not isinstance(part, dict):
            return False
        name = str(part.get("$ref", "")).rpartition("/")[2]
        if name and name not in seen and is_secret(schemas[name], seen | {name}):
            return True
        fields = part.get("properties", {})
        words = ("password", "secret", "token")
        return any(word in field for field in fields for word in words) or any(
            is_secret(v, seen) for v in part.values()
        )

    found = {
        (method.upper(), path)
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
        if is_secret(operation.get("requestBody", {})) or is_secret(operation["responses"])
    }

    assert found == SECRET
    assert set(ROUTES) >= SECRET | JOURNALED


def test_a_first_answer_shows_no_body_in_logs() -> None:
    assert b"balance" not in repr(FirstAnswer(b"f", 1, 200, "application/json", b"balance")).encode()
