"""The file format of the journal: what was written once must be read the same for ever."""

import msgspec

from engine.messages import (
    AmendOrder,
    CancelAll,
    CancelAllAt,
    CancelOrder,
    Command,
    Defund,
    Entry,
    Event,
    FireStop,
    Fund,
    PlaceOrder,
    RejectCode,
    SetFees,
    SetPhase,
    SetRisk,
    SetSpec,
    Side,
    Tick,
    Traded,
)
from tests.support.builders import market


def test_a_place_order_is_written_as_it_always_was() -> None:
    entry = Entry(7, 1_000, PlaceOrder(1, Side.SELL, 3_500_000, 250, "A", "mine"))

    assert msgspec.msgpack.encode(entry) == bytes.fromhex("9307cd03e89d010101ce003567e0ccfaa141a46d696e65010100c20100")


def test_an_entry_written_before_a_field_existed_takes_its_default() -> None:
    old = msgspec.msgpack.encode([7, 1_000, [1, 1, 1, 3_500_000, 250, "A"]])

    assert msgspec.msgpack.decode(old, type=Entry).command == PlaceOrder(1, Side.SELL, 3_500_000, 250, "A")


def test_tags_of_commands_and_events_stay_what_they_are() -> None:
    commands = (
        PlaceOrder, AmendOrder, CancelOrder, CancelAll, CancelAllAt, Fund, Defund, SetPhase, SetSpec, SetFees, Tick,
        SetRisk, FireStop,
    )  # fmt: skip

    assert [command.__struct_config__.tag for command in commands] == list(range(1, 14))
    assert sorted(event.__struct_config__.tag for event in Event.__args__) == list(range(1, 20))
    assert set(commands) == set(Command.__args__)


def test_a_spec_survives_the_journal() -> None:
    command = SetSpec(market(reference_price_micro=4_000_000))

    assert msgspec.msgpack.decode(msgspec.msgpack.encode(command), type=Command) == command


def test_reject_codes_of_the_book_are_the_band_of_orders_and_unique() -> None:
    assert [code.value for code in RejectCode] == sorted({code.value for code in RejectCode})
    assert all(1_000 <= code < 2_000 for code in RejectCode)


def test_the_grid_gets_what_the_buyers_value_exceeds_the_sellers_by() -> None:
    trade = Traded(1, 2, 3, 1, 2, Side.BUY, 10, 3_000, 4_500, 3_000, 45, 30, 1, 1, "A", "A")

    assert trade.grid_micro == 15
