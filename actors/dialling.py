"""The calling end of the data plane: stay connected to one actor, wherever the directory says that it is now."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

import structlog

from actors.dataplane import Connection, Receiver, Secret, connect

_BACKOFF_SECONDS_MAX: Final = 0.5

log = structlog.get_logger()


class Dialler:
    """Its owner is told of the one connection that counts; an older one that ends late is not news."""

    def __init__(
        self, name: str, secret: Secret, owner: Receiver, lost_sight: Callable[[], None] = lambda: None
    ) -> None:
        """`lost_sight` is called when a connection has ended or could not be made: the directory may know more."""
        self._name, self._secret, self._owner, self._lost_sight = name, secret, owner, lost_sight
        self._address = ""
        self._connection: Connection | None = None
        self._up, self._moved, self._down = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @property
    def connection(self) -> Connection | None:
        """None: there is none that could be sent through."""
        connection = self._connection
        return connection if connection is not None and connection.is_open else None

    @property
    def address(self) -> str:
        """Where it is dialled; empty: nobody has said yet."""
        return self._address

    async def until_up(self, seconds_max: float) -> Connection | None:
        """The connection, waited for if it is being made; None when it did not come, or closes at this moment."""
        try:
            async with asyncio.timeout(seconds_max):
                await self._up.wait()
        except TimeoutError:
            return None
        return self.connection

    async def run(self) -> None:
        """Dial, and dial again; the owner of the task cancels it."""
        failures = 0
        try:
            while True:
                self._moved.clear()
                if not self._address:
                    await self._moved.wait()
                    continue
                self._down.clear()
                try:
                    await connect(self._address, self._secret, self)
                    await self._down.wait()
                    failures = 0
                except (OSError, TimeoutError) as error:
                    failures += 1
                    log.info("dialler.unreachable", actor=self._name, address=self._address, why=repr(error))
                self._lost_sight()
                with contextlib.suppress(TimeoutError):  # a new address ends the wait
                    async with asyncio.timeout(min(0.02 * 2 ** min(failures, 10), _BACKOFF_SECONDS_MAX)):
                        await self._moved.wait()
        finally:
            self._hang_up()

    def moved_to(self, address: str) -> None:
        """Where the actor listens now; empty: nobody knows."""
        if address and address != self._address:
            self._address = address
            self._moved.set()
            self._hang_up()

    def _hang_up(self) -> None:
        self._up.clear()  # whoever waits, waits for the next one
        if self._connection is not None:
            self._connection.close()

    # --- Receiver -------------------------------------------------------------------------------------------------

    def connected(self, connection: Connection) -> None:
        self._connection = connection
        self._up.set()
        self._owner.connected(connection)

    def received(self, connection: Connection, frames: list[bytes]) -> None:
        self._owner.received(connection, frames)

    def lost(self, connection: Connection) -> None:
        if connection is not self._connection and self._connection is not None:
            return
        self._connection = None
        self._up.clear()
        self._down.set()
        self._owner.lost(connection)
