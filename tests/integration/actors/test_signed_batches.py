"""A head-end's batch comes to what the same readings come to in a list, and takes its place between lists.

Seen to fail for: a batch judged before a list that came first, a run whose flags are told of the wrong reading, late
readings of a batch counted into windows that are closed, a batch of two shards whose verdicts change places, a meter
that is retired, readings that do not know of the runs of their own batch.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from engine.metering.messages import ACCEPTED, DUPLICATE, Judged, Signed
from engine.metering.readings import ReadingCode, Stored
from engine.metering.runs import Run
from engine.metering.windows import WINDOW_US
from engine.units import SECOND_US
from persistence.reading_rows import COLUMNS
from tests.support.metering import NOW_US, Device, Metering, metering, signed_batch

DAY_US = 96 * WINDOW_US
BEGIN = NOW_US - 5 * DAY_US
ROWS = f"SELECT {', '.join(COLUMNS[1:-2])} FROM readings WHERE meter = $1 ORDER BY counter"
BOOKS = """
    SELECT start_us, import_wh, export_wh FROM energy_windows WHERE meter = $1
    UNION ALL
    SELECT start_us, import_wh, export_wh FROM energy_adjustments WHERE meter = $1
    ORDER BY start_us, import_wh, export_wh
"""


@pytest_asyncio.fixture
async def meters(database: str, pool: "asyncpg.Pool[asyncpg.Record]") -> AsyncIterator[Metering]:
    async with metering(database, pool) as made:
        yield made


async def begin(meters: Metering, shards: int = 1) -> None:
    await meters.start(shards)
    await meters.up(meters.links[0])


async def batch(meters: Metering, readings: list[Signed]) -> Judged:
    answer = await meters.links[0].submit_batch(signed_batch(readings))
    assert isinstance(answer, Judged), answer
    return answer


def said(device: Device, dice: random.Random) -> list[list[Signed]]:
    """Deliveries: minute by minute, with gaps, too much, repeats, what is late, what spans windows; the last day is
    usual, but for its spikes.
    """
    at_us, counter, deliveries = BEGIN, 0, []
    for day in range(5):
        readings, is_odd = [], day < 4
        for _ in range(30):
            counter += dice.choice((1, 1, 1, 1, 2, 0)) if is_odd else 1
            seconds = dice.choice((60, 60, 300, 900, 1_000)) if day % 2 else 60
            export_wh = dice.choice((1, 1, 2, 2, 2, 3, 10**4) if is_odd else (1, 1, 1, 1, 90, 91))
            readings.append(device.interval(counter, at_us, export_wh, duration_s=seconds))
            at_us += (seconds + (dice.choice((0, 0, 0, 300, -70)) if is_odd else 0)) * SECOND_US
        at_us = BEGIN + (day + 1) * DAY_US
        dice.shuffle(readings)
        deliveries.append(readings)
        if dice.random() < 0.5:
            deliveries.append(readings[:7])
    return deliveries


@pytest.mark.parametrize("seed", range(3))
async def test_a_batch_is_judged_as_a_list_is(meters: Metering, seed: int) -> None:
    owner = await meters.person("ann")
    devices = [await meters.device(owner, rated_power_w=10_000) for _ in range(2)]
    meters.now_us = NOW_US - 3_600 * SECOND_US
    await begin(meters)
    told: list[list[Any]] = [[], []]

    one, other = (said(device, random.Random(seed)) for device in devices)
    for in_batch, in_list in zip(one, other, strict=True):
        for place, answer in enumerate((await batch(meters, in_batch), await meters.judged(in_list, vouched=True))):
            told[place] += [answer.codes, answer.flags, sorted(answer.details)]
        await asyncio.sleep(0.05)  # windows close, or do not: the books are the same in the end
    await meters.pass_time(3_600)

    assert told[0] == told[1]
    assert {ACCEPTED, DUPLICATE, ReadingCode.OUT_OF_RANGE} <= {code for codes in told[0][::3] for code in codes}
    assert any(flags for flags in told[0][1::3])
    numbers = [device.record.number for device in devices]
    rows = [[tuple(row) for row in await meters.pool.fetch(ROWS, number)] for number in numbers]
    assert rows[0] == rows[1]
    for number in numbers:
        books = await meters.pool.fetchrow(
            f"SELECT sum(import_wh)::bigint, sum(export_wh)::bigint FROM ({BOOKS}) b", number
        )
        sums = "SELECT sum(import_wh)::bigint, sum(export_wh)::bigint FROM readings WHERE meter = $1"
        assert books == await meters.pool.fetchrow(sums, number)


async def test_a_batch_keeps_its_place_between_lists(meters: Metering) -> None:
    device = await meters.device(await meters.person("ann"))
    await begin(meters)
    await meters.judged([device.interval(1, BEGIN, 1)])
    meters.readings[0].may_write.clear()
    first = asyncio.create_task(meters.judged([device.interval(2, BEGIN + WINDOW_US, 1)]))
    await meters.has_judged(device.interval(2, BEGIN + WINDOW_US, 1))

    listed = [device.interval(3, BEGIN + 2 * WINDOW_US, 1)]
    batched = [device.interval(4, BEGIN + 3 * WINDOW_US, 1), device.interval(5, BEGIN + 3 * WINDOW_US, 1)]
    last = [device.interval(6, BEGIN + 4 * WINDOW_US, 1), device.interval(7, BEGIN + 3 * WINDOW_US, 1)]
    waiting = [
        asyncio.create_task(work)
        for work in (meters.judged(listed), batch(meters, batched), meters.judged(last), batch(meters, last))
    ]
    await asyncio.sleep(0.1)  # so that all of them are in one batch, or the last ones
    meters.readings[0].may_write.set()

    answers = [(await one).codes for one in (first, *waiting)]
    assert answers == [
        [ACCEPTED],
        [ACCEPTED],
        [ACCEPTED, ReadingCode.OVERLAPS],
        [ACCEPTED, ReadingCode.OVERLAPS],
        [DUPLICATE, ReadingCode.OVERLAPS],
    ]


async def test_late_readings_of_a_batch_adjust_what_is_closed(meters: Metering) -> None:
    device = await meters.device(await meters.person("ann"))
    await begin(meters)
    await meters.judged([device.interval(1, BEGIN, 100, duration_s=60)])
    await meters.pass_time(3_600)

    late = [device.interval(n, BEGIN + (n - 1) * 60 * SECOND_US, 10, duration_s=60) for n in range(2, 18)]
    answer = await batch(meters, late)
    await meters.pass_time(3_600)

    assert answer.codes == [ACCEPTED] * 16
    number = device.record.number
    closed = await meters.pool.fetch("SELECT export_wh FROM energy_windows WHERE meter = $1 ORDER BY 1", number)
    assert [row[0] for row in closed] == [20, 100]
    assert await meters.pool.fetchval("SELECT sum(export_wh)::bigint FROM energy_adjustments") == 140


async def test_a_batch_is_divided_among_shards(meters: Metering) -> None:
    owner = await meters.person("ann")
    devices = [await meters.device(owner) for _ in range(5)]
    await begin(meters, 2)
    readings = [device.interval(1, BEGIN, 10 ** (place + 1)) for place, device in enumerate(devices)]

    answer = await batch(meters, readings)

    assert answer.codes == [ACCEPTED] * 3 + [ReadingCode.OUT_OF_RANGE] * 2
    assert [(one.codes) for one in (await batch(meters, readings[::-1]),)] == [
        [ReadingCode.OUT_OF_RANGE] * 2 + [DUPLICATE] * 3
    ]


async def test_meters_that_are_unknown_or_retired_take_no_other_along(meters: Metering) -> None:
    device, gone = [await meters.device(await meters.person(name)) for name in ("ann", "bob")]
    await meters.pool.execute("UPDATE meters SET status = 'retired' WHERE number = $1", gone.record.number)
    await begin(meters)
    stranger = Device(device.record.__class__(**{**_fields(device), "meter_id": bytes(16)}), device.key)

    answer = await batch(meters, [one.interval(1, BEGIN, 1) for one in (stranger, device, gone)])

    assert answer.codes == [ReadingCode.UNKNOWN_METER, ACCEPTED, ReadingCode.UNKNOWN_METER]


def _fields(device: Device) -> dict[str, Any]:
    record = device.record
    return {name: getattr(record, name) for name in record.__struct_fields__}


async def test_rows_come_back_as_they_were_copied(meters: Metering) -> None:
    """Every column, at its limits and null, of runs and of others in one commit."""
    most = 2**63 - 1
    run = Run(3, 2**31 - 1, [(counter, counter * 7, counter * 7 + 5, 1, most, 2) for counter in range(5_000)], most)
    others = [
        (Stored(4, 1, most, 0, 1, 2, 3, most, 5, 6, 31, 7), b"s" * 64),
        (Stored(4, 1, 1, 0, 0, 0, 0, None, None, None, 0, 0), None),
        (Stored(4, 1, 2, 8, 9, 0, 0, 0, 0, 0, 0, 0), b""),
    ]
    await begin(meters)

    await meters.readings[0].write([run, Run(5, 1, [(1, 2, 3, 4, 5, 0)], 6)], others, [], [], (), NOW_US)

    rows = await meters.pool.fetch(f"SELECT {', '.join(COLUMNS)} FROM readings ORDER BY meter, counter")
    wanted = [(3, 2**31 - 1, *one[:5], None, None, None, 2, most, None) for one in run.kept]
    wanted += sorted(((*_row(stored), signature) for stored, signature in others), key=lambda row: row[2])
    wanted.append((5, 1, 1, 2, 3, 4, 5, None, None, None, 0, 6, None))
    assert [tuple(row) for row in rows] == wanted


def _row(stored: Stored) -> tuple[Any, ...]:
    return tuple(getattr(stored, name) for name in stored.__struct_fields__)
