"""How many orders and amends a participant may send to a market per second; in this process, as all limits by caller.

A market's rate is part of its rules; a participant with limits of his own has his own instead, which are read from
the store every few seconds. Cancels are free: they lower the risk, and have drawn on the limit `orders` already.
"""

import asyncio
from typing import Final

import structlog

from engine.market import MarketSpec
from engine.messages import ParticipantId
from gateway.limits import Buckets
from gateway.ports import Markets, Risk
from gateway.settings import Limit

NAME: Final = "messages"
_log = structlog.get_logger(__name__)


class MessageRates:
    def __init__(self, risk: Risk, markets: Markets, every_seconds: float, keys_max: int) -> None:
        self._risk, self._markets = risk, markets
        self._every_seconds, self._keys_max = every_seconds, keys_max
        self._own: dict[tuple[int, ParticipantId], int] = {}
        self._buckets: dict[tuple[int, int], Buckets] = {}  # by market and rate: one for all who have that rate there

    def take(self, spec: MarketSpec, participant_id: ParticipantId) -> None:
        """Count one order or amend. Raises RATE_LIMITED, and counts none."""
        if not spec.messages_per_second and not self._own:
            return
        rate = self._own.get((spec.market_id, participant_id), spec.messages_per_second)
        if not rate:
            return
        buckets = self._buckets.get((spec.market_id, rate))
        if buckets is None:
            buckets = self._buckets[spec.market_id, rate] = Buckets(NAME, Limit(rate, rate), self._keys_max)
        buckets.take(participant_id)

    async def read(self) -> None:
        """Learn everybody's own rates, and let go of buckets that no rate needs any more."""
        self._own = await self._risk.rates()
        rates = {(market_id, rate) for (market_id, _), rate in self._own.items()}
        rates |= {(spec.market_id, spec.messages_per_second) for spec in self._markets.markets().values()}
        self._buckets = {key: buckets for key, buckets in self._buckets.items() if key in rates}

    async def run(self) -> None:
        """Runs until cancelled by its owner."""
        while True:
            try:
                await self.read()
            except Exception as error:  # noqa: BLE001 - whatever the store raises, the next turn tries again
                _log.warning("message rates not read", error=repr(error))
            await asyncio.sleep(self._every_seconds)
