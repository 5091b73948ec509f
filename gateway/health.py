"""Whether the gateway can serve: each dependency with its state and latency, and whether orders can be placed.

Ready means: every needed probe that the daemon handed in succeeds, and every market answers. That projections follow is
shown, and not needed: trading goes on without them. Looked at most twice a second, however often it is asked.
"""

import asyncio
import time
from collections.abc import Mapping
from functools import partial
from typing import Final

import structlog
from msgspec import Struct

from engine.units import SECOND_US
from engine.views import GetMarket, MarketView
from gateway.auth.revocations import Revocations
from gateway.ports import History, Markets, Probe
from gateway.settings import GatewaySettings

_log = structlog.get_logger(__name__)
_FRESH_SECONDS: Final = 0.5
_PROBE_SECONDS_MAX: Final = 2.0
_REVOCATIONS_SECONDS_MAX: Final = 30
_LOOK_SECONDS: Final = 0.05
_STANDSTILL_SECONDS_MAX: Final = 10.0
PROJECTIONS: Final = "projections"


class DependencyState(Struct, frozen=True):
    state: str  # up, down
    latency_ms: float
    reason: str | None = None


class HealthReport(Struct, frozen=True):
    """`status`: ok or unavailable; `reasons` says why not."""

    status: str
    version: str
    dependencies: dict[str, DependencyState]
    reasons: list[str]


class Alive(Struct, frozen=True):
    status: str
    version: str


class Health:
    def __init__(
        self,
        markets: Markets,
        history: History,
        revocations: Revocations,
        probes: Mapping[str, Probe],
        settings: GatewaySettings,
        not_needed: frozenset[str],
    ) -> None:
        self._not_needed = not_needed  # probes whose failure is shown, but stops no trading
        self._markets, self._history, self._revocations = markets, history, revocations
        self._followed: dict[int, tuple[int, float]] = {}  # market -> (projected sequence, since when)
        self._probes, self._version = probes, settings.version
        self._ended: list[str] = []  # background tasks that died
        self._report: tuple[float, HealthReport] | None = None
        self._looking = asyncio.Lock()

    def task_ended(self, task: "asyncio.Task[None]") -> None:
        """A background task is over: expected when it was cancelled, a fault that readiness shows when not."""
        if not task.cancelled():
            _log.error("background task ended", task=task.get_name(), error=repr(task.exception()))
            self._ended.append(task.get_name())

    @property
    def alive(self) -> Alive:
        return Alive("ok", self._version)

    async def markets_answer(self) -> None:
        """Return when there are markets and each has answered."""
        while True:
            specs = list(self._markets.markets().values())
            states = await asyncio.gather(*(_state(partial(self._market_answers, spec.market_id)) for spec in specs))
            if specs and all(one.state == "up" for one in states):
                return
            await asyncio.sleep(_LOOK_SECONDS)

    async def report(self) -> HealthReport:
        async with self._looking:
            now = time.monotonic()
            if self._report is None or now - self._report[0] >= _FRESH_SECONDS:
                self._report = (now, await self._look())
            return self._report[1]

    async def _look(self) -> HealthReport:
        specs = list(self._markets.markets().values())
        names = [*self._probes, *(f"market {spec.symbol}" for spec in specs), "sessions", PROJECTIONS]
        states = await asyncio.gather(
            *(_state(probe) for probe in self._probes.values()),
            *(_state(partial(self._market_answers, spec.market_id)) for spec in specs),
            _state(self._revocations_fresh),
            _state(self._projections_follow),
        )
        dependencies = dict(zip(names, states, strict=True))
        reasons = [
            f"{name}: {one.reason}"
            for name, one in dependencies.items()
            if one.state != "up" and name != PROJECTIONS and name not in self._not_needed
        ]
        if not specs:
            reasons.append("no market is known yet")
        reasons += [f"background task {name} has ended" for name in self._ended]
        return HealthReport("unavailable" if reasons else "ok", self._version, dependencies, reasons)

    async def _market_answers(self, market_id: int) -> None:
        answer = await self._markets.ask(market_id, GetMarket())
        if not isinstance(answer, MarketView):
            raise Unhealthy(getattr(answer, "detail", "no answer"))

    async def _projections_follow(self) -> None:
        """Behind is normal, standing still while behind is not."""
        specs, now = list(self._markets.markets().values()), time.monotonic()
        written = await self._history.cursor([spec.market_id for spec in specs])
        for spec in specs:
            answer = await self._markets.ask(spec.market_id, GetMarket())
            cursor = written.get(spec.market_id, 0)
            seen, since = self._followed.get(spec.market_id, (-1, now))
            if cursor != seen or not isinstance(answer, MarketView) or cursor >= answer.sequence:
                self._followed[spec.market_id] = (cursor, now)
            elif now - since > _STANDSTILL_SECONDS_MAX:
                raise Unhealthy(f"{spec.symbol} stands still at {cursor} of {answer.sequence}")

    async def _revocations_fresh(self) -> None:
        age_us = self._revocations.age_us
        if age_us is None or age_us > _REVOCATIONS_SECONDS_MAX * SECOND_US:
            raise Unhealthy("ended sessions have not been read lately")


class Unhealthy(Exception):
    """A dependency answers, but not with what is needed."""


async def _state(probe: Probe) -> DependencyState:
    started = time.perf_counter()
    reason = None
    try:
        async with asyncio.timeout(_PROBE_SECONDS_MAX):
            await probe()
    except TimeoutError:
        reason = "does not answer in time"
    except Unhealthy as error:
        reason = str(error)
    except Exception as error:  # noqa: BLE001 - whatever a probe raises means down; the message stays in the log
        _log.warning("probe failed", error=repr(error))
        reason = type(error).__name__
    return DependencyState("down" if reason else "up", round((time.perf_counter() - started) * 1_000, 3), reason)
