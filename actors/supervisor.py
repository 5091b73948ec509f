"""Which actors exist, where they listen, how they are.

The supervisor reads the catalogue, starts the named actor of every market, asks each for its address and state, and
publishes both. Ray does the restarting; the supervisor only notices where a market lives now. It keeps no state that it
could not ask for again.
"""

import asyncio
import contextlib
import hashlib
from collections import Counter, deque
from collections.abc import Callable, Mapping, MutableMapping
from functools import partial
from typing import Any, Protocol

import msgspec
import structlog

from actors import handles
from actors.clock import clock_us
from actors.handles import NEWS_SECONDS_MAX, Placement, Unreachable
from actors.hosting import (
    EpochClockActor,
    GatewayActor,
    Host,
    MarketActor,
    MeterAggregatorActor,
    PersistenceActor,
    Recipe,
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
from actors.watched import (
    Absence,
    Lodger,
    Watched,
    WatchedHost,
    Watching,
    host_name,
    host_number,
    host_with_room,
    market_name,
)
from engine.market import MarketSpec

WATCH_SECONDS = 1.0
WATCH_SECONDS_WHILE_DOWN = 0.1
DRAIN_SECONDS_MAX = 6.0
LEARN_SECONDS_MAX = 2.0  # within the time-out of who asks for the directory
FAULTS_KEPT = 50
MOVED_AT_ONCE = 8

log = structlog.get_logger()
_encode = msgspec.msgpack.Encoder().encode


class Catalogue(Protocol):
    async def markets(self) -> list[MarketSpec]: ...

    async def hosts(self) -> dict[int, int]:
        """Markets that share a process, and which: its number, 0 when none has been chosen yet."""
        ...

    async def set_host(self, market_id: int, host: int | None) -> None:
        """None: a process of its own."""
        ...


class Recipes(Protocol):
    """How the parts are made: daemon.py knows."""

    def market(self, market_id: int, symbol: str, *, stands_by: bool = False) -> Recipe: ...
    def market_host(self, name: str) -> Recipe: ...
    def persistence(self) -> Recipe: ...
    def epoch_clock(self) -> Recipe: ...
    def meters(self, shard: int) -> Recipe: ...
    def gateway(self, number: int) -> Recipe: ...
    def chain(self) -> list[tuple[str, type[Host], Recipe]]: ...


class Supervisor:
    """The control plane's memory."""

    def __init__(
        self, catalogue: Catalogue, recipes: Recipes, gateways: int, meter_shards: int = 1, markets_per_host: int = 1
    ) -> None:
        self._catalogue, self._recipes, self._gateways = catalogue, recipes, gateways
        self._meter_shards, self._markets_per_host = meter_shards, markets_per_host
        self._specs: dict[int, MarketSpec] = {}
        self._markets: dict[int, Watching] = {}
        self._others: dict[str, Watched] = {}
        self._absences: deque[Absence] = deque(maxlen=FAULTS_KEPT)
        self._draining = False
        self._known = asyncio.Event()  # which markets there are
        self._looked = asyncio.Event()  # of this round: everyone has been asked, or has had time to answer
        self._replacements: dict[str, Replacement] = {}
        self._replacing: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return "Supervisor()"

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
            everyone: list[Watching] = [*self._others.values(), *self._markets.values()]
            for watched in everyone:  # each at its own pace: one that hangs does not hide the others
                task = looking.get(watched.name)
                if task is None or task.done():
                    looking[watched.name] = asyncio.create_task(watched.look())
            await asyncio.wait(looking.values(), timeout=0.2)
            self._looked.set()
            self._looked = asyncio.Event()
            all_up = all(watched.is_up for watched in everyone)
            await asyncio.sleep(WATCH_SECONDS if all_up else WATCH_SECONDS_WHILE_DOWN)
        await asyncio.gather(*looking.values())

    async def directory(self, known: bytes) -> tuple[bytes, list[bytes]]:
        """Every market as an encoded Place, and their digest: who knows that one already is told when it differs.

        For somebody who knows nothing it asks anew those that were not up. Raises TimeoutError when it has not been
        able to learn itself which there are: to say none would be to deny them.
        """
        async with asyncio.timeout(LEARN_SECONDS_MAX):
            await self._known.wait()
        down = [watched for watched in self._markets.values() if not watched.is_up]
        if down and not known and not self._draining:
            await asyncio.wait([asyncio.create_task(watched.look()) for watched in down], timeout=1.0)
        return await self._news(self._places, known)

    async def meter_directory(self, known: bytes) -> tuple[bytes, list[bytes]]:
        """Where each shard of the meters listens; the same otherwise."""
        return await self._news(self._shards, known)

    async def _news(self, look: Callable[[], list[bytes]], known: bytes) -> tuple[bytes, list[bytes]]:
        """What is there once it is not what is known, at the latest after NEWS_SECONDS_MAX; with its digest."""
        deadline = asyncio.get_running_loop().time() + NEWS_SECONDS_MAX
        while True:
            seen = look()
            digest = hashlib.blake2b(_encode(seen), digest_size=16).digest()
            if digest != known:
                return digest, seen
            try:
                async with asyncio.timeout_at(deadline):
                    await self._looked.wait()
            except TimeoutError:
                return digest, seen

    def _places(self) -> list[bytes]:
        return [_encode(Place(spec, self._markets[market_id].address)) for market_id, spec in self._specs.items()]

    def _shards(self) -> list[bytes]:
        shards = [self._others.get(f"meters-{shard}") for shard in range(self._meter_shards)]
        return [watched.address.encode() if watched is not None else b"" for watched in shards]

    async def drain(self) -> None:
        """Stop the others in order: no new requests, no new commands, everything followed, then end them."""
        self._draining = True
        if self._replacing is not None:
            self._replacing.cancel()
            await asyncio.wait([self._replacing])
        stages: list[list[Watched]] = [
            [w for name, w in self._others.items() if name.startswith("gateway")],
            [
                self._others["epoch-clock"],
                *(one for one in self._markets.values() if isinstance(one, Watched)),
                *self._hosts().values(),  # with all markets there
                *(w for name, w in self._others.items() if name.startswith("meters")),
            ],
            [self._others["persistence"], *(w for name, w in self._others.items() if name.startswith("chain"))],
        ]
        for stage in stages:
            outcomes = await asyncio.gather(
                *(watched.ask("drain", seconds=DRAIN_SECONDS_MAX) for watched in stage),
                return_exceptions=True,
            )
            for watched, outcome in zip(stage, outcomes, strict=True):
                if isinstance(outcome, BaseException):
                    log.error("supervisor.not_drained", actor=watched.name, why=repr(outcome))
        for one in (*self._others.values(), *self._markets.values()):
            if isinstance(one, Watched):  # else it went with its host
                await one.end()

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
        self._specs.update({spec.market_id: spec for spec in specs if spec.market_id in self._markets})
        new = [spec for spec in specs if spec.market_id not in self._markets]
        if not new:
            self._known.set()
            return
        try:
            hosts = await self._catalogue.hosts()
            for spec in new:
                if hosts.get(spec.market_id) == 0:
                    hosts[spec.market_id] = self._free_host(hosts)
                    await self._catalogue.set_host(spec.market_id, hosts[spec.market_id])
        except Exception as error:  # noqa: BLE001 - as above
            log.warning("supervisor.catalogue_unreachable", why=repr(error))
            return
        names = await asyncio.to_thread(handles.names)
        begun = {spec.market_id: await self._begun(spec, hosts.get(spec.market_id), names) for spec in new}
        self._markets.update(begun)  # all at once: a directory of some would deny the others
        self._specs.update({spec.market_id: spec for spec in new})
        self._known.set()
        await self._end_empty_hosts(names)

    async def _begun(self, spec: MarketSpec, host: int | None, names: frozenset[str]) -> Watching:
        """The market where it belongs; `names`: of all actors, to see whether it is somewhere else as well."""
        placement = Placement(market_name(spec.symbol), spread=True)
        if host is None:
            recipe = self._recipes.market(spec.market_id, spec.symbol)
            return Watched(placement, MarketActor, recipe, self._absences, await settled(placement.name))
        for called in names & {placement.name, other_name(placement.name, placement.name)}:  # a move was cut short
            log.warning("supervisor.left_behind", actor=placement.name, called=called)
            with contextlib.suppress(Unreachable):  # it ended meanwhile
                handles.end(await asyncio.to_thread(handles.find, called))
        return Lodger(spec.market_id, spec.symbol, self._host(host), self._absences)

    # --- processes that markets share -------------------------------------------------------------------------------

    def _hosts(self) -> dict[int, WatchedHost]:
        return {one.number: one for one in self._others.values() if isinstance(one, WatchedHost)}

    def _host(self, number: int) -> WatchedHost:
        """Begun if it is not there."""
        host = self._hosts().get(number)
        if host is None:
            name = host_name(number)
            host = WatchedHost(number, self._recipes.market_host(name), self._absences)
            self._others[name] = host
        return host

    def _free_host(self, hosts: Mapping[int, int]) -> int:
        """For one market more, beside those that have a number."""
        return host_with_room(Counter(number for number in hosts.values() if number), self._markets_per_host)

    async def _end_empty_hosts(self, names: frozenset[str] = frozenset()) -> None:
        """`names`: of actors that may be there and are not known."""
        for number in {number for name in names if (number := host_number(name)) is not None}:
            self._host(number)
        for number, host in self._hosts().items():
            if not host.lodgers:
                await self._others.pop(host_name(number)).end()

    def _watch(self, name: str, kind: type[Host], recipe: Recipe, *, spread: bool = False, called: str = "") -> None:
        self._others[name] = Watched(Placement(name, spread), kind, recipe, self._absences, called)

    # --- replacing processes ----------------------------------------------------------------------------------------

    def replacements(self) -> dict[str, Any]:
        """How the last replacement of each actor went, or goes."""
        return {name: msgspec.to_builtins(one) for name, one in self._replacements.items()}

    async def replace(
        self, name: str, *, by_snapshot: bool, node: str = "", shared: bool | None = None
    ) -> dict[str, Any]:
        """Begin to give a market, a gateway, or all markets of a shared process a fresh one, on that node if named.

        `shared`: whether a market shares its process from now on; none: as it was. One at a time. How that stands, or
        why not.
        """
        told = Replacement(name, WARMING, clock_us())
        why_not = self._why_not_replaced(name, node, shared)
        if why_not:
            told.end(REFUSED, why_not)
        else:
            self._replacements[name] = told
            told.from_pid = self._named(name).status["pid"]
            replacing = self._replace(self._named(name), told, by_snapshot=by_snapshot, node=node, shared=bool(shared))
            self._replacing = asyncio.create_task(replacing)
        return dict(msgspec.to_builtins(told))

    def _why_not_replaced(self, name: str, node: str, shared: bool | None) -> str:
        if self._draining:
            return "the exchange stops"
        if self._replacing is not None and not self._replacing.done():
            return "another process is being replaced"
        market = next((one for one in self._markets.values() if one.name == name), None)
        known = market or self._others.get(name)
        if known is None or (market is None and not isinstance(known, WatchedHost) and not _is_gateway(known)):
            return "there is no such market or gateway"
        if not known.is_up or known.status.get("state") != "serving":
            return f"it does not serve: {known.status.get('state')}"
        if shared is not None and market is None:
            return "only a market can share a process"
        if node and (shared or isinstance(known, WatchedHost)):
            return "a shared process is where Ray finds best"
        if isinstance(known, Lodger) and shared is not False:
            return f"it shares a process: move it out of there, or give all of {known.host.name} a fresh one"
        return ""

    def _named(self, name: str) -> Watching:
        return next(one for one in (*self._markets.values(), *self._others.values()) if one.name == name)

    async def _replace(self, old: Watching, told: Replacement, *, by_snapshot: bool, node: str, shared: bool) -> None:
        """A task of its own: how it ends stands in `told`."""
        try:
            if isinstance(old, WatchedHost):
                await self._move_all(old, told, by_snapshot=by_snapshot)
            elif _is_gateway(old):
                await self._move_gateway(old, told, node)
            else:
                market_id = next(number for number, one in self._markets.items() if one is old)
                host = self._free_host(await self._catalogue.hosts()) if shared else None
                await self._move_market(market_id, host, told, by_snapshot=by_snapshot, node=node)
            told.end(DONE)
        except (NotReplaced, Unreachable) as error:
            told.end(FAILED, str(error))
        except BaseException as error:
            told.end(FAILED, repr(error))
            raise
        finally:
            await self._end_empty_hosts()
            log.info("supervisor.replaced", actor=old.name, state=told.state, why=told.detail)

    async def _move_gateway(self, old: Watching, told: Replacement, node: str) -> None:
        recipe = self._recipes.gateway(int(old.name.rpartition("-")[2]))
        heir = Watched(
            Placement(old.name, spread=True, node=node),
            GatewayActor,
            recipe,
            self._absences,
            other_name(old.called, old.name),
            is_heir=True,
        )
        try:
            await replace_gateway(old, heir, partial(_swap, self._others, old.name, heir), told)
        finally:
            if self._others[old.name] is not heir:
                await heir.end()

    async def _move_market(
        self, market_id: int, host: int | None, told: Replacement, *, by_snapshot: bool, node: str = ""
    ) -> None:
        """Into the shared process of this number, or into one of its own."""
        old, symbol = self._markets[market_id], self._specs[market_id].symbol
        heir: Watching
        if host is not None:
            heir = Lodger(market_id, symbol, self._host(host), self._absences, is_heir=True)
        else:
            placement = Placement(old.name, spread=True, node=node)
            recipe = self._recipes.market(market_id, symbol, stands_by=True)
            called = old.name if isinstance(old, Lodger) else other_name(old.called, old.name)
            heir = Watched(placement, MarketActor, recipe, self._absences, called, is_heir=True)

        async def swap() -> None:
            if host is not None or isinstance(old, Lodger):
                try:
                    await self._catalogue.set_host(market_id, host)
                except Exception as error:
                    raise NotReplaced(f"its place cannot be stored: {error!r}") from error
            self._markets[market_id] = heir

        try:
            await replace_market(old, heir, swap, told, by_snapshot=by_snapshot)
        finally:
            if self._markets[market_id] is not heir:
                await heir.end()

    async def _move_all(self, old: WatchedHost, told: Replacement, *, by_snapshot: bool) -> None:
        """All into one fresh process, some at a time; those that could not be moved stay, and are named."""
        fresh, turn = max(self._hosts()) + 1, asyncio.Semaphore(MOVED_AT_ONCE)
        stay: list[str] = []

        async def move(market_id: int) -> None:
            one = Replacement(self._markets[market_id].name, WARMING, clock_us(), from_pid=told.from_pid)
            try:
                async with turn:
                    await self._move_market(market_id, fresh, one, by_snapshot=by_snapshot)
            except (NotReplaced, Unreachable) as error:
                stay.append(f"{one.actor}: {error}")
            else:
                told.to_pid, told.seconds_without = one.to_pid, max(told.seconds_without, one.seconds_without)

        async with asyncio.TaskGroup() as tasks:
            for market_id in sorted(old.lodgers):
                tasks.create_task(move(market_id))
        if stay:
            raise NotReplaced("; ".join(stay))


def _is_gateway(watched: Watching) -> bool:
    return isinstance(watched, Watched) and watched.kind is GatewayActor


async def _swap(places: MutableMapping[str, Watched], name: str, heir: Watched) -> None:
    places[name] = heir
