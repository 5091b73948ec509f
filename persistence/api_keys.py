"""API keys of people and of head-end systems. Each change writes its row of the audit log (audit_log.py).

A key that is revoked is removed: what there was to know about it is in the audit log.
"""
# ruff: noqa: S608 - the SQL is joined from constants of this file, values are parameters

from typing import Final

import asyncpg

from engine.audit import SYSTEM, Origin
from engine.records import ApiKeyRecord, TooManyKeys
from persistence.audit_log import append
from persistence.postgres import Pool

LISTED_MAX: Final = 1_000
_LOCK_CLASS: Final = 0x4B657973  # "Keys"

_KEY = """key_id, number, user_id, name, scopes, secret_hash, meter_ids, public_key, created_us, expires_us, used_us"""

# Of one owner one key is made at a time, so that the count below holds.
TAKE_TURNS = "/* api_keys.take_turns */ SELECT pg_advisory_xact_lock($1, ($2::bigint % 2147483647)::integer)"
SWEEP = "/* api_keys.sweep */ DELETE FROM api_keys WHERE user_id IS NOT DISTINCT FROM $1 AND expires_us <= $2"
COUNT = "/* api_keys.count */ SELECT count(*) FROM api_keys WHERE user_id IS NOT DISTINCT FROM $1"
CREATE = f"""
    /* api_keys.create */
    INSERT INTO api_keys (
        key_id, user_id, name, scopes, secret_hash, meter_ids, public_key, created_us, expires_us
    )
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
    RETURNING {_KEY}
"""
BY_ID = f"/* api_keys.by_id */ SELECT {_KEY} FROM api_keys WHERE key_id = $1"
OF_USER = f"/* api_keys.of_user */ SELECT {_KEY} FROM api_keys WHERE user_id = $1 ORDER BY number DESC LIMIT $2"
OF_HEAD_ENDS = f"""
    /* api_keys.of_head_ends */
    SELECT {_KEY} FROM api_keys WHERE user_id IS NULL ORDER BY number DESC LIMIT $1
"""
REMOVE = f"""
    /* api_keys.remove */
    DELETE FROM api_keys
    WHERE key_id = $1
        AND user_id IS NOT DISTINCT FROM $2
    RETURNING {_KEY}
"""
# Another gateway that writes the same rows at this moment writes about the same.
NOTE_USES = """
    /* api_keys.note_uses */
    WITH free AS (
        SELECT k.key_id, u.used_us
        FROM unnest($1::text[], $2::bigint[]) AS u (key_id, used_us)
        JOIN api_keys k USING (key_id)
        WHERE coalesce(k.used_us, 0) < u.used_us
        FOR NO KEY UPDATE OF k SKIP LOCKED
    )
    UPDATE api_keys k
    SET used_us = free.used_us
    FROM free
    WHERE k.key_id = free.key_id
"""


class PostgresApiKeys:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def create(self, key: ApiKeyRecord, keys_max: int, origin: Origin = SYSTEM) -> ApiKeyRecord:
        """Store a new key; as it is then, with its number. Forgets the owner's expired ones first.

        Raises TooManyKeys when its owner, or all head-ends together, would have more than keys_max.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(TAKE_TURNS, _LOCK_CLASS, key.user_id or 0)
            await connection.execute(SWEEP, key.user_id, key.created_us)
            if await connection.fetchval(COUNT, key.user_id) >= keys_max:
                raise TooManyKeys(f"at most {keys_max}")
            row = await connection.fetchrow(
                CREATE,
                key.key_id,
                key.user_id,
                key.name,
                list(key.scopes),
                key.secret_hash,
                list(key.meter_ids),
                key.public_key,
                key.created_us,
                key.expires_us,
            )
            assert row is not None, "an insert returns its row"
            made = _key(row)
            await append(connection, origin, "api_key.made", _subject(made), None, _shown(made))
        return made

    async def by_id(self, key_id: str) -> ApiKeyRecord | None:
        row = await self._pool.fetchrow(BY_ID, key_id)
        return _key(row) if row is not None else None

    async def of_user(self, user_id: int) -> list[ApiKeyRecord]:
        """The user's keys, expired ones too, newest first."""
        return [_key(row) for row in await self._pool.fetch(OF_USER, user_id, LISTED_MAX)]

    async def of_head_ends(self) -> list[ApiKeyRecord]:
        """All keys without a person, expired ones too, newest first."""
        return [_key(row) for row in await self._pool.fetch(OF_HEAD_ENDS, LISTED_MAX)]

    async def remove(self, key_id: str, user_id: int | None, origin: Origin = SYSTEM) -> bool:
        """Revoke the key of this user, or of a head-end when None; False when there is no such key of theirs."""
        async with self._pool.acquire() as connection, connection.transaction():
            row = await connection.fetchrow(REMOVE, key_id, user_id)
            if row is None:
                return False
            removed = _key(row)
            await append(connection, origin, "api_key.revoked", _subject(removed), _shown(removed), None)
        return True

    async def note_uses(self, uses: dict[str, int]) -> None:
        """When keys were last used, by key_id; what is older than what is known is left out."""
        await self._pool.execute(NOTE_USES, list(uses), list(uses.values()))


def _key(row: asyncpg.Record) -> ApiKeyRecord:
    return ApiKeyRecord(**{**row, "scopes": tuple(row["scopes"]), "meter_ids": tuple(row["meter_ids"])})


def _subject(key: ApiKeyRecord) -> str:
    return f"key:{key.key_id}"


def _shown(key: ApiKeyRecord) -> dict[str, object]:
    """What the audit log may tell of a key."""
    owner = {"user": str(key.user_id)} if key.user_id is not None else {"meters": key.meter_ids}
    return {
        **owner,
        "name": key.name,
        "scopes": key.scopes,
        "public_key": key.public_key.hex() if key.public_key else None,
        "expires_us": key.expires_us,
        "used_us": key.used_us,
    }
