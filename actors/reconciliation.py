"""Compares books and chain after every settlement, and every so often; what differs stops withdrawals, not trading.

The rules are engine/settlement/reconciliation.py's. The chain cannot be read at one instant: the books are read before
and after it, whatever moved meanwhile is left out, and a difference counts when a second look sees it as well.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import structlog
from msgspec import Struct

from actors import metrics
from engine.settlement.reconciliation import Books, Difference, OnChain, again, compare, steady
from engine.submission import ChainDown
from engine.units import SECOND_US, TimeUs

SHOWN_MAX: Final = 10  # differences in one line of the log

log = structlog.get_logger()


class Reconciliations(Protocol):
    async def is_due(self, now_us: TimeUs, every_us: int, again_us: int) -> bool: ...
    async def books(self) -> Books: ...
    async def holdings(self) -> dict[str, tuple[str, str]]: ...
    async def open_settlements(self) -> list[bytes]: ...
    async def keep(self, differences: Sequence[Difference], now_us: TimeUs) -> bool: ...


class Balances(Protocol):
    """Raises ChainDown when nobody answers."""

    async def read(self, holdings: Mapping[str, tuple[str, str]], settlements: Sequence[bytes]) -> OnChain: ...


class ReconcilerOptions(Struct, frozen=True, kw_only=True):
    """again_seconds: while there are differences. look_seconds: between the two looks at one."""

    every_seconds: int = 60
    again_seconds: int = 5
    look_seconds: float = 3.0


class Reconciler:
    def __init__(self, books: Reconciliations, balances: Balances, options: ReconcilerOptions | None = None) -> None:
        self._books, self._balances = books, balances
        self._options = options or ReconcilerOptions()

    def __repr__(self) -> str:
        return "Reconciler()"

    async def compare_due(self, now_us: TimeUs) -> int:
        """Compare if it is due; how many comparisons that were."""
        options = self._options
        if not await self._books.is_due(now_us, options.every_seconds * SECOND_US, options.again_seconds * SECOND_US):
            return 0
        try:
            found = await self._look()
            if found:
                await asyncio.sleep(options.look_seconds)
                found = again(found, await self._look())
        except ChainDown as error:  # what was found last stays
            log.warning("chain.not_compared", why=str(error)[:200])
            return 0
        turned = await self._books.keep(found, now_us)
        metrics.CHAIN_DIFFERENCES.set(len(found))
        if turned and found:
            log.error("chain.books_differ", count=len(found), differences=[_said(one) for one in found[:SHOWN_MAX]])
        elif turned:
            log.warning("chain.books_agree")
        return 1

    async def _look(self) -> list[Difference]:
        before = await self._books.books()
        chain = await self._balances.read(await self._books.holdings(), await self._books.open_settlements())
        return compare(steady(before, await self._books.books()), chain)


def _said(one: Difference) -> str:
    return f"{one.what} {one.asset}: {one.expected} expected, {one.found} found"
