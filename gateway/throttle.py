"""Counts failed logins: after so many the account is locked for a while, by whatever address they came.

The counters live in Redis, so that all gateways share them; each gateway also counts its own, which is what is left
when Redis is down. Every counter expires; a login that succeeds clears it.
"""

import time
from typing import Final

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

_KEYS_MAX: Final = 100_000
_DOWN_SECONDS: Final = 5.0  # after a failure Redis is left alone this long, so a dead one slows no login down
_log = structlog.get_logger(__name__)


class LocalThrottle:
    """Counters of this process alone."""

    def __init__(self, failures_max: int, lock_seconds: int) -> None:
        self._failures_max, self._lock_seconds = failures_max, lock_seconds
        self._failures: dict[str, tuple[int, float]] = {}  # key -> how many, forgotten when

    async def locked_seconds(self, key: str) -> float:
        """How long the key stays locked; 0.0 when it is not."""
        count, until = self._failures.get(key, (0, 0.0))
        left = until - time.monotonic()
        return left if count >= self._failures_max and left > 0 else 0.0

    async def fail(self, key: str) -> None:
        now = time.monotonic()
        count, until = self._failures.pop(key, (0, 0.0))
        self._failures[key] = (count + 1 if now < until else 1, now + self._lock_seconds)
        if len(self._failures) > _KEYS_MAX:
            del self._failures[next(iter(self._failures))]

    async def clear(self, key: str) -> None:
        self._failures.pop(key, None)


class RedisThrottle:
    """Shared counters, with the local ones beside them. `redis` needs short time-outs of its own."""

    def __init__(self, redis: Redis, failures_max: int, lock_seconds: int) -> None:
        self._redis, self._failures_max, self._lock_seconds = redis, failures_max, lock_seconds
        self._local = LocalThrottle(failures_max, lock_seconds)
        self._down_until = 0.0

    async def locked_seconds(self, key: str) -> float:
        local = await self._local.locked_seconds(key)
        if not self._up():
            return local
        try:
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.get(_name(key))
                pipe.pttl(_name(key))
                count, left_ms = await pipe.execute()
        except (RedisError, OSError, TimeoutError) as error:
            self._failed(error)
            return local
        shared = left_ms / 1_000 if count is not None and int(count) >= self._failures_max and left_ms > 0 else 0.0
        return max(local, shared)

    async def fail(self, key: str) -> None:
        await self._local.fail(key)
        if self._up():
            try:
                async with self._redis.pipeline(transaction=True) as pipe:
                    pipe.incr(_name(key))
                    pipe.expire(_name(key), self._lock_seconds)
                    await pipe.execute()
            except (RedisError, OSError, TimeoutError) as error:
                self._failed(error)

    async def clear(self, key: str) -> None:
        await self._local.clear(key)
        if self._up():
            try:
                await self._redis.delete(_name(key))
            except (RedisError, OSError, TimeoutError) as error:
                self._failed(error)

    def _up(self) -> bool:
        return time.monotonic() >= self._down_until

    def _failed(self, error: Exception) -> None:
        self._down_until = time.monotonic() + _DOWN_SECONDS
        _log.warning("login counters are local: redis does not answer", error=repr(error))


def connect(url: str) -> Redis:
    """A client that gives up after a fifth of a second: a login may be slower, never stuck."""
    return Redis.from_url(url, socket_timeout=0.2, socket_connect_timeout=0.2, max_connections=16)


def _name(key: str) -> str:
    return f"wattbook:login:{key}"
