"""One WebSocket connection: frames in, answers and channels out, everything bounded.

Text frames are JSON, binary frames msgpack; an answer comes as its request came, a channel as its subscription did.
Requests start in the order they arrive and are answered as their markets answer; compact orders for one market that
arrive together start and are answered together. Pings every 20 s are the server's
(uvicorn's ws_ping_interval), as is the largest frame it accepts. Close codes: 1009 frame too large, 4001 login over,
4008 reads too slowly, 1013 too many connections.
"""

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Any, Final

import msgspec
import structlog
from litestar import WebSocket, websocket
from litestar.exceptions import WebSocketDisconnect

from engine.messages import RejectCode
from gateway.context import Gateway
from gateway.errors import GatewayCode, Problem, invalid, problem_of
from gateway.limits import Buckets
from gateway.message import Message
from gateway.stream_ops import Operations, is_compact, market_of, problem_answer

_log = structlog.get_logger(__name__)
_CLOSE_TOO_LARGE, _CLOSE_LOGIN_OVER, _CLOSE_LAGGED, _CLOSE_FULL = 1009, 4001, 4008, 1013
_FAREWELL_SECONDS: Final = 2.0  # how long a slow reader may take to hear that it is slow
_CHECK_SECONDS: Final = 2.0  # how often the login behind a connection is looked at
_BALANCES_SECONDS: Final = 0.1  # balances are told at most this often
_INCOMPLETE_SECONDS: Final = 0.5  # and so often again while tables lag behind what happened

_encode_json = msgspec.json.Encoder().encode
_encode_msgpack = msgspec.msgpack.Encoder().encode
_decode_json = msgspec.json.Decoder().decode
_decode_msgpack = msgspec.msgpack.Decoder().decode


class Lagged(Exception):
    """The reader has let too much pile up."""


