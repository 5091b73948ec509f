"""Users, their sessions, and failed logins. Each change writes its row of the audit log (audit_log.py).

A session is a family of refresh tokens of which only the newest is good: an older one that comes back ends the family.
That somebody can always administer is the database's rule (migrations/0008_api_keys.sql).
"""
# ruff: noqa: S608 - the SQL is joined from constants of this file, values are parameters

from typing import Final

import asyncpg

from engine.audit import SYSTEM, Origin
from engine.records import DirectoryPerson, EmailTaken, LastAdmin, RotateOutcome, SessionRecord, UserRecord
from engine.units import SECOND_US
from persistence.audit_log import append
from persistence.catalogue import UnknownZone
from persistence.postgres import AnyConnection, Pool

ENDED_SESSIONS_MAX: Final = 10_000
SWEPT_MAX: Final = 1_000  # a sweep's share, so that no login pays for a long one
SESSIONS_MAX: Final = 1_000  # of one user; beyond it those end that were not used for longest
SESSIONS_KEPT_US: Final = 30 * 86_400 * SECOND_US  # after they have expired

NO_PASSWORD: Final = b""  # nothing matches it

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
LOCK = f"/* people.lock */ SELECT {_USER} FROM users WHERE user_id = $1 FOR NO KEY UPDATE"
LOCK_OF_DIRECTORY = f"""
    /* people.lock_of_directory */
    SELECT {_USER} FROM users WHERE directory_id = $1 FOR NO KEY UPDATE
"""
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
        AND ($4::text IS NULL OR role = $4)
        AND ($5::text IS NULL OR status = $5)
    ORDER BY user_id
    LIMIT $3
"""
COUNT_ADMINS = "/* people.count_admins */ SELECT count(*) FROM users WHERE role = 'admin' AND status = 'active'"
OPEN_SESSION = """
    /* people.open_session */
    INSERT INTO sessions (session_id, user_id, refresh_hash, created_us, used_us, expires_us)
    SELECT $1, user_id, $3, $4, $4, $5
    FROM users
    WHERE user_id = $2
        AND status = 'active'
        AND password_hash = $6
    FOR SHARE
    RETURNING user_id
"""
END_OLDEST = """
    /* people.end_oldest */
    UPDATE sessions
    SET ended_us = $2
    WHERE session_id IN (
        SELECT session_id
        FROM sessions
        WHERE user_id = $1
            AND ended_us IS NULL
            AND expires_us > $2
        ORDER BY used_us DESC, session_id
        OFFSET $3
    )
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
    RETURNING user_id
