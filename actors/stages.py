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
from typing import Any, Final

from actors import metrics

HAND_OVER_SECONDS: Final = 0.5


class Stage:
    """One stage. Its process's loop must run: it hands the counts over."""

    __slots__ = ("_counts", "_histogram", "_seconds", "_timer")

    def __init__(self, name: str) -> None:
        self._histogram: Any = metrics.STAGE_SECONDS.labels(name)
        self._counts = [0] * (len(metrics.STAGE_BOUNDS) + 1)
        self._seconds = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def observe(self, seconds: float, count: int = 1) -> None:
        """So many orders took this long."""
        self._counts[bisect_left(metrics.STAGE_BOUNDS, seconds)] += count
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


class Stages:
    """All of them; each process feeds those that it knows."""

    def __init__(self) -> None:
        self.parse = Stage("parse").observe
        self.authenticate = Stage("authenticate").observe
        self.hop = Stage("hop").observe
        self.wait = Stage("wait").observe
        self.apply = Stage("apply").observe
        self.commit = Stage("commit").observe
        self.answer = Stage("answer").observe
