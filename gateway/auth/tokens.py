"""Access tokens: EdDSA JWTs, signed here and verified here, with verified ones remembered.

Rule: remembering a token never outlives it. Expiry and ended sessions are looked at on every use; only the signature
is not computed again.
"""

import asyncio
from collections import OrderedDict
from typing import Any, Final
from uuid import uuid4

import jwt
import structlog
from msgspec import Struct

from engine.units import SECOND_US
from gateway.auth.keys import KeyRing, KeyUnsafe, kid_of
from gateway.errors import GatewayCode, Problem
from gateway.ports import Clock, Elapsed

_ALGORITHMS: Final = ["EdDSA"]  # an allow-list: `none` and the HMAC family are not on it
_REQUIRED: Final = ["iss", "aud", "exp", "nbf", "iat", "jti", "sub", "role", "sid"]
_SKEW_SECONDS: Final = 5  # how far another gateway's clock may be ahead of ours
_TOKEN_CHARACTERS_MAX: Final = 4_096
_KEYS_SECONDS: Final = 5.0  # how often the keys are looked at
_log = structlog.get_logger(__name__)


class Claims(Struct, frozen=True):
    user_id: int
    role: str
    session_id: str
    expires_us: int


class AccessTokens:
    """Issues and checks access tokens. `ended` holds the sessions that must not be believed any more."""

    def __init__(
        self,
        keys: KeyRing,
        clock: Clock,
        elapsed: Elapsed,
        *,
        issuer: str,
        audience: str,
        seconds: int,
        remembered_max: int,
    ) -> None:
        self._keys, self._clock, self._elapsed = keys, clock, elapsed
        self._issuer, self._audience, self._seconds = issuer, audience, seconds
        self._remembered_max = remembered_max
        self._remembered: OrderedDict[str, Claims] = OrderedDict()
        # session id -> when no token of it can be alive any more: by the clock, and by the time that has passed
        self.ended: dict[str, tuple[int, int]] = {}

    def issue(self, user_id: int, role: str, session_id: str) -> str:
        now = self._clock() // SECOND_US
        claims = {
            "iss": self._issuer,
            "aud": self._audience,
            "iat": now,
            "nbf": now,
            "exp": now + self._seconds,
            "jti": uuid4().hex,
            "sub": str(user_id),
            "role": role,
            "sid": session_id,
        }
        key = self._keys.signing_key
        return jwt.encode(claims, key, algorithm="EdDSA", headers={"kid": kid_of(key.public_key())})

    def check(self, token: str) -> Claims:
        """The token's claims. Raises UNAUTHENTICATED for anything that is not a live token of ours."""
        claims = self._remembered.get(token)
        if claims is None:
            claims = self._verify(token)
            self._remembered[token] = claims
            if len(self._remembered) > self._remembered_max:
                self._remembered.popitem(last=False)
        if claims.expires_us <= self._clock():
            self._remembered.pop(token, None)
            raise Problem(GatewayCode.UNAUTHENTICATED, "the access token has expired")
        if claims.session_id in self.ended:
            raise Problem(GatewayCode.UNAUTHENTICATED, "the session has ended")
        return claims

    def end(self, session_ids: list[str]) -> None:
        """From now on no token of these sessions is believed."""
        now_us, elapsed_us, alive_us = self._clock(), self._elapsed(), (self._seconds + _SKEW_SECONDS) * SECOND_US
        for session_id in session_ids:
            self.ended.setdefault(session_id, (now_us + alive_us, elapsed_us + alive_us))
        # a clock that went ahead and came back brings a token to life again: so both must agree that none is alive
        gone = [known for known, (at_us, after_us) in self.ended.items() if at_us <= now_us and after_us <= elapsed_us]
        for session_id in gone:
            del self.ended[session_id]

    async def follow_keys(self) -> None:
        """Runs until cancelled by its owner. What a key has verified is not believed without that key."""
        while True:
            await asyncio.sleep(_KEYS_SECONDS)
            try:
                if self._keys.reload():
                    self._remembered.clear()
                    _log.info("keys.changed", keys=repr(self._keys))
            except (KeyUnsafe, OSError) as error:
                _log.error("keys.not_read", why=str(error))

    def _verify(self, token: str) -> Claims:
        try:
            if len(token) > _TOKEN_CHARACTERS_MAX:
                raise jwt.InvalidTokenError("too long")
            key = self._keys.public_key(str(jwt.get_unverified_header(token).get("kid", "")))
            if key is None:
                raise jwt.InvalidTokenError("unknown key")
            payload: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=_ALGORITHMS,
                audience=self._audience,
                issuer=self._issuer,
                # the instants are compared with our clock below, on every use
                options={"require": _REQUIRED, "verify_exp": False, "verify_nbf": False, "verify_iat": False},
            )
            latest = self._clock() // SECOND_US + _SKEW_SECONDS
            if int(payload["nbf"]) > latest or int(payload["iat"]) > latest:
                raise jwt.InvalidTokenError("not valid yet")
            return Claims(
                user_id=int(payload["sub"]),
                role=str(payload["role"]),
                session_id=str(payload["sid"]),
                expires_us=int(payload["exp"]) * SECOND_US,
            )
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError):
            raise Problem(GatewayCode.UNAUTHENTICATED, "the access token is not valid") from None
