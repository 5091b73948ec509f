"""Token buckets, in this process and shared through a real Valkey.

Seen to fail for: a refusal that takes tokens, `RateLimit` written before the batch has taken its share, no headers on a
429, shared buckets that permit when the store is away without the local ones beside them, a script that refuses late.
"""

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from gateway.errors import Problem
from gateway.limits import LOGIN, PASSWORD, Buckets
from gateway.settings import Limit
from gateway.shared_limits import RedisBuckets
from tests.support.database import redis_url, server_folder, valkey_server
from tests.support.patience import HUNG_SECONDS
from tests.unit.gateway.conftest import PASSWORD as OWN_PASSWORD
from tests.unit.gateway.conftest import World

__all__ = ["redis_url", "server_folder", "valkey_server"]


def test_what_is_refused_takes_nothing_and_time_fills_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("gateway.limits.time.monotonic", lambda: now)
    buckets = Buckets("orders", Limit(2, 10), 100)
    buckets.take("ann", 7)
    assert buckets.left("ann") == 3

    with pytest.raises(Problem) as refusal:
        buckets.take("ann", 4)

    assert refusal.value.retry_after_seconds == pytest.approx(0.5)
    buckets.take("ann", 3)
    buckets.take("bob")
    assert (buckets.left("ann"), buckets.left("bob"), buckets.left("new")) == (0, 9, 10)
    now = 101.0
    buckets.take("ann", 2)
    assert buckets.left("ann") == 0
    now = 1_000.0
    assert buckets.left("ann") == 10


def test_there_are_never_more_buckets_than_allowed() -> None:
    buckets = Buckets("requests", Limit(1, 2), 10)
    for key in range(100):
        buckets.take(key)

    assert len(buckets._buckets) == 10


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url, socket_timeout=HUNG_SECONDS) as client:
        yield client


async def test_all_gateways_draw_on_one_bucket_that_expires(redis: Redis) -> None:
    one, other = RedisBuckets(redis), RedisBuckets(redis)
    buckets = Buckets("login", Limit(0.5, 4), 100)

    left = [await gateway.take(buckets, "10.0.0.1") for gateway in (one, other, one, other)]
    with pytest.raises(Problem) as refusal:
        await one.take(buckets, "10.0.0.1")

    assert left == [3, 2, 1, 0]
    assert refusal.value.retry_after_seconds == pytest.approx(2.0, abs=0.5)
    assert await other.take(buckets, "10.0.0.2") == 3
    assert 6_000 < await redis.pttl("wattbook:limit:login:10.0.0.1") <= 8_000


async def test_without_redis_each_gateway_counts_for_itself_and_none_waits(world: World) -> None:
    dead = Redis.from_url("redis://127.0.0.1:1", socket_timeout=0.2, socket_connect_timeout=0.2)
    world.build(shared=RedisBuckets(dead), login_limit=Limit(0.001, 2))

    answers = [
        await world.client.post("/api/v1/auth/login", json={"email": "a@b.example", "password": "x"}) for _ in range(3)
    ]

    assert [one.status_code for one in answers] == [401, 401, 429]


async def test_a_gateway_refuses_what_the_others_have_used_up(world: World, redis: Redis) -> None:
    world.build(shared=RedisBuckets(redis), login_limit=Limit(0.001, 3))
    elsewhere = RedisBuckets(redis)
    for _ in range(2):
        await elsewhere.take(world.gateway.limits.by_name[LOGIN], "127.0.0.1")

    first, second = [
        await world.client.post("/api/v1/auth/login", json={"email": "a@b.example", "password": "x"}) for _ in range(2)
    ]

    assert (first.status_code, second.status_code) == (401, 429)
    assert first.headers["ratelimit"].startswith('"login";r=0;t=')
    assert second.headers["ratelimit"].startswith('"login";r=0;t=')
    assert int(second.headers["retry-after"]) in (1_000, 999)


async def test_refusals_say_what_is_left_and_batches_count_before_they_are_told(world: World) -> None:
    world.build(orders_limit=Limit(0.5, 5))
    ann = await world.person()

    batch = await ann.post("/api/v1/orders/batch", {"cancels": ["1-1"] * 3})
    refused = await ann.post("/api/v1/orders/batch", {"cancels": ["1-1"] * 3})

    assert (batch.status_code, batch.headers["ratelimit"]) == (200, '"orders";r=2;t=6')
    # the guard took one before the batch was read
    assert (refused.status_code, refused.headers["ratelimit"]) == (429, '"orders";r=1;t=8')
    assert refused.headers["ratelimit-policy"] == '"orders";q=5;w=10'
    assert refused.headers["retry-after"] == "2"


async def test_who_guesses_tokens_is_slowed_down_by_his_address(world: World) -> None:
    world.build(requests_limit=Limit(0.001, 2))
    forged = {"Authorization": "Bearer eyJhbGciOiJub25lIn0.e30."}

    answers = [await world.client.get("/api/v1/balances", headers=forged) for _ in range(3)]

    assert [one.status_code for one in answers] == [401, 401, 429]
    assert answers[2].headers["ratelimit"] == '"requests";r=0;t=2000'


async def test_guesses_at_ones_password_count_by_person_whatever_the_address(world: World) -> None:
    world.build(password_limit=Limit(0.001, 2))
    ann, bob = await world.person(), await world.person("bob@campus.example")
    guess = {"current_password": "not-" + OWN_PASSWORD, "new_password": "another-long-secret"}

    answers = [await ann.post("/api/v1/users/me/password", guess) for _ in range(3)]

    assert [one.status_code for one in answers] == [400, 400, 429]
    assert answers[2].headers["ratelimit"].startswith(f'"{PASSWORD}";r=0;')
    assert (await bob.post("/api/v1/users/me/password", guess)).status_code == 400
