"""The ports of meters in memory, for the gateway's tests; what the real ones promise is tested on them."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from msgspec.structs import replace

from engine.analytics.performance import PlacedOrders
from engine.analytics.rates import Rate
from engine.analytics.series import EnergyPart, Flow
from engine.audit import Origin
from engine.metering.messages import ACCEPTED, DUPLICATE, Judged, Signed
from engine.metering.readings import ReadingCode
from engine.metering.records import EnergySums, MeterChange, MeterRecord, NewMeter, PostedWindow, SerialTaken
from engine.metering.runs import SIGNED, interval_of
from engine.views import Failed
from gateway.ports import Metering


class MemoryMeters:
    def __init__(self) -> None:
        self.rows: dict[bytes, MeterRecord] = {}

    async def register(self, meter: NewMeter, owner_id: int, now_us: int, origin: Origin) -> MeterRecord:
        if any(row.serial == meter.serial for row in self.rows.values()):
            raise SerialTaken
        made = MeterRecord(
            len(self.rows) + 1,
            meter.meter_id,
            meter.serial,
            meter.kind,
            meter.rated_power_w,
            meter.register_wh_max,
            "registered",
            True,
            1,
            owner_id,
            meter.zone,
            meter.public_key,
            meter.ecdsa_key,
            now_us,
        )
        self.rows[meter.meter_id] = made
        return made

    async def by_id(self, meter_id: bytes) -> MeterRecord | None:
        return self.rows.get(meter_id)

    async def by_ids(self, meter_ids: Collection[bytes]) -> list[MeterRecord]:
        return [row for row in self.rows.values() if row.meter_id in meter_ids]

    async def by_serials(self, serials: Collection[str]) -> list[MeterRecord]:
        return [row for row in self.rows.values() if row.serial in serials]

    async def of_owner(self, owner_id: int, after_number: int, limit: int) -> list[MeterRecord]:
        own = [row for row in self.rows.values() if row.owner_id == owner_id and row.number > after_number]
        return own[:limit]

    async def change(self, meter_id: bytes, change: MeterChange, now_us: int, origin: Origin) -> MeterRecord:
        row = self.rows[meter_id]
        key = change.public_key or row.public_key
        self.rows[meter_id] = replace(row, public_key=key, device=row.device + change.exchange)
        return self.rows[meter_id]

    async def assign(
        self, meter_id: bytes, owner_id: int, zone: str, valid_from_us: int, now_us: int, origin: Origin
    ) -> MeterRecord:
        self.rows[meter_id] = replace(self.rows[meter_id], owner_id=owner_id, zone=zone)
        return self.rows[meter_id]


class MemoryReadings:
    """Accepts each counter of a meter of the submitter's once."""

    def __init__(self, meters: MemoryMeters) -> None:
        self._meters = meters
        self.taken: dict[tuple[bytes, int], Signed] = {}
        self.listener: Callable[[list[PostedWindow]], None] | None = None
        self.failure: Failed | None = None
        self.vouched = False
        self.batches = 0  # that came as they were signed

    async def submit(self, submitter: int, readings: Sequence[Signed], vouched: bool) -> Judged | Failed:
        if self.failure is not None:
            return self.failure
        self.vouched = vouched
        return Judged([self._code(submitter, one) for one in readings], {}, {})

    async def submit_batch(self, signed: bytes) -> Judged | Failed:
        self.batches += 1
        return await self.submit(0, [Signed(interval_of(one)) for one in SIGNED.iter_unpack(signed)], True)

    def listen(self, listener: Callable[[list[PostedWindow]], None]) -> None:
        self.listener = listener

    def _code(self, submitter: int, signed: Signed) -> int:
        meter = self._meters.rows.get(signed.reading.meter_id)
        if meter is None or submitter not in (0, meter.owner_id):
            return ReadingCode.UNKNOWN_METER.value
        key = (signed.reading.meter_id, signed.reading.counter)
        if key in self.taken:
            return DUPLICATE
        self.taken[key] = signed
        return ACCEPTED


class MemoryEnergy:
    """Nothing has been measured yet."""

    async def readings(self, *_: Any) -> list[Any]:
        return []

    async def series(self, *_: Any) -> list[Any]:
        return []

    async def windows(self, *_: Any) -> list[Any]:
        return []

    async def sums(self, *_: Any) -> EnergySums:
        return EnergySums(0, 0, 0, 0, 0, 0, 0, 0)


class MemoryAnalytics:
    """Nothing has been measured or traded yet, unless a test says so."""

    def __init__(self) -> None:
        self.now: Flow | None = None
        self.owners: dict[int, tuple[int, int]] = {}
        self.energy: list[EnergyPart] = []

    async def energy_parts(self, owner_id: int, cuts_us: Sequence[int]) -> list[EnergyPart]:
        return [part for part in self.energy if cuts_us[0] <= part.start_us < cuts_us[-1]]

    async def zone_now(self, zone: str, since_us: int) -> Flow | None:
        return self.now

    async def zone_flow(self, zone: str, from_us: int, to_us: int, seconds: int) -> list[Flow]:
        return [self.now] if self.now is not None else []

    async def zone_owners(self, zone: str, from_us: int, to_us: int) -> dict[int, tuple[int, int]]:
        return self.owners

    async def placed(self, participant_id: int, from_us: int, to_us: int) -> PlacedOrders:
        return PlacedOrders(0, 0, 0, 0)

    async def by_hour(self, owner_id: int, from_us: int, to_us: int) -> dict[int, tuple[int, int]]:
        return {}

    async def _nothing(self, *_: Any) -> list[Any]:
        return []

    trade_parts = own_windows = positions = sales = asks = _nothing


class MemoryRates:
    def __init__(self) -> None:
        self.rows: dict[tuple[int, str], Rate] = {}

    async def rates(self, from_us: int, to_us: int) -> list[Rate]:
        return list(self.rows.values())

    async def page(self, name: str | None, before: tuple[int, str], limit: int) -> list[Rate]:
        keys = sorted((key for key in self.rows if key < before and name in (None, key[1])), reverse=True)
        return [self.rows[key] for key in keys[:limit]]

    async def put(self, rates: Sequence[Rate], origin: Origin) -> None:
        self.rows |= {(rate.valid_from_us, rate.name): rate for rate in rates}


def memory_metering() -> tuple[Metering, MemoryMeters, MemoryReadings]:
    meters = MemoryMeters()
    readings = MemoryReadings(meters)
    return Metering(meters, readings, MemoryEnergy(), MemoryAnalytics(), MemoryRates()), meters, readings
