"""Rounds of the oracle: each is closed once, in one transaction with its order to the chain.

The rules are engine/oracle/rounds.py's; here is what is read and written. Whoever closes a round holds its feed.
"""

import base64
from collections.abc import Sequence
from typing import Final

import asyncpg
import msgspec

from engine.audit import SYSTEM
from engine.oracle.records import Heard
from engine.oracle.rounds import Round, close, is_flagged, is_fresh, note, quorum_of
from engine.oracle.submissions import feed_id
from engine.units import SECOND_US, WH_PER_KWH, TimeUs
from persistence import outbox
from persistence.audit_log import append
from persistence.oracle import LOCKED_FEED, feed_of
from persistence.outbox import Order
from persistence.postgres import AnyConnection, Pool

ROUND: Final = "oracle"  # its kind in the outbox
VWAP_US: Final = 3_600 * SECOND_US
_CANDLE_SECONDS: Final = 60

DUE = """
    /* oracle_rounds.due */
    SELECT feed
    FROM oracle_feeds
    WHERE closed_round < $1::bigint / (round_seconds * 1000000::bigint)
    ORDER BY feed
"""
SAID = """
    /* oracle_rounds.said */
    SELECT s.provider, p.provider_id::text, s.value, s.observed_us, s.signature, s.history
    FROM oracle_submissions s
    JOIN oracle_providers p ON p.number = s.provider
    WHERE s.feed = $1
        AND p.active
        AND s.feed = ANY(p.feeds)
    ORDER BY s.provider
    FOR UPDATE OF s
"""
# What our own markets traded, and how far its prices lay apart.
TRADED = """
    /* oracle_rounds.traded */
    SELECT sum(value_micro)::bigint AS value_micro, sum(volume_wh)::bigint AS volume_wh,
        max(high_micro) - min(low_micro) AS spread
    FROM cursors
    JOIN candles USING (market_id)
    WHERE seconds = $1
        AND start_us >= $2
        AND start_us < $3
"""
ADD_ROUND = """
    /* oracle_rounds.add_round */
    INSERT INTO oracle_rounds (feed, round, at_us, status, value, spread, quorum, heard)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8::jsonb)
"""
CLOSED = "/* oracle_rounds.closed */ UPDATE oracle_feeds SET closed_round = $2 WHERE feed = $1"
PUBLISHED = """
    /* oracle_rounds.published */
    UPDATE oracle_feeds
    SET value = $3,
        spread = $4,
        round = $2,
        at_us = $5
    WHERE feed = $1
"""
NOTE = """
    /* oracle_rounds.note */
    UPDATE oracle_submissions s
    SET history = n.history
    FROM unnest($2::bigint[], $3::integer[]) AS n (provider, history)
    WHERE s.feed = $1
        AND s.provider = n.provider
"""


class PostgresOracleRounds:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def close_due(self, now_us: TimeUs) -> int:
        """Close the round that ended last of every feed, one transaction each; how many there were.

        Rounds that ended while nobody looked are left out: nobody could have used their values.
        """
        feeds = [feed for (feed,) in await self._pool.fetch(DUE, now_us)]
        for feed in feeds:
            async with self._pool.acquire() as connection, connection.transaction():
                await _close(connection, feed, now_us)
        return len(feeds)


async def _close(connection: AnyConnection, name: str, now_us: TimeUs) -> None:
    feed = await feed_of(connection, LOCKED_FEED, name)
    round_us = feed.round_seconds * SECOND_US
    number = now_us // round_us
    if feed.closed_round >= number:
        return  # somebody else was here
    at_us = number * round_us
    await connection.execute(CLOSED, name, number)
    if feed.source == "trades":
        await _publish_traded(connection, name, number, feed.round, at_us)
        return
    said = [row for row in await connection.fetch(SAID, name) if is_fresh(row["observed_us"], at_us)]
    if not said:
        return
    quorum = quorum_of(feed.active, feed.single_provider)
    made = close([row["value"] for row in said], quorum)
    heard = [
        _heard(row, stray) for row, stray in zip(said, made.is_outlier if made else [False] * len(said), strict=True)
    ]
    await _keep(connection, name, number, feed.round, at_us, made, quorum, heard)
    if made is not None:
        await _note(connection, name, said, made.is_outlier)


async def _publish_traded(
    connection: AnyConnection, name: str, number: int, previous: int | None, at_us: TimeUs
) -> None:
    row = await connection.fetchrow(TRADED, _CANDLE_SECONDS, at_us - VWAP_US, at_us)
    if row is not None and row["volume_wh"]:
        vwap = row["value_micro"] * WH_PER_KWH // row["volume_wh"]
        await _keep(connection, name, number, previous, at_us, Round(vwap, row["spread"], (False,)), 1, [])


async def _keep(
    connection: AnyConnection,
    name: str,
    number: int,
    previous: int | None,
    at_us: TimeUs,
    made: Round | None,
    quorum: int,
    heard: Sequence[Heard],
) -> None:
    """The round, and when it has a value, that value for everybody and for the chain."""
    value, spread = (made.value, made.spread) if made is not None else (None, None)
    status = "published" if made is not None else "below_quorum"
    shown = msgspec.json.encode(heard).decode()
    await connection.execute(ADD_ROUND, name, number, at_us, status, value, spread, quorum, shown)
    if made is None:
        return
    await connection.execute(PUBLISHED, name, number, value, spread, at_us)
    payload = {
        "feed": name,
        "feed_id": feed_id(name).hex(),
        "number": number,
        "previous": previous or 0,  # which the chain must have first
        "value": value,
        "spread": spread,
        "at": at_us // SECOND_US,
        "providers": made.used,
    }
    await outbox.add(connection, [Order(ROUND, f"{name}:{number}", payload)], at_us)


async def _note(connection: AnyConnection, name: str, said: Sequence[asyncpg.Record], strays: Sequence[bool]) -> None:
    """Who strayed; whoever does so too often now is told of in the audit log."""
    histories = [note(row["history"], stray) for row, stray in zip(said, strays, strict=True)]
    await connection.execute(NOTE, name, [row["provider"] for row in said], histories)
    for row, history in zip(said, histories, strict=True):
        if is_flagged(history) and not is_flagged(row["history"]):
            subject = f"oracle_provider:{row['provider_id']}"
            await append(connection, SYSTEM, "oracle_provider.flagged", subject, None, {"feed": name})


def _heard(row: asyncpg.Record, stray: bool) -> Heard:
    signature = base64.b64encode(row["signature"]).decode()
    return Heard(row["provider_id"], row["value"], row["observed_us"], signature, stray)
