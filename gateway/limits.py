"""Token buckets per participant and per address, in this process: a shield against one caller taking all.

A request that finds its bucket empty is RATE_LIMITED with `Retry-After`; the headers of limited routes, refusals
included, follow the IETF draft "RateLimit header fields for HTTP". The slow routes (logins, registrations, passwords)
also draw on a bucket that all gateways share (shared_limits.py), so that more gateways permit no more guesses.
"""

import math
import time
from typing import Final, Protocol

from msgspec import Struct

from gateway.errors import GatewayCode, Problem
from gateway.settings import GatewaySettings, Limit

ORDERS: Final = "orders"
REQUESTS: Final = "requests"
LOGIN: Final = "login"
REGISTRATION: Final = "registration"
PASSWORD: Final = "password"  # noqa: S105 - the name of a limit
SHARED: Final = frozenset({LOGIN, REGISTRATION, PASSWORD})
BY_ADDRESS: Final = frozenset({LOGIN, REGISTRATION})  # whoever says to be logged in already

Key = str | int  # an address (addresses.subscriber_of), or a participant


class Buckets:
    """One bucket per key, all of the same size; the least recently made ones go when there are too many."""

    def __init__(self, name: str, limit: Limit, keys_max: int) -> None:
        self._keys_max = keys_max
        self._buckets: dict[Key, list[float]] = {}  # key -> [tokens, when counted]
        self.name, self.rate, self.burst = name, limit.rate, limit.burst
        self.policy = f'"{name}";q={limit.burst};w={max(1, round(limit.burst / limit.rate))}'.encode()

    def take(self, key: Key, cost: int = 1) -> None:
        """Take so many tokens. Raises RATE_LIMITED when there are not enough, and takes none."""
        now = time.monotonic()
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= self._keys_max:
                del self._buckets[next(iter(self._buckets))]
            bucket = self._buckets[key] = [self.burst, now]
        tokens = min(self.burst, bucket[0] + (now - bucket[1]) * self.rate)
        bucket[1] = now
        if tokens < cost:
            bucket[0] = tokens
            raise used_up(self, (min(cost, self.burst) - tokens) / self.rate)
        bucket[0] = tokens - cost

    def left(self, key: Key) -> int:
        """How many tokens could be taken now."""
        tokens, counted = self._buckets.get(key, (self.burst, 0.0))
        return int(min(self.burst, tokens + (time.monotonic() - counted) * self.rate))


class Drawn(Struct):
    """The limit that a request counts against. What is left is looked up when the answer leaves."""

    buckets: Buckets
    key: Key
    shared_left: int | None = None  # in the bucket of all gateways, for the limits that have one

    def headers(self) -> tuple[tuple[bytes, bytes], tuple[bytes, bytes]]:
        """`RateLimit` says what is left, and in how many seconds the bucket is full again."""
        buckets, left = self.buckets, self.buckets.left(self.key)
        if self.shared_left is not None:
            left = min(left, self.shared_left)
        full_seconds = math.ceil((buckets.burst - left) / buckets.rate)
        return (
            (b"ratelimit-policy", buckets.policy),
            (b"ratelimit", f'"{buckets.name}";r={left};t={full_seconds}'.encode()),
        )


class SharedBuckets(Protocol):
    """Buckets that all gateways draw on."""

    async def take(self, buckets: Buckets, key: Key) -> int | None:
        """Take one token; how many are left. Raises RATE_LIMITED.

        None: nobody knows, because the store is away. Then this process counts for itself, which it does anyway.
        """
        ...


class NotShared:
    """A gateway that is alone."""

    async def take(self, buckets: Buckets, key: Key) -> int | None:  # noqa: ARG002
        return None


class Limits:
    """The buckets that the permission table names."""

    def __init__(self, settings: GatewaySettings, shared: SharedBuckets) -> None:
        keys_max = settings.limited_keys_max
        self._shared = shared
        self.by_name: dict[str, Buckets] = {
            name: Buckets(name, limit, keys_max)
            for name, limit in (
                (ORDERS, settings.orders_limit),
                (REQUESTS, settings.requests_limit),
                (LOGIN, settings.login_limit),
                (REGISTRATION, settings.registration_limit),
                (PASSWORD, settings.password_limit),
            )
        }
        self.orders = self.by_name[ORDERS]
        self.requests = self.by_name[REQUESTS]

    def drawn(self, name: str, address: str, user_id: int | None) -> Drawn:
        """What a request counts against: its caller, if it has one and the limit is his; else its address."""
        return Drawn(self.by_name[name], address if user_id is None or name in BY_ADDRESS else user_id)

    async def take_shared(self, drawn: Drawn) -> None:
        """For the limits in SHARED. Raises RATE_LIMITED."""
        try:
            drawn.shared_left = await self._shared.take(drawn.buckets, drawn.key)
        except Problem:
            drawn.shared_left = 0
            raise


def used_up(buckets: Buckets, seconds: float) -> Problem:
    """`seconds`: until there are enough tokens."""
    return Problem(
        GatewayCode.RATE_LIMITED, f"the limit {buckets.name} is used up", retry_after_seconds=max(seconds, 0.001)
    )
