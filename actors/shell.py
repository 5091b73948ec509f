"""The life that all actors of the data plane share: it begins anew when something fails, and it ends in order.

starting -> recovering -> serving -> (recovering ...) -> draining -> stopped
                                  \\-> fenced              another process owns it now
"""

import asyncio
from abc import ABC, abstractmethod
from typing import Final

from actors.dataplane import Connection, Secret, Server
from engine.journal import Fenced

_ENDED: Final = ("stopped", "fenced")


class Shell(ABC):
    """Memory is never repaired: whatever goes wrong, it is thrown away, and read anew from what is durable."""

    def __init__(self, secret: Secret, host: str, backoff_seconds_max: float) -> None:
        self._server = Server(secret, self)
        self._host, self._backoff_seconds_max = host, backoff_seconds_max
        self._wake = asyncio.Event()
        self._ended = asyncio.Event()
        self._draining = False
        self._state, self._detail = "starting", ""

    async def run(self) -> None:
        """Serve until drained or fenced; nothing ends this silently."""
        await self._server.start(self._host)
        failures = 0
        try:
            while self._state not in _ENDED:
                try:
                    await self._live()
                except* Fenced as group:
                    self._become("fenced", str(group.exceptions[0]))
                    self._failed(failures)
                except* Exception as group:  # noqa: BLE001 - kept, told, answered by beginning anew
                    failures = 1 if self._state in ("serving", "draining") else failures + 1
                    self._become("stopped" if self._draining else "recovering", repr(group.exceptions[0]))
                    self._failed(failures)
                    if failures > 1:
                        self._refuse_waiting("what makes an answer durable cannot be reached; nothing was done")
                    await asyncio.sleep(min(0.05 * 2 ** min(failures, 10), self._backoff_seconds_max))
        finally:
            self._refuse_waiting(f"this is {self._state} on this node; nothing was done")
            await self._server.stop()
            await self._close()
            self._ended.set()

    async def drain(self) -> None:
        """Take no more, finish what waits, stop."""
        self._draining = True
        self._wake.set()
        await self._ended.wait()

    @property
    def address(self) -> str:
        """host:port of the data plane; empty until it listens."""
        return self._server.address

    def _become(self, state: str, detail: str = "") -> None:
        self._state, self._detail = state, detail

    def connected(self, connection: Connection) -> None:  # noqa: B027 - most have nothing to say yet
        """Somebody has proved himself; he will say what he wants."""

    @abstractmethod
    def received(self, connection: Connection, frames: list[bytes]) -> None: ...

    @abstractmethod
    def lost(self, connection: Connection) -> None: ...

    @abstractmethod
    async def _live(self) -> None:
        """Recover, serve until drained, become "stopped"."""

    @abstractmethod
    def _failed(self, failures: int) -> None:
        """Say it in the log and in a metric: `_state` and `_detail` tell what happened; `failures` in a row."""

    @abstractmethod
    def _refuse_waiting(self, why: str) -> None:
        """Answer everybody who waits that nothing was done."""

    @abstractmethod
    async def _close(self) -> None:
        """Give back what was opened."""
