"""What people and admins ask of the chain's tables: submissions, withdrawals, pauses, where somebody's tokens are.

Each change writes its row of the audit log (audit_log.py). What the chain must do goes through the outbox.
"""

from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import msgspec

from engine.audit import Origin
from engine.records import ReferenceReused
from engine.settlement.reconciliation import Compared
from engine.submission import (
    SETTLE,
    Holdings,
    NotLinked,
    NotSo,
    Parked,
    PartReport,
    PendingDeposit,
    Retried,
    State,
    Submission,
    SubmissionRecord,
    TooLittle,
    Underway,
    WithdrawalRecord,
    step,
)
from persistence import outbox
from persistence.accounts import CUSTODY, MAIN, AccountKey, AccountNumbers
from persistence.audit_log import append
from persistence.outbox import Order
from persistence.postgres import Pool
from persistence.reconciliation import last
from persistence.submissions import DEPTHS, report_part

_RECORD: Final = """
    number, kind, key, lane, coalesce(user_id, 0) AS user_id, state, attempt, signature, slot, reason, created_us,
        changed_us
"""
# Newest first. user_id null: everybody's.
FIND = f"""
    /* chain_desk.find */
    SELECT {_RECORD}
    FROM chain_submissions
    WHERE number < $1
        AND ($3::bigint IS NULL OR user_id = $3)
        AND ($4::text IS NULL OR kind = $4)
        AND ($5::text IS NULL OR state = $5)
    ORDER BY number DESC
    LIMIT $2
"""  # noqa: S608 - constants of this file; values are parameters
ONE = f"/* chain_desk.one */ SELECT {_RECORD} FROM chain_submissions WHERE number = $1"  # noqa: S608
LOCK = """
    /* chain_desk.lock */
    SELECT state, refusals, waits, together_max, reason, kind, key
    FROM chain_submissions
    WHERE number = $1
    FOR UPDATE
"""
SET = """
    /* chain_desk.set */
    UPDATE chain_submissions
    SET state = $2, refusals = $3, waits = $4, together_max = $5, reason = $6, signature = '', due_us = 0,
        changed_us = $7
    WHERE number = $1
"""
PARTS = "/* chain_desk.parts */ SELECT part, at_us, said::text FROM chain_parts ORDER BY part"
HOLDINGS = "/* chain_desk.holdings */ SELECT address, vault, energy, currency FROM chain_accounts WHERE user_id = $1"
PENDING = """
    /* chain_desk.pending */
    SELECT e.signature, e.instruction, e.index, (e.fields ->> 'asset')::integer = 0, (e.fields ->> 'amount')::bigint,
        e.seen_us
    FROM chain_accounts a
    JOIN chain_events e ON e.name = 'Deposited' AND e.fields ->> 'vault' = a.vault
    WHERE a.user_id = $1
        AND e.program = 'trading'
        AND e.state = 'confirmed'
    ORDER BY e.slot DESC, e.signature, e.instruction, e.index
    LIMIT $2
"""
IS_LINKED = "/* chain_desk.is_linked */ SELECT 1 FROM wallets WHERE user_id = $1 AND address = $2 AND kind = 'linked'"
_WITHDRAWAL: Final = """
    SELECT w.withdrawal_id::text, w.user_id, w.asset, w.amount, w.address, s.state, s.signature, w.created_us, w.done_us
    FROM withdrawals w
    JOIN chain_submissions s ON s.number = w.submission
"""
WITHDRAWAL_BY_REFERENCE = f"/* chain_desk.withdrawal_by_reference */ {_WITHDRAWAL} WHERE w.reference = $1"
WITHDRAWALS = f"""
    /* chain_desk.withdrawals */
    {_WITHDRAWAL}
    WHERE w.user_id = $1
        AND w.submission < $2
    ORDER BY w.submission DESC
    LIMIT $3
"""
NUMBER_OF = "/* chain_desk.number_of */ SELECT submission FROM withdrawals WHERE withdrawal_id = $1"
ADD_TRANSFER = """
    /* chain_desk.add_transfer */
    INSERT INTO transfers (kind, reference, time_us)
    VALUES ('withdrawal', 'withdrawal:' || $1::text, $2)
    RETURNING transfer_id
"""
ADD_ENTRIES = """
    /* chain_desk.add_entries */
    INSERT INTO entries (transfer_id, account_id, participant_id, amount)
    VALUES ($1, $2, $4, -$5::bigint), ($1, $3, 0, $5)
"""
ADD_WITHDRAWAL = """
    /* chain_desk.add_withdrawal */
    INSERT INTO withdrawals (withdrawal_id, user_id, asset, amount, address, reference, submission, created_us)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""


class PostgresChainDesk:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._accounts = AccountNumbers(pool)

    async def parts(self) -> dict[str, PartReport]:
        rows = await self._pool.fetch(PARTS)
        return {part: PartReport(at_us, msgspec.json.decode(said)) for part, at_us, said in rows}

    async def depths(self) -> dict[str, dict[str, int]]:
        """How many effects by lane and state, those that are done left out."""
        found: dict[str, dict[str, int]] = {}
        for lane, state, count in await self._pool.fetch(DEPTHS):
            found.setdefault(lane, {})[state] = count
        return found

    async def submissions(
        self, user_id: int | None, kind: str | None, state: str | None, before: int, limit: int
    ) -> list[SubmissionRecord]:
        """Newest first; user_id None: everybody's."""
        rows = await self._pool.fetch(FIND, before, limit, user_id, kind, state)
        return [SubmissionRecord(*row) for row in rows]

    async def submission(self, number: int) -> SubmissionRecord | None:
        row = await self._pool.fetchrow(ONE, number)
        return SubmissionRecord(*row) if row is not None else None

    async def retry(self, number: int, now_us: int, origin: Origin) -> SubmissionRecord | None:
        """Put a parked one back into its queue. Raises Underway for one that is not parked."""
        return await self._change(number, Retried(), "chain.retried", now_us, origin)

    async def park(self, number: int, reason: str, now_us: int, origin: Origin) -> SubmissionRecord | None:
        """Leave it alone until it is retried. Raises Underway for one that may land."""
        return await self._change(number, Parked(reason), "chain.parked", now_us, origin)

    async def govern(self, action: str, address: str | None, now_us: int, origin: Origin) -> SubmissionRecord:
        """Have the chain paused or unpaused, or its authority handed over: proposed to an address, or accepted."""
        order = Order(
            "governance", f"{action}:{uuid4()}", {"action": action} | ({"address": address} if address else {})
        )
        async with self._pool.acquire() as connection, connection.transaction():
            [number] = await outbox.add(connection, [order], now_us)
            await append(
                connection, origin, f"chain.{action}_asked", "chain", None, {"submission": number, **order.payload}
            )
        made = await self.submission(number)
        assert made is not None, "the outbox has made it"
        return made

    async def compared(self) -> Compared | None:
        """What the last comparison of books and chain found; None before the first."""
        return await last(self._pool)

    async def holdings(self, user_id: int) -> Holdings | None:
        row = await self._pool.fetchrow(HOLDINGS, user_id)
        return Holdings(*row) if row is not None else None

    async def pending_deposits(self, user_id: int, limit: int) -> list[PendingDeposit]:
        return [PendingDeposit(*row) for row in await self._pool.fetch(PENDING, user_id, limit)]

    async def withdraw(
        self, user_id: int, asset: str, amount: int, address: str, reference: str, now_us: int, origin: Origin
    ) -> WithdrawalRecord:
        """Into custody now, onto the chain soon; once for each reference.

        Raises NotLinked, TooLittle, ReferenceReused.
        """
        main, custody = AccountKey(user_id, MAIN, 0, asset), AccountKey(0, CUSTODY, 0, asset)
        ids = await self._accounts.of((main, custody))
        withdrawal_id = uuid4()
        order = {"user_id": user_id, "asset": asset, "amount": amount, "address": address}
        try:
            async with self._pool.acquire() as connection, connection.transaction():
                if await connection.fetchval(IS_LINKED, user_id, address) is None:
                    raise NotLinked(address)
                [number] = await outbox.add(connection, [Order("withdrawal", str(withdrawal_id), order)], now_us)
                await connection.execute(
                    ADD_WITHDRAWAL, withdrawal_id, user_id, asset, amount, address, reference, number, now_us
                )
                transfer_id = await connection.fetchval(ADD_TRANSFER, str(withdrawal_id), now_us)
                await connection.execute(ADD_ENTRIES, transfer_id, ids[main], ids[custody], user_id, amount)
                await append(connection, origin, "withdrawal.asked", f"user:{user_id}", None, order)
        except asyncpg.CheckViolationError as error:
            if error.constraint_name != "accounts_balance_not_negative":
                raise
            raise TooLittle(asset) from error
        except asyncpg.UniqueViolationError as error:
            if error.constraint_name != "withdrawals_reference_key":
                raise
        row = await self._pool.fetchrow(WITHDRAWAL_BY_REFERENCE, reference)
        assert row is not None, "it was made, or had been made before"
        found = WithdrawalRecord(*row)
        if (found.user_id, found.asset, found.amount, found.address) != (user_id, asset, amount, address):
            raise ReferenceReused(f"reference {reference!r} belongs to another withdrawal")
        return found

    async def withdrawals(self, user_id: int, before: int, limit: int) -> list[tuple[WithdrawalRecord, int]]:
        """Newest first, each with the number that the next page is before."""
        rows = await self._pool.fetch(WITHDRAWALS, user_id, before, limit)
        found = [WithdrawalRecord(*row) for row in rows]
        return [(one, await self._pool.fetchval(NUMBER_OF, UUID(one.withdrawal_id))) for one in found]

    async def _change(
        self, number: int, wish: Retried | Parked, action: str, now_us: int, origin: Origin
    ) -> SubmissionRecord | None:
        async with self._pool.acquire() as connection, connection.transaction():
            row = await connection.fetchrow(LOCK, number)
            if row is None:
                return None
            before = _submission(row)
            try:
                after = step(before, wish)
            except NotSo as error:
                raise Underway(str(error)) from error
            values: tuple[Any, ...] = (after.state, after.refusals, after.waits, after.together_max, after.reason)
            await connection.execute(SET, number, *values, now_us)
            if row["kind"] == SETTLE:
                await report_part(connection, row["key"], before.state, after.state, "", now_us)
            subject = f"submission:{row['kind']}:{row['key']}"[:200]
            await append(connection, origin, action, subject, {"state": before.state}, {"state": after.state})
        return await self.submission(number)


def _submission(row: asyncpg.Record) -> Submission:
    return Submission(
        state=State(row["state"]),
        refusals=row["refusals"],
        waits=row["waits"],
        together_max=row["together_max"],
        reason=row["reason"],
    )
