"""Effects of the chain on their way: who may carry them, what became of them, and what that means in the ledger.

Rule: one submitter at a time may change what is under way. It takes rows with one conditional update that names it as
their owner; each later write names owner, state and attempt again, and a write that finds less than it names undoes all
and raises Fenced. Signed bytes are here, and on the disk, before anybody sends them; whatever else a server loses with
its last moments is found out again from the chain, so its sessions wait for the disk there alone. Who changes many rows
locks them in the order of their numbers first, for the tasks of one submitter write at the same time.
"""

from collections.abc import Collection, Sequence
from typing import Any, Final

import asyncpg
import msgspec

from engine.audit import SYSTEM
from engine.journal import Fenced
from engine.settlement.states import News
from engine.submission import FREE, SETTLE, Change, Effect, Holdings, State, Submission
from engine.units import SECOND_US
from persistence.accounts import CURRENCY_ISSUED, CUSTODY, ENERGY_GENERATED, AccountKey, AccountNumbers, is_energy
from persistence.audit_log import append
from persistence.postgres import OUTAGES, AnyConnection, Pool, PooledConnection
from persistence.reconciliation import is_suspended
from persistence.settlements import report

LEASE_US: Final = 300 * SECOND_US
REASON_LENGTH_MAX: Final = 500
_NOT_UNDER_WAY: Final = (*FREE, State.FINALIZED, State.PARKED)  # nobody owns these

# Signed is as good as submitted: it may be on its way from that moment.
_NEWS: Final = {
    State.QUEUED: News.QUEUED,
    State.SIGNED: News.SUBMITTED,
    State.SENT: News.SUBMITTED,
    State.CONFIRMED: News.CONFIRMED,
    State.FINALIZED: News.FINALIZED,
    State.FAILED: News.QUEUED,
    State.EXPIRED: News.QUEUED,
    State.PARKED: News.PARKED,
}

