"""The account ledger: funds move between accounts by transfers that have a reference and happen once.

The laws are the database's (migrations/0004_ledger.sql): entries sum to zero, balances are the sums of entries,
nothing that people own goes below zero. Here is only what to insert. Accounts are locked in the order of their numbers.
What people ask for outside of the order journals writes its row of the audit log (audit_log.py).
"""

from typing import Final

import asyncpg

from engine.audit import SYSTEM, Origin
from engine.records import (
    AccountBalance,
    DepositRecord,
    Draw,
    Holding,
    LedgerLine,
    NumberTaken,
    ReferenceReused,
    TrialLine,
    Want,
)
from engine.units import FOREVER_US
from persistence import outbox
from persistence.accounts import CURRENCY_ISSUED, ENERGY_GENERATED, MAIN, MARKET, AccountKey, AccountNumbers, is_energy
from persistence.audit_log import append
from persistence.outbox import Order
from persistence.postgres import Pool, PooledConnection

NEWEST: Final = FOREVER_US  # above every id: where a list that goes backwards begins

# One round trip, because an order waits for it; migrations/0007_ledger_draw.sql says what it does.
DRAW = "/* ledger.draw */ SELECT ledger_draw($1, $2, $3, $4, $5, $6, $7, $8)"
DRAWS_AFTER = """
    /* ledger.draws_after */
    SELECT number, participant_id, asset, amount
    FROM draws
    WHERE market_id = $1
        AND number > $2
    ORDER BY number
    LIMIT $3
"""
ADD_DEPOSIT_TRANSFER = """
    /* ledger.add_deposit_transfer */
    INSERT INTO transfers (kind, reference, time_us)
    VALUES ('deposit', 'deposit:' || $1::text, $2)
    ON CONFLICT (reference) DO NOTHING
    RETURNING transfer_id
"""
ADD_DEPOSIT = """
    /* ledger.add_deposit */
    INSERT INTO deposits (participant_id, asset, amount, reference, transfer_id, created_us)
    VALUES ($1, $2, $3, $4, $5, $6)
    RETURNING deposit_id, participant_id, asset, amount, reference, created_us
"""
ADD_ENTRIES = """
    /* ledger.add_entries */
    INSERT INTO entries (transfer_id, account_id, participant_id, amount)
    SELECT $1, account_id, participant_id, amount
    FROM unnest($2::bigint[], $3::bigint[], $4::bigint[]) AS e (account_id, participant_id, amount)
"""
DEPOSIT_BY_REFERENCE = """
    /* ledger.deposit_by_reference */
    SELECT deposit_id, participant_id, asset, amount, reference, created_us
    FROM deposits
    WHERE reference = $1
"""
DEPOSITS = """
    /* ledger.deposits */
    SELECT deposit_id, participant_id, asset, amount, reference, created_us
    FROM deposits
    WHERE participant_id = $1
        AND deposit_id < $2
    ORDER BY deposit_id DESC
    LIMIT $3
"""
BALANCES = """
    /* ledger.balances */
    SELECT asset,
        coalesce(sum(balance) FILTER (WHERE kind = 'main'), 0)::bigint,
        coalesce(sum(balance) FILTER (WHERE kind = 'market'), 0)::bigint,
        coalesce(sum(reserved), 0)::bigint
    FROM accounts
    WHERE participant_id = $1
    GROUP BY asset
    ORDER BY asset
"""
HOLDINGS = """
    /* ledger.holdings */
    SELECT market_id, asset, balance, reserved
    FROM accounts
    WHERE participant_id = $1
        AND kind = 'market'
    ORDER BY market_id, asset
"""
LINES = """
    /* ledger.lines */
    SELECT e.entry_id, e.transfer_id, t.kind, t.reference, a.kind, a.market_id, a.asset, e.amount, t.time_us
    FROM entries e
    JOIN accounts a USING (account_id)
    JOIN transfers t USING (transfer_id)
    WHERE e.participant_id = $1
        AND e.entry_id < $2
    ORDER BY e.entry_id DESC
    LIMIT $3
"""
TRIAL_BALANCE = """
    /* ledger.trial_balance */
    SELECT asset,
        sum(CASE WHEN kind = 'main' THEN balance ELSE 0 END)::bigint AS participants_available,
        sum(CASE WHEN kind = 'market' THEN balance - reserved ELSE 0 END)::bigint AS participants_free,
        sum(reserved)::bigint AS participants_reserved,
        sum(CASE WHEN kind = 'fees' THEN balance ELSE 0 END)::bigint AS fees,
        sum(CASE WHEN kind LIKE 'grid%' THEN balance ELSE 0 END)::bigint AS grid,
        sum(CASE WHEN kind = 'issuance' THEN balance ELSE 0 END)::bigint AS issuance,
        sum(CASE WHEN kind = 'generation' THEN balance ELSE 0 END)::bigint AS generation,
        sum(CASE WHEN kind = 'retired' THEN balance ELSE 0 END)::bigint AS retired,
        sum(CASE WHEN kind = 'custody' THEN balance ELSE 0 END)::bigint AS custody
    FROM accounts
    GROUP BY asset
    ORDER BY asset
"""


