"""What is answered without the framework is answered as with it.

Planted and noticed: the guard left out, `Repeats` left out, another status, a strange host taken, an exception that
ends as the edge's bare problem, a refusal that goes by `Repeats`, a handler of more than a request and a body.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from litestar import Litestar

from gateway.app import application
from gateway.direct import DIRECT, Direct
from gateway.settings import Limit
from tests.unit.gateway.conftest import Person, World, spot

GOOD = {"market": "Z1-SPOT", "side": "buy", "type": "limit", "price": "3.500", "quantity": "1.250"}
BATCH = {"orders": [GOOD, GOOD | {"price": "x"}], "cancels": ["1-1", "1-99"]}
JSON = {"content-type": "application/json"}
ASKED: list[tuple[str, dict[str, Any]]] = [
    ("/api/v1/orders", {"json": GOOD}),
    ("/api/v1/orders", {"json": GOOD | {"client_order_id": "mine"}}),
    ("/api/v1/orders", {"json": GOOD | {"client_order_id": "mine"}}),  # a repeat
    ("/api/v1/orders", {"json": GOOD, "headers": {"Idempotency-Key": "once"}}),
    ("/api/v1/orders", {"json": GOOD, "headers": {"Idempotency-Key": "once"}}),
    ("/api/v1/orders", {"json": GOOD, "headers": {"Idempotency-Key": "o n c e"}}),
    ("/api/v1/orders", {"json": GOOD | {"side": "sell"}}),  # meets the first: fills
    ("/api/v1/orders", {"json": GOOD, "headers": {"Accept": "application/msgpack"}}),
    ("/api/v1/orders", {"json": GOOD | {"market": "NOWHERE"}}),
    ("/api/v1/orders", {"json": GOOD | {"quantity": "100000"}}),  # no funds
    ("/api/v1/orders", {"json": GOOD | {"surprise": 1}}),
    ("/api/v1/orders", {"content": b"{", "headers": JSON}),
    ("/api/v1/orders", {"content": b"x", "headers": {"content-type": "text/plain"}}),
    ("/api/v1/orders", {"json": GOOD, "headers": {"Authorization": "Bearer nobody's"}}),
    ("/api/v1/orders", {"json": GOOD, "headers": {"Authorization": ""}}),
    ("/api/v1/orders", {"json": GOOD, "headers": {"Host": "exchange:80"}}),
    ("/api/v1/orders", {"json": GOOD, "headers": {"Host": "ex change"}}),
    ("/api/v1/orders", {"json": GOOD, "headers": {"Host": "a@b"}}),
    ("/api/v1/orders?x=null", {"json": GOOD}),
    ("/api/v1/orders/", {"json": GOOD}),
    ("/api/v1/orders/batch", {"json": BATCH}),
    ("/api/v1/orders/batch", {"json": BATCH, "headers": {"Idempotency-Key": "batch"}}),
    ("/api/v1/orders/batch", {"json": BATCH, "headers": {"Idempotency-Key": "batch"}}),
    ("/api/v1/orders/batch", {"json": {"orders": [GOOD] * 1_001}}),
    ("/api/v1/orders/batch", {"json": {"cancels": ["x"] * 1_001}, "headers": {"Idempotency-Key": "refused"}}),
    ("/api/v1/orders/batch", {"json": {"cancels": ["x"] * 1_001}, "headers": {"Idempotency-Key": "refused"}}),
]


@pytest.fixture
async def framework(tmp_path: Path) -> AsyncIterator[World]:
    """An exchange in which every request takes the framework's way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gateway.app.Direct", lambda app, _: app.asgi_handler)
        world = _built(tmp_path / "framework")
    async with _running(world):
        yield world


@pytest.fixture
async def direct(tmp_path: Path) -> AsyncIterator[World]:
    world = _built(tmp_path / "direct")
    async with _running(world):
        yield world


def _built(folder: Path) -> World:
    world = World(folder)
    world.exchange.add(spot())
    # What is left of a limit is said in the answer, and must not grow meanwhile.
    world.build(orders_limit=Limit(0.001, 5_000), requests_limit=Limit(0.001, 3_000))
    return world


@asynccontextmanager
async def _running(world: World) -> AsyncIterator[None]:
    await world.gateway.start()
    yield
    await world.gateway.stop()
    await world.client.aclose()


async def test_both_ways_give_the_same_answers(framework: World, direct: World) -> None:
    theirs, ours = await framework.person(), await direct.person()

    for number, (path, asked) in enumerate(ASKED):
        expected, found = await _asked(theirs, number, path, asked), await _asked(ours, number, path, asked)

        assert (found.status_code, found.content) == (expected.status_code, expected.content), (path, asked)
        assert found.headers.multi_items() == expected.headers.multi_items(), (path, asked)


async def _asked(person: Person, number: int, path: str, asked: dict[str, Any]) -> httpx.Response:
    headers = {"x-request-id": f"r-{number}", **asked.get("headers", {})}
    return await person.call("POST", path, **{**asked, "headers": headers})


async def test_no_body_is_refused_in_plainer_words_than_the_framework_has(direct: World) -> None:
    ann = await direct.person()

    answer = await _asked(ann, 1, "/api/v1/orders", {"content": b""})

    assert (answer.status_code, answer.json()["detail"]) == (400, "the body is not well formed")


async def test_both_ways_answer_to_a_handler_that_fails(
    framework: World, direct: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = await framework.person(), await direct.person()

    def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    for one in (framework, direct):
        monkeypatch.setattr(one.gateway.trading, "placement", broken)

    path, asked = ASKED[0]
    expected, found = await _asked(theirs, 1, path, asked), await _asked(ours, 1, path, asked)
    assert (found.status_code, found.json()["code"]) == (500, "INTERNAL")
    assert (found.content, found.headers.multi_items()) == (expected.content, expected.headers.multi_items())


async def test_the_framework_is_not_asked_for_them(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ann = await world.person()

    async def unreachable(*_: Any) -> None:
        raise AssertionError("the framework was asked")

    router = world.app.asgi_router
    monkeypatch.setattr(type(router), "__call__", unreachable)
    for _, path in DIRECT:
        assert (await ann.post(path, GOOD if path.endswith("orders") else BATCH)).status_code < 300


def test_only_what_needs_no_more_of_the_framework_may_go_without() -> None:
    app: Litestar = application("1")
    with pytest.raises(ValueError, match="takes more than a request and its body"):
        Direct(app, _unused, [("GET", "/api/v1/orders")])
    with pytest.raises(LookupError, match="is no route"):
        Direct(app, _unused, [("POST", "/api/v1/nothing")])


def _unused(*_: Any) -> Any:
    raise AssertionError
