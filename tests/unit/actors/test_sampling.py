"""Figures that are sampled: of a book, of a pool, of a loop.

Seen to fail for: a spread without transport, a depth of one level, trades told twice, a fault that ends the samples.
"""

import asyncio
import math

import pytest
from prometheus_client import REGISTRY

from actors.market_figures import MarketFigures, depth_wh, spread_micro
from actors.sampling import every, sample_part, sample_pool
from engine.messages import Side
from tests.support.builders import A, B, funded_desk, order, two_zones
from tests.support.patience import eventually


def value(name: str, **labels: str) -> float:
    found = REGISTRY.get_sample_value(name, labels)
    assert found is not None, name
    return found


def test_an_empty_book_has_no_spread() -> None:
    book = funded_desk().book

    assert math.isnan(spread_micro(book))
    assert depth_wh(book, Side.BUY) == 0


def test_the_spread_is_the_narrowest_of_landed_prices() -> None:
    desk = funded_desk(two_zones())
    desk.do(order(Side.BUY, 1, 3_000_000, 1_000, zone=A))
    desk.do(order(Side.SELL, 2, 3_400_000, 1_000, zone=A))
    desk.do(order(Side.BUY, 1, 3_300_000, 1_000, zone=B))

    assert spread_micro(desk.book) == 3_400_000 + 500_000 + 34_000 - 3_000_000


def test_depth_counts_the_ten_best_prices() -> None:
    desk = funded_desk()
    for step in range(12):
        desk.do(order(Side.BUY, 1, 2_000_000 - step * 1_000, 10))

    assert depth_wh(desk.book, Side.BUY) == 100


def test_trades_are_told_once() -> None:
    figures, book = MarketFigures("TOLD"), funded_desk().book
    figures.count(2, 3_000, 9_000_000)

    figures.look(book, 7, is_open=True)
    shown = figures.look(book, 7, is_open=True)

    assert value("wattbook_market_trades_total", market="TOLD") == 2
    assert value("wattbook_market_volume_wh_total", market="TOLD") == 3_000
    assert value("wattbook_market_turnover_micro_total", market="TOLD") == 9_000_000
    assert value("wattbook_market_waiting", market="TOLD") == 7
    assert value("wattbook_market_open", market="TOLD") == 1
    assert shown == {"waiting": 7, "trades": 2, "open_orders": 0}


async def test_a_sample_that_fails_is_not_the_last() -> None:
    looks = 0

    def look(_late: float) -> None:
        nonlocal looks
        looks += 1
        raise ValueError("planted")

    every(0.001, look)

    await eventually(lambda: looks > 2)


async def test_a_loop_that_was_held_up_is_seen() -> None:
    lates: list[float] = []
    every(0.005, lates.append)
    loop = asyncio.get_running_loop()
    until_then = loop.time() + 0.2

    while loop.time() < until_then:  # nothing else has a turn meanwhile
        pass
    await eventually(lambda: bool(lates))

    assert max(lates) > 0.15


async def test_a_part_is_measured_and_the_worst_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.sampling.SAMPLE_SECONDS", 0.001)
    monkeypatch.setattr("actors.sampling.DASHBOARD_SECONDS", 0.002)

    class Part:
        def measure(self) -> dict[str, float]:
            return {"waiting": 3.0}

    told: list[dict[str, float]] = []
    sample_part("part-1", Part(), lambda figures: told.append(dict(figures)))

    await eventually(lambda: bool(told))
    assert told[0]["waiting"] == 3.0
    assert told[0]["loop_lag_seconds"] >= 0.0


async def test_a_pool_shows_its_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.sampling.POOL_SECONDS", 0.001)

    class Pool:
        def get_size(self) -> int:
            return 5

        def get_idle_size(self) -> int:
            return 2

        def is_closing(self) -> bool:
            return False

    sample_pool("pool-1", Pool())

    labels = {"part": "pool-1", "state": "busy"}
    await eventually(lambda: REGISTRY.get_sample_value("wattbook_postgres_pool_connections", labels) == 3)
    assert value("wattbook_postgres_pool_connections", part="pool-1", state="idle") == 2
