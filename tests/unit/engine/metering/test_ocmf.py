"""OCMF: read from the raw bytes; what a record says against itself is heard."""

import pytest

from engine.metering import ocmf
from engine.metering.readings import Interval, ReadingCode, Register

# From the format's own documentation, with a synchronised clock.
PAYLOAD = (
    '{"FV":"1.0","GI":"ABL SBC-301","GS":"808829900001","GV":"1.4p3","PG":"T12345","MV":"Phoenix Contact",'
    '"MM":"EEM-350-D-MCB","MS":"BQ27400330016","MF":"1.0","RD":[{"TM":"2018-07-24T13:22:04,000+0200 S","TX":"B",'
    '"RV":2935.6,"RI":"1-b:1.8.0","RU":"kWh","RT":"AC","EF":"","ST":"G"},'
    '{"TM":"2018-07-24T14:22:04,000+0200 S","TX":"E","RV":2937.125}]}'
)
SEAL = '{"SA":"ECDSA-secp256r1-SHA256","SD":"3045"}'


def record(payload: str = PAYLOAD) -> ocmf.Record:
    return ocmf.parse(f"OCMF|{payload}|{SEAL}".encode())


def test_two_values_are_an_interval() -> None:
    reading = ocmf.reading_of(record(), bytes(16))

    assert reading == Interval(bytes(16), 12345, 1_532_431_324_000_000, 3_600, 1_525, 0)
    assert record().serial == "BQ27400330016"


def test_one_value_is_a_register() -> None:
    one = PAYLOAD.replace(',{"TM":"2018-07-24T14:22:04,000+0200 S","TX":"E","RV":2937.125}', "")

    assert ocmf.reading_of(record(one), bytes(16)) == Register(bytes(16), 12345, 1_532_431_324_000_000, 2_935_600, 0)


def test_the_signed_bytes_are_the_raw_ones() -> None:
    spaced = PAYLOAD.replace(":", ": ", 1)

    assert record(spaced).signed == spaced.encode()


@pytest.mark.parametrize(
    "change", [("+0200 S", "+0200 U"), ("+0200 S", "+0200 R"), ('"EF":""', '"EF":"E"'), ('"ST":"G"', '"ST":"M"')]
)
def test_flags_are_respected(change: tuple[str, str]) -> None:
    with pytest.raises(ocmf.Unreadable) as told:
        ocmf.reading_of(record(PAYLOAD.replace(*change)), bytes(16))

    assert told.value.code is ReadingCode.NOT_TRUSTWORTHY


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"OCMF|{}|{}",
        b"OCMF|" + PAYLOAD.encode(),
        b"OCMX|" + PAYLOAD.encode() + b"|" + SEAL.encode(),
        b"OCMF|" + PAYLOAD.encode() + b'|{"SA":"none","SD":""}',
        b"OCMF|\xff|" + SEAL.encode(),
    ],
)
def test_what_is_no_record_is_refused(raw: bytes) -> None:
    with pytest.raises(ocmf.Unreadable):
        ocmf.parse(raw)


@pytest.mark.parametrize("change", [("2935.6", "1e3"), ("2935.6", "-1"), ('"kWh"', '"mOhm"'), ("T12345", "X1")])
def test_values_that_are_none_are_refused(change: tuple[str, str]) -> None:
    with pytest.raises(ocmf.Unreadable):
        ocmf.reading_of(record(PAYLOAD.replace(*change)), bytes(16))
