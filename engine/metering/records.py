"""What passes between the shells, the tables and the gateway about meters. Energies are Wh, instants microseconds."""

from msgspec import Struct

from engine.metering.readings import ReadingCode
from engine.units import EnergyWh, TimeUs


class MeterRecord(Struct, frozen=True):
    """A meter as it is now; owner and zone are those of its present assignment."""

    number: int
    meter_id: bytes  # 16 bytes of a UUID
    serial: str
    kind: str
    rated_power_w: int
    register_wh_max: EnergyWh
    status: str
    retires: bool
    device: int
    owner_id: int
    zone: str
    public_key: bytes  # Ed25519
    ecdsa_key: bytes | None  # DER, with which OCMF records are signed
    created_us: TimeUs
    valid_until_us: TimeUs | None = None  # when it goes to another owner or zone, if that is known
    owned_from_us: TimeUs = 0  # since when it has been this owner's, in whichever zone


class NewMeter(Struct, frozen=True):
    meter_id: bytes
    serial: str
    kind: str
    rated_power_w: int
    register_wh_max: EnergyWh
    zone: str
    public_key: bytes
    ecdsa_key: bytes | None


class MeterChange(Struct, frozen=True):
    """What is None stays. With `exchange` the key belongs to another device, whose counter and register begin anew."""

    public_key: bytes | None = None
    ecdsa_key: bytes | None = None
    exchange: bool = False
    retires: bool | None = None
    retired: bool = False


class SerialTaken(Exception):
    """Another meter has this serial, however it is spelled."""


class UnknownZone(Exception):
    """There is no such zone."""


class UnknownOwner(Exception):
    """There is no such user."""


class NotInForce(Exception):
    """An assignment begins after the one before it, and not in the past."""


class MeterRetired(Exception):
    """A retired meter does not change any more."""


class Refused(Struct, frozen=True):
    """A reading of a known meter that was not accepted."""

    meter: int
    counter: int
    code: ReadingCode
    detail: str


class Ask(Struct, frozen=True):
    """What the verdict on one reading depends on. start_us = end_us: on no time."""

    meter: int
    device: int
    counter: int
    corrects: int | None
    start_us: TimeUs
    end_us: TimeUs


class PostedWindow(Struct, frozen=True):
    """A window as it was closed, or an adjustment as it was posted."""

    meter: int
    meter_id: bytes
    start_us: TimeUs
    owner_id: int
    zone: str
    import_wh: int
    export_wh: int
    credited_wh: int
    retired_wh: EnergyWh
    is_adjustment: bool


class StoredWindow(Struct, frozen=True):
    """A closed window with the sum of its adjustments in it; estimates count only where nothing was measured."""

    meter_id: bytes
    start_us: TimeUs
    zone: str
    import_wh: EnergyWh
    export_wh: EnergyWh
    estimated_import_wh: EnergyWh
    estimated_export_wh: EnergyWh
    covered_us: int
    credited_wh: int
    retired_wh: EnergyWh
    adjusted: bool


class ShownReading(Struct, frozen=True):
    """corrected_by: the counter of the reading that puts it right, as far as was known."""

    device: int
    counter: int
    start_us: TimeUs
    end_us: TimeUs
    import_wh: EnergyWh
    export_wh: EnergyWh
    import_register_wh: EnergyWh | None
    export_register_wh: EnergyWh | None
    corrects: int | None
    flags: int
    received_us: TimeUs
    corrected_by: int | None


class EnergyStep(Struct, frozen=True):
    """Measured energy of one step of a series."""

    start_us: TimeUs
    import_wh: EnergyWh
    export_wh: EnergyWh
    estimated_import_wh: EnergyWh
    estimated_export_wh: EnergyWh


class EnergySums(Struct, frozen=True):
    """A participant's energy over a period; sold and bought are of trades made in it."""

    generated_wh: EnergyWh
    consumed_wh: EnergyWh
    estimated_import_wh: EnergyWh
    estimated_export_wh: EnergyWh
    credited_wh: int
    retired_wh: EnergyWh
    sold_wh: EnergyWh
    bought_wh: EnergyWh
