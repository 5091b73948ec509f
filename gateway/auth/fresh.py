"""What a store says, remembered for a few seconds and never longer.

Whoever keeps asking never waits for the store: when half of the time is over, it is asked beside the request.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import structlog

from engine.units import SECOND_US
from gateway.ports import Elapsed

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_log = structlog.get_logger(__name__)


class Fresh(Generic[K, V]):
    """Values by key, at most `seconds` old; what is not there is not remembered."""

    def __init__(
        self, name: str, look: Callable[[K], Awaitable[V | None]], elapsed: Elapsed, seconds: float, kept_max: int
    ) -> None:
        self._name, self._ask, self._elapsed = name, look, elapsed
        self._fresh_us, self._kept_max = int(seconds * SECOND_US), kept_max
        self._values: OrderedDict[K, tuple[V, int]] = OrderedDict()  # with when it stops being fresh
        self._looking: dict[K, asyncio.Task[None]] = {}
        self._forgotten = 0  # how often something was forgotten: a look that began before then is not believed

    async def get(self, key: K, *, beside: bool = True) -> V | None:
        """The value; without `beside` it is asked for anew, and waited for, when half of its time is over."""
        known = self._values.get(key)
        left_us = known[1] - self._elapsed() if known is not None else 0
        if known is None or left_us <= 0:
            return await self._look(key)
        if left_us < self._fresh_us // 2:
            if not beside:
                return await self._look(key)
            if key not in self._looking:
                self._look_beside(key)
        return known[0]

    def forget(self, key: K) -> None:
        """It has changed here: the next request looks again."""
        self._forgotten += 1
        self._values.pop(key, None)

    async def close(self) -> None:
        """Ends what runs beside requests."""
        looking = list(self._looking.values())
        for task in looking:
            task.cancel()
        await asyncio.gather(*looking, return_exceptions=True)

    async def _look(self, key: K) -> V | None:
        began_us, forgotten = self._elapsed(), self._forgotten
        value = await self._ask(key)
        if value is None:
            self._values.pop(key, None)
        elif forgotten == self._forgotten:
            self._values[key] = (value, began_us + self._fresh_us)
            self._values.move_to_end(key)
            if len(self._values) > self._kept_max:
                self._values.popitem(last=False)
        return value

    def _look_beside(self, key: K) -> None:
        task = asyncio.create_task(self._looked(key), name=self._name)
        self._looking[key] = task
        task.add_done_callback(lambda _: self._looking.pop(key, None))

    async def _looked(self, key: K) -> None:
        try:
            await self._look(key)
        except Exception as error:  # noqa: BLE001 - a task's end; whoever asks when the time is over hears of it
            _log.warning("not looked at", what=self._name, key=key, error=repr(error))
