"""The local chain's server: HTTP for JSON-RPC, the same port and the next for WebSocket. It listens on loopback only.

POST /  one request or a batch      GET /health  ok      GET / with Upgrade  WebSocket
"""

import asyncio
import gc
import ipaddress
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
from aiohttp import WSMsgType, web
from solders.pubkey import Pubkey

from chain.devnet.faults import Faults
from chain.devnet.ledger import Ledger
from chain.devnet.memory import keep_freed_memory
from chain.devnet.rpc import Rpc, Unanswered
from chain.devnet.subscriptions import Client, Subscriptions
from chain.programs.interface import BUILT, NAMES, load_idl, program_id

SLOT_MS: Final = 400
BODY_BYTES_MAX: Final = 1 << 20
BATCH_MAX: Final = 1_000
GC_THRESHOLDS: Final = (20_000, 20, 100)  # a record has hundreds of parts, and none refers to itself
HEARTBEAT_SECONDS: Final = 30
NO_JSON: Final = {"jsonrpc": "2.0", "error": {"code": -32700, "message": "Parse error"}, "id": None}


class NotLoopback(Exception):
    """The address would let others in: a chain with a faucet is for this machine."""


def reference_files() -> dict[Pubkey, Path]:
    """The five programs that come with Wattbook, by their ids."""
    return {program_id(load_idl(name)): BUILT / f"{name}.so" for name in NAMES}


class Devnet:
    """A running local chain. `slot_seconds` 0 leaves time to whoever calls devnet_tick."""

    def __init__(self, ledger: Ledger, slot_seconds: float = SLOT_MS / 1_000, *, with_faults: bool = False) -> None:
        self._ledger = ledger
        self._slot_seconds = slot_seconds
        self._faults = Faults() if with_faults else None
        self._rpc = Rpc(ledger, self._faults)
        self._subscriptions = Subscriptions(ledger)
        self._slot_told = ledger.slot

    @asynccontextmanager
    async def listening(self, host: str, port: int) -> AsyncIterator[None]:
        """Serves on `port`, and on the next, where clients expect the WebSocket. Raises NotLoopback, OSError."""
        if not ipaddress.ip_address(host).is_loopback:
            raise NotLoopback(f"{host} is not an address of this machine alone")
        application = web.Application(client_max_size=BODY_BYTES_MAX)
        application.router.add_post("/", self._post)
        application.router.add_get("/", self._get)
        application.router.add_get("/health", self._health)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
        await runner.setup()
        try:
            for each in (port, port + 1):
                await web.TCPSite(runner, host, each).start()
            async with asyncio.TaskGroup() as group:
                clock = group.create_task(self._keep_time())
                yield
                clock.cancel()
        finally:
            await runner.cleanup()
            self._ledger.store.close()

    async def _keep_time(self) -> None:
        while self._slot_seconds:
            await asyncio.sleep(self._slot_seconds)
            self._rpc.tick()
            self._tell()
        await asyncio.Event().wait()

    def _tell(self) -> None:
        if self._ledger.slot != self._slot_told:
            self._slot_told = self._ledger.slot
            self._subscriptions.tick()

    def _answer(self, request: Any) -> dict[str, Any]:
        answer = self._rpc.answer(request)
        if self._faults is not None and isinstance(request, dict) and request.get("method") == "devnet_fork":
            self._subscriptions.forget(answer.get("result", []))
        self._tell()
        return answer

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _post(self, request: web.Request) -> web.Response:
        slow = self._faults.take("slow") if self._faults is not None else None
        if slow is not None:
            await asyncio.sleep(slow)
        try:
            asked = msgspec.json.decode(await request.read())
        except msgspec.DecodeError:
            return _response(NO_JSON)
        try:
            if isinstance(asked, list):
                with self._ledger.store.together():
                    answers = [self._answer(each) for each in asked[:BATCH_MAX]]
                return _response(answers)
            return _response(self._answer(asked))
        except Unanswered:
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=500)

    async def _get(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() != "websocket":
            return web.Response(text="ok")
        socket = web.WebSocketResponse(heartbeat=HEARTBEAT_SECONDS, max_msg_size=BODY_BYTES_MAX, compress=False)
        await socket.prepare(request)
        client = Client()
        writer = asyncio.create_task(_write(socket, client))
        try:
            async for message in socket:
                if message.type == WSMsgType.TEXT:
                    self._serve(message.data, client)
        finally:
            self._subscriptions.drop(client)
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
        return socket

    def _serve(self, text: str, client: Client) -> None:
        try:
            asked = msgspec.json.decode(text)
        except msgspec.DecodeError:
            client.tell(NO_JSON)
            return
        for each in asked[:BATCH_MAX] if isinstance(asked, list) else [asked]:
            if not isinstance(each, dict):
                continue
            answer = self._subscriptions.answer(each, client)
            client.tell(answer)
            if isinstance(answer.get("result"), int):
                self._subscriptions.after_answer(answer["result"])


def _response(answer: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(answer), content_type="application/json")


async def _write(socket: web.WebSocketResponse, client: Client) -> None:
    while (message := await client.waiting.get()) is not None:
        await socket.send_str(message)
    await socket.close()


async def serve(host: str, port: int, path: Path | None, *, slot_ms: int = SLOT_MS, with_faults: bool = False) -> None:
    """Until it is cancelled: the five programs, state in `path`. For a process of its own."""
    keep_freed_memory()
    ledger = Ledger(reference_files(), path)
    gc.collect()
    gc.freeze()  # what is here already stays
    gc.set_threshold(*GC_THRESHOLDS)
    async with Devnet(ledger, slot_ms / 1_000, with_faults=with_faults).listening(host, port):
        await asyncio.Event().wait()
