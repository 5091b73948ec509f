"""Feeds, providers and rounds in real tables.

Seen to fail for: a round closed twice, an inactive provider that counts, old submissions that count, an earlier
observation that replaces a later one, a value below the quorum, a flag that nobody is told of.
"""

import asyncio
import json
from random import Random

import asyncpg
import pytest

from engine.oracle.records import (
    FeedTaken,
    KeyTaken,
    NewFeed,
    NewProvider,
    NotNewer,
    OracleFull,
    ProviderChange,
    UnknownFeed,
)
from engine.oracle.rounds import FLAG_OUTLIERS
from engine.projection import CandleChange
from engine.units import SECOND_US
from persistence import oracle
from persistence.audit_log import PostgresAuditLog
from persistence.oracle import PostgresOracle
from persistence.oracle_rounds import PostgresOracleRounds
from persistence.projections import PostgresProjections
from tests.support.dying import Died, DyingPool
from tests.support.oracle import Provider
from tests.support.rows import batch

ROUND_US = 300 * SECOND_US
START_US = 5_000_000 * ROUND_US
RETAIL = "retail_price"
SOLAR, GRID, CITY = Provider("solar"), Provider("grid"), Provider("city")


class Site:
    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        self.pool, self.oracle, self.rounds = pool, PostgresOracle(pool), PostgresOracleRounds(pool)
        self.now_us = START_US

    async def say(self, provider: Provider, value: int, observed_us: int | None = None, feed: str = RETAIL) -> bool:
        at_us = self.now_us if observed_us is None else observed_us
        signature = provider.sign(feed, value, at_us)
        return await self.oracle.submit(provider.provider_id, feed, value, at_us, signature, self.now_us)

    async def pass_round(self) -> None:
        self.now_us += ROUND_US
        await self.rounds.close_due(self.now_us)

    async def orders(self) -> list[tuple[str, dict[str, object]]]:
        rows = await self.pool.fetch("SELECT key, payload FROM outbox WHERE kind = 'oracle' ORDER BY number")
        return [(row["key"], json.loads(row["payload"])) for row in rows]


@pytest.fixture
async def site(pool: "asyncpg.Pool[asyncpg.Record]") -> Site:
    made = Site(pool)
    for provider in (SOLAR, GRID, CITY):
        await made.oracle.add_provider(provider.new(), START_US)
    await made.rounds.close_due(START_US)
    return made


async def test_a_round_publishes_the_median_once_and_tells_the_chain(site: Site) -> None:
    for provider, value in ((SOLAR, 4_500_000), (GRID, 4_600_000), (CITY, 4_700_000)):
        assert await site.say(provider, value)

    await site.pass_round()
    await site.rounds.close_due(site.now_us + 1)

    number = site.now_us // ROUND_US
    feed = await site.oracle.feed(RETAIL)
    assert feed is not None
    assert (feed.value, feed.spread, feed.round, feed.at_us) == (4_600_000, 200_000, number, site.now_us)
    assert await site.orders() == [
        (
            f"retail_price:{number}",
            {
                "feed": RETAIL,
                "feed_id": b"retail_price\0\0\0\0".hex(),
                "number": number,
                "previous": 0,
                "value": 4_600_000,
                "spread": 200_000,
                "at": site.now_us // SECOND_US,
                "providers": 3,
            },
        )
    ]
    [made] = await site.oracle.rounds(RETAIL)
    assert (made.status, made.quorum, [one.value for one in made.heard]) == (
        "published",
        2,
        [4_500_000, 4_600_000, 4_700_000],
    )
    latest = await site.oracle.latest(RETAIL, site.now_us + 7)
    assert latest is not None
    assert (latest.value, latest.age_us, latest.stale) == (4_600_000, 7, False)


async def test_closing_at_the_same_time_closes_once(site: Site) -> None:
    await site.say(SOLAR, 1)
    await site.say(GRID, 1)
    site.now_us += ROUND_US

    await asyncio.gather(*(site.rounds.close_due(site.now_us) for _ in range(5)))

    assert len(await site.orders()) == 1


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_dies_a_round_is_told_to_the_chain_once(site: Site, seed: int) -> None:
    random = Random(seed)
    for number in range(8):
        site.now_us += ROUND_US
        for provider in (SOLAR, GRID, CITY):
            await site.say(provider, 100 + number, site.now_us - 1)
        dying = DyingPool(site.pool, random.randint(1, 8), answer_lost=random.random() < 0.3)
        try:
            await PostgresOracleRounds(dying).close_due(site.now_us)  # type: ignore[arg-type]
        except Died:
            await site.rounds.close_due(site.now_us)

    rounds = await site.oracle.rounds(RETAIL)
    assert [one.value for one in rounds] == list(range(107, 99, -1))
    assert [order["value"] for _, order in await site.orders()] == list(range(100, 108))


async def test_below_the_quorum_the_last_value_stays_and_is_stale(site: Site) -> None:
    await site.say(SOLAR, 10)
    await site.say(GRID, 20)
    await site.pass_round()
    site.now_us += 1
    await site.say(SOLAR, 99)
    await site.pass_round()

    feed, latest = await site.oracle.feed(RETAIL), await site.oracle.latest(RETAIL, site.now_us)

    assert feed is not None
    assert latest is not None
    assert (feed.value, latest.stale, latest.age_us) == (15, True, ROUND_US + 1)
    assert [one.status for one in await site.oracle.rounds(RETAIL)] == ["below_quorum", "published"]
    assert len(await site.orders()) == 1


