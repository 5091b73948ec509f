"""Who may come in with a name and a password, and who may stay: local accounts, and people whom the directory knows.

Neither the answer nor the time tells whether an account exists, or where. A local account's password never leaves for
the directory, and the directory never opens a local account, whatever address it says.
"""

import asyncio
import contextlib

import structlog

from engine.audit import Origin
from engine.records import DirectoryDown, DirectoryPerson, EmailTaken, LastAdmin, UserRecord
from engine.units import SECOND_US
from engine.views import Fault
from gateway.auth.addresses import normal_email
from gateway.auth.logins import Logins
from gateway.auth.passwords import Passwords
from gateway.errors import GatewayCode, Problem
from gateway.ports import Clock, Directory, People

LOCAL, DIRECTORY = "local", "directory"
_RETRY_SECONDS = 5.0
_log = structlog.get_logger(__name__)


def within(then_us: int, now_us: int, limit_us: int) -> bool:
    """Whether this was lately. What lies further ahead than that was written before the clock was set back."""
    return abs(now_us - then_us) <= limit_us


class Entrance:
    def __init__(
        self,
        people: People,
        passwords: Passwords,
        logins: Logins,
        directory: Directory | None,
        clock: Clock,
        *,
        default_zone: str,
        grace_seconds: float,
    ) -> None:
        """`grace_seconds`: how long sessions of the directory's people go on while it does not answer."""
        self._people, self._passwords, self._logins, self._directory = people, passwords, logins, directory
        self._clock, self._default_zone, self._grace_us = clock, default_zone, int(grace_seconds * SECOND_US)

    async def enter(self, typed: str, password: str, origin: Origin) -> UserRecord:
        """Raises ACCOUNT_LOCKED, UNAUTHENTICATED, FORBIDDEN for a suspended account, UNAVAILABLE.

        UNAVAILABLE says that the directory does not answer: it counts as a failure for everybody, because who has a
        local account must not be the only one to be told that his password is wrong.
        """
        name = typed.strip().lower()
        async with self._logins.attempt(name):
            # what no account can be called is not worth a question, but just as long an answer
            known = await self._people.by_email(name) if name.isprintable() else None
            try:
                user = await self._proven(name, known, password, origin)
            except DirectoryDown:
                await self._logins.failed(name, known.user_id if known else None, origin)
                raise _directory_down() from None
            if user is None:
                await self._logins.failed(name, known.user_id if known else None, origin)
                raise Problem(GatewayCode.UNAUTHENTICATED, "the address or the password is wrong")
            await self._logins.succeeded(name)
        if user.status != "active":
            raise Problem(GatewayCode.FORBIDDEN, "the account is suspended")
        return user

    async def stay(self, user: UserRecord, origin: Origin) -> UserRecord | None:
        """The user as he is now; None for somebody whom the directory knows no more. Raises UNAVAILABLE.

        While the directory does not answer, its people stay for as long as the grace lasts.
        """
        if user.source == LOCAL:
            return user
        if self._directory is None:
            return None
        try:
            person = await self._directory.find(user.directory_id)
        except DirectoryDown:
            if within(user.confirmed_us, self._clock(), self._grace_us):
                return user
            raise _directory_down() from None
        return await self._admitted(person, origin) if person is not None else None

    async def _proven(self, name: str, known: UserRecord | None, password: str, origin: Origin) -> UserRecord | None:
        """Whom name and password belong to. Raises DirectoryDown when only the directory could know."""
        local = known if known is not None and known.source == LOCAL else None
        compared = local.password_hash if local is not None else None
        if self._directory is None:
            return local if await self._passwords.matches(password, compared) else None
        # Beside each other and for everybody, so that the slower one gives the time. No password of a local account.
        asked = asyncio.create_task(self._directory.check(name, None if local else password), name="directory")
        try:
            if await self._passwords.matches(password, compared):
                return local
            person = await asked
        finally:
            asked.cancel()
            with contextlib.suppress(asyncio.CancelledError, DirectoryDown):
                await asked
        return await self._admitted(person, origin) if person is not None else None

    async def _admitted(self, person: DirectoryPerson, origin: Origin) -> UserRecord | None:
        """His account, made or brought up to date; None when it cannot be what the directory says."""
        email = normal_email(person.email)
        if email is None:
            _log.warning("directory.address_unusable", directory_id=person.directory_id.hex())
            return None
        try:
            person = DirectoryPerson(person.directory_id, email, person.name, person.role)
            return await self._people.admit(person, self._default_zone, self._clock(), origin)
        except EmailTaken:
            _log.warning("directory.address_taken", directory_id=person.directory_id.hex())
        except LastAdmin:  # he left the group that made him one, and nobody else can administer
            _log.error("directory.last_admin", directory_id=person.directory_id.hex())
        return None


def _directory_down() -> Problem:
    return Problem(Fault.UNAVAILABLE, "the directory does not answer; try again", retry_after_seconds=_RETRY_SECONDS)
