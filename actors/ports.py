"""What the actors need from outside. daemon.py hands in PostgreSQL; simulations hand in memory that fails."""

from collections.abc import AsyncIterator
from typing import Protocol

from engine.journal import JournalRow, Snapshot
from engine.market import MarketSpec, Phase
from engine.messages import ParticipantId
from engine.projection import ProjectionBatch
from engine.records import Draw, ParticipantRisk, Want
from engine.units import TimeUs


class Journal(Protocol):
    """One market's journal. `append` raises Fenced when it has a new owner; any other error: outcome unknown."""

    async def open(self, market_id: int) -> int: ...
    async def append(self, row: JournalRow) -> None: ...
    async def rows(self, market_id: int, after_sequence: int, limit: int = 500) -> list[JournalRow]: ...
    async def ensure_partitions(self, market_id: int, up_to_sequence: int) -> None: ...
    async def close(self) -> None: ...


class Snapshots(Protocol):
    def newest_first(self, market_id: int, at_most: int | None = None) -> AsyncIterator[Snapshot]: ...
    async def save(self, snapshot: Snapshot) -> None: ...
    async def prune(self, market_id: int, keep: int) -> int: ...


class Draws(Protocol):
    """The ledger as a market sees it."""

    async def draw(self, market_id: int, number_first: int, wants: list[Want]) -> list[int]: ...
    async def draws_after(self, market_id: int, number: int, limit: int = 10_000) -> list[Draw]: ...


class Rules(Protocol):
    """What the catalogue says a market's rules are now, with the costs that are valid now."""

    async def current(self, market_id: int, now_us: TimeUs) -> tuple[MarketSpec, Phase]: ...

    async def risks(self, market_id: int) -> dict[ParticipantId, ParticipantRisk]:
        """Everybody who has limits of his own there, or is blocked."""
        ...


class Projections(Protocol):
    async def cursor(self, market_id: int) -> int: ...
    async def write(self, batch: ProjectionBatch) -> None: ...
