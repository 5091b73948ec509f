"""The private local chain as a server beside the private Postgres: on loopback, its state below `<data_dir>/devnet`.

It is a program of chain/devnet in a process of its own; nothing of it is imported here.
"""

import os
import socket
import sys
from pathlib import Path
from typing import Final

from persistence.embedded import EmbeddedServer

HOST: Final = "127.0.0.1"
ROOT: Final = Path(__file__).parents[1]
NICE: Final = 10  # the order path comes first
PROGRAM: Final = (
    "import os,sys;sys.path.insert(0,sys.argv[1])\n"
    "from persistence.priority import step_back;step_back(os.getpid(),int(sys.argv[4]))\n"
    "import uvloop;from pathlib import Path;from chain.devnet.server import serve\n"
    f"uvloop.run(serve('{HOST}',int(sys.argv[2]),Path(sys.argv[3]),slot_ms=int(sys.argv[5]),with_faults=sys.argv[6]=='faults'))"
)
FAULTS_VARIABLE: Final = "DEVNET_FAULTS"  # set, to anything: the chain does wrong what a test asks it to


class EmbeddedDevnet(EmbeddedServer):
    """A private Solana with the five programs."""

    name = "devnet"
    stops = (("SIGTERM", 5.0),)
    _socket_name = "none"

    def __init__(self, data_dir: Path, port: int, slot_ms: int) -> None:
        """`port`: for RPC, the next is the WebSocket's; 0: two that are free."""
        super().__init__(data_dir)
        self._port, self._slot_ms = port, slot_ms

    @property
    def address(self) -> str:
        """A URL for JSON-RPC."""
        return f"http://{HOST}:{self._port}"

    def _user(self) -> tuple[int, int] | None:
        return None  # it is our own program, and runs where we do

    def _prepare(self, lock: int) -> None:  # noqa: ARG002 - nothing to run beforehand
        self._start_log.unlink(missing_ok=True)
        self._port = self._port or _free_pair()

    def _command(self) -> list[str]:
        state = str(self.home / "chain.sqlite")
        faults = "faults" if os.environ.get(FAULTS_VARIABLE) else ""
        return [sys.executable, "-c", PROGRAM, str(ROOT), str(self._port), state, str(NICE), str(self._slot_ms), faults]

    def _ready(self) -> bool:
        try:
            with socket.create_connection((HOST, self._port), 1.0) as probe:
                probe.sendall(b"GET /health HTTP/1.0\r\n\r\n")
                return b" 200 " in probe.recv(64)
        except OSError:
            return False


def _free_pair() -> int:
    """The first of two neighbouring ports that nobody uses."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind((HOST, 0))
            port = int(first.getsockname()[1])
            try:
                second.bind((HOST, port + 1))
            except (OSError, OverflowError):
                continue
            return port
