"""Feeds, their providers, what these say, and what was published: everything but the closing of rounds.

Changes by admins write their row of the audit log (audit_log.py).
"""
# ruff: noqa: S608 - the SQL is joined from constants of this file, values are parameters

import uuid
from collections.abc import Sequence
from typing import Any, Final

import asyncpg
import msgspec

from engine.audit import SYSTEM, Origin
from engine.oracle.records import (
    FeedRecord,
    FeedTaken,
    Heard,
    KeyTaken,
    Latest,
    NewFeed,
    NewProvider,
    NotNewer,
    OracleFull,
    ProviderChange,
    ProviderRecord,
    RoundRecord,
    UnknownFeed,
)
from engine.oracle.rounds import is_flagged
from engine.units import FOREVER_US, TimeUs
from persistence.audit_log import append
from persistence.postgres import AnyConnection, Pool

FEEDS_MAX: Final = 100
PROVIDERS_MAX: Final = 200  # the program counts those of a round with 8 bits

_FEED: Final = """f.feed, f.name, f.unit, f.decimals, f.single_provider, f.round_seconds, f.source, f.closed_round,
        f.value, f.spread, f.round, f.at_us,
        (SELECT count(*) FROM oracle_providers p WHERE p.active AND f.feed = ANY(p.feeds)) AS active"""
_PROVIDER: Final = """uuid_send(p.provider_id) AS provider_id, p.name, p.public_key, p.feeds, p.active, p.created_us,
        ARRAY(SELECT s.feed FROM oracle_submissions s WHERE s.provider = p.number ORDER BY s.feed) AS heard,
        ARRAY(SELECT s.history FROM oracle_submissions s WHERE s.provider = p.number ORDER BY s.feed) AS histories"""

FEEDS = f"/* oracle.feeds */ SELECT {_FEED} FROM oracle_feeds f ORDER BY f.feed"
LOCKED_FEED = f"/* oracle.locked_feed */ SELECT {_FEED} FROM oracle_feeds f WHERE f.feed = $1 FOR UPDATE"
FEED = f"/* oracle.feed */ SELECT {_FEED} FROM oracle_feeds f WHERE f.feed = $1"
ADD_FEED = """
    /* oracle.add_feed */
    INSERT INTO oracle_feeds (feed, name, unit, decimals, single_provider, round_seconds, source)
    VALUES ($1, $2, $3, $4, $5, $6, $7)
"""
CHANGE_FEED = """
    /* oracle.change_feed */
    UPDATE oracle_feeds
    SET name = coalesce($2, name),
        single_provider = coalesce($3, single_provider)
    WHERE feed = $1
"""
COUNT_FEEDS = "/* oracle.count_feeds */ SELECT count(*) FROM oracle_feeds"
COUNT_PROVIDERS = "/* oracle.count_providers */ SELECT count(*) FROM oracle_providers"
TAKE_TURNS = "/* oracle.take_turns */ LOCK TABLE oracle_providers, oracle_feeds IN SHARE ROW EXCLUSIVE MODE"
PROVIDERS = f"/* oracle.providers */ SELECT {_PROVIDER} FROM oracle_providers p ORDER BY p.number"
PROVIDER = f"/* oracle.provider */ SELECT {_PROVIDER} FROM oracle_providers p WHERE p.provider_id = $1"
LOCK_PROVIDER = "/* oracle.lock_provider */ SELECT number FROM oracle_providers WHERE provider_id = $1 FOR UPDATE"
UNKNOWN_FEEDS = """
    /* oracle.unknown_feeds */
    SELECT wanted
    FROM unnest($1::text[]) AS w (wanted)
    WHERE NOT EXISTS (SELECT 1 FROM oracle_feeds WHERE feed = wanted AND source = 'providers')
"""
ADD_PROVIDER = """
    /* oracle.add_provider */
    INSERT INTO oracle_providers (provider_id, name, public_key, feeds, created_us)
    VALUES ($1, $2, $3, $4, $5)
"""
CHANGE_PROVIDER = """
    /* oracle.change_provider */
    UPDATE oracle_providers
    SET name = coalesce($2, name),
        feeds = coalesce($3, feeds),
        active = coalesce($4, active)
    WHERE number = $1
"""
SUBMIT = """
    /* oracle.submit */
    INSERT INTO oracle_submissions AS s (feed, provider, value, observed_us, signature, received_us)
    SELECT $2, number, $3, $4, $5, $6
    FROM oracle_providers
    WHERE provider_id = $1
    ON CONFLICT (feed, provider) DO UPDATE
        SET value = EXCLUDED.value,
            observed_us = EXCLUDED.observed_us,
            signature = EXCLUDED.signature,
            received_us = EXCLUDED.received_us
        WHERE s.observed_us < EXCLUDED.observed_us
    RETURNING 1
"""
SUBMITTED = """
    /* oracle.submitted */
    SELECT value, observed_us
    FROM oracle_submissions
    WHERE feed = $2
        AND provider = (SELECT number FROM oracle_providers WHERE provider_id = $1)
"""
ROUNDS = """
    /* oracle.rounds */
    SELECT feed, round, at_us, status, value, spread, quorum, heard, s.state AS chain_state, s.signature
    FROM oracle_rounds r
    LEFT JOIN LATERAL (
        SELECT state, signature FROM chain_submissions WHERE kind = 'oracle' AND key = r.feed || ':' || r.round
    ) AS s ON true
    WHERE feed = $1
        AND round < $2
    ORDER BY round DESC
    LIMIT $3
"""


