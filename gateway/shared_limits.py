"""Token buckets in Redis or Valkey, one per key for all gateways: each draw is one atomic script.

A bucket is one number, the instant at which it will be full again (the generic cell rate algorithm), and it expires
then. Redis's own clock counts, so gateways need not agree on the time. When Redis does not answer it is left alone for
a while, each gateway counts for itself meanwhile, and the log says so: it never permits without counting.
"""

import time
from typing import Final

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from engine.units import SECOND_US
from gateway.limits import Buckets, Key, used_up

_DOWN_SECONDS: Final = 5.0  # so that a dead one slows no login down
_log = structlog.get_logger(__name__)

# KEYS: the bucket. ARGV: microseconds that one token takes to come back, how many fit.
# Returns {taken 0|1, microseconds until one token is there, or until the bucket is full again}.
_TAKE: Final = """
local each, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local full = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now) + each
local wait = full - now - burst * each
if wait > 0 then
    return {0, math.ceil(wait)}
end
redis.call('SET', KEYS[1], string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000))
return {1, math.ceil(full - now)}
"""


class RedisBuckets:
    """`redis` needs short time-outs of its own."""

    def __init__(self, redis: Redis) -> None:
        self._script = redis.register_script(_TAKE)
        self._down_until = 0.0

    async def take(self, buckets: Buckets, key: Key) -> int | None:
        """See gateway.limits.SharedBuckets."""
        if time.monotonic() < self._down_until:
            return None
        each_us = SECOND_US / buckets.rate
        try:
            taken, micros = await self._script(
                keys=[f"wattbook:limit:{buckets.name}:{key}"], args=[f"{each_us:.3f}", buckets.burst]
            )
        except (RedisError, OSError, TimeoutError) as error:
            self._down_until = time.monotonic() + _DOWN_SECONDS
            _log.warning("limits are counted by each gateway for itself: redis does not answer", error=repr(error))
            return None
        if not taken:
            raise used_up(buckets, micros / SECOND_US)
        return max(0, int(buckets.burst - micros / each_us))
