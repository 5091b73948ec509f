"""Token buckets per participant and per address, in this process: a shield against one caller taking all.

A request that finds its bucket empty is RATE_LIMITED with `Retry-After`; the headers of limited routes follow the IETF
draft "RateLimit header fields for HTTP".
"""

import time
from typing import Final

from gateway.errors import GatewayCode, Problem
from gateway.settings import GatewaySettings, Limit

ORDERS: Final = "orders"
REQUESTS: Final = "requests"
LOGIN: Final = "login"
REGISTRATION: Final = "registration"


class Buckets:
    """One bucket per key, all of the same size; the least recently made ones go when there are too many."""

    def __init__(self, name: str, limit: Limit, keys_max: int) -> None:
        self._rate, self._burst, self._keys_max = limit.rate, float(limit.burst), keys_max
        self._buckets: dict[str | int, list[float]] = {}  # key -> [tokens, when counted]
        self.name = name
        self.policy = f'"{name}";q={limit.burst};w={max(1, round(limit.burst / limit.rate))}'.encode()

    def take(self, key: str | int, cost: int = 1) -> int:
        """Take so many tokens; what is left. Raises RATE_LIMITED when there are not enough, and takes none."""
        now = time.monotonic()
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= self._keys_max:
                del self._buckets[next(iter(self._buckets))]
            bucket = self._buckets[key] = [self._burst, now]
        tokens = min(self._burst, bucket[0] + (now - bucket[1]) * self._rate)
        bucket[1] = now
        if tokens < cost:
            bucket[0] = tokens
            raise Problem(
                GatewayCode.RATE_LIMITED,
                f"the limit {self.name} is used up",
                retry_after_seconds=max((min(cost, self._burst) - tokens) / self._rate, 0.001),
            )
        bucket[0] = tokens - cost
        return int(bucket[0])

    def header(self, left: int) -> bytes:
        """The value of `RateLimit`: what is left, and in how many seconds the bucket is full again."""
        return f'"{self.name}";r={left};t={int((self._burst - left) / self._rate) + 1}'.encode()


class Limits:
    """The buckets that the permission table names."""

    def __init__(self, settings: GatewaySettings) -> None:
        keys_max = settings.limited_keys_max
        self.by_name: dict[str, Buckets] = {
            name: Buckets(name, limit, keys_max)
            for name, limit in (
                (ORDERS, settings.orders_limit),
                (REQUESTS, settings.requests_limit),
                (LOGIN, settings.login_limit),
                (REGISTRATION, settings.registration_limit),
            )
        }
        self.orders = self.by_name[ORDERS]