"""
END_SESSION = """
    /* people.end_session */
    UPDATE sessions
    SET ended_us = $2
    WHERE session_id = $1
        AND ended_us IS NULL
        AND user_id = coalesce($3, user_id)
    RETURNING user_id
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
SESSIONS = f"""
    /* people.sessions */
    SELECT session_id, user_id, created_us, used_us, expires_us
    FROM sessions
    WHERE user_id = $1
        AND ended_us IS NULL
        AND expires_us > coalesce($2::bigint, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
    ORDER BY used_us DESC
    LIMIT {SESSIONS_MAX}
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
            window_ends_us = EXCLUDED.window_ends_us
    RETURNING failures
"""
LOGIN_FAILURES = """
    /* people.login_failures */
    SELECT failures, window_ends_us
    FROM login_failures
    WHERE subject = $1
        AND window_ends_us > $2
"""
FORGET_LOGIN_FAILURES = """
    /* people.forget_login_failures */
    DELETE FROM login_failures WHERE subject = $1 RETURNING failures
"""
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
        self,
        email: str,
        name: str,
        password_hash: bytes,
        role: str,
        zone: str,
        now_us: int,
        origin: Origin = SYSTEM,
    ) -> UserRecord:
        """A new user; an empty hash: without a password. Raises EmailTaken, UnknownZone."""
        async with self._pool.acquire() as connection, connection.transaction():
            try:
                row = await connection.fetchrow(CREATE, email, name, password_hash, role, zone, now_us)
            except asyncpg.UniqueViolationError as error:
                raise EmailTaken(email) from error
            except asyncpg.ForeignKeyViolationError as error:
                raise UnknownZone(zone) from error
            assert row is not None, "an insert returns its row"
            user = UserRecord(*row)
            await append(connection, origin, "user.registered", subject_of(user.user_id), None, _shown(user))
        return user

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
        now_us: int,
        origin: Origin = SYSTEM,
    ) -> UserRecord | None:
        """Change what is given; the user after it, or None when there is no such user.

        A change of role or status ends all of the user's sessions. Raises UnknownZone, LastAdmin.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            before = _user(await connection.fetchrow(LOCK, user_id))
            if before is None:
                return None
            try:
                after = _user(await connection.fetchrow(UPDATE, user_id, name, role, status, zone))
            except asyncpg.ForeignKeyViolationError as error:
                raise UnknownZone(zone) from error
            except asyncpg.RestrictViolationError as error:
                raise LastAdmin(f"user {user_id}") from error
            assert after is not None, "the row is locked"
            if (after.role, after.status) != (before.role, before.status):
                await connection.execute(END_SESSIONS, user_id, now_us, "")
            await _append_changes(connection, origin, before, after)
        return after

    async def admit(self, person: DirectoryPerson, zone: str, now_us: int, origin: Origin = SYSTEM) -> UserRecord:
        """The account of somebody whom the directory knows: brought up to date, or made, without a password.

        An address that another account has meanwhile is left as it was. Raises EmailTaken or UnknownZone for a new
        account, LastAdmin for one that would leave nobody to administer.
        """
        values = (person.directory_id, person.email, person.name, person.role, now_us)
        try:
            for _ in range(2):  # the second time finds what somebody else has made meanwhile
                async with self._pool.acquire() as connection, connection.transaction():
                    before = _user(await connection.fetchrow(LOCK_OF_DIRECTORY, person.directory_id))
                    if before is not None:
                        after = _user(await connection.fetchrow(RENEW, *values))
                        assert after is not None, "its row is locked"
                        await _append_changes(connection, origin, before, after)
                        return after
                    made = _user(await connection.fetchrow(ADMIT, *values, zone, NO_PASSWORD))
                    if made is not None:
                        await append(connection, origin, "user.admitted", subject_of(made.user_id), None, _shown(made))
                        return made
        except asyncpg.UniqueViolationError as error:
            raise EmailTaken(person.email) from error
        except asyncpg.ForeignKeyViolationError as error:
            raise UnknownZone(zone) from error
        except asyncpg.RestrictViolationError as error:
            raise LastAdmin(person.directory_id.hex()) from error
        raise AssertionError("a user of the directory is never removed")

    async def set_password(
        self, user_id: int, password_hash: bytes, keep_session_id: str, now_us: int, origin: Origin = SYSTEM
    ) -> None:
        """A new password; ends all of the user's sessions but this one."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(SET_HASH, user_id, password_hash)
            ended = len(await connection.fetch(END_SESSIONS, user_id, now_us, keep_session_id))
            await append(connection, origin, "password.changed", subject_of(user_id), None, {"sessions_ended": ended})

    async def search(
        self, text: str, after_id: int, limit: int, role: str | None = None, status: str | None = None
    ) -> list[UserRecord]:
        """Users whose e-mail or name contains the text, with this role and status, by number. "" finds all."""
        rows = await self._pool.fetch(SEARCH, text, after_id, limit, role, status)
        return [UserRecord(*row) for row in rows]

    async def count_admins(self) -> int:
        """Admins who can act."""
        return int(await self._pool.fetchval(COUNT_ADMINS) or 0)

    # --- sessions ------------------------------------------------------------------------------------------------

    async def open_session(
        self,
        session_id: str,
        user: UserRecord,
        refresh_hash: bytes,
        now_us: int,
        expires_us: int,
        origin: Origin = SYSTEM,
    ) -> bool:
        """Begin a family of refresh tokens; also sweeps a bounded number of those that expired long ago.

        False, and no session, when the user was suspended or got another password since he was looked at.
        """
        async with self._pool.acquire() as connection:
            async with connection.transaction():
                made = await connection.fetchval(
                    OPEN_SESSION, session_id, user.user_id, refresh_hash, now_us, expires_us, user.password_hash
                )
                if made is None:
                    return False
                await connection.execute(END_OLDEST, user.user_id, now_us, SESSIONS_MAX)
                after = {"session": session_id}
                await append(connection, origin, "login.succeeded", subject_of(user.user_id), None, after)
            await connection.execute(SWEEP_SESSIONS, now_us - SESSIONS_KEPT_US, SWEPT_MAX)
        return True

    async def rotate_session(
        self,
        session_id: str,
        old_hash: bytes,
        new_hash: bytes,
        now_us: int,
        expires_us: int,
        origin: Origin = SYSTEM,
    ) -> RotateOutcome:
        """Exchange the refresh token, once: of two that come with the same one, the second ends the family."""
        async with self._pool.acquire() as connection, connection.transaction():
            if await connection.fetchval(ROTATE, session_id, old_hash, new_hash, now_us, expires_us) is not None:
                return RotateOutcome.OK
            user_id = await connection.fetchval(END_REUSED, session_id, now_us)
            if user_id is None:
                return RotateOutcome.UNKNOWN
            after = {"session_ended": session_id}
            await append(connection, origin, "refresh.reused", subject_of(user_id), None, after)
            return RotateOutcome.REUSED

    async def end_session(
        self, session_id: str, now_us: int, user_id: int | None = None, origin: Origin = SYSTEM
    ) -> bool:
        """False when there was nothing to end: no such session, or not of this user."""
        async with self._pool.acquire() as connection, connection.transaction():
            owner_id = await connection.fetchval(END_SESSION, session_id, now_us, user_id)
            if owner_id is None:
                return False
            await append(connection, origin, "session.ended", subject_of(owner_id), None, {"session": session_id})
        return True

    async def end_sessions(self, user_id: int, now_us: int, except_id: str = "", origin: Origin = SYSTEM) -> list[str]:
        """End all of the user's sessions but one; which."""
        async with self._pool.acquire() as connection, connection.transaction():
            ended = [row[0] for row in await connection.fetch(END_SESSIONS, user_id, now_us, except_id)]
            if ended:
                await append(connection, origin, "sessions.ended", subject_of(user_id), None, {"sessions": len(ended)})
        return ended

    async def sessions(self, user_id: int, now_us: int | None = None) -> list[SessionRecord]:
        """The sessions that are still good, last used first."""
        return [SessionRecord(*row) for row in await self._pool.fetch(SESSIONS, user_id, now_us)]

    async def ended_sessions(self, since_us: int) -> list[str]:
        """Sessions that were ended since then, newest first, at most ENDED_SESSIONS_MAX."""
        return [row[0] for row in await self._pool.fetch(ENDED_SESSIONS, since_us, ENDED_SESSIONS_MAX)]

    # --- failed logins -------------------------------------------------------------------------------------------

    async def add_login_failure(
        self,
        key: str,
        user_id: int | None,
        now_us: int,
        window_us: int,
        failures_max: int,
        origin: Origin = SYSTEM,
    ) -> int:
        """Count a failure; how many there are. They are forgotten window_us after the last one.

        key: a hash of the address that was tried, for which there may be an account (user_id) or not.
        """
        async with self._pool.acquire() as connection:
            async with connection.transaction():
                failures: int = await connection.fetchval(ADD_LOGIN_FAILURE, key, now_us, window_us)
                action = "login.locked" if failures >= failures_max else "login.failed"
                subject = subject_of(user_id) if user_id is not None else f"login:{key[:16]}"
                await append(connection, origin, action, subject, None, {"failures": failures})
            await connection.execute(SWEEP_LOGIN_FAILURES, now_us, SWEPT_MAX)
        return failures

    async def login_failures(self, key: str, now_us: int) -> tuple[int, int]:
        """(how many, when they are forgotten), or (0, 0)."""
        row = await self._pool.fetchrow(LOGIN_FAILURES, key, now_us)
        return (row["failures"], row["window_ends_us"]) if row is not None else (0, 0)

    async def forget_login_failures(self, key: str) -> None:
        """After a success, of which the session's row in the audit log tells."""
        await self._pool.execute(FORGET_LOGIN_FAILURES, key)

    async def unlock(self, user_id: int, key: str, origin: Origin = SYSTEM) -> None:
        """Let the user try again at once."""
        async with self._pool.acquire() as connection, connection.transaction():
            failures = await connection.fetchval(FORGET_LOGIN_FAILURES, key)
            if failures is not None:
                await append(
                    connection, origin, "login.unlocked", subject_of(user_id), {"failures": failures}, {"failures": 0}
                )


def subject_of(user_id: int) -> str:
    """A user in the audit log."""
    return f"user:{user_id}"


def _shown(user: UserRecord) -> dict[str, str]:
    """What the audit log may tell of a user."""
    return {"email": user.email, "name": user.name, "role": user.role, "status": user.status, "zone": user.zone}


async def _append_changes(connection: AnyConnection, origin: Origin, before: UserRecord, after: UserRecord) -> None:
    """What differs, if anything does, at the end of the audit log."""
    was, is_now = _shown(before), _shown(after)
    changed = [name for name, value in is_now.items() if value != was[name]]
    if changed:
        await append(
            connection,
            origin,
            "user.changed",
            subject_of(after.user_id),
            {name: was[name] for name in changed},
            {name: is_now[name] for name in changed},
        )


def _user(row: asyncpg.Record | None) -> UserRecord | None:
    return UserRecord(*row) if row is not None else None
