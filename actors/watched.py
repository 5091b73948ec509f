"""One actor, or one market of a shared process, as the supervisor sees it: asked again and again, begun anew if needed.

Ray restarts processes. What lives in a shared one (actors/market_host.py) is admitted there anew by who watches it.
"""

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Any, Final, TypedDict

import msgspec
import structlog

from actors import handles, metrics
from actors.clock import clock_us
from actors.handles import CALL_SECONDS_MAX, Placement, Unmade, Unreachable
from actors.hosting import Host, MarketHostActor, Recipe
from actors.succession import STANDING_BY
from engine.units import TimeUs

MAKE_SECONDS_MAX: Final = 10.0  # between attempts to make an actor that cannot be made

log = structlog.get_logger()


class Absence(TypedDict):
    """An actor did not answer from `at_us` on; `back_us`: until when, if it is over."""

    actor: str
    at_us: TimeUs
    back_us: TimeUs | None
    why: str


class Watching(ABC):
    """Whatever has a name, an address and a state; `absences` is the supervisor's, for all of them.

    `called`: its name in Ray, if that is not the one that people know it by. An heir is to replace another process.
    """

    def __init__(self, name: str, called: str, absences: deque[Absence], *, is_heir: bool) -> None:
        self.name, self.called, self.is_heir = name, called, is_heir
        self._absences = absences
        self.address = ""
        self.status: dict[str, Any] = {"state": "starting"}
        self.faults = 0
        self.is_up = False
        self._is_over = False

    async def look(self) -> None:
        """Ask for address and state; what cannot be asked has neither."""
        try:
            self.address, self.status = await self._seen()
            if self.status.get("state") == STANDING_BY and not self.is_heir:
                await self.ask("take_over")
            if not self.is_up:
                log.info("supervisor.up", actor=self.name, address=self.address)
                for absence in self._absences:
                    if absence["actor"] == self.name and absence["back_us"] is None:
                        absence["back_us"] = clock_us()
            self.is_up = True
        except Unreachable as error:
            if self.is_up and not self.is_heir:
                self.faults += 1
                metrics.ACTOR_FAULTS.labels(self.name).inc()
                self._absences.append(Absence(actor=self.name, at_us=clock_us(), back_us=None, why=str(error)))
                log.warning("supervisor.down", actor=self.name, why=str(error))
            self.address, self.status, self.is_up = "", {"state": "unreachable", "detail": str(error)}, False
            self._begin_anew(error)
        if not self.is_heir and not self._is_over:
            metrics.ACTOR_UP.labels(self.name).set(self.is_up)

    @abstractmethod
    async def ask(self, method: str, *arguments: Any, seconds: float = CALL_SECONDS_MAX) -> Any:
        """What its method returns. Raises Unreachable."""

    @abstractmethod
    async def end(self) -> None:
        """End it for good, as by a power cut."""

    @abstractmethod
    async def _seen(self) -> tuple[str, dict[str, Any]]:
        """Its address and status. Raises Unreachable."""

    def _begin_anew(self, error: Unreachable) -> None:  # noqa: B027 - in a shared process it is when that answers
        """It could not be asked."""


class Watched(Watching):
    """An actor: a process of its own."""

    def __init__(
        self,
        placement: Placement,
        kind: type[Host],
        recipe: Recipe,
        absences: deque[Absence],
        called: str = "",
        *,
        is_heir: bool = False,
    ) -> None:
        super().__init__(placement.name, called or placement.name, absences, is_heir=is_heir)
        self.placement, self.kind = placement, kind
        self._start = partial(handles.start, kind, msgspec.structs.replace(placement, name=self.called), recipe)
        self.actor = self._start()
        self._unmade = 0  # attempts in a row to make it that failed
        self._again_at: float | None = None  # the loop's time of the next one

    async def ask(self, method: str, *arguments: Any, seconds: float = CALL_SECONDS_MAX) -> Any:
        return await handles.call(self.actor, method, *arguments, seconds=seconds)

    async def end(self) -> None:
        self._is_over = True
        handles.end(self.actor)

    async def _seen(self) -> tuple[str, dict[str, Any]]:
        status = await self.ask("status")
        self._unmade, self._again_at = 0, None
        return status["address"], status

    def _begin_anew(self, error: Unreachable) -> None:
        """With back-off where it cannot be made: each attempt is a process."""
        now = asyncio.get_running_loop().time()
        if isinstance(error, Unmade) and self._again_at is None:
            self._unmade += 1
            log.error("supervisor.not_made", actor=self.name, why=str(error), attempt=self._unmade)
            self._again_at = now + _pause(self._unmade)
        if self._is_over or (self._again_at is not None and now < self._again_at):
            return
        self._again_at = None
        self.actor = self._start()  # the same actor by its name; a new one if others ended it for good


