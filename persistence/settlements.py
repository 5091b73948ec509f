"""Settlements: made in one transaction with the orders to the chain, and followed by what the chain's side reports.

A settlement is all there or not at all, so there is nothing to resume: after a crash the next one takes its trades.
Two at once wait for each other at settlement_head; a trade has one settlement by a unique key.
"""
# ruff: noqa: S608 - the SQL is joined from constants of this file, values are parameters

import secrets
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Final

import asyncpg
import msgspec

from engine.settlement.netting import Rule, Settlement, accounts_of, choose, is_due, settle
from engine.settlement.proofs import prove
from engine.settlement.records import PartRecord, SettlementRecord, TradeSettlement
from engine.settlement.states import News, Status, advance, overall
from engine.settlement.trades import SALT_BYTES, SettledSide, SettledTrade, SideName
from engine.submission import SETTLE
from engine.units import FOREVER_US, TimeUs
from persistence import outbox
from persistence.outbox import Order
from persistence.postgres import AnyConnection, Pool

_TRADE: Final = """market_id, number, sequence, time_us, energy_wh, buyer_id, buyer_zone, buyer_value_micro,
        buyer_fee_micro, seller_id, seller_zone, seller_value_micro, seller_fee_micro"""
_SETTLEMENT: Final = """s.number, s.settlement_id, s.root, s.trades, s.energy_wh, s.value_micro, s.status, s.created_us,
        s.changed_us"""

HEAD = "/* settlements.head */ SELECT number FROM settlement_head FOR UPDATE"
MOVE_HEAD = "/* settlements.move_head */ UPDATE settlement_head SET number = $1"
# How many trades wait, and since when: two look-ups in an index for each market, so it may be asked often.
BACKLOG = """
    /* settlements.backlog */
    SELECT coalesce(sum(newest - settled), 0)::bigint AS waiting, coalesce(min(oldest_us), 0) AS oldest_us
    FROM (
        SELECT c.market_id AS of_market, coalesce(s.number, 0) AS settled
        FROM cursors c
        LEFT JOIN settlement_cursors s USING (market_id)
    ) AS m
    CROSS JOIN LATERAL (
        SELECT time_us AS oldest_us
        FROM trades
        WHERE market_id = of_market
            AND number > settled
        ORDER BY number
        LIMIT 1
    ) AS o
    CROSS JOIN LATERAL (
        SELECT number AS newest
        FROM trades
        WHERE market_id = of_market
        ORDER BY number DESC
        LIMIT 1
    ) AS n
"""
# In a market, times do not go back while numbers grow: the first of all by time are the first of each market.
WAITING = f"""
    /* settlements.waiting */
    SELECT {_TRADE}
    FROM (
        SELECT c.market_id AS of_market, coalesce(s.number, 0) AS settled
        FROM cursors c
        LEFT JOIN settlement_cursors s USING (market_id)
    ) AS m
    CROSS JOIN LATERAL (
        SELECT {_TRADE}
        FROM trades
        WHERE market_id = of_market
            AND number > settled
        ORDER BY number
        LIMIT $1
    ) AS t
    ORDER BY time_us, market_id, number
    LIMIT $1
"""
MOVE_CURSORS = """
    /* settlements.move_cursors */
    INSERT INTO settlement_cursors AS c (market_id, number)
    SELECT market_id, first + trades - 1
    FROM unnest($1::integer[], $2::bigint[], $3::bigint[]) AS m (market_id, first, trades)
    ON CONFLICT (market_id) DO UPDATE
        SET number = EXCLUDED.number
        WHERE EXCLUDED.number > c.number
"""
ADD = """
    /* settlements.add */
    INSERT INTO settlements (number, settlement_id, root, salt, trades, energy_wh, value_micro, status, created_us,
        changed_us)
    VALUES ($1, $2, $3, $4, $5, $6, $7, 1, $8, $8)
"""
REBATES_MAX: Final = 50  # in one settlement

