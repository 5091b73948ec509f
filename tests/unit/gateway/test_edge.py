"""What holds for every request: ids, headers, CORS, bounds, encodings, and errors that tell nothing."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from tests.unit.gateway.conftest import World

SECURITY = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/v1/markets", 200),
        ("GET", "/nowhere", 404),
        ("PUT", "/api/v1/auth/login", 405),
        ("GET", "/api/v1/orders", 401),
        ("POST", "/api/v1/auth/login", 400),
        ("OPTIONS", "/api/v1/orders", 204),
        ("HEAD", "/api/v1/markets", 405),
        ("GET", "/health/live", 200),
        ("GET", "/schema", 200),
        ("GET", "/schema/openapi.json", 200),
        ("TRACE", "/api/v1/orders", 405),
    ],
)
async def test_every_answer_carries_each_security_header_once(
    world: World, method: str, path: str, status: int
) -> None:
    answer = await world.client.request(method, path, headers={"X-Request-Id": "abc-1"})

    assert answer.status_code == status
    assert answer.headers.get_list("x-request-id") == ["abc-1"]
    assert {name: answer.headers.get_list(name) for name in SECURITY} == {n: [v] for n, v in SECURITY.items()}
    (policy,) = answer.headers.get_list("content-security-policy")
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy


async def test_an_odd_request_id_is_replaced(world: World) -> None:
    for odd in ("no spaces", "a" * 65, "a\tb", ""):
        answer = await world.client.get("/health/live", headers={"X-Request-Id": odd})
        assert answer.headers["x-request-id"] not in (odd, "")


async def test_unknown_routes_and_methods_are_problems_too(world: World) -> None:
    missing, method = await world.client.get("/nowhere"), await world.client.put("/api/v1/auth/login")

    assert (missing.status_code, missing.json()["code"]) == (404, "NOT_FOUND")
    assert (method.status_code, method.json()["code"]) == (405, "METHOD_NOT_ALLOWED")


OWN = "https://app.example"
STRANGERS = [
    "https://app.example.evil",
    "https://evil.app.example",
    "https://app.exampl",
    "https://app.example.",
    "https://app.example/",
    "https://app.example:443",
    "https://app.example:8443",
    "http://app.example",
    "https://APP.example",
    "https://app.example, https://evil.example",
    " https://app.example",
    "null",
    "*",
    "",
]
ASK_FIRST = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}


@pytest.mark.parametrize("origin", STRANGERS)
async def test_cors_takes_an_origin_as_a_whole(world: World, origin: str) -> None:
    plain = await world.client.get("/api/v1/markets", headers={"Origin": origin})
    asked = await world.client.options("/api/v1/orders", headers={"Origin": origin, **ASK_FIRST})

    for answer in (plain, asked):
        assert [name for name in answer.headers if name.startswith("access-control-")] == []
        assert answer.headers["vary"] == "Origin"


async def test_cors_lets_known_pages_in_without_cookies(world: World) -> None:
    plain = await world.client.get("/api/v1/markets", headers={"Origin": OWN})
    refused = await world.client.get("/api/v1/balances", headers={"Origin": OWN})
    asked = await world.client.options("/api/v1/orders", headers={"Origin": OWN, **ASK_FIRST})
    unasked = await world.client.options("/api/v1/orders", headers={"Origin": OWN})

    assert (plain.status_code, refused.status_code, asked.status_code) == (200, 401, 204)
    for answer in (plain, refused, asked, unasked):
        assert answer.headers["access-control-allow-origin"] == OWN
        assert "RateLimit" in answer.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in answer.headers
        assert "set-cookie" not in answer.headers
        assert answer.headers["vary"] == "Origin"
    assert "PATCH" in asked.headers["access-control-allow-methods"]
    assert "Authorization" in asked.headers["access-control-allow-headers"]
    assert "access-control-allow-methods" not in plain.headers


async def test_without_origins_no_answer_speaks_of_them(world: World) -> None:
    world.build(cors_origins=())
    asked = await world.client.options("/api/v1/orders", headers={"Origin": OWN, **ASK_FIRST})

    assert asked.status_code == 204
    assert not {"vary", "access-control-allow-origin", "access-control-allow-methods"} & set(asked.headers)


async def test_tls_only_is_said_when_the_settings_say_so(world: World) -> None:
    assert "strict-transport-security" not in (await world.client.get("/nowhere")).headers
    world.build(hsts_seconds=86_400)

    for path in ("/nowhere", "/schema", "/health/live"):
        answer = await world.client.get(path)
        assert answer.headers.get_list("strict-transport-security") == ["max-age=86400"]


async def test_a_body_is_cut_off_when_it_grows_too_large_whatever_was_announced(world: World) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(10_000):
            yield b" " * 1_000

    announced = await world.client.post("/api/v1/auth/login", content=b" " * 2_000_001)
    streamed = await world.client.post("/api/v1/auth/login", content=endless())

    for answer in (announced, streamed):
        assert (answer.status_code, answer.json()["code"]) == (413, "PAYLOAD_TOO_LARGE")
        assert answer.headers["connection"] == "close"  # what follows is the rest of it


async def test_msgpack_goes_both_ways(world: World) -> None:
    ann = await world.person()
    body = {"market": "Z1-SPOT", "side": "buy", "type": "limit", "price": "3.500", "quantity": "1"}
    headers = {
        "Authorization": f"Bearer {ann.token}",
        "Content-Type": "application/msgpack",
        "Accept": "application/msgpack",
    }

    placed = await world.client.post("/api/v1/orders", content=msgspec.msgpack.encode(body), headers=headers)
    refused = await world.client.post("/api/v1/orders", content=b"\xc1", headers=headers)

    assert (placed.status_code, placed.headers["content-type"]) == (201, "application/msgpack")
    assert msgspec.msgpack.decode(placed.content)["price"] == "3.500"
    assert msgspec.msgpack.decode(refused.content)["code"] == "VALIDATION_FAILED"


async def test_a_body_that_is_neither_json_nor_msgpack_is_415(world: World) -> None:
    answer = await world.client.post("/api/v1/auth/login", content=b"a=b", headers={"Content-Type": "text/plain"})

    assert (answer.status_code, answer.json()["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE")
    for content in (b"", b"{", b"[]", b"null", b"\xff"):
        broken = await world.client.post("/api/v1/auth/login", content=content)
        assert (broken.status_code, broken.json()["code"]) == (400, "VALIDATION_FAILED"), content


async def test_a_bug_is_a_500_that_tells_only_its_request_id(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def bug(*_: Any) -> Any:
        raise KeyError("the table users has a column password_hash")

    ann = await world.person()
    monkeypatch.setattr(world.exchange, "balances", bug)

    answer = await ann.get("/api/v1/balances")

    assert (answer.status_code, answer.json()["code"]) == (500, "INTERNAL")
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert "password_hash" not in answer.text


async def test_a_store_that_is_down_is_503(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def down(*_: Any) -> Any:
        raise ConnectionRefusedError

    ann = await world.person()
    monkeypatch.setattr(world.exchange, "balances", down)
    monkeypatch.setattr(world.exchange, "deposit", down)

    read = await ann.get("/api/v1/balances")
    write = await ann.post("/api/v1/deposits", {"asset": "THB", "amount": "1"})

    assert (read.status_code, read.json()["code"]) == (503, "UNAVAILABLE")
    assert (write.status_code, write.json()["code"]) == (503, "OUTCOME_UNKNOWN")


async def test_a_request_that_takes_too_long_is_503(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def stuck(*_: Any) -> Any:
        await asyncio.sleep(60)

    ann = await world.person()
    world.build(request_seconds_max=0.05)
    monkeypatch.setattr(world.exchange, "submit", stuck)
    monkeypatch.setattr(world.exchange, "balances", stuck)

    write, read = await ann.order("buy", "3.000", "1"), await ann.get("/api/v1/balances")

    assert (write.status_code, write.json()["code"]) == (503, "OUTCOME_UNKNOWN")
    assert (read.status_code, read.json()["code"]) == (503, "UNAVAILABLE")


async def test_a_limit_answers_429_and_says_when_to_come_back(world: World) -> None:
    from gateway.settings import Limit

    world.build(orders_limit=Limit(0.5, 2))
    ann = await world.person()

    answers = [await ann.order("buy", "3.000", "1") for _ in range(3)]
    batch = await ann.post("/api/v1/orders/batch", {"cancels": ["1-1"] * 3})

    assert [one.status_code for one in answers] == [201, 201, 429]
    assert answers[0].headers["ratelimit-policy"] == '"orders";q=2;w=4'
    assert answers[0].headers["ratelimit"].startswith('"orders";r=1;')
    assert (answers[2].json()["code"], answers[2].headers["retry-after"]) == ("RATE_LIMITED", "2")
    assert batch.status_code == 429


async def test_the_documentation_loads_nothing_from_elsewhere_and_its_policy_fits(world: World) -> None:
    page = await world.client.get("/schema")
    description = (await world.client.get("/schema/openapi.json")).json()

    assert "http://" not in page.text
    assert "https://" not in page.text
    policy = page.headers["content-security-policy"]
    assert policy.count("'sha256-") == 2
    assert "unsafe" not in policy
    assert description["openapi"].startswith("3.1")
    place = description["paths"]["/api/v1/orders"]["post"]
    assert (place["security"], place["x-roles"]) == ([{"bearer": []}, {"key": []}], ["admin", "faculty", "student"])
    assert place["x-scope"] == "trade"
    assert sorted(place["responses"]) == ["201", "default"]
    assert "security" not in description["paths"]["/api/v1/markets"]["get"]
    assert "price" in json.dumps(description["components"]["schemas"]["OrderRequest"])


async def test_the_application_starts_and_stops_with_its_lifespan(world: World) -> None:
    app = world.build()
    async with app.lifespan():
        assert (await world.client.get("/health/ready")).status_code == 200
    assert all(task.done() for task in world.gateway._tasks)


async def test_requests_are_counted_by_route_and_not_by_path(world: World) -> None:
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    world.build(registry=registry)
    ann = await world.person()
    for number in range(3):
        await ann.get(f"/api/v1/orders/1-{number}")
        await world.client.get(f"/random/{number}")

    text = generate_latest(registry).decode()

    assert (
        'wattbook_http_request_seconds_count{method="GET",route="/api/v1/orders/{order_id}",status="404"} 3.0' in text
    )
    assert 'route="unmatched"' in text
    assert "random" not in text


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/api/v1/orders", "DELETE, GET, OPTIONS, POST"),
        ("/api/v1/orders/1-2", "DELETE, GET, OPTIONS, PATCH"),
        ("/api/v1/orders/batch", "OPTIONS, POST"),
        ("/api/v1/markets", "GET, OPTIONS, POST"),
        ("/health/ready", "GET, OPTIONS"),
    ],
)
async def test_options_and_405_name_the_methods_of_a_path(world: World, path: str, allowed: str) -> None:
    asked, refused = await world.client.options(path), await world.client.request("TRACE", path)

    assert (asked.status_code, asked.headers["allow"]) == (204, allowed)
    assert (refused.status_code, refused.headers["allow"]) == (405, allowed)