class WatchedHost(Watched):
    """A process that markets share. `lodgers`: those that belong there; others that are found there are dismissed."""

    def __init__(self, number: int, recipe: Recipe, absences: deque[Absence]) -> None:
        super().__init__(Placement(host_name(number), spread=True), MarketHostActor, recipe, absences)
        self.number = number
        self.lodgers: set[int] = set()
        self._finding: asyncio.Task[dict[int, dict[str, Any]]] | None = None

    async def found(self) -> dict[int, dict[str, Any]]:
        """The status of each market there; all who ask at the same time share a call. Raises Unreachable."""
        if self._finding is None or self._finding.done():
            self._finding = asyncio.create_task(self.ask("markets"))
        return await asyncio.shield(self._finding)

    async def end(self) -> None:
        await super().end()
        metrics.ACTOR_UP.labels(self.name).set(float("nan"))  # neither up nor down: nobody shall be alarmed

    async def look(self) -> None:
        """See also that nobody is left there by a move, or by a supervisor that died in one."""
        await super().look()
        if not self.is_up:
            return
        try:
            for market_id in (await self.found()).keys() - self.lodgers:
                log.warning("supervisor.left_behind", actor=self.name, market_id=market_id)
                await self.ask("dismiss", market_id)
        except Unreachable as error:
            log.warning("supervisor.not_dismissed", actor=self.name, why=str(error))


class Lodger(Watching):
    """A market in a process that it shares."""

    def __init__(
        self, market_id: int, symbol: str, host: WatchedHost, absences: deque[Absence], *, is_heir: bool = False
    ) -> None:
        super().__init__(market_name(symbol), host.name, absences, is_heir=is_heir)
        self.host, self._market_id, self._symbol = host, market_id, symbol
        host.lodgers.add(market_id)

    async def ask(self, method: str, *arguments: Any, seconds: float = CALL_SECONDS_MAX) -> Any:
        return await self.host.ask("of_market", self._market_id, method, *arguments, seconds=seconds)

    async def end(self) -> None:
        """It goes as soon as its host can be asked."""
        self.host.lodgers.discard(self._market_id)
        try:
            await self.host.ask("dismiss", self._market_id)
        except Unreachable as error:
            log.warning("supervisor.not_dismissed", actor=self.name, why=str(error))

    async def _seen(self) -> tuple[str, dict[str, Any]]:
        status = (await self.host.found()).get(self._market_id)
        if status is None:
            await self.host.ask("admit", self._market_id, self._symbol, self.is_heir)
            raise Unreachable(f"{self.host.name} has begun it anew")
        return str(status["address"]), {**status, "host": self.host.name}


def _pause(failures: int) -> float:
    """Seconds until the next attempt; the first comes at once."""
    return min(0.5 * 2 ** min(failures - 2, 10), MAKE_SECONDS_MAX) if failures > 1 else 0.0


def market_name(symbol: str) -> str:
    return f"market-{symbol}"


def host_name(number: int) -> str:
    return f"markets-{number}"


def host_number(name: str) -> int | None:
    """Of which shared process this is the name; none: of another actor."""
    number = name.removeprefix("markets-")
    return int(number) if number != name and number.isdecimal() else None


def host_with_room(lodgers: Mapping[int, int], most: int) -> int:
    """The first of them with fewer than `most` markets, else the next number."""
    free = [number for number in sorted(lodgers) if lodgers[number] < most]
    return free[0] if free else max(lodgers, default=0) + 1
