"""The market maker programme in memory, as persistence/makers.py keeps it."""

from engine.audit import Origin
from engine.records import MakerRecord, RewardRecord
from tests.unit.gateway.access import MemoryPeople


class MemoryMakers:
    def __init__(self, people: MemoryPeople) -> None:
        self._people = people
        self.kept: dict[tuple[int, int], MakerRecord] = {}
        self.earned: list[RewardRecord] = []

    async def of_market(self, market_id: int) -> list[MakerRecord]:
        return [one for one in self.kept.values() if one.market_id == market_id]

    async def put(self, maker: MakerRecord, origin: Origin) -> MakerRecord | None:
        if await self._people.by_id(maker.user_id) is None:
            return None
        self.kept[maker.market_id, maker.user_id] = maker
        return maker

    async def remove(self, market_id: int, user_id: int, origin: Origin) -> bool:
        return self.kept.pop((market_id, user_id), None) is not None

    async def rewards(
        self,
        user_id: int | None,
        market_id: int | None,
        from_us: int,
        to_us: int,
        before: tuple[int, int, int],
        limit: int,
    ) -> list[RewardRecord]:
        found = [
            one
            for one in self.earned
            if user_id in (None, one.user_id)
            and market_id in (None, one.market_id)
            and from_us <= one.epoch_start_us < to_us
            and (one.epoch_start_us, one.market_id, one.user_id) < before
        ]
        found.sort(key=lambda one: (one.epoch_start_us, one.market_id, one.user_id), reverse=True)
        return found[:limit]
