"""What a meter has measured and what became of it: readings, series, closed windows, the balance of a participant."""

import uuid
from typing import Annotated, Final, Literal

from litestar import Controller, get
from litestar.params import FromPath, FromQuery, QueryParameter
from msgspec import Struct

from engine.metering.readings import Flag
from engine.metering.records import EnergyStep, ShownReading, StoredWindow
from engine.units import FOREVER_US, SECOND_US, ceil_div
from gateway.decimals import format_energy
from gateway.errors import invalid
from gateway.instants import INSTANT_US_MAX, format_instant, parse_instant
from gateway.meters import own_meter
from gateway.permissions import ADMIN, AMI
from gateway.requests import LIMIT_DEFAULT, Cursor, GatewayRequest, Limit, Page, cursor_of, parse_cursor
from gateway.wire import Energy, Instant, show_change

From = Annotated[str | None, QueryParameter(name="from", description="RFC 3339; counts")]
To = Annotated[str | None, QueryParameter(name="to", description="RFC 3339; does not count")]
KnownAt = Annotated[str | None, QueryParameter(description="RFC 3339: as it was known then; now, when left out")]
Resolution = Literal["raw", "15m", "1h", "1d"]
_SECONDS: Final = {"15m": 900, "1h": 3_600, "1d": 86_400}
_SERIES_US_MAX: Final = 400 * 86_400 * SECOND_US


class ReadingView(Struct, frozen=True):
    """`corrected_by`: the counter of the reading in force instead, as far as was known."""

    device: int
    counter: int
    start: Instant
    end: Instant
    import_wh: int
    export_wh: int
    import_register_wh: int | None
    export_register_wh: int | None
    corrects: int | None
    corrected_by: int | None
    flags: list[str]
    received_at: Instant


class StepView(Struct, frozen=True):
    """Measured and estimated energy are apart: estimates are never credited."""

    start: Instant
    import_wh: int
    export_wh: int
    estimated_import_wh: int
    estimated_export_wh: int


class WindowView(Struct, frozen=True):
    """A closed window with its adjustments. `credited` is what became sellable, `retired` what was used up."""

    meter_id: str
    start: Instant
    zone: str
    imported: Energy
    exported: Energy
    estimated_import: Energy
    estimated_export: Energy
    credited: str
    retired: Energy
    covered_seconds: int
    adjusted: bool


class Balance(Struct, frozen=True):
    """kWh. `available` is now, everything else of the period; `imported_from_grid` is consumed and not retired."""

    generated: Energy
    consumed: Energy
    estimated_import: Energy
    estimated_export: Energy
    credited: str
    sold: Energy
    bought: Energy
    retired: Energy
    imported_from_grid: Energy
    available: dict[str, Energy]


class MeterReadingController(Controller):
    path = "/meters/{meter_id:str}/readings"
    tags = ["meters"]  # noqa: RUF012 - Litestar reads it so

    @get()
    async def readings(
        self,
        request: GatewayRequest,
        meter_id: FromPath[str],
        from_: From = None,
        to: To = None,
        known_at: KnownAt = None,
        resolution: FromQuery[Resolution] = "raw",
        limit: Limit = LIMIT_DEFAULT,
        cursor: Cursor = None,
    ) -> Page[ReadingView] | Page[StepView]:
        """Readings as they came, or closed windows by quarter, hour or day, oldest first; as known at any instant."""
        meter = await own_meter(request, meter_id)
        from_us, to_us = _span(from_, to)
        if request.caller.role not in (ADMIN, AMI):
            from_us = max(from_us, meter.owned_from_us)  # what was before is somebody else's life
        known_us = _known_us(known_at)
        energy = request.gateway.metering.energy
        if resolution == "raw":
            key = parse_cursor(cursor, 3)
            after = (key[0], key[1], key[2]) if key is not None else (-1, 0, 0)
            rows = await energy.readings(meter.number, from_us, to_us, known_us, after, limit + 1)
            last = rows[limit - 1] if len(rows) > limit else None
            following = cursor_of(last.start_us, last.device, last.counter) if last is not None else None
            return Page([_show_reading(row) for row in rows[:limit]], following)
        from_us = max(from_us, (parse_cursor(cursor, 1) or (0,))[0])
        seconds = _SECONDS[resolution]
        if from_us == 0 or to_us - from_us > _SERIES_US_MAX:
            to_us = min(to_us, ceil_to_step(request.gateway.clock(), seconds))
            from_us = max(from_us, to_us - _SERIES_US_MAX)
        steps = await energy.series(meter.number, from_us, to_us, known_us, seconds, limit + 1)
        following = cursor_of(steps[limit].start_us) if len(steps) > limit else None
        return Page([_show_step(step) for step in steps[:limit]], following)


