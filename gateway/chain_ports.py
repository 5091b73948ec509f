"""What the gateway asks of the chain's part of the database, as protocols: desk, settlements, oracle."""

from typing import Protocol

from engine.audit import Origin
from engine.oracle.records import FeedRecord, NewFeed, NewProvider, ProviderChange, ProviderRecord, RoundRecord
from engine.settlement.reconciliation import Compared
from engine.settlement.records import SettlementRecord, TradeSettlement
from engine.submission import Holdings, PartReport, PendingDeposit, SubmissionRecord, WithdrawalRecord


class ChainDesk(Protocol):
    """The chain's tables, and where somebody's tokens are. Errors are those of engine/submission.py."""

    async def parts(self) -> dict[str, PartReport]: ...

    async def depths(self) -> dict[str, dict[str, int]]: ...

    async def submissions(
        self, user_id: int | None, kind: str | None, state: str | None, before: int, limit: int
    ) -> list[SubmissionRecord]: ...

    async def submission(self, number: int) -> SubmissionRecord | None: ...

    async def retry(self, number: int, now_us: int, origin: Origin) -> SubmissionRecord | None: ...

    async def park(self, number: int, reason: str, now_us: int, origin: Origin) -> SubmissionRecord | None: ...

    async def govern(self, action: str, address: str | None, now_us: int, origin: Origin) -> SubmissionRecord: ...

    async def compared(self) -> Compared | None:
        """What the last comparison of books and chain found."""
        ...

    async def holdings(self, user_id: int) -> Holdings | None: ...

    async def tokens(self, holdings: Holdings) -> tuple[int, int]:
        """Energy and money that a vault holds, as the chain says now. Raises ChainDown."""
        ...

    async def pending_deposits(self, user_id: int, limit: int) -> list[PendingDeposit]: ...

    async def withdraw(
        self, user_id: int, asset: str, amount: int, address: str, reference: str, now_us: int, origin: Origin
    ) -> WithdrawalRecord: ...

    async def withdrawals(self, user_id: int, before: int, limit: int) -> list[tuple[WithdrawalRecord, int]]: ...


class Settlements(Protocol):
    async def by_id(self, settlement_id: bytes) -> SettlementRecord | None: ...

    async def newest(self, before_number: int, limit: int) -> list[SettlementRecord]: ...

    async def of_trade(self, market_id: int, number: int, user_id: int) -> TradeSettlement | None:
        """None when the user has no such trade."""
        ...


class Oracle(Protocol):
    """Errors are those of engine/oracle/records.py."""

    async def feeds(self) -> list[FeedRecord]: ...

    async def feed(self, feed: str) -> FeedRecord | None: ...

    async def add_feed(self, feed: NewFeed, origin: Origin) -> FeedRecord: ...

    async def change_feed(
        self, feed: str, name: str | None, single_provider: bool | None, origin: Origin
    ) -> FeedRecord: ...

    async def providers(self) -> list[ProviderRecord]: ...

    async def provider(self, provider_id: bytes) -> ProviderRecord | None: ...

    async def add_provider(self, provider: NewProvider, now_us: int, origin: Origin) -> ProviderRecord: ...

    async def change_provider(
        self, provider_id: bytes, change: ProviderChange, origin: Origin
    ) -> ProviderRecord | None: ...

    async def submit(
        self, provider_id: bytes, feed: str, value: int, observed_us: int, signature: bytes, now_us: int
    ) -> bool: ...

    async def rounds(self, feed: str, before_round: int, limit: int) -> list[RoundRecord]: ...
