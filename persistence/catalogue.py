"""Which markets and zones there are, and what a path through the grid costs and carries.

A market's stored spec is the one it was last given, with its paths; `paths` says what they would be made of now.
Each change writes its row of the audit log (audit_log.py).
"""
# ruff: noqa: S608 - the SQL is joined from constants of this file, values are parameters

from typing import Final

import asyncpg
import msgspec

from engine.audit import SYSTEM, Origin
from engine.market import MarketSpec, Mechanism, Path, Phase, RiskLimits
from engine.records import CapacityRecord, CostRecord, SymbolTaken, ZoneRecord
from persistence.audit_log import append
from persistence.journal import ensure_partitions
from persistence.postgres import Pool, PooledConnection

COLUMNS: Final = (
    "symbol",
    "zones",
    "mechanism",
    "tick_micro",
    "lot_wh",
    "quantity_wh_min",
    "price_micro_min",
    "price_micro_max",
    "band_bps",
    "reference_price_micro",
    "maker_fee_bps",
    "taker_fee_bps",
    "auction_fee_bps",
    "epoch_seconds",
    "order_life_seconds_max",
    "closed_orders_kept",
    *RiskLimits.__struct_fields__,
    "messages_per_second",
    "halt_seconds",
    "call_seconds",
)
_PLAIN: Final = frozenset(MarketSpec.__struct_fields__) - {"zones", "mechanism"}
_LIST: Final = ", ".join(COLUMNS)
_VALUES: Final = ", ".join(f"${number}" for number in range(2, len(COLUMNS) + 2))

