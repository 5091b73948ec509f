"""What the same server does with nothing behind it: a JSON POST that is decoded and answered, a msgpack WebSocket echo.

The baseline of the ratios: Litestar on uvicorn with uvloop and httptools as the gateway runs them, in a process of its
own. `python -m bench.noop PORT` is that process; `Noop` starts and ends it.
"""

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from types import TracebackType
from typing import Any, Final, Self

import msgspec
import uvicorn
import uvloop
from litestar import Litestar, WebSocket, post, websocket
from litestar.exceptions import WebSocketDisconnect
from msgspec import Struct

START_SECONDS_MAX: Final = 30.0


class Body(Struct, frozen=True, forbid_unknown_fields=True):
    """The fields of an order, as POST /orders takes them."""

    market: str
    side: str
    type: str
    quantity: str
    price: str
    client_order_id: str


class Done(Struct, frozen=True):
    client_order_id: str


@post("/api/v1/orders")
async def nothing(data: Body) -> Done:
    return Done(data.client_order_id)


@websocket("/ws")
async def echo(socket: "WebSocket[Any, Any, Any]") -> None:
    await socket.accept()
    decode, encode = msgspec.msgpack.Decoder().decode, msgspec.msgpack.Encoder().encode
    with contextlib.suppress(WebSocketDisconnect):
        while True:
            frame = await socket.receive_data(mode="binary")
            await socket.send_data(encode(decode(frame)), mode="binary")


class Noop:
    """A context manager; `url` is its root while it is open."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen([sys.executable, "-m", "bench.noop", str(self._port)])
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 1):
                return self
            time.sleep(0.05)
        self._process.kill()
        raise RuntimeError("the no-op server did not start")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(10)


def main() -> None:
    config = uvicorn.Config(
        Litestar([nothing, echo], openapi_config=None, logging_config=None),
        port=int(sys.argv[1]),
        http="httptools",
        ws="websockets-sansio",
        loop="none",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
    )
    uvloop.run(uvicorn.Server(config).serve())


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
        main()
