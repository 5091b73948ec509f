"""What holds for every request: ids, headers, CORS, bounds, encodings, and errors that tell nothing."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from tests.unit.gateway.conftest import World


async def test_every_answer_carries_a_request_id_and_security_headers(world: World) -> None:
    for path in ("/api/v1/markets", "/nowhere", "/api/v1/orders", "/health/live", "/schema"):
        answer = await world.client.get(path, headers={"X-Request-Id": "abc-1"})

        assert answer.headers["x-request-id"] == "abc-1", path
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    odd = await world.client.get("/health/live", headers={"X-Request-Id": "no spaces"})
    assert odd.headers["x-request-id"] != "no spaces"


async def test_unknown_routes_and_methods_are_problems_too(world: World) -> None:
    missing, method = await world.client.get("/nowhere"), await world.client.put("/api/v1/auth/login")

    assert (missing.status_code, missing.json()["code"]) == (404, "NOT_FOUND")
    assert (method.status_code, method.json()["code"]) == (405, "METHOD_NOT_ALLOWED")


async def test_cors_takes_an_origin_as_a_whole(world: World) -> None:
    async def allowed(origin: str) -> str | None:
        answer = await world.client.get("/api/v1/markets", headers={"Origin": origin})
        header: str | None = answer.headers.get("access-control-allow-origin")
        return header

    assert await allowed("https://app.example") == "https://app.example"
    assert await allowed("https://app.example.evil") is None
    assert await allowed("https://evil.app.example") is None
    assert await allowed("http://app.example") is None
    ask = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    preflight = await world.client.options("/api/v1/orders", headers=ask)
    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (204, "https://app.example")


async def test_a_body_is_cut_off_when_it_grows_too_large_whatever_was_announced(world: World) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(10_000):
            yield b" " * 1_000

    announced = await world.client.post("/api/v1/auth/login", content=b" " * 2_000_001)
    streamed = await world.client.post("/api/v1/auth/login", content=endless())

    assert [(one.status_code, one.json()["code"]) for one in (announced, streamed)] == [(413, "PAYLOAD_TOO_LARGE")] * 2


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