class PostgresOracle:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def feeds(self) -> list[FeedRecord]:
        return [FeedRecord(**row) for row in await self._pool.fetch(FEEDS)]

    async def feed(self, feed: str) -> FeedRecord | None:
        row = await self._pool.fetchrow(FEED, feed)
        return FeedRecord(**row) if row is not None else None

    async def latest(self, feed: str, now_us: TimeUs) -> Latest | None:
        """The last published value, for whoever computes with it; None before the first, or without such a feed."""
        found = await self.feed(feed)
        if found is None or found.value is None or found.spread is None or found.at_us is None:
            return None
        return Latest(found.value, found.spread, found.at_us, now_us - found.at_us, found.is_stale(now_us))

    async def add_feed(self, feed: NewFeed, origin: Origin = SYSTEM) -> FeedRecord:
        """Raises FeedTaken, OracleFull."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(TAKE_TURNS)
            if await connection.fetchval(COUNT_FEEDS) >= FEEDS_MAX:
                raise OracleFull(f"at most {FEEDS_MAX} feeds")
            try:
                await connection.execute(ADD_FEED, *msgspec.structs.astuple(feed))
            except asyncpg.UniqueViolationError as error:
                raise FeedTaken(feed.feed) from error
            await append(connection, origin, "feed.made", f"feed:{feed.feed}", None, msgspec.to_builtins(feed))
            return await feed_of(connection, FEED, feed.feed)

    async def change_feed(
        self, feed: str, name: str | None, single_provider: bool | None, origin: Origin = SYSTEM
    ) -> FeedRecord:
        """None: as it was. Raises UnknownFeed."""
        async with self._pool.acquire() as connection, connection.transaction():
            before = await feed_of(connection, LOCKED_FEED, feed)
            await connection.execute(CHANGE_FEED, feed, name, single_provider)
            after = await feed_of(connection, FEED, feed)
            if after != before:
                await append(connection, origin, "feed.changed", f"feed:{feed}", _rules(before), _rules(after))
        return after

    async def providers(self) -> list[ProviderRecord]:
        """In the order in which they were registered."""
        return [_provider(row) for row in await self._pool.fetch(PROVIDERS)]

    async def provider(self, provider_id: bytes) -> ProviderRecord | None:
        row = await self._pool.fetchrow(PROVIDER, provider_id.hex())
        return _provider(row) if row is not None else None

    async def add_provider(self, provider: NewProvider, now_us: TimeUs, origin: Origin = SYSTEM) -> ProviderRecord:
        """Raises KeyTaken, UnknownFeed, OracleFull."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(TAKE_TURNS)
            if await connection.fetchval(COUNT_PROVIDERS) >= PROVIDERS_MAX:
                raise OracleFull(f"at most {PROVIDERS_MAX} providers")
            await _check_feeds(connection, provider.feeds)
            identity, feeds = provider.provider_id.hex(), sorted(set(provider.feeds))
            try:
                await connection.execute(ADD_PROVIDER, identity, provider.name, provider.public_key, feeds, now_us)
            except asyncpg.UniqueViolationError as error:
                raise KeyTaken(provider.name) from error
            made = _provider(await _row(connection, PROVIDER, identity))
            await append(connection, origin, "oracle_provider.registered", _subject(made), None, _shown(made))
        return made

    async def change_provider(
        self, provider_id: bytes, change: ProviderChange, origin: Origin = SYSTEM
    ) -> ProviderRecord | None:
        """None when there is no such provider. Raises UnknownFeed."""
        async with self._pool.acquire() as connection, connection.transaction():
            number = await connection.fetchval(LOCK_PROVIDER, provider_id.hex())
            if number is None:
                return None
            before = _provider(await _row(connection, PROVIDER, provider_id.hex()))
            feeds = sorted(set(change.feeds)) if change.feeds is not None else None
            await _check_feeds(connection, feeds or ())
            await connection.execute(CHANGE_PROVIDER, number, change.name, feeds, change.active)
            after = _provider(await _row(connection, PROVIDER, provider_id.hex()))
            if after != before:
                await append(
                    connection, origin, "oracle_provider.changed", _subject(after), _shown(before), _shown(after)
                )
        return after

    async def submit(
        self, provider_id: bytes, feed: str, value: int, observed_us: TimeUs, signature: bytes, now_us: TimeUs
    ) -> bool:
        """Keep what a provider said, whose signature has been checked; False: it had said so. Raises NotNewer."""
        if await self._pool.fetchval(SUBMIT, provider_id.hex(), feed, value, observed_us, signature, now_us):
            return True
        said = await self._pool.fetchrow(SUBMITTED, provider_id.hex(), feed)
        if said is None or (said["value"], said["observed_us"]) != (value, observed_us):
            raise NotNewer(feed)
        return False

    async def rounds(self, feed: str, before_round: int = FOREVER_US, limit: int = 100) -> list[RoundRecord]:
        """Newest first, without those in which nobody took part."""
        return [
            RoundRecord(**{**row, "heard": msgspec.json.decode(row["heard"], type=tuple[Heard, ...])})
            for row in await self._pool.fetch(ROUNDS, feed, before_round, limit)
        ]


