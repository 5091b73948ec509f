"""Sessions: a family of refresh tokens, each good for one use, and the access tokens that they buy.

A refresh token is `<user>.<session>.<256 random bits>`; only its SHA-256 is kept. When a used one comes back, somebody
has copied it, and the whole family ends.
"""

import hashlib
import secrets
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias
from uuid import uuid4

from msgspec import Struct

from engine.audit import Origin
from engine.records import RotateOutcome, UserRecord
from engine.units import SECOND_US
from gateway.auth.tokens import AccessTokens
from gateway.errors import GatewayCode, Problem
from gateway.ports import Clock, People

_PARTS: Final = 3
Stay: TypeAlias = Callable[[UserRecord, Origin], Awaitable[UserRecord | None]]  # the user as he is now, if he may stay


class TokenPair(Struct, frozen=True):
    access_token: str
    refresh_token: str
    expires_in: int
    token_type: str = "Bearer"  # noqa: S105 - the scheme's name, no secret


class Sessions:
    def __init__(
        self, people: People, tokens: AccessTokens, clock: Clock, *, access_seconds: int, refresh_seconds: int
    ) -> None:
        self._people, self._tokens, self._clock = people, tokens, clock
        self._access_seconds, self._refresh_seconds = access_seconds, refresh_seconds

    async def open(self, user: UserRecord, origin: Origin) -> TokenPair:
        """Raises UNAUTHENTICATED when the user was suspended, or got another password, since he was looked at."""
        session_id, secret, now_us = str(uuid4()), secrets.token_urlsafe(32), self._clock()
        if not await self._people.open_session(
            session_id, user, _hash(secret), now_us, self._expires_us(now_us), origin
        ):
            raise Problem(GatewayCode.UNAUTHENTICATED, "the account has changed meanwhile")
        return self._pair(user, session_id, secret)

    async def refresh(self, token: str, origin: Origin, stay: Stay) -> TokenPair:
        """A new pair for a refresh token that was never used. Raises UNAUTHENTICATED for every other one.

        `stay` says who may; who may not any more loses all his sessions. What it raises leaves the token good.
        """
        user_id, session_id, secret = _parts(token)
        # the session's owner comes from the store: what the token says of itself is only where to look
        if not any(session.session_id == session_id for session in await self._people.sessions(user_id)):
            raise _unknown()
        user = await self._people.by_id(user_id)
        if user is None or user.status != "active":
            raise _unknown()
        user = await stay(user, origin)
        if user is None:
            await self.end_all(user_id, "", origin)
            raise _unknown()
        fresh = secrets.token_urlsafe(32)
        await self._rotate(session_id, secret, fresh, origin)
        return self._pair(user, session_id, fresh)

    async def end_by_refresh_token(self, token: str, origin: Origin) -> None:
        """Log out with nothing but the refresh token. Raises UNAUTHENTICATED unless it is the current one."""
        _, session_id, secret = _parts(token)
        await self._rotate(session_id, secret, secrets.token_urlsafe(32), origin)
        await self.end(session_id, None, origin)

    async def end(self, session_id: str, user_id: int | None, origin: Origin) -> bool:
        """False when the user has no such session; None: whosever it is."""
        ended = await self._people.end_session(session_id, self._clock(), user_id, origin)
        if ended:
            self._tokens.end([session_id])
        return ended

    async def end_all(self, user_id: int, except_id: str, origin: Origin) -> int:
        ended = await self._people.end_sessions(user_id, self._clock(), except_id, origin)
        self._tokens.end(ended)
        return len(ended)

    async def _rotate(self, session_id: str, secret: str, fresh: str, origin: Origin) -> None:
        now_us = self._clock()
        outcome = await self._people.rotate_session(
            session_id, _hash(secret), _hash(fresh), now_us, self._expires_us(now_us), origin
        )
        if outcome is RotateOutcome.REUSED:
            self._tokens.end([session_id])
        if outcome is not RotateOutcome.OK:
            raise _unknown()

    def _pair(self, user: UserRecord, session_id: str, secret: str) -> TokenPair:
        return TokenPair(
            access_token=self._tokens.issue(user.user_id, user.role, session_id),
            refresh_token=f"{user.user_id}.{session_id}.{secret}",
            expires_in=self._access_seconds,
        )

    def _expires_us(self, now_us: int) -> int:
        return now_us + self._refresh_seconds * SECOND_US


def _parts(token: str) -> tuple[int, str, str]:
    parts = token.split(".")
    if len(parts) != _PARTS or len(token) > 256 or not (parts[0].isascii() and parts[0].isdigit()):
        raise _unknown()
    user_id = int(parts[0])
    if not 0 < user_id < 2**63:
        raise _unknown()
    return user_id, parts[1], parts[2]


def _hash(secret: str) -> bytes:
    """The secret has 256 random bits, so a plain hash of it cannot be searched."""
    return hashlib.sha256(secret.encode()).digest()


def _unknown() -> Problem:
    return Problem(GatewayCode.UNAUTHENTICATED, "the refresh token is not valid")
