"""Failed logins: after so many the account is locked for a while, from whatever address they came.

The counters live in the store of people, so they hold for all gateways and outlive every cache. An address without an
account is counted the same way: whether there is one shows in nothing.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from engine.audit import Origin
from engine.units import SECOND_US
from gateway.errors import GatewayCode, Problem
from gateway.ports import Clock, People


class Logins:
    def __init__(self, people: People, clock: Clock, failures_max: int, lockout_seconds: int) -> None:
        self._people, self._clock = people, clock
        self._failures_max, self._window_us = failures_max, lockout_seconds * SECOND_US
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}  # for as long as somebody uses it -> lock, how many

    @asynccontextmanager
    async def attempt(self, email: str) -> AsyncIterator[None]:
        """One after the other, so that a failure counts before the next password is tried. Raises ACCOUNT_LOCKED."""
        key = key_of(email)
        async with self._one_at_a_time(key):
            now_us = self._clock()
            failures, until_us = await self._people.login_failures(key, now_us)
            if failures >= self._failures_max:
                raise Problem(GatewayCode.ACCOUNT_LOCKED, retry_after_seconds=(until_us - now_us) / SECOND_US)
            yield

    async def failed(self, email: str, user_id: int | None, origin: Origin) -> None:
        now_us = self._clock()
        await self._people.add_login_failure(
            key_of(email), user_id, now_us, self._window_us, self._failures_max, origin
        )

    async def succeeded(self, email: str) -> None:
        await self._people.forget_login_failures(key_of(email))

    async def unlock(self, user_id: int, email: str, origin: Origin) -> None:
        await self._people.unlock(user_id, key_of(email), origin)

    @asynccontextmanager
    async def _one_at_a_time(self, key: str) -> AsyncIterator[None]:
        lock, users = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            users = self._locks[key][1]
            if users == 1:
                del self._locks[key]
            else:
                self._locks[key] = (lock, users - 1)


def key_of(email: str) -> str:
    """Under which failures for an address are counted: a hash, because people type secrets there, too."""
    return hashlib.sha256(email.encode("utf-8", "surrogatepass")).hexdigest()
