"""Ports of settlement and oracle where nothing has been settled, and no feed exists; their routes are tested for real
in tests/integration/gateway."""

from engine.oracle.records import FeedRecord, ProviderRecord
from engine.settlement.records import SettlementRecord, TradeSettlement


class NoSettlements:
    async def by_id(self, settlement_id: bytes) -> SettlementRecord | None:
        return None

    async def newest(self, before_number: int, limit: int) -> list[SettlementRecord]:
        return []

    async def of_trade(self, market_id: int, number: int, user_id: int) -> TradeSettlement | None:
        return None


class NoOracle:
    async def feeds(self) -> list[FeedRecord]:
        return []

    async def feed(self, feed: str) -> FeedRecord | None:
        return None

    async def providers(self) -> list[ProviderRecord]:
        return []

    async def provider(self, provider_id: bytes) -> ProviderRecord | None:
        return None
