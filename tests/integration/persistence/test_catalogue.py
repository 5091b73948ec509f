"""Markets, zones, costs and capacities come back as they were put; costs by their validity."""

import asyncio

import asyncpg
import pytest
import pytest_asyncio

from engine.market import MarketSpec, Mechanism, Path, Phase
from engine.records import CapacityRecord, CostRecord, SymbolTaken, ZoneRecord
from persistence.catalogue import PostgresCatalogue, UnknownMarket, UnknownZone
from persistence.journal import PostgresJournal
from tests.support.rows import journal_row

SPEC = MarketSpec(
    market_id=0,
    symbol="CAMPUS",
    zones=("Z2", "Z1"),
    paths=(Path("Z1", "Z1", 500_000, 100), Path("Z2", "Z2", 500_000, 100), Path("Z1", "Z2", 1_000_000, 300, 9_000)),
    mechanism=Mechanism.CALL_AUCTION,
    band_bps=0,
    taker_fee_bps=10,
    maker_fee_bps=-5,
)


@pytest_asyncio.fixture
async def catalogue(pool: asyncpg.Pool) -> PostgresCatalogue:
    made = PostgresCatalogue(pool)
    await made.put_zones([ZoneRecord("Z1", "One"), ZoneRecord("Z2", "Two"), ZoneRecord("Z3", "Three")])
    return made


def renamed(symbol: str, market_id: int = 0) -> MarketSpec:
    values = {name: getattr(SPEC, name) for name in SPEC.__struct_fields__}
    return MarketSpec(**{**values, "symbol": symbol, "market_id": market_id})


async def test_market_comes_back_as_it_was_and_can_be_written_to(catalogue: PostgresCatalogue, database: str) -> None:
    made = await catalogue.create_market(SPEC, Phase.SCHEDULED, 5)

    assert made.market_id == 1
    assert await catalogue.markets() == [made]
    assert await catalogue.market("CAMPUS") == made
    assert await catalogue.market("OTHER") is None
    assert await catalogue.first_phase(1) is Phase.SCHEDULED
    journal = PostgresJournal(database)
    await journal.open(1)
    await journal.append(journal_row(1))
    await journal.close()


async def test_where_a_market_lives_is_stored_and_audited(catalogue: PostgresCatalogue, pool: asyncpg.Pool) -> None:
    await catalogue.create_market(renamed("ALONE"), Phase.OPEN, 5)
    await catalogue.create_market(renamed("SHARED"), Phase.OPEN, 5, shared=True)
    assert await catalogue.hosts() == {2: 0}, "no process has been chosen yet"

    for host in (3, 3, None, 4):
        await catalogue.set_host(2, host)

    assert await catalogue.hosts() == {2: 4}
    rows = await pool.fetch("SELECT subject, after::text FROM audit_log WHERE action = 'market.hosted' ORDER BY number")
    assert [row["subject"] for row in rows] == ["market:SHARED"] * 3, "what changed nothing is not there"
    with pytest.raises(UnknownMarket):
        await catalogue.set_host(9, None)


async def test_markets_made_at_the_same_time_are_numbered_without_gaps(catalogue: PostgresCatalogue) -> None:
    symbols = ["A", "B", "A", "C"]

    made = await asyncio.gather(
        *(catalogue.create_market(renamed(symbol), Phase.OPEN, 5) for symbol in symbols), return_exceptions=True
    )

    assert sum(isinstance(each, SymbolTaken) for each in made) == 1
    assert [market.market_id for market in await catalogue.markets()] == [1, 2, 3]


async def test_update_replaces_the_spec_with_its_paths(catalogue: PostgresCatalogue) -> None:
    await catalogue.create_market(SPEC, Phase.OPEN, 5)
    other = renamed("RIVER", 1)

    await catalogue.update_market(other)

    assert await catalogue.markets() == [other]
    with pytest.raises(UnknownMarket):
        await catalogue.update_market(renamed("X", 7))


async def test_market_of_an_unknown_zone_is_refused_whole(catalogue: PostgresCatalogue) -> None:
    values = {name: getattr(SPEC, name) for name in SPEC.__struct_fields__}
    odd = MarketSpec(**{**values, "paths": (Path("Z1", "Z9", 1_000, 1),)})

    with pytest.raises(UnknownZone):
        await catalogue.create_market(odd, Phase.OPEN, 5)

    assert await catalogue.markets() == []


async def test_cost_holds_until_the_next_one_begins(catalogue: PostgresCatalogue) -> None:
    await catalogue.put_costs([CostRecord("Z1", "Z2", 1_000_000, 300, 0)], now_us=10)
    await catalogue.put_costs([CostRecord("Z1", "Z2", 2_000_000, 400, 50)], now_us=20)

    assert await catalogue.costs(9) == []
    assert await catalogue.costs(49) == [CostRecord("Z1", "Z2", 1_000_000, 300, 10)]
    assert await catalogue.costs(50) == [CostRecord("Z1", "Z2", 2_000_000, 400, 50)]
    assert await catalogue.costs() == [CostRecord("Z1", "Z2", 2_000_000, 400, 50)]
    with pytest.raises(UnknownZone):
        await catalogue.put_costs([CostRecord("Z1", "Z9", 0, 0, 0)], now_us=1)


async def test_paths_join_costs_and_capacities_and_leave_unknown_pairs_out(catalogue: PostgresCatalogue) -> None:
    await catalogue.put_costs(
        [CostRecord("Z1", "Z1", 500_000, 100, 0), CostRecord("Z1", "Z2", 1_000_000, 300, 0)], now_us=10
    )
    await catalogue.put_costs([CostRecord("Z1", "Z3", 1_000_000, 300, 0)], now_us=10)
    await catalogue.put_capacities([CapacityRecord("Z1", "Z2", 1), CapacityRecord("Z2", "Z1", 2)])
    await catalogue.put_capacities([CapacityRecord("Z1", "Z2", 9_000)])

    assert await catalogue.paths(("Z1", "Z2"), 10) == (
        Path("Z1", "Z1", 500_000, 100),
        Path("Z1", "Z2", 1_000_000, 300, 9_000),
    )
    assert await catalogue.capacities() == [CapacityRecord("Z1", "Z2", 9_000), CapacityRecord("Z2", "Z1", 2)]
    with pytest.raises(UnknownZone):
        await catalogue.put_capacities([CapacityRecord("Z1", "Z9", 1)])


async def test_zone_gets_its_new_name_and_none_goes(catalogue: PostgresCatalogue) -> None:
    await catalogue.put_zones([ZoneRecord("Z2", "River")])

    assert [(zone.zone_id, zone.name) for zone in await catalogue.zones()] == [
        ("Z1", "One"),
        ("Z2", "River"),
        ("Z3", "Three"),
    ]