# Of epochs all of whose trades are settled with this one: their fees are there to be paid back.
TAKE_REBATES = """
    /* settlements.take_rebates */
    UPDATE maker_rewards r
    SET settlement = $1
    FROM (
        SELECT market_id, epoch_start_us, user_id
        FROM maker_rewards
        WHERE settlement IS NULL
            AND rebate_micro > 0
            AND epoch_end_us <= $2
        ORDER BY epoch_end_us, market_id, user_id
        LIMIT $3
        FOR UPDATE
    ) AS due
    WHERE (r.market_id, r.epoch_start_us, r.user_id) = (due.market_id, due.epoch_start_us, due.user_id)
    RETURNING r.user_id, r.rebate_micro
"""
ADD_PARTS = """
    /* settlements.add_parts */
    INSERT INTO settlement_parts (settlement, part, key, status, changed_us)
    SELECT $1, number - 1, key, 1, $3
    FROM unnest($2::text[]) WITH ORDINALITY AS p (key, number)
"""
LOCK_OF_PART = """
    /* settlements.lock_of_part */
    SELECT number
    FROM settlements
    WHERE number = (SELECT settlement FROM settlement_parts WHERE key = $1)
    FOR UPDATE
"""
PARTS_OF = """
    /* settlements.parts_of */
    SELECT settlement, part, key, status, signature, changed_us
    FROM settlement_parts
    WHERE settlement = ANY($1::bigint[])
    ORDER BY settlement, part
"""
CHANGE_PART = """
    /* settlements.change_part */
    UPDATE settlement_parts
    SET status = $2,
        signature = CASE WHEN $3 = '' THEN signature ELSE $3 END,
        changed_us = $4
    WHERE key = $1
"""
CHANGE = "/* settlements.change */ UPDATE settlements SET status = $2, changed_us = $3 WHERE number = $1"
BY_ID = f"/* settlements.by_id */ SELECT {_SETTLEMENT} FROM settlements s WHERE settlement_id = $1"
NEWEST = (
    f"/* settlements.newest */ SELECT {_SETTLEMENT} FROM settlements s WHERE number < $1 ORDER BY number DESC LIMIT $2"
)
OWN_TRADE = f"""
    /* settlements.own_trade */
    SELECT {_TRADE}
    FROM trades
    WHERE market_id = $1
        AND number = $2
        AND $3 IN (buyer_id, seller_id)
"""
OF_TRADE = f"""
    /* settlements.of_trade */
    SELECT {_SETTLEMENT}, s.salt, t.place
    FROM settlement_trades t
    JOIN settlements s ON s.number = t.settlement
    WHERE t.market_id = $1
        AND t.number = $2
"""
LEAVES = "/* settlements.leaves */ SELECT leaf FROM settlement_trades WHERE settlement = $1 ORDER BY place"


class PostgresSettlements:
    def __init__(self, pool: Pool, salt: Callable[[int], bytes] = secrets.token_bytes) -> None:
        self._pool, self._salt = pool, salt

    async def settle_due(self, now_us: TimeUs, rule: Rule) -> int:
        """Settle the trades that are due, in one transaction with their orders to the chain; how many they were."""
        backlog = await self._pool.fetchrow(BACKLOG)
        assert backlog is not None, "an aggregate has a row"
        if not is_due(backlog["waiting"], backlog["oldest_us"], now_us, rule):
            return 0
        async with self._pool.acquire() as connection, connection.transaction():
            number = await connection.fetchval(HEAD) + 1
            waiting = [_trade(row) for row in await connection.fetch(WAITING, rule.trades_max)]
            trades = choose(waiting, now_us, rule)
            if not trades:
                return 0
            salt = self._salt(SALT_BYTES)
            room = min(REBATES_MAX, rule.accounts_max - accounts_of(trades))
            rebates = [tuple(row) for row in await connection.fetch(TAKE_REBATES, number, trades[-1].time_us, room)]
            settlement = settle(trades, number, salt, rule.part_accounts, rebates)
            await connection.execute(MOVE_HEAD, number)
            await _move_cursors(connection, trades)
            await connection.execute(
                ADD,
                number,
                settlement.settlement_id,
                settlement.root,
                salt,
                len(trades),
                settlement.energy_wh,
                settlement.value_micro,
                now_us,
            )
            rows = zip(trades, settlement.leaves, strict=True)
            await connection.copy_records_to_table(
                "settlement_trades",
                columns=("settlement", "place", "market_id", "number", "leaf"),
                records=[(number, place, one.market_id, one.number, leaf) for place, (one, leaf) in enumerate(rows)],
            )
            orders = _orders(settlement, len(trades))
            await connection.execute(ADD_PARTS, number, [one.key for one in orders], now_us)
            await outbox.add(connection, orders, now_us)
        return len(trades)

    async def by_id(self, settlement_id: bytes) -> SettlementRecord | None:
        row = await self._pool.fetchrow(BY_ID, settlement_id)
        return (await self._with_parts([row]))[0] if row is not None else None

    async def newest(self, before_number: int = FOREVER_US, limit: int = 100) -> list[SettlementRecord]:
        """Newest first."""
        return await self._with_parts(await self._pool.fetch(NEWEST, before_number, limit))

    async def of_trade(self, market_id: int, number: int, user_id: int) -> TradeSettlement | None:
        """How far the trade of this user is, with the proof of his side; None when he has no such trade."""
        found = await self._pool.fetchrow(OWN_TRADE, market_id, number, user_id)
        if found is None:
            return None
        row = await self._pool.fetchrow(OF_TRADE, market_id, number)
        if row is None:
            return TradeSettlement(Status.EXECUTED)
        [settlement] = await self._with_parts([row])
        leaves = [leaf for (leaf,) in await self._pool.fetch(LEAVES, settlement.number)]
        side: SideName = "buyer" if found["buyer_id"] == user_id else "seller"
        proof = prove(_trade(found), side, settlement.number, row["salt"], leaves, row["place"])
        return TradeSettlement(settlement.status, settlement, proof)

    async def _with_parts(self, rows: Sequence[asyncpg.Record]) -> list[SettlementRecord]:
        parts = await self._pool.fetch(PARTS_OF, [row["number"] for row in rows])
        of = {number: tuple(map(_part, some)) for number, some in groupby(parts, lambda part: part["settlement"])}
        fields = SettlementRecord.__struct_fields__[:-1]
        return [
            SettlementRecord(
                **{name: row[name] for name in fields} | {"status": Status(row["status"])}, parts=of[row["number"]]
            )
            for row in rows
        ]


