"""Login counters, shared through a real Valkey, and what is left of them when it is gone."""

import pytest
from redis.asyncio import Redis

from gateway.throttle import LocalThrottle, RedisThrottle, connect
from tests.support.database import redis_url, server_folder, valkey_server

__all__ = ["redis_url", "server_folder", "valkey_server"]


async def test_failures_count_over_all_gateways_and_expire(redis_url: str) -> None:
    one, other = connect(redis_url), connect(redis_url)
    first, second = RedisThrottle(one, 3, 60), RedisThrottle(other, 3, 60)
    for throttle in (first, second, first):
        assert await second.locked_seconds("ann") == 0
        await throttle.fail("ann")

    assert 0 < await first.locked_seconds("ann") <= 60
    assert 0 < await second.locked_seconds("ann") <= 60
    assert await second.locked_seconds("bob") == 0
    assert 0 < await one.pttl("wattbook:login:ann") <= 60_000
    await first.clear("ann")
    assert await second.locked_seconds("ann") == 0
    await one.aclose()
    await other.aclose()


async def test_without_redis_each_gateway_counts_for_itself_and_none_waits() -> None:
    dead = Redis.from_url("redis://127.0.0.1:1", socket_timeout=0.2, socket_connect_timeout=0.2)
    throttle = RedisThrottle(dead, 2, 60)
    for _ in range(2):
        assert await throttle.locked_seconds("ann") == 0
        await throttle.fail("ann")

    assert await throttle.locked_seconds("ann") > 0
    await throttle.clear("ann")
    assert await throttle.locked_seconds("ann") == 0


async def test_a_lock_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("gateway.throttle.time.monotonic", lambda: now)
    throttle = LocalThrottle(2, 60)
    await throttle.fail("ann")
    await throttle.fail("ann")
    assert await throttle.locked_seconds("ann") == 60

    now = 61.0

    assert await throttle.locked_seconds("ann") == 0
    await throttle.fail("ann")
    assert await throttle.locked_seconds("ann") == 0
