"""The first answers of writes that came with an Idempotency-Key, kept for a day, so that a repeat gets the same.

A key is claimed before the write begins, in a transaction of its own, and the answer is stored after it: a crash
between the two leaves a key without an answer, never a write that is done twice.
"""

from typing import Final

from engine.records import FirstAnswer, TooManyFirstAnswers
from persistence.postgres import Pool

SWEPT_MAX: Final = 100  # a claim's share of sweeping, which is more than it adds

CLAIM = """
    /* first_answers.claim */
    INSERT INTO first_answers (caller_id, key, fingerprint, began_us, expires_us)
    SELECT $1, $2, $3, $4::bigint, $5
    WHERE (
        SELECT count(*) < $6 AND coalesce(sum(body_bytes), 0) < $7
        FROM first_answers
        WHERE caller_id = $1
            AND expires_us > $4
    )
    ON CONFLICT (caller_id, key) DO UPDATE
        SET fingerprint = EXCLUDED.fingerprint,
            began_us = EXCLUDED.began_us,
            expires_us = EXCLUDED.expires_us,
            status = NULL,
            media_type = NULL,
            body = NULL,
            body_bytes = 0
        WHERE first_answers.expires_us <= EXCLUDED.began_us
    RETURNING key
"""
FIND = """
    /* first_answers.find */
    SELECT fingerprint, began_us, coalesce(status, 0) AS status, coalesce(media_type, '') AS media_type, body
    FROM first_answers
    WHERE caller_id = $1
        AND key = $2
        AND expires_us > $3
"""
KEEP = """
    /* first_answers.keep */
    UPDATE first_answers
    SET status = $4,
        media_type = $5,
        body = $6,
        body_bytes = coalesce(length($6::bytea), 0)
    WHERE caller_id = $1
        AND key = $2
        AND began_us = $3
"""
RELEASE = "/* first_answers.release */ DELETE FROM first_answers WHERE caller_id = $1 AND key = $2 AND began_us = $3"
SWEEP = """
    /* first_answers.sweep */
    DELETE FROM first_answers
    WHERE (caller_id, key) IN (
        SELECT caller_id, key
        FROM first_answers
        WHERE expires_us <= $1
        ORDER BY expires_us
        LIMIT $2
        FOR UPDATE SKIP LOCKED
    )
"""


class PostgresFirstAnswers:
    """`keys_max`, `bytes_max`: what one caller may have stored; claims at one moment may exceed it."""

    def __init__(self, pool: Pool, keys_max: int, bytes_max: int) -> None:
        self._pool, self._keys_max, self._bytes_max = pool, keys_max, bytes_max

    async def claim(
        self, caller_id: int, key: str, fingerprint: bytes, began_us: int, expires_us: int
    ) -> FirstAnswer | None:
        """None: the key is this request's. Else the request that had it first. Raises TooManyFirstAnswers."""
        async with self._pool.acquire() as connection:
            claimed = await connection.fetchval(
                CLAIM, caller_id, key, fingerprint, began_us, expires_us, self._keys_max, self._bytes_max
            )
            if claimed is not None:
                await connection.execute(SWEEP, began_us, SWEPT_MAX)
                return None
            row = await connection.fetchrow(FIND, caller_id, key, began_us)
        if row is None:
            raise TooManyFirstAnswers
        return FirstAnswer(**dict(row))

    async def keep(
        self, caller_id: int, key: str, began_us: int, status: int, media_type: str, body: bytes | None
    ) -> None:
        """The answer of the request that claimed the key at that instant."""
        await self._pool.execute(KEEP, caller_id, key, began_us, status, media_type, body)

    async def release(self, caller_id: int, key: str, began_us: int) -> None:
        """Nothing happened: the key may be used again."""
        await self._pool.execute(RELEASE, caller_id, key, began_us)