async def report(connection: AnyConnection, key: str, news: News, signature: str, now_us: TimeUs) -> Status | None:
    """Tell of the part with this key in the outbox, in the transaction of the news; how far its settlement is now.

    News may come twice, late and out of order. None: there is no such part.
    """
    number = await connection.fetchval(LOCK_OF_PART, key)
    if number is None:
        return None
    parts = {row["key"]: Status(row["status"]) for row in await connection.fetch(PARTS_OF, [number])}
    before, whole = parts[key], overall(parts.values())
    parts[key] = advance(before, news)
    if parts[key] is not before:
        await connection.execute(CHANGE_PART, key, parts[key], signature, now_us)
        if overall(parts.values()) is not whole:
            whole = overall(parts.values())
            await connection.execute(CHANGE, number, whole, now_us)
    return whole


async def _move_cursors(connection: AnyConnection, trades: Sequence[SettledTrade]) -> None:
    """Nothing may be left behind: the trades of each market follow one another."""
    numbers: dict[int, list[int]] = {}
    for trade in trades:
        numbers.setdefault(trade.market_id, []).append(trade.number)
    assert all(some == list(range(some[0], some[0] + len(some))) for some in numbers.values()), "a trade is missing"
    rows = [(market_id, some[0], len(some)) for market_id, some in numbers.items()]
    await connection.execute(MOVE_CURSORS, *map(list, zip(*rows, strict=True)))


def _orders(settlement: Settlement, trades: int) -> list[Order]:
    """One for each part: what the instruction settle_batch needs, with accounts in place of vaults."""
    identity, parts = settlement.settlement_id.hex(), settlement.parts
    common = {"settlement": identity, "root": settlement.root.hex(), "count": trades, "parts": len(parts)}
    return [
        Order(
            SETTLE,
            f"{identity}:{place}",
            {**common, "part": place, "after": part.after, "deltas": msgspec.to_builtins(part.deltas)},
        )
        for place, part in enumerate(parts)
    ]


def _trade(row: asyncpg.Record) -> SettledTrade:
    sides = (
        SettledSide(row[f"{side}_id"], row[f"{side}_zone"], row[f"{side}_value_micro"], row[f"{side}_fee_micro"])
        for side in ("buyer", "seller")
    )
    return SettledTrade(row["market_id"], row["number"], row["sequence"], row["time_us"], row["energy_wh"], *sides)


def _part(row: asyncpg.Record) -> PartRecord:
    return PartRecord(row["part"], Status(row["status"]), row["signature"], row["changed_us"])
