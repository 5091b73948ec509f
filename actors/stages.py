"""Where an order's time goes, stage by stage, cheap enough to stay on.

    gateway   parse         from the request to its command, without what follows
              authenticate  token, role, limit
              hop           both ways between gateway and market, with their waiting for a turn of the loop
              answer        from the market's answer to the last byte for the server
    market    wait          for the commit before, and for the ledger when funds are short
              apply         the batch's turn in the engine, with the answers' encoding
              commit        the batch's turn in the journal

An order of a batch spends the batch's whole apply and commit, so these count once per order. A prometheus histogram
costs two microseconds for each value; here values are counted in plain integers and handed over twice a second.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Callable
from typing import Any, Final

from prometheus_client import Histogram

from actors import metrics

HAND_OVER_SECONDS: Final = 0.5


class Gathered:
    """Values on their way to a prometheus histogram. Its process's loop must run: it hands them over."""

    __slots__ = ("_bounds", "_counts", "_histogram", "_seconds", "_timer")

    def __init__(self, histogram: Histogram, bounds: tuple[float, ...]) -> None:
        """`histogram` has its labels, and these upper bounds."""
        self._histogram: Any = histogram
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._seconds = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def observe(self, seconds: float, count: int = 1) -> None:
        """So many took this long."""
        self._counts[bisect_left(self._bounds, seconds)] += count
        self._seconds += seconds * count
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(HAND_OVER_SECONDS, self.hand_over)

    def hand_over(self) -> None:
        """What was gathered, to prometheus; it has no public way to take many values at once."""
        self._timer = None
        for bucket, count in enumerate(self._counts):
            if count:
                self._histogram._buckets[bucket].inc(count)  # noqa: SLF001
                self._counts[bucket] = 0
        self._histogram._sum.inc(self._seconds)  # noqa: SLF001
        self._seconds = 0.0


def gathered(histogram: Histogram, bounds: tuple[float, ...]) -> Callable[[float], None]:
    """What to call instead of the histogram's `observe`."""
    return Gathered(histogram, bounds).observe


class Stages:
    """All of them; each process feeds those that it knows."""

    def __init__(self) -> None:
        self.parse = _stage("parse")
        self.authenticate = _stage("authenticate")
        self.hop = _stage("hop")
        self.wait = _stage("wait")
        self.apply = _stage("apply")
        self.commit = _stage("commit")
        self.answer = _stage("answer")


def _stage(name: str) -> Callable[..., None]:
    return Gathered(metrics.STAGE_SECONDS.labels(name), metrics.STAGE_BOUNDS).observe
