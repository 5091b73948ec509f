"""The rule that says what grows too much.

Seen to fail for: judging the first half as well; allowing memory for every order that ever was; a run in which nobody
traded any more; a look that fails and is forgotten.
"""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench import soak as module
from bench.installation import Target
from bench.soak import MB, REMEMBERED, Sample, judged, slope, stood_still
from tests.support.patience import HUNG_SECONDS


def run(memory_per_order: float, orders_per_sample: int = 10_000, queue_per_sample: float = 0.0) -> list[Sample]:
    """Forty samples; memory jumps at the beginning, as caches do when they are filled."""
    return [
        Sample(
            seconds=number,
            orders=number * orders_per_sample,
            memory={"market": 5_000 * MB * (number > 3) + number * orders_per_sample * memory_per_order},
            disk={"journal": number * orders_per_sample * 700.0},
            queues={"waiting": number * queue_per_sample},
        )
        for number in range(40)
    ]


def beyond(samples: list[Sample]) -> list[str]:
    return [one.name for one in judged(samples) if not one.is_bounded]


def test_what_is_filled_once_is_no_growth() -> None:
    assert beyond(run(memory_per_order=0)) == []


def test_memory_may_grow_by_what_is_remembered_of_orders_and_not_beyond() -> None:
    assert beyond(run(memory_per_order=2_000, orders_per_sample=REMEMBERED // 40)) == []
    assert beyond(run(memory_per_order=2_000, orders_per_sample=10 * REMEMBERED)) == ["memory: market"]


def test_tables_may_grow_with_orders_for_ever() -> None:
    assert beyond(run(memory_per_order=0, orders_per_sample=10_000_000)) == []


def test_a_queue_may_not_grow() -> None:
    assert beyond(run(memory_per_order=0, queue_per_sample=100)) == ["queues: waiting"]


def test_the_slope_is_that_of_the_best_line() -> None:
    assert slope([(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)]) == pytest.approx(2.0)
    assert slope([(1.0, 1.0), (1.0, 3.0)]) == 0.0


def test_a_run_in_which_nobody_trades_any_more_proves_nothing() -> None:
    """Found by a soak of half an hour: every login had lapsed after 900 s, and nothing grew."""
    samples = run(memory_per_order=0)
    stopped = [msgspec.structs.replace(one, orders=min(one.orders, samples[25].orders)) for one in samples]

    assert stood_still(samples) == ""
    assert stood_still(stopped) == "nothing was acknowledged from 25 to 31 s"


async def test_a_soak_that_cannot_look_any_more_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    async def for_ever(*_: Any) -> None:
        await asyncio.Event().wait()

    async def fails(_: module.Watch) -> None:
        raise ConnectionError("planted")

    monkeypatch.setattr(module, "play", for_ever)
    monkeypatch.setattr(module.Watch, "look", fails)

    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.wait_for(module.soak(Target("", Path(), ""), "", 1.0, 1.0), HUNG_SECONDS)
    assert [str(one) for one in caught.value.exceptions] == ["planted"]
