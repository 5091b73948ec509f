"""What analytics and reports ask of the rest of the exchange; part of ports.py, where the rules of ports stand."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from engine.analytics.performance import EpochPosition, PlacedOrders
from engine.analytics.rates import Rate
from engine.analytics.recommendations import AskLevel, Sale
from engine.analytics.series import EnergyPart, Flow, TradePart
from engine.audit import Origin


class Analytics(Protocol):
    """Series of one participant, or of one zone. Cuts are ascending instants, the first and last bound the series."""

    async def energy_parts(self, owner_id: int, cuts_us: Sequence[int]) -> list[EnergyPart]: ...

    async def trade_parts(self, participant_id: int, cuts_us: Sequence[int]) -> list[TradePart]: ...

    async def own_windows(self, owner_id: int, from_us: int, to_us: int) -> list[Flow]: ...

    async def by_hour(self, owner_id: int, from_us: int, to_us: int) -> Mapping[int, tuple[int, int]]:
        """(import, export) by hour of the day."""
        ...

    async def zone_now(self, zone: str, since_us: int) -> Flow | None: ...

    async def zone_flow(self, zone: str, from_us: int, to_us: int, seconds: int) -> list[Flow]: ...

    async def zone_owners(self, zone: str, from_us: int, to_us: int) -> Mapping[int, tuple[int, int]]:
        """(import, export) of whole days by owner."""
        ...

    async def positions(self, participant_id: int, from_us: int, to_us: int) -> list[EpochPosition]: ...

    async def placed(self, participant_id: int, from_us: int, to_us: int) -> PlacedOrders: ...

    async def sales(self, seller_id: int, from_us: int, to_us: int) -> list[Sale]: ...

    async def asks(self, market_ids: Sequence[int], from_us: int, to_us: int) -> list[AskLevel]: ...


class Rates(Protocol):
    async def rates(self, from_us: int, to_us: int) -> list[Rate]: ...

    async def page(self, name: str | None, before: tuple[int, str], limit: int) -> list[Rate]: ...

    async def put(self, rates: Sequence[Rate], origin: Origin) -> None: ...