# One question for each effect, by key: whatever the planner thinks of the tables, it cannot read one as a whole.
_EFFECT: Final = """
    t.number, t.kind, t.key, t.lane, (SELECT payload::text FROM outbox WHERE number = t.number) AS payload,
        coalesce(t.user_id, 0) AS user_id,
        coalesce((SELECT address FROM chain_accounts WHERE user_id = t.user_id), '') AS account,
        coalesce((SELECT serial FROM meters WHERE number = t.meter), '') AS serial, t.state, t.attempt, t.signature,
        t.last_height, t.refusals, t.waits, t.together_max, t.reason, t.raw
    FROM taken t
    ORDER BY t.number
"""
# A minimum, because what EXISTS asks may be answered by reading all lanes at once.
DUE = """
    /* submissions.due */
    SELECT lane
    FROM unnest($1::text[]) AS lanes (lane)
    WHERE (
        SELECT min(due_us)
        FROM chain_submissions s
        WHERE s.lane = lanes.lane
            AND state IN ('queued', 'failed', 'expired')
    ) <= $2
"""
# Also those whose owner has died over them; the bound counts what is under way, whoever carries it.
CLAIM = f"""
    /* submissions.claim */
    WITH free AS (
        SELECT number
        FROM chain_submissions
        WHERE lane = $1
            AND state IN ('queued', 'failed', 'expired')
            AND due_us <= $3
        ORDER BY due_us, number
        LIMIT least($4, greatest(0, $5 - (
            SELECT count(*) FROM chain_submissions WHERE lane = $1 AND state IN ('built', 'signed', 'sent'))))
        FOR UPDATE SKIP LOCKED
    ), taken AS (
        UPDATE chain_submissions s
        SET state = 'built', lease_owner = $2, lease_until_us = $3 + $6, changed_us = $3
        FROM free
        WHERE s.number = free.number
        RETURNING s.*
    )
    SELECT {_EFFECT}
"""  # noqa: S608 - constants of this file; values are parameters
# What was only being built begins anew: nothing was sent of it.
ADOPT = f"""
    /* submissions.adopt */
    WITH lapsed AS (
        SELECT number
        FROM chain_submissions
        WHERE state IN ('built', 'signed', 'sent', 'confirmed')
            AND lease_owner <> $1
            AND ($4 OR lease_until_us < $2)
        ORDER BY number
        FOR UPDATE
    ), taken AS (
        UPDATE chain_submissions s
        SET state = CASE state WHEN 'built' THEN 'queued' ELSE state END,
            lease_owner = CASE state WHEN 'built' THEN '' ELSE $1 END, lease_until_us = $2 + $3
        FROM lapsed
        WHERE s.number = lapsed.number
        RETURNING s.*
    )
    SELECT {_EFFECT}
"""  # noqa: S608
RENEW = """
    /* submissions.renew */
    WITH held AS (
        SELECT number
        FROM chain_submissions
        WHERE lease_owner = $1
            AND state IN ('built', 'signed', 'sent', 'confirmed')
        ORDER BY number
        FOR UPDATE
    )
    UPDATE chain_submissions s
    SET lease_until_us = $2
    FROM held
    WHERE s.number = held.number
"""
DURABLE = "/* submissions.durable */ SET LOCAL synchronous_commit TO on"
LOCK = """
    /* submissions.lock */
    SELECT FROM chain_submissions WHERE number = ANY($1::bigint[]) ORDER BY number FOR UPDATE
"""
# The owner is a question of its own, so that the planner does not take him for rare and begin with his rows. Nobody
# sends the bytes of one that is free or done again, and they are most of a row.
RECORD = """
    /* submissions.record */
    UPDATE chain_submissions s
    SET state = c.state, attempt = c.attempt, signature = c.signature, last_height = c.last_height,
        refusals = c.refusals, waits = c.waits, together_max = c.together_max, reason = c.reason,
        raw = CASE WHEN c.is_free THEN NULL ELSE coalesce(c.raw, s.raw) END,
        slot = CASE WHEN c.slot > 0 THEN c.slot ELSE s.slot END, due_us = c.due_us, changed_us = $14,
        lease_owner = CASE WHEN c.is_free THEN '' ELSE s.lease_owner END
    FROM unnest($2::bigint[], $3::text[], $4::integer[], $5::text[], $6::text[], $7::bigint[], $8::integer[],
            $9::integer[], $10::text[], $11::bytea[], $12::bigint[], $13::bigint[], $15::integer[],
            $16::integer[], $17::boolean[])
        AS c (number, state_before, attempt_before, state, signature, last_height, refusals, together_max, reason,
            raw, due_us, slot, attempt, waits, is_free)
    WHERE s.number = c.number
        AND s.lease_owner = (SELECT $1::text)
        AND s.state = c.state_before
        AND s.attempt = c.attempt_before
"""
DONE_WITHDRAWALS = """
    /* submissions.done_withdrawals */
    UPDATE withdrawals
    SET done_us = $2
    WHERE submission = ANY($1::bigint[])
        AND done_us IS NULL
    RETURNING withdrawal_id, asset, amount
"""
ADD_TRANSFER = """
    /* submissions.add_transfer */
    INSERT INTO transfers (kind, reference, time_us)
    VALUES ('withdrawn', 'withdrawn:' || $1::text, $2)
    RETURNING transfer_id
"""
ADD_ENTRIES = """
    /* submissions.add_entries */
    INSERT INTO entries (transfer_id, account_id, participant_id, amount)
    VALUES ($1, $2, 0, -$4::bigint), ($1, $3, 0, $4)
"""
ADD_ACCOUNT = """
    /* submissions.add_account */
    INSERT INTO chain_accounts (user_id, address, vault, energy, currency, created_us)
    VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT DO NOTHING
"""
ACCOUNTS = """
    /* submissions.accounts */
    SELECT user_id, address
    FROM chain_accounts
    WHERE user_id = ANY($1::bigint[])
"""
HEIRS = """
    /* submissions.heirs */
    SELECT DISTINCT payload ->> 'address'
    FROM chain_submissions
    JOIN outbox USING (number)
    WHERE lane = 'govern'
        AND payload ->> 'action' = 'propose'
"""
SAY = """
    /* submissions.say */
    INSERT INTO chain_parts (part, at_us, said)
    VALUES ($1, $2, $3::jsonb)
    ON CONFLICT (part) DO UPDATE SET at_us = EXCLUDED.at_us, said = EXCLUDED.said
"""
TABLES = """
    /* submissions.tables */
    SELECT address, authority
    FROM chain_lookup_tables
    ORDER BY created_us DESC, address
    LIMIT $1
"""
ADD_TABLE = """
    /* submissions.add_table */
    INSERT INTO chain_lookup_tables (address, authority, created_us)
    VALUES ($1, $2, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
    ON CONFLICT DO NOTHING
"""
# Two halves, each with an index of its own: done ones are many.
DEPTHS = """
    /* submissions.depths */
    SELECT lane, state, count(*)
    FROM (
        SELECT lane, state FROM chain_submissions WHERE state NOT IN ('finalized', 'parked')
        UNION ALL
        SELECT lane, state FROM chain_submissions WHERE state = 'parked'
    ) AS open
    GROUP BY lane, state
    ORDER BY lane, state
"""


