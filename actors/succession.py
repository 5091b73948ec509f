"""How a market goes from one process to another while people trade in it (docs/decisions/0049).

The heir follows the journal until it is told to take over; the owner takes nothing more, commits what it has taken, and
tells whoever still asks where the market is now. Ownership itself changes where it always does: the heir opens the
journal, which fences whoever had it.

    owner: serving -> leaving -> left        heir: standing by -> recovering -> serving
"""

import asyncio
import contextlib
from typing import Final

import structlog
from msgspec import Struct

from actors.ports import Journal, Snapshots
from actors.recovery import Replica, catch_up, newest_snapshot
from engine.journal import JournalBroken

STANDING_BY: Final = "standing by"
LEAVING: Final = "leaving"
LEFT: Final = "left"
POLL_SECONDS: Final = 0.02  # what is left to replay when the market changes hands is at most this old

log = structlog.get_logger()


class Moved(Struct, frozen=True, array_like=True, tag=8, gc=False):
    """In the place of an answer: nothing was done; the market listens there now (host:port)."""

    address: str


class Heir(Struct, frozen=True):
    """Where the market listens next. by_snapshot: it cannot replay our rows, so we leave a snapshot at their end."""

    address: str
    by_snapshot: bool


class Standby:
    """A replica close behind the journal of a market that another process owns."""

    def __init__(self, market_id: int, journal: Journal, snapshots: Snapshots) -> None:
        self._market_id, self._journal, self._snapshots = market_id, journal, snapshots
        self._over = asyncio.Event()
        self.replica: Replica | None = None
        self.flaw = ""  # why there is no replica: our engine does not read what the owner writes

    @property
    def is_over(self) -> bool:
        """It was told to take over, or to stop."""
        return self._over.is_set()

    def end(self) -> None:
        self._over.set()

    async def follow(self) -> Replica | None:
        """Stay close until it is over; then what was reached, or nothing for who cannot replay these rows."""
        while not self.is_over and not self.flaw:
            try:
                self.replica = self.replica or await newest_snapshot(self._market_id, self._snapshots)
                await catch_up(self.replica, self._journal)
            except JournalBroken as error:
                self.replica, self.flaw = None, str(error)
                log.warning("market.cannot_follow", market_id=self._market_id, why=self.flaw)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._over.wait()
        await self._over.wait()
        return self.replica
