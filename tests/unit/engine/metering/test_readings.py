"""What is signed, byte for byte. The vectors stand in docs/metering.md, too."""

import struct

import pytest

from engine.metering.readings import Interval, Register, batch_bytes, canonical_serial, signed_bytes

METER = bytes(range(16))
AT_US = 1_700_000_000_000_000
INTERVAL = Interval(METER, 7, AT_US, 900, 0, 250)
REGISTER = Register(METER, 7, AT_US, 1_000, 250)


def test_an_interval_is_signed_with_every_field() -> None:
    assert signed_bytes(INTERVAL).hex() == (
        "77617474626f6f6b2d72656164696e672d7631"
        "000102030405060708090a0b0c0d0e0f"
        "0700000000000000" + "00401e18240a0600" + "84030000" + "0000000000000000" + "fa00000000000000"
    )


def test_a_register_is_signed_with_every_field() -> None:
    assert signed_bytes(REGISTER).hex() == (
        "77617474626f6f6b2d72656769737465722d7631"
        "000102030405060708090a0b0c0d0e0f"
        "0700000000000000" + "00401e18240a0600" + "e803000000000000" + "fa00000000000000"
    )


@pytest.mark.parametrize("field", ["meter_id", "counter", "start_us", "duration_s", "import_wh", "export_wh"])
def test_no_field_can_be_changed_unseen(field: str) -> None:
    values = {name: getattr(INTERVAL, name) for name in INTERVAL.__struct_fields__}
    values[field] = bytes(16) if field == "meter_id" else values[field] + 1

    assert signed_bytes(Interval(**values)) != signed_bytes(INTERVAL)


def test_a_correction_appends_the_counter_that_it_corrects() -> None:
    corrected = Interval(METER, 8, AT_US, 900, 0, 240, corrects=7)
    plain = Interval(METER, 8, AT_US, 900, 0, 240)

    assert signed_bytes(corrected) == signed_bytes(plain) + (7).to_bytes(8, "little")


def test_a_batch_covers_who_signs_what_how_many_and_in_which_order() -> None:
    key, batch = b"k" * 16, b"b" * 16
    usual = batch_bytes(key, batch, [INTERVAL, REGISTER])

    assert usual.startswith(b"wattbook-batch-v1" + key + batch + (2).to_bytes(4, "little"))
    assert len(usual) == 17 + 16 + 16 + 4 + 32
    assert batch_bytes(key, batch, [REGISTER, INTERVAL]) != usual
    assert batch_bytes(batch, key, [INTERVAL, REGISTER]) != usual


def test_what_does_not_fit_the_layout_is_an_error_and_not_cut_off() -> None:
    with pytest.raises(struct.error):
        signed_bytes(Interval(METER, 2**64, AT_US, 900, 0, 250))


def test_three_spellings_are_one_serial() -> None:
    assert {canonical_serial(text) for text in ("ab-12 34", "AB1234", " ab12-34\t")} == {"AB1234"}
