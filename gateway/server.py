"""The gateway as a part that can be hosted: uvicorn around the application, and what must run beside it."""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import uvicorn
from litestar import Litestar

from gateway.connections import KEEP_ALIVE_SECONDS, Config, Connections, Http, WebSocket
from gateway.context import Gateway

BACKLOG: Final = 2_048
DRAIN_SECONDS: Final = 3
MARKETS_SECONDS_MAX: Final = 3.0  # for all to answer before the first request; those that do not are readiness's
WS_PING_SECONDS: Final = 20.0
WS_MESSAGE_BYTES_MAX: Final = 1 * 2**20


class GatewayServer:
    """One HTTP and WebSocket server. Several may share a port on one machine: the kernel spreads the connections."""

    def __init__(
        self, number: int, app: Litestar, host: str, port: int, beside: Sequence[Callable[[], Awaitable[None]]]
    ) -> None:
        self._number, self._host, self._port = number, host, port
        gateway: Gateway = app.state["gateway"]
        self._markets_known, self._markets_answer = gateway.markets.known, gateway.health.markets_answer
        self.connections = Connections(gateway.settings)
        self._beside = [self.connections.watch, *beside]
        self._draining = False
        config = Config(
            app,
            http=Http,
            ws=WebSocket,
            loop="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # the edge believes whom the settings name
            date_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=DRAIN_SECONDS,
            ws_ping_interval=WS_PING_SECONDS,
            ws_ping_timeout=WS_PING_SECONDS,
            ws_max_size=WS_MESSAGE_BYTES_MAX,
        )
        config.connections = self.connections
        self.uvicorn = uvicorn.Server(config)

    async def run(self) -> None:
        """Serve until drained. Another gateway may have the port: nobody shall come to this one before it can help.

        One that does not know the markets would deny them, and tell none of them what all are to be told.
        """
        async with asyncio.TaskGroup() as tasks:
            beside = [tasks.create_task(_forever(run)) for run in self._beside]
            await self._markets_known()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(MARKETS_SECONDS_MAX):
                    await self._markets_answer()
            await self.uvicorn._serve(sockets=[self._listen()])  # noqa: SLF001 - `serve` takes over signals
            if not self._draining:
                raise RuntimeError("the HTTP server stopped on its own")
            for task in beside:
                task.cancel()

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_INET6 if ":" in self._host else socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((self._host, self._port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
        return listener

    async def drain(self) -> None:
        """Let running requests finish, take no new ones."""
        self._draining = True
        self.uvicorn.should_exit = True

    def status(self) -> dict[str, Any]:
        return {
            "state": "serving" if self.uvicorn.started else "starting",
            "requests": self.uvicorn.server_state.total_requests,
            "connections": len(self.connections),
        }

    @property
    def address(self) -> str:
        return f"{self._host}:{self._port}"

    def __repr__(self) -> str:
        return f"Gateway({self._number})"


async def _forever(run: Callable[[], Awaitable[None]]) -> None:
    await run()
