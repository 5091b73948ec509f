"""Limits and blocks in memory, as persistence/risk.py keeps them."""

from collections.abc import Mapping

from msgspec.structs import replace

from engine.audit import Origin
from engine.records import OwnLimits, RiskRecord
from tests.unit.gateway.access import MemoryPeople


class MemoryRisk:
    def __init__(self, people: MemoryPeople) -> None:
        self._people, self.kept = people, dict[int, RiskRecord]()

    async def of_user(self, user_id: int) -> RiskRecord:
        return self.kept.get(user_id, RiskRecord(user_id, {}))

    async def put(self, user_id: int, limits: Mapping[int, OwnLimits], origin: Origin) -> RiskRecord | None:
        return await self._changed(user_id, limits=dict(limits))

    async def block(self, user_id: int, reason: str, now_us: int, origin: Origin) -> RiskRecord | None:
        since_us = (await self.of_user(user_id)).blocked_us or now_us
        return await self._changed(user_id, blocked_us=since_us, reason=reason)

    async def release(self, user_id: int, origin: Origin) -> RiskRecord | None:
        return await self._changed(user_id, blocked_us=0, reason="")

    async def rates(self) -> dict[tuple[int, int], int]:
        return {
            (market_id, user_id): own.messages_per_second
            for user_id, risk in self.kept.items()
            for market_id, own in risk.limits.items()
        }

    async def _changed(self, user_id: int, **changes: object) -> RiskRecord | None:
        if await self._people.by_id(user_id) is None:
            return None
        self.kept[user_id] = replace(await self.of_user(user_id), **changes)
        return self.kept[user_id]
