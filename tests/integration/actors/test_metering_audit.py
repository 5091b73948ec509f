"""The audit of meters finds what it is for: each planted difference is reported, and sound tables have none.

Seen to fail for: corrected readings counted beside their corrections, adjustments left out, transfers matched by their
reference alone.
"""

import asyncpg
import pytest

from actors.audit import Report
from actors.metering_audit import audit_metering
from engine.metering.books import AcknowledgedReading
from engine.metering.messages import ACCEPTED, Signed
from engine.metering.readings import Interval
from engine.metering.windows import WINDOW_US
from persistence.metering_audit import PostgresMeteringAudit
from tests.support.metering import NOW_US, metering

FIRST = NOW_US - 8 * WINDOW_US


def told(signed: Signed) -> AcknowledgedReading:
    one = signed.reading
    assert isinstance(one, Interval)
    return AcknowledgedReading(
        one.meter_id, one.counter, one.start_us, one.end_us, one.import_wh, one.export_wh, one.corrects
    )


async def measured(dsn: str, pool: "asyncpg.Pool[asyncpg.Record]") -> list[AcknowledgedReading]:
    """Windows, a long reading, a late one, corrections up and down, a debt, something retired; of two meters."""
    async with metering(dsn, pool) as meters:
        owners = [await meters.person("ann"), await meters.person("bob")]
        devices = [await meters.device(owner) for owner in owners]
        await meters.start()
        said: list[Signed] = []
        for device in devices:
            said += [
                device.interval(1, FIRST, 100),
                device.interval(2, FIRST + WINDOW_US, 0, import_wh=70),
                device.interval(3, FIRST + 3 * WINDOW_US + 1_000_000, 333, duration_s=2_000),
            ]
        said.append(devices[1].interval(4, FIRST + 7 * WINDOW_US, 0, import_wh=1_000))
        assert set((await meters.judged(said)).codes) == {ACCEPTED}
        await meters.pass_time(3_600)
        later = [devices[0].interval(4, FIRST + 2 * WINDOW_US, 40), devices[0].interval(5, FIRST, 130, corrects=1)]
        later.append(devices[1].interval(5, FIRST, 0, corrects=1))
        later.append(devices[0].interval(6, FIRST + 3 * WINDOW_US + 1_000_000, 300, duration_s=2_000, corrects=3))
        assert set((await meters.judged(later)).codes) == {ACCEPTED}
        await meters.pass_time(1)
        return [told(one) for one in said + later]


async def report(pool: "asyncpg.Pool[asyncpg.Record]", acknowledged: list[AcknowledgedReading]) -> Report:
    found = Report(violations=[])
    await audit_metering(PostgresMeteringAudit(pool), found, acknowledged)
    return found


async def test_sound_tables_have_no_violation(database: str, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    acknowledged = await measured(database, pool)

    found = await report(pool, acknowledged)

    assert found.violations == []
    assert (found.meters, found.readings, found.windows, found.acknowledged_readings) == (2, 8, 11, 11)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("DELETE FROM readings WHERE counter = 2", "acknowledged reading 2 is not there"),
        ("UPDATE readings SET corrects = NULL WHERE counter = 5", "acknowledged reading 5 is not there"),
        ("UPDATE readings SET export_wh = 101 WHERE counter = 3", "by its readings"),
        ("UPDATE readings SET end_us = end_us - 500000000 WHERE counter = 3", "by its readings"),
        ("UPDATE energy_windows SET import_wh = import_wh + 1 WHERE import_wh = 70", "by its readings"),
        ("UPDATE energy_windows SET export_wh = export_wh + 1 WHERE export_wh = 100", "credited"),
        ("DELETE FROM energy_windows WHERE export_wh = 0", "by its readings"),
        ("UPDATE energy_windows SET credited_wh = 99 WHERE credited_wh = 100", "in the ledger"),
        ("UPDATE energy_windows SET retired_wh = 0 WHERE retired_wh > 0", "in the ledger"),
        ("UPDATE energy_windows SET owner_id = owner_id + 7 WHERE credited_wh > 0", "in the ledger"),
        ("DELETE FROM energy_adjustments WHERE counter = 4 AND export_wh = 40", "in the ledger"),
        ("UPDATE energy_debts SET debt_wh = debt_wh + 1", "owes"),
        (
            "WITH told AS (DELETE FROM chain_submissions WHERE kind = 'energy_revoked') "
            "DELETE FROM outbox WHERE kind = 'energy_revoked'",
            "for the chain",
        ),
        ("UPDATE outbox SET payload = payload || '{\"amount_wh\": 1}' WHERE kind = 'energy_retired'", "for the chain"),
        (
            "INSERT INTO readings SELECT meter, device, counter, start_us + 7, end_us + 7, 0, 0, NULL, NULL, NULL, 0, 0"
            " FROM readings WHERE counter = 2",
            "is there 2 times",
        ),
    ],
)
async def test_each_damage_is_found(
    database: str, pool: "asyncpg.Pool[asyncpg.Record]", damage: str, says: str
) -> None:
    acknowledged = await measured(database, pool)
    assert (await pool.execute(damage)).split()[-1] != "0", "the damage must hit something"

    found = await report(pool, acknowledged)

    assert any(says in violation for violation in found.violations), found.violations


async def test_what_was_never_sent_is_missing(database: str, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    acknowledged = await measured(database, pool)
    ghost = AcknowledgedReading(bytes(16), 1, FIRST, FIRST + WINDOW_US, 0, 1)

    found = await report(pool, [*acknowledged, ghost])

    assert len(found.violations) == 1
    assert "0" * 32 in found.violations[0]
