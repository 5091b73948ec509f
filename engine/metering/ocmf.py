"""Records of the Open Charge Metering Format: `OCMF|{payload}|{signature}`, as charging stations keep them.

A record is verified on its raw bytes, before anything in it is believed, and never written anew. What it means to us:
two values or more are an interval from the first to the last, one alone is a register reading; the pagination is the
counter. Error flags, and clocks that are not synchronised, make a record not trustworthy. Source: OCMF 1.2.
"""

import base64
import re
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Struct, field

from engine.metering.readings import Interval, Reading, ReadingCode, Register
from engine.units import MICRO, SECOND_US, TimeUs

RECORD_BYTES_MAX: Final = 65_536
VALUES_MAX: Final = 100
IMPORT_CODES: Final = frozenset({"1.8.0", "01-00:98.08.00.FF", "01-00:B2.08.00.FF"})
EXPORT_CODES: Final = frozenset({"2.8.0"})
_OBIS: Final = re.compile(r"(?:\d+-\w+:)?([12]\.8\.0)(?:\*\w+)?", re.ASCII)
_PAGINATION: Final = re.compile(r"[TF](\d{1,18})", re.ASCII)
_TIME: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:[.,](\d{1,6}))?(?:([+-])(\d\d):?(\d\d)|Z) ([USRI])", re.ASCII
)
_DECIMAL: Final = re.compile(r"(\d{1,12})(?:\.(\d{1,6}))?", re.ASCII)
_UNITS_WH: Final = {"kWh": 1_000, "Wh": 1}
ALGORITHMS: Final = frozenset(
    {
        "ECDSA-secp192r1-SHA256",
        "ECDSA-secp256k1-SHA256",
        "ECDSA-secp256r1-SHA256",
        "ECDSA-secp384r1-SHA256",
        "ECDSA-brainpool256r1-SHA256",
        "ECDSA-brainpoolP256r1-SHA256",
        "ECDSA-brainpool384r1-SHA256",
        "ECDSA-brainpoolP384r1-SHA256",
    }
)
ALGORITHM_DEFAULT: Final = "ECDSA-secp256r1-SHA256"


class Unreadable(Exception):
    """Not a record that we can take; `code` says whether it is its form or what it says about itself."""

    def __init__(self, detail: str, code: ReadingCode = ReadingCode.MALFORMED) -> None:
        super().__init__(detail)
        self.detail, self.code = detail, code


class Value(Struct, frozen=True):
    """One line of `RD`. What a line leaves out is as in the line before."""

    at: str | None = field(name="TM", default=None)
    total: msgspec.Raw = field(name="RV", default=msgspec.Raw())
    code: str | None = field(name="RI", default=None)
    unit: str | None = field(name="RU", default=None)
    errors: str = field(name="EF", default="")
    status: str | None = field(name="ST", default=None)


class Payload(Struct, frozen=True):
    pagination: str = field(name="PG")
    values: list[Value] = field(name="RD")
    meter_serial: str = field(name="MS", default="")
    gateway_serial: str = field(name="GS", default="")


class Seal(Struct, frozen=True):
    data: str = field(name="SD")
    algorithm: str = field(name="SA", default=ALGORITHM_DEFAULT)
    encoding: str = field(name="SE", default="hex")


class Record(Struct, frozen=True):
    """A record taken apart. `signed` are the bytes that `signature` (DER) is of, exactly as they came."""

    serial: str
    signed: bytes
    signature: bytes
    algorithm: str
    payload: Payload


def parse(raw: bytes) -> Record:
    """Take a record apart without believing it. Raises Unreadable."""
    if len(raw) > RECORD_BYTES_MAX:
        raise Unreadable(f"a record has at most {RECORD_BYTES_MAX} bytes")
    header, _, rest = raw.strip().partition(b"|")
    signed, bar, sealed = rest.rpartition(b"|")
    if header != b"OCMF" or not bar:
        raise Unreadable("a record is OCMF|{payload}|{signature}")
    try:
        payload = msgspec.json.decode(signed, type=Payload)
        seal = msgspec.json.decode(sealed, type=Seal)
        signature = bytes.fromhex(seal.data) if seal.encoding == "hex" else base64.b64decode(seal.data, validate=True)
    except (msgspec.MsgspecError, ValueError) as error:
        raise Unreadable(f"the record cannot be read: {error}") from None
    serial = payload.meter_serial or payload.gateway_serial
    if not serial:
        raise Unreadable("MS: the record names no meter")
    if seal.algorithm not in ALGORITHMS:
        raise Unreadable(f"SA: {seal.algorithm[:40]} is not known here")
    if not 1 <= len(payload.values) <= VALUES_MAX:
        raise Unreadable(f"RD: must have 1 to {VALUES_MAX} values")
    return Record(serial, signed, signature, seal.algorithm, payload)


