"""Recurring orders in memory, as persistence/recurring.py keeps them."""

from msgspec.structs import asdict, replace

from engine.audit import Origin
from engine.records import NewRecurring, RecurringRecord, TooManyRecurring

OF_ONE_MAX = 50


class MemoryRecurring:
    def __init__(self) -> None:
        self.kept: dict[int, RecurringRecord] = {}

    async def add(self, new: NewRecurring, now_us: int, origin: Origin) -> RecurringRecord:
        if sum(one.active for one in self.kept.values() if one.user_id == new.user_id) >= OF_ONE_MAX:
            raise TooManyRecurring
        made = RecurringRecord(
            recurring_id=len(self.kept) + 1, **asdict(new), placed=0, outcome="", active=True, created_us=now_us
        )
        self.kept[made.recurring_id] = made
        return made

    async def page(self, user_id: int, before_id: int, limit: int) -> list[RecurringRecord]:
        own = [one for one in self.kept.values() if one.user_id == user_id and one.recurring_id < before_id]
        return own[::-1][:limit]

    async def one(self, recurring_id: int, user_id: int) -> RecurringRecord | None:
        found = self.kept.get(recurring_id)
        return found if found is not None and found.user_id == user_id else None

    async def stop(self, recurring_id: int, user_id: int, origin: Origin) -> RecurringRecord | None:
        found = await self.one(recurring_id, user_id)
        if found is not None:
            found = self.kept[recurring_id] = replace(found, active=False)
        return found
