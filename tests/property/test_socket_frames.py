"""Whatever a WebSocket sends, each frame has an answer in its own form, and the connection goes on.

Seen to fail for: brackets in brackets, which ended the connection.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.errors import MEANING
from gateway.permissions import CHANNELS, OPERATIONS
from tests.unit.gateway.conftest import Person, World, spot
from tests.unit.gateway.sockets import Socket

CODES = {code.name for code in MEANING}
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
NAMES = ("id", "token", "api_key", "order", "orders", "cancels", "order_id", "price", "quantity", "market", "seconds")
REQUESTS = st.fixed_dictionaries(
    {"op": st.sampled_from(sorted(OPERATIONS)) | JUNK},
    optional=dict.fromkeys(NAMES, JUNK)
    | {
        "channel": st.sampled_from(sorted(CHANNELS)) | JUNK,
        "channels": JUNK,
        "markets": st.just(["Z1-SPOT"]) | JUNK,
        "order": st.fixed_dictionaries({"market": st.just("Z1-SPOT") | JUNK, "side": JUNK, "type": JUNK}),
    },
)
COMPACT = st.lists(JUNK | st.just("Z1-SPOT") | st.integers(0, 10), max_size=10).map(lambda rest: ["o", *rest])


class Line:
    """One connection of a logged-in trader, from outside of its loop."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._world: World
        self._person: Person

    def open(self, directory: Any) -> None:
        self._runner.run(self._open(directory))

    async def _open(self, directory: Any) -> None:
        self._world = World(directory)
        self._world.exchange.add(spot())
        self._world.build()
        await self._world.gateway.start()
        self._person = await self._world.person()

    def close(self) -> None:
        self._runner.run(self._world.gateway.stop())
        self._runner.close()

    def ask(self, frame: Any, *, binary: bool) -> Any:
        """The answer to the frame; a ping afterwards proves that the connection lives."""
        return self._runner.run(self._ask(frame, binary))

    async def _ask(self, frame: Any, binary: bool) -> Any:
        async with Socket(self._world, binary=binary) as socket:
            await socket.ask({"op": "auth", "token": self._person.token})
            if isinstance(frame, str):
                await socket.send_raw(frame)
            else:
                await socket.send(frame)
            answer = await socket.next()
            while isinstance(answer, dict) and "channel" in answer:  # a subscription that was good
                answer = await socket.next()
            assert (await socket.ask({"op": "ping"}))["ok"]
            return answer


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    line = Line()
    line.open(tmp_path_factory.mktemp("world"))
    yield line
    line.close()


def check(answer: Any, request: Any) -> None:
    if isinstance(request, list) and request[:1] == ["o"] and isinstance(answer, list):
        assert answer[0] == "a" or (answer[0] == "e" and answer[2] in CODES)
        return
    assert answer["ok"] is True or answer["error"]["code"] in CODES - {"INTERNAL"}, answer
    if isinstance(request, dict) and answer["ok"]:
        assert answer["id"] == request.get("id")


@given(REQUESTS | JUNK, st.booleans())
@example({"op": ["place"]}, False)
@example({"op": "subscribe", "channel": "orders", "id": {"a": [1]}}, True)
@example({"op": "place", "order": {"market": "Z1-SPOT"}, "id": 2**64 - 1}, True)
def test_requests(line: Line, request: Any, binary: bool) -> None:
    check(line.ask(request, binary=binary), request)


@given(COMPACT)
@example(["o"])
@example(["o", 1, "Z1-SPOT", 0, 3_000_000, 1_000, "", 0])
@example(["o", {}, "Z1-SPOT", True, 3_000_000, 1_000, "", 0])
def test_compact_orders(line: Line, request: list[Any]) -> None:
    answer = line.ask(request, binary=True)

    if len(request) > 1 and isinstance(request[1], (dict, list)):  # an id that cannot be repeated
        assert answer["error"]["fields"] == {"id": "must be text or a number"}
    else:
        assert isinstance(answer, list)
        check(answer, request)
        assert "INTERNAL" not in answer


@given(st.text(max_size=60))
@example("[" * 5_000)
@example('{"op": "ping", "id": NaN}')
@example('{"op": "ping", "id": 1e999}')
@example('{"op": "ping", "id": "\\ud800"}')
def test_text_that_is_no_json(line: Line, text: str) -> None:
    answer = line.ask(text, binary=False)

    try:
        request = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        assert answer["error"]["code"] == "VALIDATION_FAILED"
    else:
        check(answer, request)


@pytest.mark.parametrize("depth", [1, 900, 950, 970, 1_000, 100_000])
def test_an_id_is_no_tower_of_brackets(line: Line, depth: int) -> None:
    answer = line.ask('{"op": "ping", "id": ' + "[" * depth + "]" * depth + "}", binary=False)

    assert answer["error"]["code"] == "VALIDATION_FAILED"
