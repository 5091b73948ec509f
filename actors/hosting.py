"""Plain classes made Ray actors, in one place.

An actor here is a host: it makes its part (a market, a gateway, ...) from a recipe in the process where it was placed,
runs it, and lets the control plane ask for its address and state. A part whose life ends undrained takes its process
with it, with an error or without (a market that was fenced), so that Ray starts a fresh one: nothing runs on half dead.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import structlog

from actors.succession import Heir

log = structlog.get_logger()


class Part(Protocol):
    """What can be hosted."""

    async def run(self) -> None: ...
    async def drain(self) -> None: ...
    def status(self) -> dict[str, Any]: ...


Recipe = Callable[[], Awaitable[Part]]


class Host:
    """One part and its life. The subclasses differ only in the name that the dashboard shows."""

    _name = "starting"  # Ray asks for it even when what it was to start with cannot be decoded

    async def __init__(self, recipe: Recipe) -> None:  # type: ignore[misc]  # Ray awaits it
        self._draining = False
        self._name = f"{type(self).__name__}(starting)"
        self._part = await recipe()
        self._name = repr(self._part)
        self._life = asyncio.create_task(self._part.run(), name=repr(self._part))
        self._life.add_done_callback(self._ended)

    def _ended(self, life: "asyncio.Task[None]") -> None:
        if life.cancelled() or self._draining:
            return
        error = life.exception()
        why = repr(error) if error is not None else "it ended by itself"
        log.critical("actor.died", part=repr(self._part), why=why, exc_info=error)
        os._exit(1)  # Ray starts the actor anew if it still counts on it; a process without its task must not pretend

    async def status(self) -> dict[str, Any]:
        """How it is; `address`: host:port of the data plane, empty for a part that has none."""
        return {"pid": os.getpid(), **self._part.status(), "address": str(getattr(self._part, "address", ""))}

    async def drain(self) -> None:
        """Finish what is under way and stop; returns when that is done."""
        self._draining = True
        await self._part.drain()
        await asyncio.wait([self._life])

    def __repr__(self) -> str:
        return self._name


class MarketActor(Host):
    """The order book of one market."""

    async def take_over(self) -> None:
        """Stand by no longer."""
        part: Any = self._part
        part.take_over()

    async def hand_over(self, address: str, by_snapshot: bool) -> int:
        """Leave the market to the process that listens there; returns the last sequence of this one."""
        part: Any = self._part
        return int(await part.hand_over(Heir(address, by_snapshot)))


class MarketHostActor(Host):
    """The order books of many markets."""

    async def markets(self) -> dict[int, dict[str, Any]]:
        """The status of each market here, with its address."""
        part: Any = self._part
        return dict(part.markets())

    async def admit(self, market_id: int, symbol: str, stands_by: bool) -> None:
        """Begin this market here, unless it is here."""
        part: Any = self._part
        part.admit(market_id, symbol, stands_by)

    async def dismiss(self, market_id: int) -> None:
        """End this market here at once."""
        part: Any = self._part
        await part.dismiss(market_id)

    async def of_market(self, market_id: int, method: str, *arguments: Any) -> Any:
        """What MarketActor's method of this name would do."""
        part: Any = self._part
        market = part.of(market_id)
        if method == "take_over":
            return market.take_over()
        if method == "hand_over":
            return int(await market.hand_over(Heir(*arguments)))
        assert method == "drain", method
        return await market.drain()


class PersistenceActor(Host):
    """Follows the journals."""


class EpochClockActor(Host):
    """Lets time pass in quiet markets."""


class GatewayActor(Host):
    """Serves HTTP and WebSocket."""


class MeterAggregatorActor(Host):
    """One shard of the meters."""


class ChainSubmitterActor(Host):
    """Makes effects happen on the chain."""


class ChainListenerActor(Host):
    """Reads what happened on the chain."""


class SupervisorActor(Host):
    """Starts, watches and names the others."""

    async def meter_directory(self, known: bytes) -> tuple[bytes, list[bytes]]:
        """Where each shard of the meters listens, and a digest; empty: nowhere at the moment."""
        part: Any = self._part
        digest, shards = await part.meter_directory(known)
        return digest, shards

    async def replace(self, name: str, by_snapshot: bool, node: str, shared: bool | None) -> dict[str, Any]:
        """Begin to replace an actor's process with a fresh one; how that stands."""
        part: Any = self._part
        return dict(await part.replace(name, by_snapshot=by_snapshot, node=node, shared=shared))

    async def replacements(self) -> dict[str, Any]:
        """Of each actor whose process was replaced, how that went the last time."""
        part: Any = self._part
        return dict(part.replacements())

    async def directory(self, known: bytes) -> tuple[bytes, list[bytes]]:
        """Every market as an encoded Place, and a digest."""
        part: Any = self._part
        digest, places = await part.directory(known)
        return digest, places
