"""Users, their sessions, and failed logins for the time when the cache is away.

A session is a family of refresh tokens of which only the newest is good: an older one that comes back ends the family.
"""
# ruff: noqa: S608 - the SQL is joined from constants of this file, values are parameters

from typing import Final

import asyncpg

from engine.records import DirectoryPerson, EmailTaken, RotateOutcome, SessionRecord, UserRecord
from engine.units import SECOND_US
from persistence.catalogue import UnknownZone
from persistence.postgres import Pool

ENDED_SESSIONS_MAX: Final = 10_000
SWEPT_MAX: Final = 1_000  # a sweep's share, so that no login pays for a long one
SESSIONS_KEPT_US: Final = 30 * 86_400 * SECOND_US  # after they have expired

NO_PASSWORD: Final = b"!"  # no hash: nothing matches it

_USER = """user_id, email, name, role, status, zone, password_hash, created_us,
        source, coalesce(directory_id, ''), coalesce(confirmed_us, 0)"""

CREATE = f"""
    /* people.create */
    INSERT INTO users (email, name, password_hash, role, zone, created_us)
    VALUES ($1, $2, $3, $4, $5, $6)
    RETURNING {_USER}
"""
BY_EMAIL = f"/* people.by_email */ SELECT {_USER} FROM users WHERE email = $1"
BY_ID = f"/* people.by_id */ SELECT {_USER} FROM users WHERE user_id = $1"
UPDATE = f"""
    /* people.update */
    UPDATE users
    SET name = coalesce($2, name),
        role = coalesce($3, role),
        status = coalesce($4, status),
        zone = coalesce($5, zone)
    WHERE user_id = $1
    RETURNING {_USER}
"""
RENEW = f"""
    /* people.renew */
    UPDATE users AS u
    SET email = CASE
            WHEN EXISTS (SELECT FROM users AS other WHERE other.email = $2 AND other.user_id <> u.user_id) THEN u.email
            ELSE $2
        END,
        name = $3,
        role = $4,
        confirmed_us = greatest(confirmed_us, $5)
    WHERE directory_id = $1
    RETURNING {_USER}
"""
ADMIT = f"""
    /* people.admit */
    INSERT INTO users (directory_id, email, name, role, confirmed_us, created_us, zone, password_hash, source)
    VALUES ($1, $2, $3, $4, $5, $5, $6, $7, 'directory')
    ON CONFLICT (directory_id) DO NOTHING
    RETURNING {_USER}
"""
SET_HASH = "/* people.set_hash */ UPDATE users SET password_hash = $2 WHERE user_id = $1"
SEARCH = f"""
    /* people.search */
    SELECT {_USER}
    FROM users
    WHERE user_id > $2
        AND ($1 = '' OR position(lower($1) IN lower(email || ' ' || name)) > 0)
    ORDER BY user_id
    LIMIT $3
"""
COUNT_ADMINS = "/* people.count_admins */ SELECT count(*) FROM users WHERE role = 'admin' AND status = 'active'"
OPEN_SESSION = """
    /* people.open_session */
    INSERT INTO sessions (session_id, user_id, refresh_hash, created_us, used_us, expires_us)
    VALUES ($1, $2, $3, $4, $4, $5)
"""
SWEEP_SESSIONS = """
    /* people.sweep_sessions */
    DELETE FROM sessions
    WHERE session_id IN (
        SELECT session_id
        FROM sessions
        WHERE expires_us < $1
        ORDER BY expires_us
        LIMIT $2
    )
"""
ROTATE = """
    /* people.rotate */
    UPDATE sessions
    SET refresh_hash = $3,
        used_us = $4,
        expires_us = $5
    WHERE session_id = $1
        AND refresh_hash = $2
        AND ended_us IS NULL
        AND expires_us > $4
    RETURNING session_id
"""
END_REUSED = """
    /* people.end_reused */
    UPDATE sessions
    SET ended_us = $2
    WHERE session_id = $1
        AND ended_us IS NULL
        AND expires_us > $2
    RETURNING session_id
"""
END_SESSION = """
    /* people.end_session */
    UPDATE sessions
    SET ended_us = $2
    WHERE session_id = $1
        AND ended_us IS NULL
    RETURNING session_id
"""
END_SESSIONS = """
    /* people.end_sessions */
    UPDATE sessions
    SET ended_us = $2
    WHERE user_id = $1
        AND ended_us IS NULL
        AND session_id <> $3
    RETURNING session_id
"""
SESSIONS = """
    /* people.sessions */
    SELECT session_id, user_id, created_us, used_us, expires_us
    FROM sessions
    WHERE user_id = $1
        AND ended_us IS NULL
        AND expires_us > coalesce($2::bigint, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
    ORDER BY used_us DESC
    LIMIT 1000
"""
ENDED_SESSIONS = """
    /* people.ended_sessions */
    SELECT session_id
    FROM sessions
    WHERE ended_us IS NOT NULL
        AND ended_us >= $1
    ORDER BY ended_us DESC
    LIMIT $2
"""
ADD_LOGIN_FAILURE = """
    /* people.add_login_failure */
    INSERT INTO login_failures AS f (subject, failures, window_ends_us)
    VALUES ($1, 1, $2::bigint + $3::bigint)
    ON CONFLICT (subject) DO UPDATE
        SET failures = CASE WHEN f.window_ends_us > $2 THEN f.failures + 1 ELSE 1 END,
            window_ends_us = CASE WHEN f.window_ends_us > $2 THEN f.window_ends_us ELSE EXCLUDED.window_ends_us END
    RETURNING failures, window_ends_us
"""
LOGIN_FAILURES = """
    /* people.login_failures */
    SELECT failures, window_ends_us
    FROM login_failures
    WHERE subject = $1
        AND window_ends_us > $2
"""
FORGET_LOGIN_FAILURES = "/* people.forget_login_failures */ DELETE FROM login_failures WHERE subject = $1"
SWEEP_LOGIN_FAILURES = """
    /* people.sweep_login_failures */
    DELETE FROM login_failures
    WHERE subject IN (
        SELECT subject
        FROM login_failures
        WHERE window_ends_us <= $1
        ORDER BY window_ends_us
        LIMIT $2
    )
"""


