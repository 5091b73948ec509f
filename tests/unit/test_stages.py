"""Stage times: what is counted, how a percentile is read out of buckets, and that a table tells only the run's own.

Seen to fail for: counts that are handed over twice, sums that forget the count, a reading from before left in.
"""

import asyncio

import pytest
from prometheus_client import REGISTRY, generate_latest
from rich.console import Console

from actors.stages import Stages
from bench.stages import Spent, parse, table


def _read() -> dict[str, Spent]:
    return parse(generate_latest(REGISTRY).decode())


async def test_what_a_stage_is_told_stands_in_the_metrics_once() -> None:
    before = _read()
    stages = Stages()
    stages.commit(0.0004, 3)
    stages.commit(0.004)
    stages.hop(0.1)
    await asyncio.sleep(0.6)  # two hand-overs would be seen as twice the count
    stages.hop(0.2)
    await asyncio.sleep(0.6)

    after = {name: spent.since(before.get(name)) for name, spent in _read().items()}
    assert (after["commit"].count, after["hop"].count, after["parse"].count) == (4, 2, 0)
    assert after["commit"].seconds == pytest.approx(3 * 0.0004 + 0.004)
    assert 0.0003 < after["commit"].quantile_seconds(0.5) < 0.0006
    assert 0.003 < after["commit"].quantile_seconds(0.99) < 0.006


def test_a_percentile_lies_within_its_bucket() -> None:
    spent = Spent({0.001: 10.0, 0.002: 90.0, float("inf"): 100.0}, 1.0)

    assert spent.quantile_seconds(0.5) == pytest.approx(0.0015)
    assert spent.quantile_seconds(0.99) == 0.002  # beyond the last bound there is no telling
    assert Spent({}).quantile_seconds(0.5) == 0.0


def test_the_table_shows_the_run_and_leaves_out_what_nobody_passed() -> None:
    before = {"parse": Spent({0.001: 5.0, float("inf"): 5.0}, 0.004), "wait": Spent({0.001: 7.0}, 0.007)}
    after = {"parse": Spent({0.001: 9.0, float("inf"): 9.0}, 0.006), "wait": Spent({0.001: 7.0}, 0.007)}

    console = Console(record=True, width=120)
    console.print(table(before, after))

    text = console.export_text()
    assert "parse" in text
    assert "4" in text.split("parse")[1].split()[0]
    assert "0.500 ms" in text
    assert "100 %" in text
    assert "wait" not in text