class PostgresLedger:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._accounts = AccountNumbers(pool)

    async def draw(self, market_id: int, number_first: int, wants: list[Want]) -> list[int]:
        """Move each wanted amount from the main account into the market, whole or not at all, in one transaction.

        Returns per want what was moved or 0; those granted have the numbers from number_first on, in this order.
        Raises NumberTaken when another owner of the market has used one of the numbers: nothing was moved then.
        """
        if not wants:
            return []
        assert all(want.amount > 0 for want in wants), "a want is of something"
        sides = [_sides(market_id, want) for want in wants]
        ids = await self._accounts.of({key for pair in sides for key in pair})
        try:
            granted: list[int] = await self._pool.fetchval(
                DRAW,
                market_id,
                number_first,
                [want.participant_id for want in wants],
                [want.asset for want in wants],
                [ids[main] for main, _ in sides],
                [ids[inside] for _, inside in sides],
                [want.amount for want in wants],
                [want.at_most for want in wants],
            )
        except asyncpg.UniqueViolationError as error:
            raise NumberTaken(f"market {market_id}: a draw from number {number_first} on exists") from error
        return granted

    async def draws_after(self, market_id: int, number: int, limit: int = 10_000) -> list[Draw]:
        """The market's draws with a higher number, in order."""
        return [Draw(*row) for row in await self._pool.fetch(DRAWS_AFTER, market_id, number, limit)]

    async def deposit(
        self,
        participant_id: int,
        asset: str,
        amount: int,
        reference: str,
        time_us: int,
        origin: Origin = SYSTEM,
    ) -> DepositRecord:
        """Bring money (from issuance) or energy (from generation) into the main account, once per reference.

        A repeat returns the first deposit; with other contents it raises ReferenceReused.
        """
        source = AccountKey(0, ENERGY_GENERATED if is_energy(asset) else CURRENCY_ISSUED, 0, asset)
        target = AccountKey(participant_id, MAIN, 0, asset)
        ids = await self._accounts.of((source, target))
        async with self._pool.acquire() as connection, connection.transaction():
            pair = (ids[source], ids[target])
            made = await add_deposit(
                connection, pair, participant_id, asset, amount, reference, time_us, origin, is_given=True
            )
        if (made.participant_id, made.asset, made.amount) != (participant_id, asset, amount):
            raise ReferenceReused(f"reference {reference!r} belongs to another deposit")
        return made

    async def deposits(self, participant_id: int, before_id: int = NEWEST, limit: int = 100) -> list[DepositRecord]:
        """Newest first."""
        return [DepositRecord(*row) for row in await self._pool.fetch(DEPOSITS, participant_id, before_id, limit)]

    async def balances(self, participant_id: int) -> list[AccountBalance]:
        """Every asset in which the participant ever had anything, as of one instant."""
        return [AccountBalance(*row) for row in await self._pool.fetch(BALANCES, participant_id)]

    async def holdings(self, participant_id: int) -> list[Holding]:
        return [Holding(*row) for row in await self._pool.fetch(HOLDINGS, participant_id)]

    async def lines(self, participant_id: int, before_id: int = NEWEST, limit: int = 100) -> list[LedgerLine]:
        """The participant's statement, newest first."""
        return [LedgerLine(*row) for row in await self._pool.fetch(LINES, participant_id, before_id, limit)]

    async def trial_balance(self) -> list[TrialLine]:
        """Per asset every kind of account, also those with nothing; the amounts of an asset sum to zero."""
        return [
            TrialLine(row["asset"], kind, amount)
            for row in await self._pool.fetch(TRIAL_BALANCE)
            for kind, amount in row.items()
            if kind != "asset"
        ]


async def add_deposit(
    connection: PooledConnection,
    accounts: tuple[int, int],
    participant_id: int,
    asset: str,
    amount: int,
    reference: str,
    time_us: int,
    origin: Origin,
    *,
    is_given: bool = False,
) -> DepositRecord:
    """From the first account to the second, in the caller's transaction; the first deposit with this reference.

    is_given: nobody has brought it to the chain, so the chain has to be told.
    """
    transfer_id = await connection.fetchval(ADD_DEPOSIT_TRANSFER, reference, time_us)
    if transfer_id is None:
        return await _deposit(connection, DEPOSIT_BY_REFERENCE, reference)
    made = await _deposit(connection, ADD_DEPOSIT, participant_id, asset, amount, reference, transfer_id, time_us)
    await connection.execute(ADD_ENTRIES, transfer_id, list(accounts), [0, participant_id], [-amount, amount])
    if is_given:
        # What nobody paid for is made on the chain as well, so that its vaults hold what the ledger says.
        what = {"user_id": participant_id, "deposit_id": made.deposit_id, "asset": asset, "amount": amount}
        await outbox.add(connection, [Order("deposit_issued", str(made.deposit_id), what)], time_us)
    after = {"asset": asset, "amount": amount, "reference": reference}
    await append(connection, origin, "deposit.made", f"user:{participant_id}", None, after)
    return made


async def _deposit(connection: PooledConnection, sql: str, *values: object) -> DepositRecord:
    row = await connection.fetchrow(sql, *values)
    assert row is not None, "a transfer of a deposit has its deposit"
    return DepositRecord(*row)


def _sides(market_id: int, want: Want) -> tuple[AccountKey, AccountKey]:
    return (
        AccountKey(want.participant_id, MAIN, 0, want.asset),
        AccountKey(want.participant_id, MARKET, market_id, want.asset),
    )
