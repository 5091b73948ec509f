"""Sealing and checking single rows; the chain as a whole is a property."""

import msgspec
import pytest

from engine import journal
from engine.journal import GENESIS_HASH, NOT_HASHED, JournalBroken, JournalRow, check, events_hash, seal
from engine.messages import ENGINE_VERSION, EndReason, Entry, OrderEnded, Refused, RejectCode, Tick

ENTRIES = [Entry(4, 1_000, Tick()), Entry(5, 1_001, Tick())]
STEPS = [[OrderEnded(3, EndReason.EXPIRED, 7)], []]


def row() -> JournalRow:
    return seal(1, ENTRIES, STEPS, GENESIS_HASH)


def broken(damaged: JournalRow, last_sequence: int = 3, previous_hash: bytes = GENESIS_HASH) -> str:
    with pytest.raises(JournalBroken) as caught:
        check(damaged, last_sequence, previous_hash)
    return str(caught.value)


def test_a_sealed_row_gives_its_entries_back() -> None:
    sealed = row()

    assert check(sealed, 3, GENESIS_HASH) == ENTRIES
    assert (sealed.first_sequence, sealed.last_sequence, sealed.engine_version) == (4, 5, ENGINE_VERSION)
    assert (sealed.state_hash, len(sealed.hash), len(sealed.events_hash)) == (NOT_HASHED, 32, 32)


def test_the_events_hash_depends_on_every_event_and_on_whose_it_is() -> None:
    assert events_hash(STEPS) == row().events_hash
    assert events_hash([[OrderEnded(3, EndReason.EXPIRED, 8)], []]) != row().events_hash
    assert events_hash([[], STEPS[0]]) != row().events_hash


def test_a_missing_row_is_named_by_the_sequence_that_was_expected() -> None:
    assert broken(row(), last_sequence=2) == ("market 1, row at sequence 4: expected sequence 3; rows are missing")


def test_a_row_of_another_past_does_not_continue_this_one() -> None:
    assert broken(row(), previous_hash=bytes([1]) * 32).endswith("does not continue the row before it")


def test_a_changed_row_is_not_what_was_sealed() -> None:
    damaged = msgspec.structs.replace(row(), entries=msgspec.msgpack.encode(ENTRIES[:1]))

    assert broken(damaged).endswith("its contents are not those that were sealed")


def test_sequences_inside_must_be_those_outside() -> None:
    odd = seal(1, [ENTRIES[0], Entry(7, 1_001, Tick()), Entry(6, 1_002, Tick())], [[], [], []], GENESIS_HASH)

    assert broken(odd).endswith("its entries do not have its sequences")


def test_a_row_that_was_sealed_with_nonsense_is_broken_and_not_an_accident() -> None:
    nonsense = msgspec.structs.replace(row(), entries=b"\x93", hash=b"")
    resealed = msgspec.structs.replace(nonsense, hash=journal._row_hash(nonsense))

    assert "its entries cannot be read" in broken(resealed)


def test_a_refusals_wording_is_not_history() -> None:
    said = Refused(RejectCode.NOT_FOUND, "no such order")
    better = Refused(RejectCode.NOT_FOUND, "there is no such order")
    other = Refused(RejectCode.CONFLICT, "no such order")

    assert events_hash([[said]]) == events_hash([[better]]) != events_hash([[other]])
