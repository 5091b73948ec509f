"""Meters, their keys and who owns them since when. Each change writes its row of the audit log (audit_log.py).

Keys and assignments are only ever added: the newest key counts, and an assignment holds from its instant on.
"""
# ruff: noqa: S608 - the SQL is joined from constants of this file, values are parameters

from collections.abc import Collection
from typing import Final

import asyncpg

from engine.audit import SYSTEM, Origin
from engine.metering.records import (
    MeterChange,
    MeterRecord,
    MeterRetired,
    NewMeter,
    NotInForce,
    SerialTaken,
    UnknownOwner,
    UnknownZone,
)
from persistence.audit_log import append
from persistence.postgres import Pool, PooledConnection

METER: Final = """
    SELECT m.number, uuid_send(m.meter_id) AS meter_id, m.serial, m.kind, m.rated_power_w, m.register_wh_max,
        m.status, m.retires, m.device, a.owner_id, a.zone, k.public_key, e.public_key AS ecdsa_key, m.created_us,
        (
            SELECT min(valid_from_us)
            FROM meter_assignments
            WHERE meter = m.number
                AND valid_from_us > (extract(epoch FROM now()) * 1000000)::bigint
        ) AS valid_until_us,
        (
            SELECT min(valid_from_us)
            FROM meter_assignments
            WHERE meter = m.number
                AND owner_id = a.owner_id
                AND valid_from_us > a.others_us
        ) AS owned_from_us
    FROM meters m
    CROSS JOIN LATERAL (
        SELECT owner_id, zone,
            coalesce(
                (
                    SELECT max(valid_from_us)
                    FROM meter_assignments
                    WHERE meter = m.number AND owner_id <> s.owner_id AND valid_from_us <= s.valid_from_us
                ),
                -1
            ) AS others_us
        FROM meter_assignments s
        WHERE meter = m.number
            AND valid_from_us <= (extract(epoch FROM now()) * 1000000)::bigint
        ORDER BY valid_from_us DESC
        LIMIT 1
    ) a
    CROSS JOIN LATERAL (
        SELECT public_key
        FROM meter_keys
        WHERE meter = m.number AND algorithm = 'ed25519'
        ORDER BY version DESC
        LIMIT 1
    ) k
    LEFT JOIN LATERAL (
        SELECT public_key
        FROM meter_keys
        WHERE meter = m.number AND algorithm = 'ecdsa'
        ORDER BY version DESC
        LIMIT 1
    ) e ON true
"""
BY_ID = f"/* meters.by_id */ {METER} WHERE m.meter_id = $1"
BY_IDS = f"/* meters.by_ids */ {METER} WHERE m.meter_id = ANY($1::uuid[])"
BY_SERIALS = f"/* meters.by_serials */ {METER} WHERE m.serial = ANY($1::text[])"
# A meter that somebody owned once is in the index, too: the present owner is what the join has found.
OF_OWNER = f"""
    /* meters.of_owner */
    {METER}
    WHERE m.number IN (SELECT meter FROM meter_assignments WHERE owner_id = $1)
        AND a.owner_id = $1
        AND m.number > $2
    ORDER BY m.number
    LIMIT $3
"""
ALL = f"/* meters.all */ {METER} WHERE m.number > $1 ORDER BY m.number LIMIT $2"
ADD = """
    /* meters.add */
    INSERT INTO meters (meter_id, serial, kind, rated_power_w, register_wh_max, created_us)
    VALUES ($1, $2, $3, $4, $5, $6)
    RETURNING number
"""
ADD_KEY = """
    /* meters.add_key */
    INSERT INTO meter_keys (meter, algorithm, version, public_key, created_us)
    SELECT $1, $2, coalesce(max(version), 0) + 1, $3, $4
    FROM meter_keys
    WHERE meter = $1
        AND algorithm = $2
"""
ADD_ASSIGNMENT = """
    /* meters.add_assignment */
    INSERT INTO meter_assignments (meter, valid_from_us, owner_id, zone, created_us)
    VALUES ($1, $2, $3, $4, $5)
"""
LAST_ASSIGNMENT = "/* meters.last_assignment */ SELECT max(valid_from_us) FROM meter_assignments WHERE meter = $1"
LOCK = "/* meters.lock */ SELECT number FROM meters WHERE meter_id = $1 FOR UPDATE"
CHANGE = """
    /* meters.change */
    UPDATE meters
    SET device = device + $2::integer,
        retires = coalesce($3, retires),
        status = CASE WHEN $4 THEN 'retired' ELSE status END
    WHERE number = $1
"""


