"""Who stands behind a request: the user of a token, remembered for a few seconds.

Role, zone and status come from the store and not from the token, so a change of theirs counts within those seconds.
"""

from collections import OrderedDict

from msgspec import Struct

from engine.records import UserRecord
from engine.units import SECOND_US
from gateway.auth.tokens import AccessTokens, Claims
from gateway.errors import GatewayCode, Problem
from gateway.ports import Clock, People


class Caller(Struct, frozen=True):
    user_id: int
    role: str
    zone: str
    session_id: str
    expires_us: int  # of the access token


class Callers:
    def __init__(self, people: People, tokens: AccessTokens, clock: Clock, fresh_seconds: float, kept_max: int) -> None:
        self._people, self._tokens, self._clock = people, tokens, clock
        self._fresh_us, self._kept_max = int(fresh_seconds * SECOND_US), kept_max
        self._users: OrderedDict[int, tuple[UserRecord, int]] = OrderedDict()

    async def of_token(self, token: str, *, ahead: bool = False) -> Caller:
        """Raises UNAUTHENTICATED for a token that is not ours or not alive, FORBIDDEN for a suspended user.

        `ahead` looks again when half of the time is over, so that whoever asks next does not have to wait.
        """
        claims = self._tokens.check(token)
        known = self._users.get(claims.user_id)
        if known is not None and self._clock() < known[1] - (self._fresh_us // 2 if ahead else 0):
            return _caller(known[0], claims)
        user = await self._people.by_id(claims.user_id)
        if user is None:
            raise Problem(GatewayCode.UNAUTHENTICATED, "the access token is not valid")
        self._users[user.user_id] = (user, self._clock() + self._fresh_us)
        self._users.move_to_end(user.user_id)
        if len(self._users) > self._kept_max:
            self._users.popitem(last=False)
        return _caller(user, claims)

    def forget(self, user_id: int) -> None:
        """The user has changed here: the next request looks again."""
        self._users.pop(user_id, None)


def _caller(user: UserRecord, claims: Claims) -> Caller:
    if user.status != "active":
        raise Problem(GatewayCode.FORBIDDEN, "the account is suspended")
    return Caller(user.user_id, user.role, user.zone, claims.session_id, claims.expires_us)
