"""Who stands behind a request: the user of a token, remembered for a few seconds.

Role, zone and status come from the store and not from the token, so a change of theirs counts within those seconds.
Whoever keeps asking never waits for the store: when half of the time is over, it is asked beside the request.
"""

import asyncio
from collections import OrderedDict

import structlog
from msgspec import Struct

from engine.records import UserRecord
from engine.units import SECOND_US
from gateway.auth.tokens import AccessTokens, Claims
from gateway.errors import GatewayCode, Problem
from gateway.ports import Clock, People

_log = structlog.get_logger(__name__)


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
        self._users: OrderedDict[int, tuple[UserRecord, int]] = OrderedDict()  # with when he stops being fresh
        self._looking: dict[int, asyncio.Task[None]] = {}

    async def of_token(self, token: str) -> Caller:
        """Raises UNAUTHENTICATED for a token that is not ours or not alive, FORBIDDEN for a suspended user."""
        claims = self._tokens.check(token)
        known = self._users.get(claims.user_id)
        left_us = known[1] - self._clock() if known is not None else 0
        if known is None or left_us <= 0:
            return _caller(await self._look(claims.user_id), claims)
        if left_us < self._fresh_us // 2 and claims.user_id not in self._looking:
            self._look_beside(claims.user_id)
        return _caller(known[0], claims)

    async def _look(self, user_id: int) -> UserRecord:
        began_us = self._clock()
        user = await self._people.by_id(user_id)
        if user is None:
            raise Problem(GatewayCode.UNAUTHENTICATED, "the access token is not valid")
        self._users[user_id] = (user, began_us + self._fresh_us)
        self._users.move_to_end(user_id)
        if len(self._users) > self._kept_max:
            self._users.popitem(last=False)
        return user

    def _look_beside(self, user_id: int) -> None:
        task = asyncio.create_task(self._looked(user_id), name="caller")
        self._looking[user_id] = task
        task.add_done_callback(lambda _: self._looking.pop(user_id, None))

    async def _looked(self, user_id: int) -> None:
        try:
            await self._look(user_id)
        except Exception as error:  # noqa: BLE001 - a task's end; whoever asks when the time is over hears of it
            _log.warning("caller not looked at", user_id=user_id, error=repr(error))

    async def close(self) -> None:
        """Ends what runs beside requests."""
        looking = list(self._looking.values())
        for task in looking:
            task.cancel()
        await asyncio.gather(*looking, return_exceptions=True)

    def forget(self, user_id: int) -> None:
        """The user has changed here: the next request looks again."""
        self._users.pop(user_id, None)
        if (task := self._looking.get(user_id)) is not None:
            task.cancel()  # it may have seen him as he was


def _caller(user: UserRecord, claims: Claims) -> Caller:
    if user.status != "active":
        raise Problem(GatewayCode.FORBIDDEN, "the account is suspended")
    return Caller(user.user_id, user.role, user.zone, claims.session_id, claims.expires_us)
