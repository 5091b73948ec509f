"""Questions about energy use their indexes on filled tables, and no question reads a whole table.

The plan's shape, not its time: with the plan for any values, which a prepared statement may settle on.
Seen to fail for: rollups, and adjustments, of a zone without their index.
"""

from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from persistence import analytics as analytics_sql
from persistence import energy as energy_sql
from persistence import rates as rates_sql
from persistence import readings as readings_sql
from tests.support.patience import HUNG_SECONDS

DAY_US = 86_400_000_000
FAR = 9 * 10**15
METERS, DAYS = 100, 20
SMALL = ("meters", "readings_other")  # a hundred rows, and none

FILL = f"""
    SELECT metering_make_partitions(0, {DAYS * DAY_US});
    INSERT INTO zones SELECT 'Z' || n, 'n' FROM generate_series(0, 9) n;
    INSERT INTO users (email, name, role, zone, password_hash, created_us)
        SELECT 'u' || n || '@example.org', 'n', 'student', 'Z1', '', 0 FROM generate_series(1, {METERS}) n;
    INSERT INTO meters (meter_id, serial, kind, rated_power_w, register_wh_max, created_us)
        SELECT lpad(to_hex(n), 32, '0')::uuid, 'M' || n, 'prosumer', 1, 1, 0 FROM generate_series(1, {METERS}) n;
    INSERT INTO readings (meter, device, counter, start_us, end_us, import_wh, export_wh, flags, received_us)
        SELECT m, 1, w, w * 900000000::bigint, (w + 1) * 900000000::bigint, 1, 1, 0, w * 900000000::bigint
        FROM generate_series(1, {METERS}) m, generate_series(0, {DAYS} * 96 - 1) w;
    INSERT INTO energy_windows
        SELECT m, w * 900000000::bigint, 1000 + m, 'Z' || m % 10, 1, 1, 900000000, 0, 0, 1, 1, w * 900000000::bigint
        FROM generate_series(1, {METERS}) m, generate_series(0, {DAYS} * 96 - 1) w;
    INSERT INTO energy_adjustments
        SELECT m, w * 900000000::bigint, 1, w, 1, 1, 0, 1000 + m, 'Z' || m % 10, 1, 1, 0
        FROM generate_series(1, {METERS}) m, generate_series(0, {DAYS} * 96 - 1, 10) w;
    INSERT INTO energy_rollups
        SELECT m, 3600, h * 3600000000::bigint, 1000 + m, 'Z' || m % 10, 1, 1, 0, 0, 1, 1, 4
        FROM generate_series(1, {METERS}) m, generate_series(0, {DAYS} * 24 - 1) h;
    INSERT INTO energy_rollups
        SELECT m, 86400, d * {DAY_US}, 1000 + m, 'Z' || m % 10, 1, 1, 0, 0, 1, 1, 4
        FROM generate_series(1, {METERS}) m, generate_series(0, {DAYS} - 1) d;
    INSERT INTO rates SELECT 'retail_price', n, n FROM generate_series(0, 20000) n;
    INSERT INTO positions SELECT 1000 + n % 500, n, 1, 0, 0, 0, 0, 0, 0 FROM generate_series(1, 50000) n;
    INSERT INTO epochs SELECT 1, n, 1, 1, 1 FROM generate_series(1, 50000) n;
    INSERT INTO orders SELECT 1, n, 1001 + n % 500, '', n % 2, 1, 1000, 10, 0, 10, 0, 3, 0, 1, 0, false, 'Z1', n, n, n
        FROM generate_series(1, 50000) n;
    INSERT INTO trades SELECT 1, n, n, n, 0, 2 * n, 2 * n + 1, 1001 + n % 500, 1001 + (n + 7) % 500, n % 2, 1, 1000,
        1000, 1000, 1, 1, 0, 0, 'Z1', 'Z1' FROM generate_series(1, 50000) n;
    ANALYZE;
"""

