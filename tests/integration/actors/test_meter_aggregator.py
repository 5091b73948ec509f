"""The aggregator's shell: durable before it answers, each reading once, windows that survive it.

Seen to fail for: an answer without a commit, an earlier owner that is not ended, open windows not read at a restart,
adjustments that are never posted, energy for the present owner, verification by a head-end's word, a submitter who is
not looked at, changes of meters that are not heard of, no second look at a key, a file taken in its own order, tables
that are asked while a commit runs, a batch that outlives the failed commit before it.
"""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from engine.metering.messages import ACCEPTED, DUPLICATE, Judged, Signed
from engine.metering.readings import Interval, ReadingCode
from engine.metering.records import MeterChange
from engine.metering.windows import WINDOW_US
from engine.units import SECOND_US
from engine.views import Failed, Fault
from persistence.readings import FenceLost
from tests.support.metering import NOW_US, Metering, metering

LAST = NOW_US - WINDOW_US
HOUR_S = 3_600


@pytest_asyncio.fixture
async def meters(database: str, pool: "asyncpg.Pool[asyncpg.Record]") -> AsyncIterator[Metering]:
    async with metering(database, pool) as made:
        yield made


async def test_an_acknowledged_reading_is_in_the_table(meters: Metering) -> None:
    device = await meters.device(await meters.person("ann"))
    await meters.start()

    answer = await meters.judged([device.interval(1, LAST, 250)])

    row = await meters.pool.fetchrow("SELECT meter, counter, export_wh, signature FROM readings")
    assert answer.codes == [ACCEPTED]
    assert row is not None
    assert (row["meter"], row["counter"], row["export_wh"], len(row["signature"])) == (device.record.number, 1, 250, 64)


async def test_good_readings_survive_bad_ones(meters: Metering) -> None:
    owner = await meters.person("ann")
    device, stranger = await meters.device(owner), await meters.device(await meters.person("bob"))
    await meters.start()
    forged = device.sign(Interval(device.meter_id, 3, LAST, 900, 0, 1), Ed25519PrivateKey.generate())

    answer = await meters.judged(
        [
            device.interval(1, LAST - WINDOW_US, 250),
            stranger.interval(1, LAST, 1),
            forged,
            device.interval(2, LAST, -1),
            device.interval(3, LAST, 100),
        ],
        owner,
    )

    codes = [ACCEPTED, ReadingCode.UNKNOWN_METER, ReadingCode.BAD_SIGNATURE, ReadingCode.OUT_OF_RANGE, ACCEPTED]
    assert answer.codes == codes
    rows = await meters.pool.fetch("SELECT code FROM reading_verdicts ORDER BY code")
    assert [row["code"] for row in rows] == [ReadingCode.BAD_SIGNATURE, ReadingCode.OUT_OF_RANGE]


@pytest.mark.parametrize("fault", ["before write", "after write"])
async def test_a_commit_that_fails_is_no_success_and_a_repeat_counts_once(meters: Metering, fault: str) -> None:
    owner = await meters.person("ann")
    device = await meters.device(owner)
    await meters.start()
    await meters.judged([device.interval(1, LAST - WINDOW_US, 100)])
    meters.readings[0].fail.append(fault)

    answer = await meters.submit([device.interval(2, LAST, 250)])

    assert answer == Failed(Fault.OUTCOME_UNKNOWN, "unknown: send the same again")
    again = await meters.judged([device.interval(2, LAST, 250)])
    assert again.codes == [ACCEPTED if fault == "before write" else DUPLICATE]
    await meters.pass_time(HOUR_S)
    assert await meters.energy(owner) == 350


async def two_batches(
    meters: Metering, first: Signed, second: list[Signed], *, is_judged: bool
) -> list[asyncio.Task[Judged | Failed]]:
    """The second comes while the first one's commit has not returned, and is judged then, unless it needs tables."""
    readings = meters.readings[0]
    readings.may_write.clear()
    asked = [asyncio.create_task(meters.submit([first]))]
    await readings.writes.wait()
    asked.append(asyncio.create_task(meters.submit(second)))
    await (meters.has_judged(second[-1]) if is_judged else asyncio.sleep(0.1))
    assert not any(one.done() for one in asked), "answered before it is durable"
    readings.may_write.set()
    return asked


