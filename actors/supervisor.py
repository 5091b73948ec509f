"""Which actors exist, where they listen, how they are.

The supervisor reads the catalogue, starts the named actor of every market, asks each for its address and state, and
publishes both. Ray does the restarting; the supervisor only notices where a market lives now. It keeps no state that it
could not ask for again.
"""

import asyncio
from collections import deque
from functools import partial
from typing import Any, Protocol, TypedDict

import msgspec
import structlog

from actors import handles, metrics
from actors.handles import Placement, Unreachable
from actors.hosting import (
    EpochClockActor,
    GatewayActor,
    Host,
    MarketActor,
    MeterAggregatorActor,
    PersistenceActor,
    Recipe,
    clock_us,
)
from actors.links import Place
from actors.replacing import (
    DONE,
    FAILED,
    REFUSED,
    WARMING,
    NotReplaced,
    Replacement,
    other_name,
    replace_gateway,
    replace_market,
    settled,
)
from actors.succession import STANDING_BY
from engine.market import MarketSpec
from engine.units import TimeUs

WATCH_SECONDS = 1.0
WATCH_SECONDS_WHILE_DOWN = 0.1
DRAIN_SECONDS_MAX = 6.0
FAULTS_KEPT = 50

log = structlog.get_logger()
_encode = msgspec.msgpack.Encoder().encode


class Catalogue(Protocol):
    async def markets(self) -> list[MarketSpec]: ...


class Recipes(Protocol):
    """How the parts are made: daemon.py knows."""

    def market(self, market_id: int, symbol: str, *, stands_by: bool = False) -> Recipe: ...
    def persistence(self) -> Recipe: ...
    def epoch_clock(self) -> Recipe: ...
    def meters(self, shard: int) -> Recipe: ...
    def gateway(self, number: int) -> Recipe: ...
    def chain(self) -> list[tuple[str, type[Host], Recipe]]: ...


class Absence(TypedDict):
    """An actor did not answer from `at_us` on; `back_us`: until when, if it is over."""

    actor: str
    at_us: TimeUs
    back_us: TimeUs | None
    why: str


class Watched:
    """One actor as the supervisor sees it; `absences` is the supervisor's, for all of them.

    `called`: its name in Ray, if that is not the one that people know it by. An heir is to replace another process.
    """

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
        self._absences = absences
        self.name, self.called, self.is_heir = placement.name, called or placement.name, is_heir
        self.placement, self.kind = placement, kind
        self._start = partial(handles.start, kind, msgspec.structs.replace(placement, name=self.called), recipe)
        self.actor = self._start()
        self.address = ""
        self.status: dict[str, Any] = {"state": "starting"}
        self.faults = 0
        self.is_up = False

    async def look(self) -> None:
        """Ask for address and state; what cannot be asked has neither."""
        try:
            self.address = await handles.call(self.actor, "address")
            self.status = await handles.call(self.actor, "status")
            if self.status.get("state") == STANDING_BY and not self.is_heir:
                await handles.call(self.actor, "take_over")
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
            self.actor = self._start()  # the same actor by its name; a new one if it was ended for good
        if not self.is_heir:
            metrics.ACTOR_UP.labels(self.name).set(self.is_up)


