"""A local chain as a process of its own, over real sockets, that tests may kill, and whose time they make pass."""

import asyncio
import contextlib
import multiprocessing
import socket
from collections.abc import AsyncIterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final

import httpx
from solana.rpc.async_api import AsyncClient
from solana.rpc.commitment import Confirmed
from solders.keypair import Keypair

from chain.devnet.ledger import Ledger
from chain.devnet.memory import keep_freed_memory
from chain.devnet.server import Devnet, reference_files
from tests.support.patience import HUNG_SECONDS

# One process imports everything once, and each devnet is a fork of it: starting one is most of what tests wait for.
FORKS: Final = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["__main__", "chain.devnet.server"])


def _serve(port: int, state: Path, slot_seconds: float) -> None:
    keep_freed_memory()

    async def serve() -> None:
        ledger = Ledger(reference_files(), state)
        async with Devnet(ledger, slot_seconds, with_faults=True).listening("127.0.0.1", port):
            await asyncio.Event().wait()

    asyncio.run(serve())


class DevnetProcess:
    """`slot_seconds` 0: time passes only by `tick`."""

    def __init__(self, state: Path, slot_seconds: float = 0) -> None:
        self.state, self.slot_seconds = state, slot_seconds
        self.port = free_ports()
        self.url, self.ws = f"http://127.0.0.1:{self.port}", f"ws://127.0.0.1:{self.port + 1}"
        self.process: ForkServerProcess | None = None

    def start(self) -> "DevnetProcess":
        self.process = FORKS.Process(target=_serve, args=(self.port, self.state, self.slot_seconds), daemon=True)
        self.process.start()
        until = monotonic() + HUNG_SECONDS
        while monotonic() < until:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/health").text == "ok":
                    return self
            assert self.process.is_alive(), "the devnet ended"
            sleep(0.02)
        raise TimeoutError("the devnet does not answer")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None

    def call(self, method: str, *parameters: Any) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}
        answer = httpx.post(self.url, json=body, timeout=HUNG_SECONDS).json()
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["result"]

    def tick(self, slots: int = 1) -> None:
        self.call("devnet_tick", slots)


def free_ports() -> int:
    """The first of two neighbours that nobody uses."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            with contextlib.suppress(OSError, OverflowError):
                second.bind(("127.0.0.1", port + 1))
                return port


@contextlib.asynccontextmanager
async def connected(devnet: DevnetProcess) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(devnet.url, commitment=Confirmed) as client:
        yield client


async def funded(client: AsyncClient, lamports: int = 10**10) -> Keypair:
    made = Keypair()
    await client.request_airdrop(made.pubkey(), lamports)
    return made