class PostgresSubmissions:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._accounts = AccountNumbers(pool)

    @property
    def outages(self) -> tuple[type[Exception], ...]:
        """What a call raises while the database is away: nothing is wrong with what was asked."""
        return (*OUTAGES, TimeoutError)

    async def adopt(self, owner: str, now_us: int, *, everything: bool) -> list[Effect]:
        """What is under way and now this owner's: all of it, or what an owner has let lapse."""
        rows = await self._pool.fetch(ADOPT, owner, now_us, LEASE_US, everything)
        return [effect for effect in map(_effect, rows) if effect.submission.state is not State.QUEUED]

    async def due(self, lanes: Sequence[str], now_us: int) -> list[str]:
        """Those of the lanes in which something waits for nothing but its turn."""
        return [lane for (lane,) in await self._pool.fetch(DUE, list(lanes), now_us)]

    async def claim(self, owner: str, lane: str, most: int, under_way_max: int, now_us: int) -> list[Effect]:
        """At most `most` effects of the lane that are due, oldest first, now built and this owner's."""
        return [
            _effect(row) for row in await self._pool.fetch(CLAIM, lane, owner, now_us, most, under_way_max, LEASE_US)
        ]

    async def renew(self, owner: str, now_us: int) -> None:
        await self._pool.execute(RENEW, owner, now_us + LEASE_US)

    async def record(self, owner: str, changes: Sequence[Change], now_us: int) -> None:
        """All of them, with what they mean in the ledger, or none. Raises Fenced."""
        if not changes:
            return
        done = [change.effect for change in changes if change.after.state is State.FINALIZED]
        leaving = [effect for effect in done if effect.kind == "withdrawal"]
        ids = await self._accounts.of({key for effect in leaving for key in _ways_out(effect.payload["asset"])})
        columns = zip(*map(_row, changes), strict=True)
        first = [list(column) for column in columns]
        async with self._pool.acquire() as connection, connection.transaction():
            if any(change.after.state is State.SIGNED for change in changes):
                await connection.execute(DURABLE)
            await connection.execute(LOCK, first[0])
            written = await connection.execute(RECORD, owner, *first[:12], now_us, *first[12:])
            if written != f"UPDATE {len(changes)}":
                raise Fenced(f"{len(changes)} submissions are not all {owner}'s any more: {written}")
            if leaving:
                await _let_go(connection, leaving, ids, now_us)
            for change in sorted(changes, key=lambda change: change.effect.key):
                before, after = change.effect.submission, change.after
                if change.effect.kind == SETTLE:
                    await report_part(connection, change.effect.key, before.state, after.state, after.signature, now_us)

    async def accounts(self, user_ids: Collection[int]) -> dict[int, str]:
        """The addresses of those who are on the chain."""
        rows = await self._pool.fetch(ACCOUNTS, list(user_ids)) if user_ids else []
        return {row["user_id"]: row["address"] for row in rows}

    async def open_account(self, user_id: int, holdings: Holdings, now_us: int) -> None:
        """Who somebody is on the chain; the first one told counts for ever."""
        await self._pool.execute(
            ADD_ACCOUNT, user_id, holdings.account, holdings.vault, holdings.energy, holdings.currency, now_us
        )

    async def say(self, part: str, said: dict[str, Any], now_us: int) -> None:
        """What a part has to say of itself, for those who ask how the chain is."""
        await self._pool.execute(SAY, part, now_us, msgspec.json.encode(said).decode())

    async def heirs(self) -> list[str]:
        """To whom an admin has proposed to hand the authority over the programs."""
        return [address for (address,) in await self._pool.fetch(HEIRS)]

    async def tables(self, most: int) -> list[tuple[str, str]]:
        """The newest lookup tables of ours, with who may add to each; newest first."""
        return [(row["address"], row["authority"]) for row in await self._pool.fetch(TABLES, most)]

    async def add_table(self, address: str, authority: str) -> None:
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(DURABLE)
            await connection.execute(ADD_TABLE, address, authority)

    async def rotated(self, role: str, before: str, after: str) -> None:
        """The chain has a new key for this role, for good."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(DURABLE)
            await append(
                connection, SYSTEM, "chain.key_rotated", f"role:{role}", {"address": before}, {"address": after}
            )

    async def is_suspended(self) -> bool:
        """Do withdrawals wait, because books and chain differ?"""
        return await is_suspended(self._pool)

    async def depths(self) -> dict[str, dict[str, int]]:
        """How many by lane and state, those that are done left out."""
        found: dict[str, dict[str, int]] = {}
        for lane, state, count in await self._pool.fetch(DEPTHS):
            found.setdefault(lane, {})[state] = count
        return found


async def report_part(
    connection: AnyConnection, key: str, before: str, after: str, signature: str, now_us: int
) -> None:
    """What a change of its submission means for a part of a settlement."""
    news = _NEWS.get(State(after))
    if news is None or news is _NEWS.get(State(before)):
        return
    if before == State.CONFIRMED and news is News.SUBMITTED:  # a fork has dropped it
        await report(connection, key, News.QUEUED, "", now_us)
    await report(connection, key, news, signature, now_us)


async def _let_go(
    connection: PooledConnection, leaving: Sequence[Effect], ids: dict[AccountKey, int], now_us: int
) -> None:
    """What was in custody has left: the ledger's source takes it back."""
    numbers = [effect.number for effect in leaving]
    for withdrawal_id, asset, amount in await connection.fetch(DONE_WITHDRAWALS, numbers, now_us):
        custody, source = _ways_out(asset)
        transfer_id = await connection.fetchval(ADD_TRANSFER, str(withdrawal_id), now_us)
        await connection.execute(ADD_ENTRIES, transfer_id, ids[custody], ids[source], amount)


