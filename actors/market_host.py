"""Many markets in one process, for those that have little to do (docs/decisions/0053).

Each is the shell that it would be alone: its own book, journal, fence and socket, and the same code on an order's way.
They share an event loop, a pool of connections, and their fate: what ends the process ends them all, and a market that
keeps the loop busy keeps the others waiting.
"""

import asyncio
import os
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import structlog

from actors.sampling import lag_of
from actors.succession import Heir

log = structlog.get_logger()


class Tenant(Protocol):
    """What the host knows of a market (actors/market.py)."""

    @property
    def address(self) -> str: ...
    async def run(self) -> None: ...
    async def drain(self) -> None: ...
    def status(self) -> dict[str, Any]: ...
    def measure(self) -> dict[str, float]: ...
    def take_over(self) -> None: ...
    async def hand_over(self, heir: Heir) -> int: ...


Make = Callable[[int, str, bool], Tenant]  # market, symbol, stands by


class MarketHost:
    """A market whose life has ended is forgotten: the supervisor admits it anew if it still belongs here."""

    def __init__(self, name: str, make: Make) -> None:
        self._name, self._make = name, make
        self._tenants: dict[int, Tenant] = {}
        self._lives: dict[int, asyncio.Task[None]] = {}
        self._lags: dict[int, Callable[[float], None]] = {}
        self._over = asyncio.Event()

    def __repr__(self) -> str:
        return f"MarketHost({self._name}, {len(self._tenants)} markets)"

    # --- Part -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        await self._over.wait()

    async def drain(self) -> None:
        """Every market takes no more, finishes what it has, and stops."""
        self._over.set()
        lives = list(self._lives.values())
        await asyncio.gather(*(tenant.drain() for tenant in self._tenants.values()))
        if lives:
            await asyncio.wait(lives)

    def status(self) -> dict[str, Any]:
        return {"state": "draining" if self._over.is_set() else "serving", "markets": len(self._tenants)}

    def measure(self) -> dict[str, float]:
        """Each market sets its own gauges; their sums are for Ray's dashboard."""
        sums: dict[str, float] = {}
        for tenant in self._tenants.values():
            for name, value in tenant.measure().items():
                sums[name] = sums.get(name, 0.0) + value
        return sums

    def was_late(self, seconds: float) -> None:
        """The loop was, and so was every market here."""
        for observe in self._lags.values():
            observe(seconds)

    # --- who lives here -------------------------------------------------------------------------------------------

    def markets(self) -> dict[int, dict[str, Any]]:
        """Status of each, as it would say it alone."""
        return {
            market_id: {"pid": os.getpid(), **tenant.status(), "address": tenant.address}
            for market_id, tenant in self._tenants.items()
        }

    def admit(self, market_id: int, symbol: str, stands_by: bool) -> None:
        """Begin this market here; nothing if it is here."""
        if market_id in self._tenants or self._over.is_set():
            return
        tenant = self._make(market_id, symbol, stands_by)
        life = asyncio.create_task(tenant.run(), name=repr(tenant))
        self._tenants[market_id], self._lives[market_id] = tenant, life
        self._lags[market_id] = lag_of(f"market-{symbol}")  # as if it was alone: who looks finds it under its name
        life.add_done_callback(partial(self._ended, market_id, symbol))

    def of(self, market_id: int) -> Tenant:
        """Raises KeyError when it does not live here."""
        return self._tenants[market_id]

    async def dismiss(self, market_id: int) -> None:
        """End this market here at once, as by a power cut; nothing if it is not here."""
        life = self._lives.get(market_id)
        if life is not None:
            life.cancel()
            await asyncio.wait([life])

    def _ended(self, market_id: int, symbol: str, life: "asyncio.Task[None]") -> None:
        del self._tenants[market_id], self._lives[market_id], self._lags[market_id]
        if life.cancelled():
            return
        error = life.exception()
        if error is not None:
            log.critical("market_host.market_died", market=symbol, why=repr(error), exc_info=error)
        else:
            log.info("market_host.market_ended", market=symbol)