async def test_what_is_too_old_or_of_somebody_who_was_put_out_does_not_count(site: Site) -> None:
    await site.say(SOLAR, 10, START_US - 1)
    await site.say(GRID, 20)
    await site.say(CITY, 30)
    await site.oracle.change_provider(CITY.provider_id, ProviderChange(active=False))
    await site.pass_round()

    [made] = await site.oracle.rounds(RETAIL)

    assert [one.value for one in made.heard] == [20]
    assert (made.status, made.quorum) == ("below_quorum", 2)
    assert await site.oracle.latest(RETAIL, site.now_us) is None


async def test_a_provider_says_one_thing_about_an_instant_and_never_goes_back(site: Site) -> None:
    assert await site.say(SOLAR, 10)
    assert not await site.say(SOLAR, 10)

    for value, observed_us in ((11, START_US), (10, START_US - 1)):
        with pytest.raises(NotNewer):
            await site.say(SOLAR, value, observed_us)
    assert await site.say(SOLAR, 11, START_US + 1)


async def test_rounds_that_nobody_saw_end_are_left_out(site: Site) -> None:
    site.now_us += 10 * ROUND_US
    await site.say(SOLAR, 10)
    await site.say(GRID, 10)
    await site.rounds.close_due(site.now_us)

    assert [one.round for one in await site.oracle.rounds(RETAIL)] == [site.now_us // ROUND_US]


async def test_who_strays_too_often_is_flagged_once(site: Site) -> None:
    for _ in range(FLAG_OUTLIERS + 2):
        site.now_us += ROUND_US
        for provider, value in ((SOLAR, 100), (GRID, 100), (CITY, 900)):
            await site.say(provider, value)
        await site.rounds.close_due(site.now_us)

    by_name = {one.name: one.flagged for one in await site.oracle.providers()}
    assert by_name == {"solar": (), "grid": (), "city": (RETAIL,)}
    log = await PostgresAuditLog(site.pool).find(2**60, 100, action="oracle_provider.flagged")
    assert [json.loads(row.after or "") for row in log] == [{"feed": RETAIL}]
    [newest, *_] = await site.oracle.rounds(RETAIL)
    assert newest.value == 100


async def test_the_price_between_neighbours_is_a_feed_of_our_own(site: Site) -> None:
    start_us = START_US // (60 * SECOND_US) * 60 * SECOND_US
    candles = [
        CandleChange(60, start_us - 120 * SECOND_US, 3, 5, 2, 4, 1_000, 3_000_000, 1),
        CandleChange(60, start_us, 4, 6, 4, 4, 2_000, 8_000_001, 1),
        CandleChange(60, start_us - 3_600 * SECOND_US, 4, 999, 4, 4, 2_000, 8_000_001, 1),
        CandleChange(900, start_us, 4, 999, 4, 4, 2_000, 8_000_001, 1),
    ]
    await PostgresProjections(site.pool).write(batch(0, 5, candles=candles))
    await site.pass_round()

    feed = await site.oracle.feed("market_vwap")

    assert feed is not None
    assert (feed.value, feed.spread) == (11_000_001 * 1_000 // 3_000, 6 - 2)
    assert [(key, order["providers"]) for key, order in await site.orders()] == [(f"market_vwap:{feed.round}", 1)]


async def test_admins_changes_are_checked_and_audited(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    feed = NewFeed("gas_price", "Gas", "THB/kWh", 6, True, 60)
    made = await site.oracle.add_feed(feed)
    assert (made.feed, made.value, made.is_stale(site.now_us)) == ("gas_price", None, True)
    await site.oracle.change_feed("gas_price", None, False)
    await site.oracle.change_feed("gas_price", None, False)
    with pytest.raises(FeedTaken):
        await site.oracle.add_feed(feed)
    with pytest.raises(UnknownFeed):
        await site.oracle.change_feed("none", "x", None)
    with pytest.raises(KeyTaken):
        await site.oracle.add_provider(NewProvider(bytes(16), "x", SOLAR.new().public_key, ()), START_US)
    for feeds in (("none",), ("market_vwap",)):
        with pytest.raises(UnknownFeed):
            await site.oracle.add_provider(Provider("new", feeds).new(), START_US)
    with pytest.raises(UnknownFeed):
        await site.oracle.change_provider(SOLAR.provider_id, ProviderChange(feeds=("none",)))
    changed = await site.oracle.change_provider(SOLAR.provider_id, ProviderChange(feeds=("gas_price", RETAIL)))
    assert changed is not None
    assert changed.feeds == ("gas_price", RETAIL)
    assert await site.oracle.provider(SOLAR.provider_id) == changed
    assert await site.oracle.change_provider(bytes(16), ProviderChange(name="x")) is None
    monkeypatch.setattr(oracle, "PROVIDERS_MAX", 3)
    monkeypatch.setattr(oracle, "FEEDS_MAX", 5)
    with pytest.raises(OracleFull):
        await site.oracle.add_provider(Provider("new").new(), START_US)
    with pytest.raises(OracleFull):
        await site.oracle.add_feed(NewFeed("coal", "Coal", "g", 0, False, 60))

    actions = [row.action for row in await PostgresAuditLog(site.pool).after(3, 100)]
    assert actions == ["feed.made", "feed.changed", "oracle_provider.changed"]