def _ways_out(asset: str) -> tuple[AccountKey, AccountKey]:
    source = ENERGY_GENERATED if is_energy(asset) else CURRENCY_ISSUED
    return AccountKey(0, CUSTODY, 0, asset), AccountKey(0, source, 0, asset)


def _row(change: Change) -> tuple[Any, ...]:
    before, after = change.effect.submission, change.after
    return (
        change.effect.number,
        before.state,
        before.attempt,
        after.state,
        after.signature,
        after.last_height,
        after.refusals,
        after.together_max,
        after.reason[:REASON_LENGTH_MAX],
        change.raw or None,
        change.due_us,
        change.slot,
        after.attempt,
        after.waits,
        after.state in _NOT_UNDER_WAY,
    )


def _effect(row: asyncpg.Record) -> Effect:
    submission = Submission(
        state=State(row["state"]),
        attempt=row["attempt"],
        signature=row["signature"],
        last_height=row["last_height"],
        refusals=row["refusals"],
        waits=row["waits"],
        together_max=row["together_max"],
        reason=row["reason"],
    )
    return Effect(
        number=row["number"],
        kind=row["kind"],
        key=row["key"],
        lane=row["lane"],
        payload=msgspec.json.decode(row["payload"]),
        user_id=row["user_id"],
        account=row["account"],
        serial=row["serial"],
        submission=submission,
        raw=row["raw"] or b"",
    )