# (query, values, index that it must use)
HOT = [
    (energy_sql.READINGS, (7, 0, DAY_US, FAR, -1, 0, 0, 100), "_pkey"),  # of a month's partition
    (energy_sql.SERIES, (7, 0, DAY_US, FAR, 3_600, 100), "energy_windows_pkey"),
    (energy_sql.SERIES, (7, 0, DAY_US, FAR, 3_600, 100), "energy_adjustments_pkey"),
    (energy_sql.ROLLED_SERIES, (7, 0, DAY_US, 3_600, 100), "energy_rollups_pkey"),
    (energy_sql.WINDOWS, (1_007, 0, DAY_US, FAR, 0, 100, FAR), "energy_windows_owner"),
    (energy_sql.SUMS, (1_007, 0, DAY_US, FAR), "energy_windows_owner"),
    (energy_sql.SUMS, (1_007, 0, DAY_US, FAR), "energy_adjustments_owner"),
    (analytics_sql.ENERGY_PARTS, (1_007, [0, DAY_US], 0, DAY_US), "energy_rollups_owner"),
    (analytics_sql.BY_HOUR, (1_007, 0, DAY_US), "energy_rollups_owner"),
    (analytics_sql.OWN_WINDOWS, (1_007, 0, DAY_US), "energy_windows_owner"),
    (analytics_sql.ZONE_NOW, ("Z7", (DAYS - 1) * DAY_US), "energy_windows_zone"),
    (analytics_sql.ZONE_WINDOWS, ("Z7", 0, DAY_US), "energy_windows_zone"),
    (analytics_sql.ZONE_WINDOWS, ("Z7", 0, DAY_US), "energy_adjustments_zone"),
    (analytics_sql.ZONE_STEPS, ("Z7", 0, DAY_US, 3_600), "energy_rollups_zone"),
    (analytics_sql.ZONE_OWNERS, ("Z7", 0, DAY_US), "energy_rollups_zone"),
    (analytics_sql.TRADE_PARTS, (1_007, [0, 100], 0, 100), "positions_pkey"),
    (analytics_sql.POSITIONS, (1_007, 0, 100), "positions_pkey"),
    (analytics_sql.POSITIONS, (1_007, 0, 100), "epochs_pkey"),
    (analytics_sql.PLACED, (1_007, 0, 100), "orders_participant"),
    (analytics_sql.SALES, (1_007, 0, 100), "trades_seller"),
    (analytics_sql.ASKS, ([1], 0, 100), "orders_pkey"),
    (rates_sql.RATES, (100, 200), "rates_pkey"),
    (readings_sql.STATES, ([7], 0), "energy_rollups_pkey"),
]


@pytest.fixture
async def filled(pool: "asyncpg.Pool[asyncpg.Record]") -> "asyncpg.Pool[asyncpg.Record]":
    await pool.execute(FILL, timeout=HUNG_SECONDS)
    return pool


async def test_hot_queries_use_their_indexes(filled: "asyncpg.Pool[asyncpg.Record]") -> None:
    wrong = []
    async with filled.acquire() as connection:
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        for query, values, index in HOT:
            statement = await connection.prepare(query)
            nodes = sorted(_scans((await statement.explain(*values))[0]["Plan"]))
            read_whole = [node for node in nodes if node.startswith("Seq Scan") and node.split()[2] not in SMALL]
            if not any(index in node for node in nodes) or read_whole:
                wrong.append((query.split("*/")[0], index, nodes))

    assert not wrong, "\n".join(map(str, wrong))


def _scans(plan: dict[str, Any]) -> Iterator[str]:
    """Kind, table and index of each node that reads a table."""
    if "Scan" in plan["Node Type"]:
        yield f"{plan['Node Type']} {plan.get('Relation Name', '')} {plan.get('Index Name', '')}"
    for part in plan.get("Plans", ()):
        yield from _scans(part)


@pytest.mark.parametrize("query", {one[0] for one in HOT})
def test_queries_carry_their_names_for_the_slow_query_log(query: str) -> None:
    assert query.lstrip().startswith("/* ")