async def test_what_is_judged_during_a_commit_knows_what_is_in_it(meters: Metering) -> None:
    owner = await meters.person("ann")
    device = await meters.device(owner)
    await meters.start()
    await meters.up(meters.links[0])
    first = device.interval(1, LAST, 250)

    asked = await two_batches(
        meters,
        first,
        [
            first,
            device.interval(2, LAST, 9),
            device.interval(3, LAST, 200, corrects=1),
            device.interval(4, LAST + WINDOW_US, 1),
        ],
        is_judged=False,
    )

    told = [await one for one in asked]
    codes = [one.codes for one in told if isinstance(one, Judged)]
    assert codes == [[ACCEPTED], [DUPLICATE, ReadingCode.OVERLAPS, ACCEPTED, ACCEPTED]]
    await meters.pass_time(HOUR_S)
    assert await meters.energy(owner) == 201


@pytest.mark.parametrize("fault", ["before write", "after write"])
async def test_what_was_judged_upon_a_commit_that_failed_is_forgotten_with_it(meters: Metering, fault: str) -> None:
    owner = await meters.person("ann")
    device = await meters.device(owner)
    await meters.start(close_every_seconds=HOUR_S)  # closing windows waits for the commit, and others for it
    await meters.up(meters.links[0])
    readings = [device.interval(1, LAST, 250), device.interval(2, LAST + WINDOW_US, 9)]
    meters.readings[0].fail.append(fault)

    asked = await two_batches(meters, readings[0], readings[1:], is_judged=True)

    assert [await one for one in asked] == [Failed(Fault.OUTCOME_UNKNOWN, "unknown: send the same again")] * 2
    again = await meters.judged(readings)
    assert again.codes == [ACCEPTED if fault == "before write" else DUPLICATE, ACCEPTED]
    await meters.kill()
    await meters.start()
    await meters.pass_time(HOUR_S)
    assert await meters.energy(owner) == 259


async def test_the_same_file_through_two_gateways_counts_once(meters: Metering) -> None:
    owner = await meters.person("ann")
    device = await meters.device(owner)
    await meters.start()
    other = meters.gateway()
    readings = [device.interval(place, LAST - (20 - place) * WINDOW_US, 100) for place in range(20)]
    await meters.up(other)
    await meters.up(meters.links[0])

    answers = await asyncio.gather(
        *(links.submit(0, readings, False) for links in (meters.links[0], other, meters.links[0]))
    )

    codes = [code for answer in answers if isinstance(answer, Judged) for code in answer.codes]
    assert sorted(codes) == [ACCEPTED] * 20 + [DUPLICATE] * 40
    await meters.pass_time(HOUR_S)
    assert await meters.energy(owner) == 2_000


async def test_a_restart_finds_its_open_windows(meters: Metering) -> None:
    owner = await meters.person("ann")
    device = await meters.device(owner)
    await meters.start()
    first = device.interval(1, LAST, 40, duration_s=300)
    await meters.judged([first, device.register(2, LAST + 300 * SECOND_US, 5_000)])

    await meters.kill()
    await meters.start()

    third = await meters.judged([device.register(3, LAST + 600 * SECOND_US, 5_050)])
    again = await meters.judged([first])
    assert (third.codes, again.codes) == ([ACCEPTED], [DUPLICATE])
    await meters.pass_time(HOUR_S)
    assert await meters.energy(owner) == 90
    assert await meters.pool.fetchval("SELECT sum(export_wh) FROM energy_windows") == 90


async def test_the_second_owner_of_a_shard_ends_the_first(meters: Metering) -> None:
    device = await meters.device(await meters.person("ann"))
    await meters.start()
    await meters.judged([device.interval(1, LAST, 100)])
    first = meters.readings[0]

    second = type(first)(meters.dsn, meters.pool)
    await second.open(0, 1, lambda number: None)

    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError, FenceLost)):
        await first.write([], [], [], [], {device.record.number}, NOW_US)
    await second.close()


