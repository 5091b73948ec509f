"""Computed answers, kept in Redis or Valkey for all gateways until what they are made of changes.

An answer belongs to a scope: a participant, a zone. A window that closes, or is adjusted, makes the scopes of its owner
and its zone stale; every gateway hears of it and says so, and one that was computing meanwhile keeps nothing. What no
window tells, trades and the end of a day, is as old as `seconds` at most. Without Redis each answer is computed anew.
"""

import asyncio
import hashlib
import itertools
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, Protocol, TypeVar

import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from engine.metering.records import PostedWindow
from gateway.metrics import GatewayMetrics

_T = TypeVar("_T")
_DOWN_SECONDS: Final = 5.0  # so that a dead one slows no answer down
_STALE_MAX: Final = 10_000  # scopes that wait to be dropped; of more, everything is
_DROP_AT_ONCE: Final = 500
_BYTES_MAX: Final = 200_000  # a larger answer is not kept
_QUESTIONS_MAX: Final = 64  # of one scope
_PREFIX: Final = "wattbook:answers"
_AGE: Final = f"{_PREFIX}:age"  # counts what makes everything stale
_BROKEN: Final = (RedisError, OSError, TimeoutError)
_log = structlog.get_logger(__name__)


class Answers(Protocol):
    async def of(
        self, scope: str, question: tuple[Any, ...], kind: type[_T], compute: Callable[[], Awaitable[_T]]
    ) -> _T:
        """The answer to a question about a scope, kept or computed."""
        ...

    def windows_closed(self, windows: Iterable[PostedWindow]) -> None: ...

    def all_stale(self) -> None:
        """Something that every answer depends on has changed."""
        ...

    async def run(self) -> None:
        """Until cancelled by its owner."""
        ...


class NotKept:
    """A gateway without Redis."""

    async def of(
        self,
        scope: str,  # noqa: ARG002
        question: tuple[Any, ...],  # noqa: ARG002
        kind: type[_T],  # noqa: ARG002
        compute: Callable[[], Awaitable[_T]],
    ) -> _T:
        return await compute()

    def windows_closed(self, windows: Iterable[PostedWindow]) -> None: ...

    def all_stale(self) -> None: ...

    async def run(self) -> None:
        await asyncio.Event().wait()  # there is nothing to do


def of_participant(user_id: int) -> str:
    return f"user:{user_id}"


def of_zone(zone: str) -> str:
    return f"zone:{zone}"


class RedisAnswers:
    """`redis` needs short time-outs of its own."""

    def __init__(self, redis: Redis, metrics: GatewayMetrics, seconds: int) -> None:
        self._redis, self._metrics, self._seconds = redis, metrics, seconds
        self._down_until = 0.0
        self._stale: set[str] = set()  # what is not dropped yet
        self._dropping: set[str] = set()  # what is being dropped: it may become stale once more meanwhile
        self._all_stale = False
        self._computing: dict[str, list[_Computation]] = {}
        self._wake = asyncio.Event()

    async def of(
        self, scope: str, question: tuple[Any, ...], kind: type[_T], compute: Callable[[], Awaitable[_T]]
    ) -> _T:
        field = hashlib.sha256(repr(question).encode()).hexdigest()
        age, kept = await self._kept(scope, field)
        if kept is not None:
            self._metrics.answers.labels("kept").inc()
            return msgspec.msgpack.decode(kept, type=kind)
        self._metrics.answers.labels("computed").inc()
        computation = _Computation()
        self._computing.setdefault(scope, []).append(computation)
        try:
            answer = await compute()
        finally:
            others = self._computing[scope]
            others.remove(computation)
            if not others:
                del self._computing[scope]
        if age is not None and not computation.is_stale:
            await self._keep(scope, field, age, msgspec.msgpack.encode(answer))
        return answer

    def windows_closed(self, windows: Iterable[PostedWindow]) -> None:
        """Forget what was computed about their owners and zones."""
        for scope in {name for one in windows for name in (of_participant(one.owner_id), of_zone(one.zone))}:
            self._stale.add(scope)
            for computation in self._computing.get(scope, ()):
                computation.is_stale = True
        if len(self._stale) > _STALE_MAX:
            self.all_stale()
        self._wake.set()

    def all_stale(self) -> None:
        self._all_stale = True
        self._stale.clear()
        for computations in self._computing.values():
            for computation in computations:
                computation.is_stale = True
        self._wake.set()

    async def run(self) -> None:
        """Drops what is stale; while Redis is away it stays noted, and nothing stale is read by this gateway."""
        here = asyncio.current_task()
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._drop()
                if here is not None and here.cancelling():
                    raise asyncio.CancelledError  # the client's time-out may eat it, as Python 3.11's wait_for does
            except _BROKEN as error:
                self._is_down(error)
                self._wake.set()
                await asyncio.sleep(_DOWN_SECONDS)

    async def _drop(self) -> None:
        if self._all_stale:
            self._all_stale = False
            try:
                await self._redis.incr(_AGE)
            except BaseException:
                self._all_stale = True
                raise
        while self._stale:
            some = self._dropping = set(itertools.islice(self._stale, _DROP_AT_ONCE))
            self._stale -= some
            try:
                await self._redis.unlink(*map(_key, some))
            except BaseException:
                self._stale |= some
                raise
            finally:
                self._dropping = set()

    def _is_stale(self, scope: str) -> bool:
        return self._all_stale or scope in self._stale or scope in self._dropping

    async def _kept(self, scope: str, field: str) -> tuple[bytes | None, bytes | None]:
        """(the present age, what is kept); without an age nothing may be kept either."""
        if self._is_stale(scope) or time.monotonic() < self._down_until:
            return None, None
        try:
            async with self._redis.pipeline(transaction=False) as asked:
                asked.get(_AGE)
                asked.hget(_key(scope), field)
                asked.hlen(_key(scope))
                age, found, count = await asked.execute()
        except _BROKEN as error:
            self._is_down(error)
            return None, None
        age = age or b"0"
        then, _, kept = (found or b"").partition(b":")
        if then == age and not self._is_stale(scope):
            return age, kept
        return age if count < _QUESTIONS_MAX else None, None

    async def _keep(self, scope: str, field: str, age: bytes, answer: bytes) -> None:
        if len(answer) > _BYTES_MAX or time.monotonic() < self._down_until:
            return
        key = _key(scope)
        try:
            async with self._redis.pipeline(transaction=True) as asked:
                asked.hset(key, field, age + b":" + answer)
                asked.expire(key, self._seconds, nx=True)  # a scope goes as a whole, so its oldest answer counts
                await asked.execute()
        except _BROKEN as error:
            self._is_down(error)

    def _is_down(self, error: Exception) -> None:
        self._down_until = time.monotonic() + _DOWN_SECONDS
        _log.warning("answers are computed anew: redis does not answer", error=repr(error))


class _Computation:
    """One answer that is being computed."""

    __slots__ = ("is_stale",)

    def __init__(self) -> None:
        self.is_stale = False


def _key(scope: str) -> str:
    return f"{_PREFIX}:{scope}"