async def feed_of(connection: AnyConnection, sql: str, feed: str) -> FeedRecord:
    row = await connection.fetchrow(sql, feed)
    if row is None:
        raise UnknownFeed(feed)
    return FeedRecord(**row)


async def _row(connection: AnyConnection, sql: str, identity: str) -> asyncpg.Record:
    row = await connection.fetchrow(sql, identity)
    assert row is not None, "providers are never removed"
    return row


async def _check_feeds(connection: AnyConnection, feeds: Sequence[str]) -> None:
    unknown = await connection.fetchval(UNKNOWN_FEEDS, list(feeds))
    if unknown is not None:
        raise UnknownFeed(unknown)


def _provider(row: asyncpg.Record) -> ProviderRecord:
    fields = {**row, "feeds": tuple(row["feeds"])}
    histories = zip(fields.pop("heard"), fields.pop("histories"), strict=True)
    return ProviderRecord(**fields, flagged=tuple(feed for feed, history in histories if is_flagged(history)))


def _subject(provider: ProviderRecord) -> str:
    return f"oracle_provider:{uuid.UUID(bytes=provider.provider_id)}"


def _rules(feed: FeedRecord) -> dict[str, Any]:
    return {"name": feed.name, "single_provider": feed.single_provider}


def _shown(provider: ProviderRecord) -> dict[str, Any]:
    return {
        "name": provider.name,
        "public_key": provider.public_key.hex(),
        "feeds": provider.feeds,
        "active": provider.active,
    }