class EnergyController(Controller):
    path = "/energy"
    tags = ["meters"]  # noqa: RUF012 - Litestar reads it so

    @get("/windows")
    async def windows(
        self,
        request: GatewayRequest,
        from_: From = None,
        to: To = None,
        known_at: KnownAt = None,
        limit: Limit = LIMIT_DEFAULT,
        cursor: Cursor = None,
    ) -> Page[WindowView]:
        """Closed windows of meters that were one's own at the time, newest first; as known at any instant."""
        from_us, to_us = _span(from_, to)
        key = parse_cursor(cursor, 2)
        before = (key[0], key[1]) if key is not None else (INSTANT_US_MAX, 0)
        energy, user_id = request.gateway.metering.energy, request.caller.user_id
        rows = await energy.windows(user_id, from_us, to_us, before, limit + 1, _known_us(known_at))
        last = rows[limit - 1] if len(rows) > limit else None
        following = cursor_of(last[0].start_us, last[1]) if last is not None else None
        return Page([_show_window(row) for row, _ in rows[:limit]], following)

    @get("/balance")
    async def balance(
        self, request: GatewayRequest, from_: From = None, to: To = None, known_at: KnownAt = None
    ) -> Balance:
        """What one generated, consumed, sold, bought and retired in a period, and what there is now, by zone."""
        gateway, user_id = request.gateway, request.caller.user_id
        from_us, to_us = _span(from_, to)
        sums = await gateway.metering.energy.sums(user_id, from_us, to_us, _known_us(known_at))
        held = [one for one in await gateway.ledger.balances(user_id) if one.asset.startswith("energy:")]
        return Balance(
            generated=format_energy(sums.generated_wh),
            consumed=format_energy(sums.consumed_wh),
            estimated_import=format_energy(sums.estimated_import_wh),
            estimated_export=format_energy(sums.estimated_export_wh),
            credited=show_change(sums.credited_wh),
            sold=format_energy(sums.sold_wh),
            bought=format_energy(sums.bought_wh),
            retired=format_energy(sums.retired_wh),
            imported_from_grid=format_energy(max(0, sums.consumed_wh - sums.retired_wh)),
            available={one.asset.partition(":")[2]: format_energy(one.available) for one in held},
        )


def ceil_to_step(instant_us: int, seconds: int) -> int:
    """The first instant from this one on at which a step of so many seconds begins."""
    return ceil_div(instant_us, seconds * SECOND_US) * seconds * SECOND_US


def _known_us(known_at: str | None) -> int:
    return parse_instant(known_at, "known_at") if known_at is not None else FOREVER_US


def _span(from_: str | None, to: str | None) -> tuple[int, int]:
    from_us = parse_instant(from_, "from") if from_ is not None else 0
    to_us = parse_instant(to, "to") if to is not None else INSTANT_US_MAX
    if to_us < from_us:
        raise invalid("to", "must not be before from")
    return from_us, to_us


def _show_reading(row: ShownReading) -> ReadingView:
    return ReadingView(
        device=row.device,
        counter=row.counter,
        start=format_instant(row.start_us),
        end=format_instant(row.end_us),
        import_wh=row.import_wh,
        export_wh=row.export_wh,
        import_register_wh=row.import_register_wh,
        export_register_wh=row.export_register_wh,
        corrects=row.corrects,
        corrected_by=row.corrected_by,
        flags=[flag.name.lower() for flag in Flag if row.flags & flag],
        received_at=format_instant(row.received_us),
    )


def _show_step(step: EnergyStep) -> StepView:
    return StepView(
        format_instant(step.start_us),
        step.import_wh,
        step.export_wh,
        step.estimated_import_wh,
        step.estimated_export_wh,
    )


def _show_window(row: StoredWindow) -> WindowView:
    return WindowView(
        meter_id=str(uuid.UUID(bytes=row.meter_id)),
        start=format_instant(row.start_us),
        zone=row.zone,
        imported=format_energy(row.import_wh),
        exported=format_energy(row.export_wh),
        estimated_import=format_energy(row.estimated_import_wh),
        estimated_export=format_energy(row.estimated_export_wh),
        credited=show_change(row.credited_wh),
        retired=format_energy(row.retired_wh),
        covered_seconds=row.covered_us // SECOND_US,
        adjusted=row.adjusted,
    )
