"""The actor that lets time pass: it sends quiet markets a Tick each, and keeps the duties that nobody asks for.

Nothing in a market depends on it for correctness: every command first lets time pass. Without it, expired orders of a
quiet market would only leave the book with the next command.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from actors import metrics
from actors.dataplane import Secret
from actors.duties import Duty, keep
from actors.links import Directory, Links
from engine.messages import Tick
from engine.units import TimeUs
from engine.views import Failed


class EpochClock:
    """Ticks every market; each tick is answered before that market's next one is sent."""

    def __init__(
        self,
        directory: Directory,
        secret: Secret,
        clock: Callable[[], TimeUs],
        duties: Sequence[Duty] = (),
        every_seconds: float = 0.5,
    ) -> None:
        self._links = Links(directory, secret)
        self._duties, self._clock = [*duties], clock
        self._every_seconds = every_seconds
        self._under_way: dict[int, asyncio.Task[None]] = {}
        self._stopping = asyncio.Event()

    @property
    def links(self) -> Links:
        """The way to the markets, for duties that need one."""
        return self._links

    def add(self, duty: Duty) -> None:
        """One more duty, before the clock runs."""
        self._duties.append(duty)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            links = tasks.create_task(self._links.run())
            for duty in self._duties:
                tasks.create_task(keep(duty, self._clock, self._stopping), name=duty.name)
            while not self._stopping.is_set():
                for spec in self._links.markets().values():
                    task = self._under_way.get(spec.market_id)
                    if task is None or task.done():
                        self._under_way[spec.market_id] = tasks.create_task(self._tick(spec.market_id, spec.symbol))
                try:
                    async with asyncio.timeout(self._every_seconds):
                        await self._stopping.wait()
                except TimeoutError:
                    continue
            links.cancel()

    async def drain(self) -> None:
        self._stopping.set()

    def status(self) -> dict[str, Any]:
        return {"markets": len(self._links.markets()), "duties": [duty.name for duty in self._duties]}

    async def _tick(self, market_id: int, symbol: str) -> None:
        answer = await self._links.submit(market_id, Tick())
        if not isinstance(answer, Failed):
            metrics.TICKS.labels(symbol).inc()

    def __repr__(self) -> str:
        return "EpochClock()"