def reading_of(record: Record, meter_id: bytes) -> Reading:
    """What a record says about a meter, once its signature is known to be good. Raises Unreadable."""
    counter = _PAGINATION.fullmatch(record.payload.pagination)
    if counter is None:
        raise Unreadable("PG: must be T or F and a number")
    totals: dict[bool, list[tuple[TimeUs, int]]] = {False: [], True: []}  # exported? -> (when, Wh)
    at = code = unit = status = None
    for value in record.payload.values:
        at, code = value.at or at, value.code or code
        unit, status = value.unit or unit, value.status or status
        if value.errors or status != "G":
            raise Unreadable("RD: the meter reports an error", ReadingCode.NOT_TRUSTWORTHY)
        if at is None or not bytes(value.total):
            raise Unreadable("RD: a value needs TM and RV")
        exported = _is_export(code)
        if exported is not None:
            totals[exported].append((_instant(at), _energy(value.total, unit)))
    return _reading(meter_id, int(counter[1]), totals[False], totals[True])


def _reading(
    meter_id: bytes, counter: int, imported: Sequence[tuple[int, int]], exported: Sequence[tuple[int, int]]
) -> Reading:
    instants = {one[0] for one in (*imported, *exported)}
    if not instants:
        raise Unreadable("RD: has no total of imported or exported energy")
    start_us, end_us = min(instants), max(instants)
    if start_us == end_us:
        return Register(
            meter_id, counter, start_us, imported[-1][1] if imported else 0, exported[-1][1] if exported else 0
        )
    if (end_us - start_us) % SECOND_US:
        raise Unreadable("RD: an interval has whole seconds")
    seconds = (end_us - start_us) // SECOND_US
    return Interval(meter_id, counter, start_us, seconds, _flowed(imported), _flowed(exported))


def _flowed(totals: Sequence[tuple[int, int]]) -> int:
    return max(totals)[1] - min(totals)[1] if totals else 0


def _is_export(code: str | None) -> bool | None:
    """None for what is not a total of active energy."""
    if code in IMPORT_CODES:
        return False
    match = _OBIS.fullmatch(code or "")
    return None if match is None else match[1] in EXPORT_CODES


def _energy(raw: msgspec.Raw, unit: str | None) -> int:
    """Wh, rounded down: a part of one shows again in the next total."""
    if unit not in _UNITS_WH:
        raise Unreadable("RU: must be kWh or Wh")
    match = _DECIMAL.fullmatch(bytes(raw).decode().strip('"'))
    if match is None:
        raise Unreadable("RV: must be a decimal number that is not negative")
    micro = int(match[1]) * MICRO + int((match[2] or "").ljust(6, "0"))
    return micro * _UNITS_WH[unit] // MICRO


def _instant(text: str) -> TimeUs:
    match = _TIME.fullmatch(text)
    if match is None:
        raise Unreadable("TM: must be like 2026-11-21T10:15:00,000+0100 S")
    if match[11] != "S":
        raise Unreadable("TM: the meter's clock is not synchronised", ReadingCode.NOT_TRUSTWORTHY)
    year, month, day, hour, minute, second = (int(match[place]) for place in range(1, 7))
    if not (1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second < 60):
        raise Unreadable("TM: there is no such time")
    seconds = ((_days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second
    offset = (int(match[9]) * 60 + int(match[10])) * 60 if match[8] else 0
    seconds += offset if match[8] == "-" else -offset
    return seconds * SECOND_US + int((match[7] or "").ljust(6, "0"))


def _days(year: int, month: int, day: int) -> int:
    """Days since 1970 of a day of the Gregorian calendar. Source: Hinnant, chrono-compatible date algorithms."""
    year -= month <= 2
    era, year_of_era = year // 400, year % 400
    day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return era * 146_097 + year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year - 719_468
