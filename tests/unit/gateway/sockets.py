"""A WebSocket to the application without a server: ASGI messages in memory."""

import asyncio
import itertools
from typing import Any, cast

import msgspec

from tests.support.patience import HUNG_SECONDS
from tests.unit.gateway.conftest import World


class Socket:
    """`ask` sends a request and returns its answer; whatever else arrives waits in `news`."""

    def __init__(self, world: World, *, binary: bool = False, stuck: bool = False) -> None:
        self._app = cast(Any, world.app)
        self._binary = binary
        self.readable = asyncio.Event()
        if not stuck:
            self.readable.set()
        self._to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.frames: asyncio.Queue[Any] = asyncio.Queue()
        self.news: list[Any] = []
        self.closed: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._ids = itertools.count(1)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Socket":
        scope = {
            "type": "websocket",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "scheme": "ws",
            "path": "/ws",
            "raw_path": b"/ws",
            "query_string": b"",
            "root_path": "",
            "headers": [],
            "client": ("127.0.0.1", 5000),
            "server": ("exchange", 80),
            "subprotocols": [],
            "state": {},
            "extensions": {},
        }
        await self._to_app.put({"type": "websocket.connect"})
        self._task = asyncio.create_task(self._app(scope, self._to_app.get, self._from_app))
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        await self._to_app.put({"type": "websocket.disconnect", "code": 1000})
        await asyncio.wait_for(self._task, HUNG_SECONDS)

    async def _from_app(self, message: dict[str, Any]) -> None:
        if message["type"] == "websocket.close":
            if not self.closed.done():
                self.closed.set_result(message["code"])
        elif message["type"] == "websocket.send":
            await self.readable.wait()
            text, data = message.get("text"), message.get("bytes")
            await self.frames.put(
                msgspec.json.decode(text) if text is not None else msgspec.msgpack.decode(data or b"")
            )

    async def send(self, body: Any) -> None:
        if self._binary:
            await self._to_app.put({"type": "websocket.receive", "bytes": msgspec.msgpack.encode(body), "text": None})
        else:
            text = msgspec.json.encode(body).decode()
            await self._to_app.put({"type": "websocket.receive", "bytes": None, "text": text})

    async def send_raw(self, text: str) -> None:
        await self._to_app.put({"type": "websocket.receive", "bytes": None, "text": text})

    async def next(self) -> Any:
        return await asyncio.wait_for(self.frames.get(), HUNG_SECONDS)

    async def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        number = next(self._ids)
        await self.send({"id": number, **request})
        while True:
            frame = await self.next()
            if isinstance(frame, dict) and frame.get("id") == number:
                return frame
            self.news.append(frame)

    async def on(self, channel: str, kind: str | None = None) -> dict[str, Any]:
        """The next message of a channel."""
        for place, frame in enumerate(self.news):
            if _is(frame, channel, kind):
                return cast(dict[str, Any], self.news.pop(place))
        while True:
            frame = await self.next()
            if _is(frame, channel, kind):
                return cast(dict[str, Any], frame)
            self.news.append(frame)


def _is(frame: Any, channel: str, kind: str | None) -> bool:
    return isinstance(frame, dict) and frame.get("channel") == channel and kind in (None, frame.get("type"))
