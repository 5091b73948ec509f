"""The gateway as a part that can be hosted: uvicorn around the application, and what must run beside it."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, cast

import uvicorn
from litestar import Litestar
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

BACKLOG: Final = 2_048
KEEP_ALIVE_SECONDS: Final = 75
DRAIN_SECONDS: Final = 3
WS_PING_SECONDS: Final = 20.0
WS_MESSAGE_BYTES_MAX: Final = 1 * 2**20
CONNECTIONS_MAX: Final = 12_000  # HTTP and WebSocket together; the application bounds sockets at 10,000


class WholeAnswers(HttpToolsProtocol):
    """uvicorn's HTTP, with each answer in one write.

    It writes head and body apart, which is two system calls, two packets, and a client that wakes up twice.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast("asyncio.Transport", _Gathered(transport)))


class _Gathered:
    """A transport that writes once per turn of the loop; all else goes straight through."""

    def __init__(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._call_soon = asyncio.get_running_loop().call_soon
        self._out: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._out:
            self._call_soon(self._flush)
        self._out.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        out, self._out = self._out, []
        if out and not self._transport.is_closing():
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class GatewayServer:
    """One HTTP and WebSocket server. Several may share a port on one machine: the kernel spreads the connections."""

    def __init__(
        self, number: int, app: Litestar, host: str, port: int, beside: Sequence[Callable[[], Awaitable[None]]]
    ) -> None:
        self._number, self._app, self._host, self._port = number, app, host, port
        self._beside = beside
        self._draining = False
        self.uvicorn = uvicorn.Server(
            uvicorn.Config(
                app,
                http=WholeAnswers,
                ws="websockets-sansio",
                loop="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # nobody may choose the address that limits count by
                date_header=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=DRAIN_SECONDS,
                ws_ping_interval=WS_PING_SECONDS,
                ws_ping_timeout=WS_PING_SECONDS,
                ws_max_size=WS_MESSAGE_BYTES_MAX,
                limit_concurrency=CONNECTIONS_MAX,
            )
        )

    async def run(self) -> None:
        """Serve until drained."""
        listener = socket.socket(socket.AF_INET6 if ":" in self._host else socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((self._host, self._port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
        async with asyncio.TaskGroup() as tasks:
            beside = [tasks.create_task(_forever(run)) for run in self._beside]
            await self.uvicorn._serve(sockets=[listener])  # noqa: SLF001 - `serve` would take over the process's signals
            if not self._draining:
                raise RuntimeError("the HTTP server stopped on its own")
            for task in beside:
                task.cancel()

    async def drain(self) -> None:
        """Let running requests finish, take no new ones."""
        self._draining = True
        self.uvicorn.should_exit = True

    def status(self) -> dict[str, Any]:
        state = self.uvicorn.server_state
        return {
            "state": "serving" if self.uvicorn.started else "starting",
            "requests": state.total_requests,
            "connections": len(state.connections),
        }

    @property
    def address(self) -> str:
        return f"{self._host}:{self._port}"

    def __repr__(self) -> str:
        return f"Gateway({self._number})"


async def _forever(run: Callable[[], Awaitable[None]]) -> None:
    await run()
