"""A chain desk with nothing on it: for gateways whose tests are about something else."""

from typing import Any

from engine.settlement.reconciliation import Compared
from engine.submission import ChainDown, Holdings, PartReport, PendingDeposit, SubmissionRecord, WithdrawalRecord


class NoChain:
    """There is no chain: reading finds nothing, and whatever would change it is a mistake of the test."""

    async def parts(self) -> dict[str, PartReport]:
        return {}

    async def depths(self) -> dict[str, dict[str, int]]:
        return {}

    async def submissions(self, *_: Any) -> list[SubmissionRecord]:
        return []

    async def submission(self, number: int) -> SubmissionRecord | None:
        return None

    async def retry(self, *_: Any) -> SubmissionRecord | None:
        return None

    async def park(self, *_: Any) -> SubmissionRecord | None:
        return None

    async def govern(self, *_: Any) -> SubmissionRecord:
        raise AssertionError("there is no chain")

    async def compared(self) -> Compared | None:
        return None

    async def holdings(self, user_id: int) -> Holdings | None:
        return None

    async def tokens(self, holdings: Holdings) -> tuple[int, int]:
        raise ChainDown("there is no chain")

    async def pending_deposits(self, user_id: int, limit: int) -> list[PendingDeposit]:
        return []

    async def withdraw(self, *_: Any) -> WithdrawalRecord:
        raise AssertionError("there is no chain")

    async def withdrawals(self, *_: Any) -> list[tuple[WithdrawalRecord, int]]:
        return []