class Connection:
    """The state of one connection. What it may ask for is in stream_ops.py."""

    def __init__(self, gateway: Gateway, socket: "WebSocket[Any, Any, Any]") -> None:
        self.gateway = gateway
        self.binary = False  # how channels are written: as the last subscription came
        self._operations = Operations(gateway, self)
        self._socket = socket
        self._queue: deque[str | bytes] = deque()
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._lagged = asyncio.Event()
        self._in_flight = asyncio.Semaphore(gateway.settings.socket_in_flight_max)
        self._requests: set[asyncio.Task[int]] = set()
        self._bursts: dict[str, list[list[Any]]] = {}  # compact orders that have not started yet, by market
        self._messages = Buckets("messages", gateway.settings.socket_messages_limit, 1)
        self._stale_markets: set[int] = set()  # whose trades the balances do not show yet
        self._balances_stale = asyncio.Event()
        self._close_code = 1000
        self._received, self._sent = 0, 0  # frames; prometheus asks for the process's id with each value it is told
        self._outages: tuple[type[Exception], ...] = (*gateway.outages, OSError, TimeoutError)

    # --- out -----------------------------------------------------------------------------------------------------

    def push(self, message: Message) -> None:
        self.send(message.binary if self.binary else message.text)

    def balances_changed(self, market_id: int) -> None:
        self._stale_markets.add(market_id)
        self._balances_stale.set()

    def send(self, frame: str | bytes) -> None:
        """Queue a frame; a queue that is full is the end of the connection."""
        if self._lagged.is_set():
            return
        settings = self.gateway.settings
        self._queued_bytes += len(frame)
        if len(self._queue) >= settings.socket_queue_max or self._queued_bytes > settings.socket_queue_bytes_max:
            self._queue.clear()
            body = {"type": "lagged", "detail": "read too slowly: reconnect and take new snapshots"}
            self._queue.append(self._encoded(body))
            self._lagged.set()
        else:
            self._queue.append(frame)
        self._wake.set()

    def answer(self, body: Any, *, binary: bool) -> None:
        """Queue the answer to a request, in the encoding of the request."""
        self.send(_encode_msgpack(body) if binary else _encode_json(body).decode())

    async def _write(self) -> None:
        while True:
            while self._queue:
                frame = self._queue.popleft()
                self._queued_bytes -= len(frame)
                await self._socket.send_data(frame, mode="text" if isinstance(frame, str) else "binary")
                self._sent += 1
            if self._lagged.is_set():
                return
            self._wake.clear()
            await self._wake.wait()

    # --- in --------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until the client goes, or must go."""
        owned = [
            asyncio.create_task(self._read(), name="socket read"),
            asyncio.create_task(self._write(), name="socket write"),
            asyncio.create_task(self._watch_login(), name="socket login"),
            asyncio.create_task(self._tell_balances(), name="socket balances"),
            asyncio.create_task(self._wait_lagged(), name="socket lagged"),
        ]
        try:
            done, _ = await asyncio.wait(owned, return_when=asyncio.FIRST_COMPLETED)
            if self._lagged.is_set():
                self.gateway.metrics.sockets_lagged.inc()
                self._close_code = _CLOSE_LAGGED
                await asyncio.wait([owned[1]], timeout=_FAREWELL_SECONDS)
            for task in done:
                error = task.exception()
                if error is not None and not isinstance(error, (WebSocketDisconnect, Lagged)):
                    _log.error("socket failed", task=task.get_name(), error=repr(error))
        finally:
            self._operations.leave()
            for task in owned:
                task.cancel()
            for request in self._requests:
                request.cancel()
            await asyncio.gather(*owned, *self._requests, return_exceptions=True)
            self._hand_over()
        await self._close()

    async def _close(self) -> None:
        try:
            async with asyncio.timeout(_FAREWELL_SECONDS):
                await self._socket.close(code=self._close_code)
        except (WebSocketDisconnect, TimeoutError, RuntimeError) as error:
            _log.debug("socket was gone already", error=repr(error))

    async def _wait_lagged(self) -> None:
        await self._lagged.wait()
        raise Lagged

    async def _read(self) -> None:
        settings = self.gateway.settings
        while True:
            event = await self._socket.receive()
            if event["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(code=event.get("code", 1005), detail="the client went")
            frame = _frame(event)
            self._received += 1
            if len(frame) > settings.socket_frame_bytes_max:
                self._close_code = _CLOSE_TOO_LARGE
                return
            await self._in_flight.acquire()
            binary = isinstance(frame, bytes)
            request: Any = None
            try:
                request = _decoded(frame)
                self._messages.take("")
            except Problem as problem:
                self.answer(problem_answer(request, problem), binary=binary)
                self._in_flight.release()
                continue
            if not (binary and is_compact(request)):
                self._bursts.clear()  # what arrives from now on must not overtake this one
                self._start(self._serve(request, binary))
            elif (burst := self._bursts.get(market := market_of(request))) is not None:
                burst.append(request)
            else:
                burst = self._bursts[market] = [request]
                self._start(self._serve_burst(market, burst))

    def _start(self, serving: Coroutine[Any, Any, int]) -> None:
        task = asyncio.create_task(serving)
        self._requests.add(task)
        task.add_done_callback(self._served)

    def _served(self, task: "asyncio.Task[int]") -> None:
        self._requests.discard(task)
        if not task.cancelled():
            for _ in range(task.result()):
                self._in_flight.release()

    async def _serve(self, request: Any, binary: bool) -> int:
        """One request; whatever goes wrong is its answer. How many were served: one."""
        try:
            answer = await self._operations.serve(request, binary=binary)
        except Exception as error:  # noqa: BLE001 - it becomes the answer; a bug is logged with its trace
            answer = problem_answer(request, self._problem(error))
        self.answer(answer, binary=binary)
        return 1

    async def _serve_burst(self, market: str, burst: list[list[Any]]) -> int:
        """Compact orders for one market that arrived together, by now all of them. How many were served."""
        if self._bursts.get(market) is burst:
            del self._bursts[market]
        try:
            await self._operations.serve_burst(burst)
        except Exception as error:  # noqa: BLE001 - as above
            problem = self._problem(error)
            for request in burst:
                self.answer(problem_answer(request, problem), binary=True)
        return len(burst)

    def _problem(self, error: Exception) -> Problem:
        problem = problem_of(error, self.gateway.outages, read=False)
        if problem.code is GatewayCode.INTERNAL:
            _log.exception("socket request failed")
        return problem

    # --- what it owes its login ------------------------------------------------------------------------------------

    async def _watch_login(self) -> None:
        """Close when the login behind the connection is over; keeps the caller warm for the requests meanwhile."""
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            self._hand_over()
            try:
                await self._operations.renew()
            except Problem as problem:
                self.send(self._encoded({"type": "login_over", "detail": problem.detail}))
                await asyncio.sleep(0)
                self._close_code = _CLOSE_LOGIN_OVER
                return
            except self._outages as error:
                _log.warning("login not looked at", error=repr(error))  # the next turn tries again

    def _hand_over(self) -> None:
        """What has been counted since the last look, to prometheus."""
        metrics = self.gateway.metrics
        metrics.received.inc(self._received)
        metrics.sent.inc(self._sent)
        self._received = self._sent = 0

    async def _tell_balances(self) -> None:
        while True:
            await self._balances_stale.wait()
            self._balances_stale.clear()
            markets, self._stale_markets = self._stale_markets, set()
            try:
                complete = await self.gateway.barrier.wait(markets)
                self.send(self._encoded(await self._operations.balances(complete)))
            except self._outages as error:
                _log.warning("balances not told", error=repr(error))
                complete = False
            if not complete:  # what is told last is what stays on the client's screen
                self._stale_markets |= markets
                self._balances_stale.set()
            await asyncio.sleep(_BALANCES_SECONDS if complete else _INCOMPLETE_SECONDS)

    def _encoded(self, body: Any) -> str | bytes:
        return _encode_msgpack(body) if self.binary else _encode_json(body).decode()


def _frame(event: Any) -> str | bytes:
    return event.get("bytes") or event.get("text") or ""


def _decoded(frame: str | bytes) -> Any:
    """Raises VALIDATION_FAILED, also for an id that is no plain value: answers repeat it."""
    try:
        request = _decode_msgpack(frame) if isinstance(frame, bytes) else _decode_json(frame)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # the last: brackets in brackets in brackets
        raise Problem(RejectCode.VALIDATION_FAILED, "the frame is not well formed") from None
    if isinstance(request, dict):
        number = request.get("id")
    else:
        number = request[1] if isinstance(request, list) and len(request) > 1 else None
    if isinstance(number, (dict, list)):
        raise invalid("id", "must be text or a number")
    return request


@websocket(["/ws", "/api/v1/ws"])
async def stream(socket: WebSocket[Any, Any, Any]) -> None:
    """Order entry and data on one connection; see /schema for the operations and channels."""
    gateway: Gateway = socket.app.state["gateway"]
    await socket.accept()
    if gateway.sockets >= gateway.settings.sockets_max:
        await socket.close(code=_CLOSE_FULL, reason="too many connections")
        return
    gateway.sockets += 1
    gateway.metrics.sockets.inc()
    try:
        await Connection(gateway, socket).run()
    finally:
        gateway.sockets -= 1
        gateway.metrics.sockets.dec()
