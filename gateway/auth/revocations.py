"""Ended sessions of all gateways, read every few seconds, so that a logout elsewhere counts here.

When the store cannot be read, what is known stays known and the age grows; readiness shows the age.
"""

import asyncio
from typing import Final

import structlog

from engine.units import SECOND_US
from gateway.auth.tokens import AccessTokens
from gateway.ports import Clock, Elapsed, People

_OVERLAP_US: Final = 10 * SECOND_US  # other gateways' clocks and slow transactions
_log = structlog.get_logger(__name__)


class Revocations:
    def __init__(
        self,
        people: People,
        tokens: AccessTokens,
        clock: Clock,
        elapsed: Elapsed,
        *,
        every_seconds: float,
        access_seconds: int,
    ) -> None:
        self._people, self._tokens, self._clock, self._elapsed = people, tokens, clock, elapsed
        self._every_seconds = every_seconds
        self._since_us = clock() - access_seconds * SECOND_US - _OVERLAP_US
        self._read_us: int | None = None  # when the store was last read, by the time that has passed

    @property
    def age_us(self) -> int | None:
        """How long ago the store was read; None before it ever was."""
        return None if self._read_us is None else self._elapsed() - self._read_us

    async def read(self) -> None:
        started_us, elapsed_us = self._clock(), self._elapsed()
        self._tokens.end(await self._people.ended_sessions(min(self._since_us, started_us - _OVERLAP_US)))
        self._since_us, self._read_us = started_us - _OVERLAP_US, elapsed_us

    async def run(self) -> None:
        """Runs until cancelled by its owner."""
        while True:
            try:
                await self.read()
            except Exception as error:  # noqa: BLE001 - whatever the store raises, the next turn tries again
                _log.warning("ended sessions not read", error=repr(error), age_us=self.age_us)
            await asyncio.sleep(self._every_seconds)