MARKETS = f"""
    /* catalogue.markets */
    SELECT market_id, {_LIST}
    FROM markets
    WHERE $1::text IS NULL
        OR symbol = $1
    ORDER BY market_id
"""
MARKET_PATHS = """
    /* catalogue.market_paths */
    SELECT market_id, zone_from, zone_to, wheeling_micro, loss_bps, capacity_wh
    FROM market_paths
    WHERE market_id = ANY($1::integer[])
    ORDER BY market_id, place
"""
LOCK_MARKET = f"/* catalogue.lock_market */ SELECT {_LIST} FROM markets WHERE market_id = $1 FOR NO KEY UPDATE"
NEXT_MARKET_ID = "/* catalogue.next_market_id */ SELECT coalesce(max(market_id), 0) + 1 FROM markets"
ADD_MARKET = f"""
    /* catalogue.add_market */
    INSERT INTO markets (market_id, {_LIST}, phase_first, created_us, host)
    VALUES ($1, {_VALUES}, ${len(COLUMNS) + 2}, ${len(COLUMNS) + 3}, ${len(COLUMNS) + 4})
"""
SET_MARKET = f"""
    /* catalogue.set_market */
    UPDATE markets
    SET ({_LIST}) = ROW({_VALUES})
    WHERE market_id = $1
    RETURNING market_id
"""
DROP_PATHS = "/* catalogue.drop_paths */ DELETE FROM market_paths WHERE market_id = $1"
ADD_PATHS = """
    /* catalogue.add_paths */
    INSERT INTO market_paths (market_id, place, zone_from, zone_to, wheeling_micro, loss_bps, capacity_wh)
    SELECT $1, p.place, p.zone_from, p.zone_to, p.wheeling_micro, p.loss_bps, p.capacity_wh
    FROM unnest($2::text[], $3::text[], $4::bigint[], $5::integer[], $6::bigint[])
        WITH ORDINALITY AS p (zone_from, zone_to, wheeling_micro, loss_bps, capacity_wh, place)
"""
HOSTS = "/* catalogue.hosts */ SELECT market_id, host FROM markets WHERE host IS NOT NULL ORDER BY market_id"
HOST = "/* catalogue.host */ SELECT symbol, host FROM markets WHERE market_id = $1 FOR NO KEY UPDATE"
SET_HOST = "/* catalogue.set_host */ UPDATE markets SET host = $2 WHERE market_id = $1"
FIRST_PHASE = "/* catalogue.first_phase */ SELECT phase_first FROM markets WHERE market_id = $1"
ZONES = "/* catalogue.zones */ SELECT zone_id, name FROM zones ORDER BY zone_id"
ZONES_NOW = "/* catalogue.zones_now */ SELECT zone_id, name FROM zones WHERE zone_id = ANY($1::text[])"
PUT_ZONES = """
    /* catalogue.put_zones */
    INSERT INTO zones (zone_id, name)
    SELECT *
    FROM unnest($1::text[], $2::text[])
    ON CONFLICT (zone_id) DO UPDATE
        SET name = EXCLUDED.name
"""
COSTS = """
    /* catalogue.costs */
    SELECT DISTINCT ON (zone_from, zone_to) zone_from, zone_to, wheeling_micro, loss_bps, valid_from_us
    FROM costs
    WHERE valid_from_us <= coalesce($1::bigint, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
    ORDER BY zone_from, zone_to, valid_from_us DESC
"""
COSTS_NOW = """
    /* catalogue.costs_now */
    SELECT c.zone_from, c.zone_to, c.wheeling_micro, c.loss_bps, c.valid_from_us
    FROM unnest($1::text[], $2::text[]) AS k (zone_from, zone_to)
    CROSS JOIN LATERAL (
        SELECT *
        FROM costs
        WHERE zone_from = k.zone_from
            AND zone_to = k.zone_to
            AND valid_from_us <= $3
        ORDER BY valid_from_us DESC
        LIMIT 1
    ) c
"""
PUT_COSTS = """
    /* catalogue.put_costs */
    INSERT INTO costs (zone_from, zone_to, wheeling_micro, loss_bps, valid_from_us)
    SELECT *
    FROM unnest($1::text[], $2::text[], $3::bigint[], $4::integer[], $5::bigint[])
    ON CONFLICT (zone_from, zone_to, valid_from_us) DO UPDATE
        SET wheeling_micro = EXCLUDED.wheeling_micro,
            loss_bps = EXCLUDED.loss_bps
"""
CAPACITIES = """
    /* catalogue.capacities */
    SELECT zone_from, zone_to, capacity_wh
    FROM capacities
    ORDER BY zone_from, zone_to
"""
CAPACITIES_NOW = """
    /* catalogue.capacities_now */
    SELECT c.zone_from, c.zone_to, c.capacity_wh
    FROM unnest($1::text[], $2::text[]) AS k (zone_from, zone_to)
    JOIN capacities c USING (zone_from, zone_to)
"""
PUT_CAPACITIES = """
    /* catalogue.put_capacities */
    INSERT INTO capacities (zone_from, zone_to, capacity_wh)
    SELECT *
    FROM unnest($1::text[], $2::text[], $3::bigint[])
    ON CONFLICT (zone_from, zone_to) DO UPDATE
        SET capacity_wh = EXCLUDED.capacity_wh
"""
PATHS = """
    /* catalogue.paths */
    SELECT DISTINCT ON (c.zone_from, c.zone_to)
        c.zone_from, c.zone_to, c.wheeling_micro, c.loss_bps, coalesce(k.capacity_wh, -1)
    FROM costs c
    LEFT JOIN capacities k USING (zone_from, zone_to)
    WHERE c.zone_from = ANY($1::text[])
        AND c.zone_to = ANY($1::text[])
        AND c.valid_from_us <= $2
    ORDER BY c.zone_from, c.zone_to, c.valid_from_us DESC
"""


class UnknownZone(Exception):
    """A cost, capacity or market names a zone that is not there."""


class UnknownMarket(Exception):
    """There is no market with this number."""


