"""Who stands behind a request: the user of a token or API key, or a head-end system with its key.

Role, zone and status come from the store and not from the token or key, at most a few seconds old (fresh.py); so does
what a key is good for.
"""

from msgspec import Struct

from engine.audit import SYSTEM
from engine.records import ApiKeyRecord, UserRecord
from engine.units import SECOND_US
from gateway.auth.api_keys import Secrets, Uses
from gateway.auth.entrance import LOCAL, within
from gateway.auth.fresh import Fresh
from gateway.auth.sessions import Stay
from gateway.auth.tokens import AccessTokens
from gateway.errors import GatewayCode, Problem
from gateway.ports import ApiKeys, Clock, Elapsed, People

AMI = "ami"


class Caller(Struct, frozen=True):
    """With a token: session_id; with a key: key_id, and the scopes to which it narrows the role.

    user_id is below zero for a head-end system: it owns nothing that a person could own.
    """

    user_id: int
    role: str
    zone: str
    session_id: str
    expires_us: int  # of the access token or key
    key_id: str = ""
    scopes: tuple[str, ...] = ()


class Callers:
    def __init__(
        self,
        people: People,
        keys: ApiKeys,
        tokens: AccessTokens,
        secrets: Secrets,
        uses: Uses,
        stay: Stay,
        clock: Clock,
        elapsed: Elapsed,
        confirmed_seconds: float,
        fresh_seconds: float,
        kept_max: int,
    ) -> None:
        """`stay` is asked about people of the directory whom it has not confirmed for `confirmed_seconds`."""
        self._people, self._keys, self._stay = people, keys, stay
        self._confirmed_us = int(confirmed_seconds * SECOND_US)
        self._tokens, self._secrets, self._uses, self._clock = tokens, secrets, uses, clock
        self._fresh_users: Fresh[int, UserRecord] = Fresh("user", self._user, elapsed, fresh_seconds, kept_max)
        self._fresh_keys: Fresh[str, ApiKeyRecord] = Fresh("API key", self._key, elapsed, fresh_seconds, kept_max)

    async def of(self, token: str, api_key: str, *, beside: bool = True) -> Caller:
        """The caller of the one that is not empty; without `beside`, as the store has it now or shortly before.

        Raises UNAUTHENTICATED for one that is not ours or not alive, FORBIDDEN for a suspended user.
        """
        return await (self._of_key(api_key, beside) if api_key else self._of_token(token, beside))

    def forget(self, user_id: int) -> None:
        """The user has changed here: the next request looks again."""
        self._fresh_users.forget(user_id)

    def forget_key(self, key_id: str) -> None:
        """The key was revoked here."""
        self._fresh_keys.forget(key_id)

    async def close(self) -> None:
        """Ends what runs beside requests."""
        await self._fresh_users.close()
        await self._fresh_keys.close()

    async def _of_token(self, token: str, beside: bool) -> Caller:
        claims = self._tokens.check(token)
        user = _active(await self._fresh_users.get(claims.user_id, beside=beside))
        return Caller(user.user_id, user.role, user.zone, claims.session_id, claims.expires_us)

    async def _of_key(self, secret: str, beside: bool) -> Caller:
        key = await self._fresh_keys.get(self._secrets.key_id(secret), beside=beside)
        if key is None or not self._secrets.fits(secret, key.secret_hash):
            raise Problem(GatewayCode.UNAUTHENTICATED, "the API key is not valid")
        now_us = self._clock()
        if key.expires_us <= now_us:
            raise Problem(GatewayCode.UNAUTHENTICATED, "the API key has expired")
        if key.user_id is None:
            caller = Caller(-key.number, AMI, "", "", key.expires_us, key.key_id, key.scopes)
        else:
            user = _active(await self._fresh_users.get(key.user_id, beside=beside))
            caller = Caller(user.user_id, user.role, user.zone, "", key.expires_us, key.key_id, key.scopes)
        self._uses.note(key.key_id, now_us)
        return caller

    async def _user(self, user_id: int) -> UserRecord | None:
        user = await self._people.by_id(user_id)
        if user is None or user.source == LOCAL or within(user.confirmed_us, self._clock(), self._confirmed_us):
            return user
        return await self._stay(user, SYSTEM)  # without it a key would outlive its owner's place in the directory

    async def _key(self, key_id: str) -> ApiKeyRecord | None:
        return await self._keys.by_id(key_id)


def _active(user: UserRecord | None) -> UserRecord:
    if user is None:
        raise Problem(GatewayCode.UNAUTHENTICATED, "there is no such account any more")
    if user.status != "active":
        raise Problem(GatewayCode.FORBIDDEN, "the account is suspended")
    return user