class PostgresPeople:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def create(
        self, email: str, name: str, password_hash: bytes, role: str, zone: str, now_us: int
    ) -> UserRecord:
        """A new user. Raises EmailTaken, UnknownZone."""
        try:
            row = await self._pool.fetchrow(CREATE, email, name, password_hash, role, zone, now_us)
        except asyncpg.UniqueViolationError as error:
            raise EmailTaken(email) from error
        except asyncpg.ForeignKeyViolationError as error:
            raise UnknownZone(zone) from error
        assert row is not None, "an insert returns its row"
        return UserRecord(*row)

    async def by_email(self, email: str) -> UserRecord | None:
        """email as it was normalised when the user was made."""
        return _user(await self._pool.fetchrow(BY_EMAIL, email))

    async def by_id(self, user_id: int) -> UserRecord | None:
        return _user(await self._pool.fetchrow(BY_ID, user_id))

    async def update(
        self,
        user_id: int,
        *,
        name: str | None = None,
        role: str | None = None,
        status: str | None = None,
        zone: str | None = None,
    ) -> UserRecord | None:
        """Change what is given; the user after it, or None when there is no such user. Raises UnknownZone."""
        try:
            return _user(await self._pool.fetchrow(UPDATE, user_id, name, role, status, zone))
        except asyncpg.ForeignKeyViolationError as error:
            raise UnknownZone(zone) from error

    async def admit(self, person: DirectoryPerson, zone: str, now_us: int) -> UserRecord:
        """The account of somebody whom the directory knows: brought up to date, or made, without a password.

        An address that another account has meanwhile is left as it was. Raises EmailTaken for a new account.
        """
        values = (person.directory_id, person.email, person.name, person.role, now_us)
        for _ in range(2):  # the second time finds what somebody else made between our two statements
            try:
                row = await self._pool.fetchrow(RENEW, *values) or await self._pool.fetchrow(
                    ADMIT, *values, zone, NO_PASSWORD
                )
            except asyncpg.UniqueViolationError as error:
                raise EmailTaken(person.email) from error
            except asyncpg.ForeignKeyViolationError as error:
                raise UnknownZone(zone) from error
            if row is not None:
                return UserRecord(*row)
        raise AssertionError("a user of the directory is never removed")

    async def set_password(self, user_id: int, password_hash: bytes) -> None:
        await self._pool.execute(SET_HASH, user_id, password_hash)

    async def search(self, text: str, after_id: int, limit: int) -> list[UserRecord]:
        """Users whose e-mail or name contains the text, by number. "" finds all."""
        return [UserRecord(*row) for row in await self._pool.fetch(SEARCH, text, after_id, limit)]

    async def count_admins(self) -> int:
        """Admins who can act."""
        return int(await self._pool.fetchval(COUNT_ADMINS) or 0)

    async def open_session(
        self, session_id: str, user_id: int, refresh_hash: bytes, now_us: int, expires_us: int
    ) -> None:
        """Begin a family of refresh tokens; also sweeps a bounded number of those that expired long ago."""
        await self._pool.execute(OPEN_SESSION, session_id, user_id, refresh_hash, now_us, expires_us)
        await self._pool.execute(SWEEP_SESSIONS, now_us - SESSIONS_KEPT_US, SWEPT_MAX)

    async def rotate_session(
        self, session_id: str, old_hash: bytes, new_hash: bytes, now_us: int, expires_us: int
    ) -> RotateOutcome:
        """Exchange the refresh token, once: of two that come with the same one, the second ends the family."""
        async with self._pool.acquire() as connection, connection.transaction():
            if await connection.fetchval(ROTATE, session_id, old_hash, new_hash, now_us, expires_us) is not None:
                return RotateOutcome.OK
            if await connection.fetchval(END_REUSED, session_id, now_us) is not None:
                return RotateOutcome.REUSED
            return RotateOutcome.UNKNOWN

    async def end_session(self, session_id: str, now_us: int) -> bool:
        """False when there was nothing to end."""
        return await self._pool.fetchval(END_SESSION, session_id, now_us) is not None

    async def end_sessions(self, user_id: int, now_us: int, except_id: str = "") -> int:
        """End all of the user's sessions but one; how many."""
        return len(await self._pool.fetch(END_SESSIONS, user_id, now_us, except_id))

    async def sessions(self, user_id: int, now_us: int | None = None) -> list[SessionRecord]:
        """The sessions that are still good, last used first."""
        return [SessionRecord(*row) for row in await self._pool.fetch(SESSIONS, user_id, now_us)]

    async def ended_sessions(self, since_us: int) -> list[str]:
        """Sessions that were ended since then, newest first, at most ENDED_SESSIONS_MAX."""
        return [row[0] for row in await self._pool.fetch(ENDED_SESSIONS, since_us, ENDED_SESSIONS_MAX)]

    async def add_login_failure(self, subject: str, now_us: int, window_us: int) -> tuple[int, int]:
        """Count a failure of an account or address: (failures in the window that the first one opened, its end)."""
        row = await self._pool.fetchrow(ADD_LOGIN_FAILURE, subject, now_us, window_us)
        assert row is not None, "an upsert returns its row"
        return row["failures"], row["window_ends_us"]

    async def login_failures(self, subject: str, now_us: int) -> tuple[int, int]:
        """(failures in the window that is open, its end), or (0, 0)."""
        row = await self._pool.fetchrow(LOGIN_FAILURES, subject, now_us)
        return (row["failures"], row["window_ends_us"]) if row is not None else (0, 0)

    async def forget_login_failures(self, subject: str, now_us: int) -> None:
        """After a success; also sweeps a bounded number of windows that have ended."""
        await self._pool.execute(FORGET_LOGIN_FAILURES, subject)
        await self._pool.execute(SWEEP_LOGIN_FAILURES, now_us, SWEPT_MAX)


def _user(row: asyncpg.Record | None) -> UserRecord | None:
    return UserRecord(*row) if row is not None else None