class PostgresCatalogue:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def markets(self) -> list[MarketSpec]:
        """All markets by number, as they were last given."""
        return await self._specs(None)

    async def market(self, symbol: str) -> MarketSpec | None:
        found = await self._specs(symbol)
        return found[0] if found else None

    async def first_phase(self, market_id: int) -> Phase:
        """What the market is put into when its journal is empty."""
        phase = await self._pool.fetchval(FIRST_PHASE, market_id)
        if phase is None:
            raise UnknownMarket(f"market {market_id}")
        return Phase(phase)

    async def hosts(self) -> dict[int, int]:
        """Markets that share a process, and the number of that; 0: none has been chosen yet."""
        return {row["market_id"]: row["host"] for row in await self._pool.fetch(HOSTS)}

    async def set_host(self, market_id: int, host: int | None, origin: Origin = SYSTEM) -> None:
        """Store which process the market shares from now on; None: it has one of its own. Raises UnknownMarket."""
        async with self._pool.acquire() as connection, connection.transaction():
            row = await connection.fetchrow(HOST, market_id)
            if row is None:
                raise UnknownMarket(f"market {market_id}")
            if row["host"] == host:
                return
            await connection.execute(SET_HOST, market_id, host)
            before, after = {"host": row["host"]}, {"host": host}
            await append(connection, origin, "market.hosted", f"market:{row['symbol']}", before, after)

    async def create_market(
        self, spec: MarketSpec, phase: Phase, now_us: int, origin: Origin = SYSTEM, *, shared: bool = False
    ) -> MarketSpec:
        """Store a new market with room in the journal; the spec with its number. Raises SymbolTaken, UnknownZone.

        `shared`: it shares a process with others.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            # Numbers without gaps, and one new market at a time; readers go on.
            await connection.execute("LOCK TABLE markets IN SHARE ROW EXCLUSIVE MODE")
            market_id = await connection.fetchval(NEXT_MARKET_ID)
            try:
                host = 0 if shared else None
                await connection.execute(ADD_MARKET, market_id, *_values(spec), phase, now_us, host)
            except asyncpg.UniqueViolationError as error:
                raise SymbolTaken(spec.symbol) from error
            await _add_paths(connection, market_id, spec.paths)
            await ensure_partitions(connection, market_id, up_to_sequence=1)
            after = {**_shown(spec), "market_id": market_id, "phase": phase.name.lower(), "shared": shared}
            await append(connection, origin, "market.made", f"market:{spec.symbol}", None, after)
        return msgspec.structs.replace(spec, market_id=market_id)

    async def update_market(self, spec: MarketSpec, origin: Origin = SYSTEM) -> None:
        """Store the spec that the market has been given. Raises UnknownMarket, SymbolTaken, UnknownZone."""
        async with self._pool.acquire() as connection, connection.transaction():
            row = await connection.fetchrow(LOCK_MARKET, spec.market_id)
            if row is None:
                raise UnknownMarket(f"market {spec.market_id}")
            paths = [list(path[1:]) for path in await connection.fetch(MARKET_PATHS, [spec.market_id])]
            try:
                await connection.execute(SET_MARKET, spec.market_id, *_values(spec))
            except asyncpg.UniqueViolationError as error:
                raise SymbolTaken(spec.symbol) from error
            await connection.execute(DROP_PATHS, spec.market_id)
            await _add_paths(connection, spec.market_id, spec.paths)
            before, after = {**row, "paths": paths}, _shown(spec)
            changed = [name for name in after if after[name] != before[name]]
            if changed:
                await append(
                    connection,
                    origin,
                    "market.changed",
                    f"market:{row['symbol']}",
                    {name: before[name] for name in changed},
                    {name: after[name] for name in changed},
                )

    async def zones(self) -> list[ZoneRecord]:
        return [ZoneRecord(*row) for row in await self._pool.fetch(ZONES)]

    async def put_zones(self, zones: list[ZoneRecord], origin: Origin = SYSTEM) -> None:
        """Add the zones, or give those that are there their new names."""
        if not zones:
            return
        ids = [zone.zone_id for zone in zones]
        async with self._pool.acquire() as connection, connection.transaction():
            before = {row["zone_id"]: row["name"] for row in await connection.fetch(ZONES_NOW, ids)}
            await connection.execute(PUT_ZONES, ids, [zone.name for zone in zones])
            after = {zone.zone_id: zone.name for zone in zones}
            await append(connection, origin, "zones.put", "zones", before, after)

    async def costs(self, now_us: int | None = None) -> list[CostRecord]:
        """The cost of each pair that holds now."""
        return [CostRecord(*row) for row in await self._pool.fetch(COSTS, now_us)]

    async def put_costs(self, costs: list[CostRecord], now_us: int, origin: Origin = SYSTEM) -> None:
        """Add the costs, each from its own instant on, or from now on when it has none. Raises UnknownZone."""
        if not costs:
            return
        rows = [(c.zone_from, c.zone_to, c.wheeling_micro, c.loss_bps, c.valid_from_us or now_us) for c in costs]
        columns = list(zip(*rows, strict=True))
        async with self._pool.acquire() as connection, connection.transaction():
            before = await connection.fetch(COSTS_NOW, columns[0], columns[1], now_us)
            try:
                await connection.execute(PUT_COSTS, *columns)
            except asyncpg.ForeignKeyViolationError as error:
                raise UnknownZone(error.detail or "") from error
            await append(connection, origin, "costs.put", "zones", {"costs": _lists(before)}, {"costs": rows})

    async def capacities(self) -> list[CapacityRecord]:
        return [CapacityRecord(*row) for row in await self._pool.fetch(CAPACITIES)]

    async def put_capacities(self, capacities: list[CapacityRecord], origin: Origin = SYSTEM) -> None:
        """Set the capacity of each pair. Raises UnknownZone."""
        if not capacities:
            return
        rows = [(c.zone_from, c.zone_to, c.capacity_wh) for c in capacities]
        columns = list(zip(*rows, strict=True))
        async with self._pool.acquire() as connection, connection.transaction():
            before = await connection.fetch(CAPACITIES_NOW, columns[0], columns[1])
            try:
                await connection.execute(PUT_CAPACITIES, *columns)
            except asyncpg.ForeignKeyViolationError as error:
                raise UnknownZone(error.detail or "") from error
            after = {"capacities": rows}
            await append(connection, origin, "capacities.put", "zones", {"capacities": _lists(before)}, after)

    async def paths(self, zones: tuple[str, ...], now_us: int) -> tuple[Path, ...]:
        """The paths between these zones as of this instant; a pair without a cost is absent, never guessed."""
        return tuple(Path(*row) for row in await self._pool.fetch(PATHS, list(zones), now_us))

    async def _specs(self, symbol: str | None) -> list[MarketSpec]:
        """One snapshot for both tables: an update between the two reads would give a spec that never was."""
        async with self._pool.acquire() as connection, connection.transaction(isolation="repeatable_read"):
            rows = await connection.fetch(MARKETS, symbol)
            paths: dict[int, list[Path]] = {row["market_id"]: [] for row in rows}
            for market_id, *path in await connection.fetch(MARKET_PATHS, list(paths)):
                paths[market_id].append(Path(*path))
        return [
            MarketSpec(
                market_id=row["market_id"],
                paths=tuple(paths[row["market_id"]]),
                zones=tuple(row["zones"]),
                mechanism=Mechanism(row["mechanism"]),
                limits=RiskLimits(*(row[name] for name in RiskLimits.__struct_fields__)),
                **{name: row[name] for name in COLUMNS if name in _PLAIN},
            )
            for row in rows
        ]


def _values(spec: MarketSpec) -> list[object]:
    values = msgspec.structs.asdict(spec) | msgspec.structs.asdict(spec.limits) | {"zones": list(spec.zones)}
    return [values[name] for name in COLUMNS]


def _shown(spec: MarketSpec) -> dict[str, object]:
    """The spec in the audit log: columns, and paths as lists of what MARKET_PATHS reads."""
    shown: dict[str, object] = dict(zip(COLUMNS, _values(spec), strict=True))
    shown["paths"] = [[p.zone_from, p.zone_to, p.wheeling_micro, p.loss_bps, p.capacity_wh] for p in spec.paths]
    return shown


def _lists(rows: list[asyncpg.Record]) -> list[list[object]]:
    return [list(row) for row in rows]


async def _add_paths(connection: PooledConnection, market_id: int, paths: tuple[Path, ...]) -> None:
    if not paths:
        return
    rows = [(p.zone_from, p.zone_to, p.wheeling_micro, p.loss_bps, p.capacity_wh) for p in paths]
    try:
        await connection.execute(ADD_PATHS, market_id, *zip(*rows, strict=True))
    except asyncpg.ForeignKeyViolationError as error:
        raise UnknownZone(error.detail or "") from error