async def test_shards_that_become_two_take_over_what_one_had(meters: Metering) -> None:
    owner = await meters.person("ann")
    devices = [await meters.device(owner) for _ in range(6)]
    await meters.start(1)
    await meters.judged([device.interval(1, LAST, 10) for device in devices])

    await meters.kill()
    await meters.start(2)
    await meters.up(meters.links[0])
    answer = await meters.judged([device.interval(2, LAST + WINDOW_US // 2, 1) for device in devices])

    assert answer.codes == [ReadingCode.OVERLAPS] * 6
    assert {part.status()["meters"] for part in meters.shards} == {3}
    await meters.pass_time(HOUR_S)
    assert await meters.energy(owner) == 60


async def test_a_forged_reading_burns_no_counter(meters: Metering) -> None:
    device = await meters.device(await meters.person("ann"))
    await meters.start()

    await meters.judged([device.sign(Interval(device.meter_id, 900, LAST, 900, 0, 1), Ed25519PrivateKey.generate())])

    assert (await meters.judged([device.interval(1, LAST, 10)])).codes == [ACCEPTED]


async def test_a_file_need_not_be_in_the_order_of_its_counters(meters: Metering) -> None:
    device = await meters.device(await meters.person("ann"))
    await meters.start()

    answer = await meters.judged([device.interval(n, LAST - (5 - n) * WINDOW_US, 1) for n in (3, 1, 2)])

    assert answer.codes == [ACCEPTED] * 3


async def test_an_old_key_counts_no_more_though_nobody_has_used_the_new_one(meters: Metering) -> None:
    device, new = await meters.device(await meters.person("ann")), Ed25519PrivateKey.generate()
    await meters.start()
    await meters.judged([device.interval(1, LAST - 100 * WINDOW_US, 10)])

    await meters.meters.change(device.meter_id, MeterChange(public_key=new.public_key().public_bytes_raw()), NOW_US)

    for counter in range(2, 90):  # the aggregator is told, and not asked: it may take some milliseconds
        answer = await meters.judged([device.interval(counter, LAST - (101 - counter) * WINDOW_US, 10)])
        if answer.codes == [ReadingCode.BAD_SIGNATURE]:
            return
    raise AssertionError("the old key still counts")


async def test_a_new_key_counts_at_once_and_the_old_one_no_more(meters: Metering) -> None:
    device, new = await meters.device(await meters.person("ann")), Ed25519PrivateKey.generate()
    await meters.start()
    meters.readings[0].deaf = True  # so that only the second look can know it
    await meters.judged([device.interval(1, LAST - 2 * WINDOW_US, 10)])

    await meters.meters.change(device.meter_id, MeterChange(public_key=new.public_key().public_bytes_raw()), NOW_US)
    renewed = device._replace(key=new)

    assert (await meters.judged([renewed.interval(2, LAST - WINDOW_US, 10)])).codes == [ACCEPTED]
    assert (await meters.judged([device.interval(3, LAST, 10)])).codes == [ReadingCode.BAD_SIGNATURE]


async def test_an_exchanged_device_counts_from_the_beginning(meters: Metering) -> None:
    owner, new = await meters.person("ann"), Ed25519PrivateKey.generate()
    device = await meters.device(owner)
    await meters.start()
    await meters.judged([device.register(70, LAST - WINDOW_US, 9_000), device.register(71, LAST, 9_100)])

    change = MeterChange(public_key=new.public_key().public_bytes_raw(), exchange=True)
    await meters.meters.change(device.meter_id, change, NOW_US)
    renewed = device._replace(key=new)
    answer = await meters.judged([renewed.register(0, LAST, 5), renewed.register(1, LAST + WINDOW_US, 35)])

    assert answer.codes == [ACCEPTED, ACCEPTED]
    await meters.pass_time(HOUR_S)
    assert await meters.energy(owner) == 130


async def test_only_a_verified_meter_earns_and_its_own_signature_verifies_it(meters: Metering) -> None:
    owner = await meters.person("ann")
    device = await meters.device(owner)
    await meters.start()

    await meters.judged([device.interval(1, LAST, 100)], vouched=True)
    await meters.pass_time(HOUR_S)
    assert await meters.energy(owner) == 0
    await meters.judged([device.interval(2, LAST + WINDOW_US, 30)])
    await meters.pass_time(HOUR_S)

    assert await meters.energy(owner) == 30
    found = await meters.meters.by_id(device.meter_id)
    assert found is not None
    assert found.status == "verified"


async def test_a_verified_meter_says_in_which_zone_its_owner_trades(meters: Metering) -> None:
    earlier, owner = await meters.person("bob"), await meters.person("ann")
    device = await meters.device(earlier, zone="Z2")
    await meters.meters.assign(device.meter_id, owner, "Z2", NOW_US, NOW_US)
    await meters.start()

    await meters.judged([device.interval(1, LAST, 100)])

    people = [await meters.people.by_id(one) for one in (earlier, owner)]
    assert [one.zone for one in people if one is not None] == ["Z1", "Z2"]
    row = await meters.pool.fetchrow("SELECT actor, action, subject FROM audit_log ORDER BY number DESC LIMIT 1")
    assert row is not None
    assert tuple(row) == ("system", "user.changed", f"user:{owner}")


async def test_late_and_corrected_readings_adjust_what_is_closed(meters: Metering) -> None:
    owner = await meters.person("ann")
    device = await meters.device(owner)
    await meters.start()
    await meters.judged([device.interval(1, LAST - 4 * WINDOW_US, 100), device.interval(2, LAST, 100)])
    await meters.pass_time(HOUR_S)

    late = device.interval(3, LAST - 2 * WINDOW_US, 40)
    less = device.interval(4, LAST, 70, corrects=2)
    assert (await meters.judged([late, less])).codes == [ACCEPTED, ACCEPTED]
    await meters.pass_time(1)

    assert await meters.energy(owner) == 210
    rows = await meters.pool.fetch("SELECT export_wh, credited_wh FROM energy_adjustments ORDER BY counter")
    assert [tuple(row) for row in rows] == [(40, 40), (-30, -30)]
    assert await meters.pool.fetchval("SELECT sum(export_wh) FROM energy_rollups WHERE seconds = 86400") == 210


async def test_energy_goes_to_who_owned_the_meter_then(meters: Metering) -> None:
    ann, bob = await meters.person("ann"), await meters.person("bob")
    device = await meters.device(ann)
    await meters.start()
    await meters.judged([device.interval(1, LAST, 100)])
    await meters.pass_time(HOUR_S)

    await meters.meters.assign(device.meter_id, bob, "Z2", meters.now_us, meters.now_us)
    await meters.judged([device.interval(2, LAST - WINDOW_US, 7), device.interval(3, meters.now_us, 50)], bob)
    await meters.pass_time(HOUR_S)

    assert (await meters.energy(ann), await meters.energy(bob, "Z2"), await meters.energy(bob)) == (107, 50, 0)


async def test_consumption_retires_what_there_is_and_every_effect_is_queued_for_the_chain(meters: Metering) -> None:
    owner = await meters.person("ann")
    device = await meters.device(owner)
    await meters.start()

    await meters.judged([device.interval(1, LAST, 100, import_wh=30), device.interval(2, LAST + WINDOW_US, 0, 500)])
    await meters.pass_time(HOUR_S)

    assert await meters.energy(owner) == 0
    rows = await meters.pool.fetch(
        "SELECT kind, payload ->> 'amount_wh' AS amount FROM outbox WHERE kind LIKE 'energy%' ORDER BY kind, number"
    )
    assert [tuple(row) for row in rows] == [
        ("energy_generated", "100"),
        ("energy_retired", "30"),
        ("energy_retired", "70"),
    ]
    lines = {line.kind: line.amount for line in await meters.ledger.trial_balance()}
    assert (lines["generation"], lines["retired"], lines["participants_available"]) == (-100, 100, 0)


@pytest.mark.parametrize("fault", ["before post", "after post"])
async def test_a_window_is_credited_once_whatever_becomes_of_its_commit(meters: Metering, fault: str) -> None:
    owner = await meters.person("ann")
    device = await meters.device(owner)
    await meters.start()
    await meters.judged([device.interval(1, LAST, 100)])
    meters.readings[0].fail.append(fault)

    await meters.pass_time(HOUR_S)

    assert await meters.energy(owner) == 100
    assert await meters.pool.fetchval("SELECT count(*) FROM energy_windows") == 1