class PostgresMeters:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def register(self, meter: NewMeter, owner_id: int, now_us: int, origin: Origin = SYSTEM) -> MeterRecord:
        """A new meter of this owner, from the beginning of time on. Raises SerialTaken, UnknownZone."""
        try:
            async with self._pool.acquire() as connection, connection.transaction():
                number = await connection.fetchval(
                    ADD,
                    _uuid(meter.meter_id),
                    meter.serial,
                    meter.kind,
                    meter.rated_power_w,
                    meter.register_wh_max,
                    now_us,
                )
                await connection.execute(ADD_KEY, number, "ed25519", meter.public_key, now_us)
                if meter.ecdsa_key is not None:
                    await connection.execute(ADD_KEY, number, "ecdsa", meter.ecdsa_key, now_us)
                await connection.execute(ADD_ASSIGNMENT, number, 0, owner_id, meter.zone, now_us)
                made = await _by_id(connection, meter.meter_id)
                await append(connection, origin, "meter.registered", _subject(made), None, _shown(made))
        except asyncpg.UniqueViolationError as error:
            raise SerialTaken(meter.serial) from error
        except asyncpg.ForeignKeyViolationError as error:
            raise UnknownZone(meter.zone) from error
        return made

    async def by_id(self, meter_id: bytes) -> MeterRecord | None:
        row = await self._pool.fetchrow(BY_ID, _uuid(meter_id))
        return MeterRecord(**row) if row is not None else None

    async def by_ids(self, meter_ids: Collection[bytes]) -> list[MeterRecord]:
        return [MeterRecord(**row) for row in await self._pool.fetch(BY_IDS, [_uuid(one) for one in meter_ids])]

    async def by_serials(self, serials: Collection[str]) -> list[MeterRecord]:
        """By canonical serials."""
        return [MeterRecord(**row) for row in await self._pool.fetch(BY_SERIALS, list(serials))]

    async def of_owner(self, owner_id: int, after_number: int, limit: int) -> list[MeterRecord]:
        """In the order of their numbers."""
        return [MeterRecord(**row) for row in await self._pool.fetch(OF_OWNER, owner_id, after_number, limit)]

    async def all(self, after_number: int, limit: int) -> list[MeterRecord]:
        """Everybody's, in the order of their numbers."""
        return [MeterRecord(**row) for row in await self._pool.fetch(ALL, after_number, limit)]

    async def change(self, meter_id: bytes, change: MeterChange, now_us: int, origin: Origin = SYSTEM) -> MeterRecord:
        """Raises MeterRetired, KeyError."""
        async with self._pool.acquire() as connection, connection.transaction():
            if await connection.fetchval(LOCK, _uuid(meter_id)) is None:
                raise KeyError(meter_id)
            before = await _by_id(connection, meter_id)
            if before.status == "retired":
                raise MeterRetired(before.serial)
            for algorithm, key in (("ed25519", change.public_key), ("ecdsa", change.ecdsa_key)):
                if key is not None:
                    await connection.execute(ADD_KEY, before.number, algorithm, key, now_us)
            await connection.execute(CHANGE, before.number, int(change.exchange), change.retires, change.retired)
            after = await _by_id(connection, meter_id)
            if after != before:
                await append(connection, origin, "meter.changed", _subject(after), _shown(before), _shown(after))
        return after

    async def assign(
        self, meter_id: bytes, owner_id: int, zone: str, valid_from_us: int, now_us: int, origin: Origin = SYSTEM
    ) -> MeterRecord:
        """Another owner or zone from this instant on, which is not in the past: what was earned stays earned.

        Raises KeyError, NotInForce, UnknownOwner, UnknownZone.
        """
        try:
            async with self._pool.acquire() as connection, connection.transaction():
                number = await connection.fetchval(LOCK, _uuid(meter_id))
                if number is None:
                    raise KeyError(meter_id)
                before = await _by_id(connection, meter_id)
                if valid_from_us < now_us or valid_from_us <= await connection.fetchval(LAST_ASSIGNMENT, number):
                    raise NotInForce("must not be in the past, and after the assignment before it")
                await connection.execute(ADD_ASSIGNMENT, number, valid_from_us, owner_id, zone, now_us)
                shown = {"owner": str(owner_id), "zone": zone, "valid_from_us": valid_from_us}
                was = {"owner": str(before.owner_id), "zone": before.zone}
                await append(connection, origin, "meter.assigned", _subject(before), was, shown)
        except asyncpg.ForeignKeyViolationError as error:
            raise UnknownZone(zone) if "zone" in (error.constraint_name or "") else UnknownOwner(owner_id) from error
        found = await self.by_id(meter_id)
        assert found is not None, "meters are never removed"
        return found


async def _by_id(connection: PooledConnection, meter_id: bytes) -> MeterRecord:
    row = await connection.fetchrow(BY_ID, _uuid(meter_id))
    assert row is not None, "a meter has a key and an owner"
    return MeterRecord(**row)


def _uuid(meter_id: bytes) -> str:
    return meter_id.hex()


def _subject(meter: MeterRecord) -> str:
    return f"meter:{meter.serial}"


def _shown(meter: MeterRecord) -> dict[str, object]:
    return {
        "owner": str(meter.owner_id),
        "zone": meter.zone,
        "status": meter.status,
        "retires": meter.retires,
        "device": meter.device,
        "rated_power_w": meter.rated_power_w,
        "public_key": meter.public_key.hex(),
        "ecdsa_key": meter.ecdsa_key.hex() if meter.ecdsa_key else None,
    }