class Supervisor:
    """The control plane's memory."""

    def __init__(self, catalogue: Catalogue, recipes: Recipes, gateways: int, meter_shards: int = 1) -> None:
        self._catalogue, self._recipes, self._gateways = catalogue, recipes, gateways
        self._meter_shards = meter_shards
        self._specs: dict[int, MarketSpec] = {}
        self._markets: dict[int, Watched] = {}
        self._others: dict[str, Watched] = {}
        self._absences: deque[Absence] = deque(maxlen=FAULTS_KEPT)
        self._draining = False
        self._replacements: dict[str, Replacement] = {}
        self._replacing: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Start what is missing and watch what is there, until drained."""
        self._watch("persistence", PersistenceActor, self._recipes.persistence())
        self._watch("epoch-clock", EpochClockActor, self._recipes.epoch_clock())
        for shard in range(self._meter_shards):
            self._watch(f"meters-{shard}", MeterAggregatorActor, self._recipes.meters(shard))
        await self._start_markets()
        for number in range(1, self._gateways + 1):
            name = f"gateway-{number}"
            self._watch(name, GatewayActor, self._recipes.gateway(number), spread=True, called=await settled(name))
        for name, kind, recipe in self._recipes.chain():  # last: trading waits for no chain
            self._watch(name, kind, recipe)
        looking: dict[str, asyncio.Task[None]] = {}
        while not self._draining:
            await self._start_markets()
            everyone = [*self._markets.values(), *self._others.values()]
            for watched in everyone:  # each at its own pace: one that hangs does not hide the others
                task = looking.get(watched.name)
                if task is None or task.done():
                    looking[watched.name] = asyncio.create_task(watched.look())
            await asyncio.wait(looking.values(), timeout=0.2)
            all_up = all(watched.is_up for watched in everyone)
            await asyncio.sleep(WATCH_SECONDS if all_up else WATCH_SECONDS_WHILE_DOWN)
        await asyncio.gather(*looking.values())

    async def directory(self) -> list[bytes]:
        """Every market as an encoded Place; asks anew for those that were not up."""
        down = [watched for watched in self._markets.values() if not watched.is_up]
        if down and not self._draining:
            await asyncio.wait([asyncio.create_task(watched.look()) for watched in down], timeout=1.0)
        return [_encode(Place(spec, self._markets[market_id].address)) for market_id, spec in self._specs.items()]

    def meter_directory(self) -> list[str]:
        """Where each shard of the meters listens."""
        shards = [self._others.get(f"meters-{shard}") for shard in range(self._meter_shards)]
        return [watched.address if watched is not None else "" for watched in shards]

    async def drain(self) -> None:
        """Stop the others in order: no new requests, no new commands, everything followed, then end them."""
        self._draining = True
        if self._replacing is not None:
            self._replacing.cancel()
            await asyncio.wait([self._replacing])
        stages = [
            [w for name, w in self._others.items() if name.startswith("gateway")],
            [
                self._others["epoch-clock"],
                *self._markets.values(),
                *(w for name, w in self._others.items() if name.startswith("meters")),
            ],
            [self._others["persistence"], *(w for name, w in self._others.items() if name.startswith("chain"))],
        ]
        for stage in stages:
            outcomes = await asyncio.gather(
                *(handles.call(watched.actor, "drain", seconds=DRAIN_SECONDS_MAX) for watched in stage),
                return_exceptions=True,
            )
            for watched, outcome in zip(stage, outcomes, strict=True):
                if isinstance(outcome, BaseException):
                    log.error("supervisor.not_drained", actor=watched.name, why=repr(outcome))
        for watched in (*self._others.values(), *self._markets.values()):
            handles.end(watched.actor)

    def status(self) -> dict[str, Any]:
        seen: dict[str, Any] = {
            watched.name: {**watched.status, "up": watched.is_up, "faults": watched.faults}
            for watched in (*self._markets.values(), *self._others.values())
        }
        return {**seen, "recent_faults": list(self._absences)}

    async def _start_markets(self) -> None:
        try:
            specs = await self._catalogue.markets()
        except Exception as error:  # noqa: BLE001 - whatever ails the database, those that run go on
            log.warning("supervisor.catalogue_unreachable", why=repr(error))
            return
        for spec in specs:
            self._specs[spec.market_id] = spec
            if spec.market_id not in self._markets:
                recipe = self._recipes.market(spec.market_id, spec.symbol)
                placement = Placement(f"market-{spec.symbol}", spread=True)
                called = await settled(placement.name)
                self._markets[spec.market_id] = Watched(placement, MarketActor, recipe, self._absences, called)

    def _watch(self, name: str, kind: type[Host], recipe: Recipe, *, spread: bool = False, called: str = "") -> None:
        self._others[name] = Watched(Placement(name, spread), kind, recipe, self._absences, called)

    # --- replacing processes ----------------------------------------------------------------------------------------

    def replacements(self) -> dict[str, Any]:
        """How the last replacement of each actor went, or goes."""
        return {name: msgspec.to_builtins(one) for name, one in self._replacements.items()}

    async def replace(self, name: str, *, by_snapshot: bool, node: str = "") -> dict[str, Any]:
        """Begin to give a market or a gateway a fresh process, on that node if it is named; one at a time.

        How that stands, or why not.
        """
        told = Replacement(name, WARMING, clock_us())
        why_not = self._why_not_replaced(name)
        if why_not:
            told.end(REFUSED, why_not)
        else:
            self._replacements[name] = told
            told.from_pid = self._named(name).status["pid"]
            replacing = self._replace(self._named(name), told, by_snapshot=by_snapshot, node=node)
            self._replacing = asyncio.create_task(replacing)
        return dict(msgspec.to_builtins(told))

    def _why_not_replaced(self, name: str) -> str:
        if self._draining:
            return "the exchange stops"
        if self._replacing is not None and not self._replacing.done():
            return "another process is being replaced"
        known = [one for one in (*self._markets.values(), *self._others.values()) if one.name == name]
        if not known or known[0].kind not in (MarketActor, GatewayActor):
            return "there is no such market or gateway"
        if not known[0].is_up or known[0].status.get("state") != "serving":
            return f"it does not serve: {known[0].status.get('state')}"
        return ""

    def _named(self, name: str) -> Watched:
        return next(one for one in (*self._markets.values(), *self._others.values()) if one.name == name)

    async def _replace(self, old: Watched, told: Replacement, *, by_snapshot: bool, node: str) -> None:
        """A task of its own: how it ends stands in `told`."""
        heir: Watched | None = None
        try:
            if old.kind is MarketActor:
                market_id = next(number for number, one in self._markets.items() if one is old)
                recipe = self._recipes.market(market_id, self._specs[market_id].symbol, stands_by=True)
                heir = self._heir_of(old, recipe, node)
                swap = partial(self._markets.__setitem__, market_id, heir)
                await replace_market(old, heir, swap, told, by_snapshot=by_snapshot)
            else:
                heir = self._heir_of(old, self._recipes.gateway(int(old.name.rpartition("-")[2])), node)
                await replace_gateway(old, heir, partial(self._others.__setitem__, old.name, heir), told)
            told.end(DONE)
        except (NotReplaced, Unreachable) as error:
            told.end(FAILED, str(error))
        except BaseException as error:
            told.end(FAILED, repr(error))
            raise
        finally:
            if heir is not None and heir is not self._named(old.name):
                handles.end(heir.actor)
            log.info("supervisor.replaced", actor=old.name, state=told.state, why=told.detail)

    def _heir_of(self, old: Watched, recipe: Recipe, node: str) -> Watched:
        called, placement = other_name(old.called, old.name), msgspec.structs.replace(old.placement, node=node)
        return Watched(placement, old.kind, recipe, self._absences, called, is_heir=True)

    def __repr__(self) -> str:
        return "Supervisor()"
