"""Death at each named point between reserve, fund, apply, commit and answer, and around what a follower writes.

Real processes under load; the process itself says that it died there, and the judge finds nothing missing or doubled.
"""

import asyncio
from pathlib import Path
from time import monotonic

import pytest

from actors import crash_points
from tests.support import faults
from tests.support.installation import Installation
from tests.support.traders import judged

POINTS = [
    *(("market.CAMPUS", point) for point in crash_points.MARKET_POINTS),
    *(("follower.CAMPUS", point) for point in crash_points.FOLLOWER_POINTS),
]


async def test_death_at_any_named_point_loses_and_doubles_nothing(
    installation: Installation, tmp_path: Path, long: bool
) -> None:
    async with judged(installation, tmp_path) as load:
        for times in (1, 2, 5) if long else (2,):
            for part, point in POINTS:
                began = monotonic()
                await faults.crash(installation, part, point, 1 if point == "snapshot" else times)
                died = monotonic() - began
                seconds = await load.recovered()
                print(f"{part} died at {point} after {died:.2f} s; acknowledged again after {seconds:.2f} s")
    await asyncio.to_thread(installation.until_ready)


def test_a_process_that_was_not_started_to_be_crashed_has_no_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(crash_points.VARIABLE, raising=False)

    assert crash_points.of("market.CAMPUS") is None


@pytest.mark.parametrize("point", ["lunch", "project"])
def test_an_order_for_a_point_that_the_part_does_not_have_is_refused(tmp_path: Path, point: str) -> None:
    with pytest.raises(crash_points.OrderUnclear):
        crash_points.order(tmp_path / "order", "market.CAMPUS", point)

    assert not (tmp_path / "order").exists()


def test_only_the_part_and_the_point_of_the_order_count(tmp_path: Path) -> None:
    file = tmp_path / "order"
    crash_points.order(file, "market.CAMPUS", "commit", 2)

    crash_points.CrashPoints("market.RIVERSIDE", file).reached("commit")
    mine = crash_points.CrashPoints("market.CAMPUS", file)
    for point in ("apply", "commit", "answer"):  # once, and twice would be the end of this process
        mine.reached(point)

    assert file.exists()
