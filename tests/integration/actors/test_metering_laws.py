"""Credited energy is the exported energy of closed windows plus adjustments, whatever is lost, repeated or killed.

By seed: some meters say what they measured; deliveries are repeated, swapped, lost and sent through two gateways, while
aggregators are killed, their number changes, and commits fail before or after they were made. What was acknowledged is
in the table; at the end tables, ledger and chain orders agree to the Wh, with a plain sum over the readings in force.
"""

import asyncio
import random

import asyncpg
import pytest

from engine.metering.messages import ACCEPTED, DUPLICATE, Judged, Signed
from engine.metering.readings import Interval
from engine.metering.windows import WINDOW_US
from engine.units import SECOND_US
from tests.support.metering import ZONE, Device, Metering, metering, signed_batch

IN_FORCE = """
    SELECT coalesce(sum(export_wh), 0)::bigint, coalesce(sum(import_wh), 0)::bigint
    FROM readings r
    WHERE NOT EXISTS (
        SELECT 1 FROM readings c WHERE (c.meter, c.device, c.corrects) = (r.meter, r.device, r.counter)
    )
"""
CLOSED = "SELECT coalesce(sum(export_wh), 0)::bigint, coalesce(sum(import_wh), 0)::bigint FROM energy_windows"
ADJUSTED = """
    SELECT coalesce(sum(export_wh), 0)::bigint, coalesce(sum(import_wh), 0)::bigint FROM energy_adjustments
"""

ROLLED = "SELECT coalesce(sum(export_wh), 0)::bigint, coalesce(sum(import_wh), 0)::bigint FROM energy_rollups"
QUEUED = """
    SELECT kind, sum((payload ->> 'amount_wh')::bigint)::bigint AS amount
    FROM outbox
    WHERE kind LIKE 'energy%'
    GROUP BY kind
"""


def said(device: Device, dice: random.Random, start_us: int) -> list[Signed]:
    """Three hours of one meter, of odd intervals, with gaps and corrections."""
    readings, at_us, counter = [], start_us, 1
    for _ in range(12):
        seconds = dice.choice((300, 900, 900, 1_700))
        readings.append(device.interval(counter, at_us, dice.randrange(400), dice.randrange(60), duration_s=seconds))
        at_us += (seconds + dice.choice((0, 0, 0, 1_000))) * SECOND_US
        counter += 1
        if dice.random() < 0.25:
            old = dice.choice(readings).reading
            assert isinstance(old, Interval)
            readings.append(
                device.interval(
                    counter, old.start_us, dice.randrange(300), duration_s=old.duration_s, corrects=old.counter
                )
            )
            counter += 1
    return readings


async def deliver(
    meters: Metering, readings: list[Signed], dice: random.Random, acknowledged: set[tuple[int, bytes]]
) -> None:
    links, plain = dice.choice(meters.links), signed_batch(readings)
    known = {meter_id for _, meter_id in acknowledged}
    if plain and readings[0].reading.meter_id in known and dice.random() < 0.5:  # its key has been proved
        answer = await links.submit_batch(plain)
    else:
        answer = await links.submit(0, readings, False)
    if isinstance(answer, Judged):
        for signed, code in zip(readings, answer.codes, strict=True):
            if code in (ACCEPTED, DUPLICATE):
                acknowledged.add((signed.reading.counter, signed.reading.meter_id))


@pytest.mark.parametrize("seed", range(4))
async def test_every_wh_is_in_one_place(database: str, pool: "asyncpg.Pool[asyncpg.Record]", seed: int) -> None:
    dice = random.Random(seed)
    async with metering(database, pool) as meters:
        meters.gateway()
        owners = [await meters.person("ann"), await meters.person("bob")]
        devices = [await meters.device(owners[place % 2]) for place in range(4)]
        await meters.start(dice.choice((1, 2)))
        for links in meters.links:
            await meters.up(links)
        acknowledged: set[tuple[int, bytes]] = set()
        waiting = {device: said(device, dice, meters.now_us - 14 * WINDOW_US) for device in devices}
        for _ in range(40):
            device = dice.choice(devices)
            if dice.random() < 0.1 and waiting[device]:
                waiting[device].pop(0)  # lost for ever
            some = waiting[device][: dice.randrange(1, 4)]
            if not some:
                continue
            if dice.random() < 0.7:
                del waiting[device][: len(some)]  # else the same comes again, with what follows
            dice.shuffle(some)
            await asyncio.gather(*(deliver(meters, some, dice, acknowledged) for _ in range(dice.choice((1, 1, 2)))))
            meters.now_us += dice.randrange(400) * SECOND_US
            for readings in meters.readings:
                if dice.random() < 0.15:
                    readings.fail.append(dice.choice(("before", "after")) + dice.choice((" write", " post")))
            if dice.random() < 0.08:
                await meters.kill()
                await meters.start(dice.choice((1, 2)))
                for links in meters.links:
                    await meters.up(links)
        for readings in meters.readings:
            readings.fail.clear()
        await meters.up(meters.links[0])
        await meters.pass_time(3_600)

        stored = {
            (row["counter"], row["id"])
            for row in await pool.fetch(
                "SELECT counter, uuid_send(meter_id) AS id FROM readings JOIN meters ON number = meter"
            )
        }
        export_wh, import_wh = await two(pool, IN_FORCE)
        closed, adjusted = await two(pool, CLOSED), await two(pool, ADJUSTED)
        debts = await pool.fetchval("SELECT coalesce(sum(debt_wh), 0)::bigint FROM energy_debts")
        lines = {
            line.kind: line.amount for line in await meters.ledger.trial_balance() if line.asset == f"energy:{ZONE}"
        }
        sums: dict[str, int] = {row["kind"]: row["amount"] for row in await pool.fetch(QUEUED)}

        assert acknowledged <= stored
        assert len(stored) > 15
        assert (closed[0] + adjusted[0], closed[1] + adjusted[1]) == (export_wh, import_wh)
        assert -lines["generation"] == export_wh + debts
        assert lines["participants_available"] == -lines["generation"] - lines["retired"]
        assert sums.get("energy_generated", 0) - sums.get("energy_revoked", 0) == -lines["generation"]
        assert sums.get("energy_retired", 0) == lines["retired"]
        for seconds in (3_600, 86_400):
            assert await two(pool, f"{ROLLED} WHERE seconds = {seconds}") == (export_wh, import_wh)


async def two(pool: "asyncpg.Pool[asyncpg.Record]", sql: str) -> tuple[int, int]:
    row = await pool.fetchrow(sql)
    assert row is not None
    return row[0], row[1]
