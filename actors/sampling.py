"""What is looked at now and then instead of being counted each time: how late a loop is, how full queues are.

A sample re-arms its own timer, so it lives as long as the loop of its process and needs no task; what it raises is
logged and does not end the next one.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import structlog

from actors import metrics
from actors.stages import gathered

SAMPLE_SECONDS: Final = 0.5
POOL_SECONDS: Final = 2.0
DASHBOARD_SECONDS: Final = 5.0

Figures = Mapping[str, float]
log = structlog.get_logger()


class Pool(Protocol):
    """What a pool of connections says of itself."""

    def get_size(self) -> int: ...
    def get_idle_size(self) -> int: ...
    def is_closing(self) -> bool: ...


def every(seconds: float, look: Callable[[float], None]) -> None:
    """Call `look` with how many seconds too late the loop came to it, for as long as the loop runs."""
    loop = asyncio.get_running_loop()

    def sample(due: float) -> None:
        late = max(0.0, loop.time() - due)
        arm()
        try:
            look(late)
        except Exception as error:  # figures end nothing
            log.error("sampling.failed", why=repr(error), exc_info=error)

    def arm() -> None:
        due = loop.time() + seconds
        loop.call_at(due, sample, due)

    arm()


def sample_part(name: str, part: Any, tell: Callable[[Figures], None]) -> None:
    """Measure the loop of the part's process, and what the part measures of itself when it has a `measure`.

    A part whose loop is several parts' has a `was_late`, which hears of it in the place of its name's histogram. `tell`
    hears the worst of the last DASHBOARD_SECONDS, for Ray's dashboard.
    """
    observe: Callable[[float], None] = getattr(part, "was_late", None) or lag_of(name)
    measure: Callable[[], Figures] = getattr(part, "measure", dict)
    worst, rounds = 0.0, 0

    def look(late: float) -> None:
        nonlocal worst, rounds
        observe(late)
        figures = measure()
        worst, rounds = max(worst, late), rounds + 1
        if rounds * SAMPLE_SECONDS >= DASHBOARD_SECONDS:
            tell({"loop_lag_seconds": worst, **figures})
            worst, rounds = 0.0, 0

    every(SAMPLE_SECONDS, look)


def lag_of(name: str) -> Callable[[float], None]:
    """What to tell how late the loop of this part was."""
    return gathered(metrics.LOOP_LAG_SECONDS.labels(name), metrics.LOOP_LAG_BOUNDS)


def sample_pool(name: str, pool: Pool) -> None:
    """How many connections of the pool are busy and idle."""
    busy = metrics.POOL_CONNECTIONS.labels(name, "busy")
    idle = metrics.POOL_CONNECTIONS.labels(name, "idle")

    def look(_late: float) -> None:
        free = 0 if pool.is_closing() else pool.get_idle_size()
        idle.set(free)
        busy.set(0 if pool.is_closing() else pool.get_size() - free)

    every(POOL_SECONDS, look)
