"""The journal of one market as a hash chain: rows of entries, each sealed with the hash of the row before it.

A row is one commit. `seal` makes the next row, `check` proves that a row follows the one before; neither reads a clock.
The events are not stored: they follow from the entries, and their hash in the row proves that a replay found the same.
"""

import hashlib
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import astuple

from engine.messages import ENGINE_VERSION, Entry, Event, Refused, SpecChanged

GENESIS_HASH: Final = bytes(32)
_SPEC_FIELDS: Final = {2: 19}  # how many MarketSpec had, where it has got more since
NOT_HASHED: Final = b""  # a row whose state hash was not taken

_encode = msgspec.msgpack.Encoder().encode
_decode_entries = msgspec.msgpack.Decoder(list[Entry]).decode


class JournalRow(Struct, frozen=True):
    """One commit: `entries` is the msgpack of a list of Entry with the sequences first_sequence to last_sequence."""

    market_id: int
    first_sequence: int
    last_sequence: int
    engine_version: int
    entries: bytes
    events_hash: bytes  # 32 bytes, of what the entries caused
    state_hash: bytes  # 32 bytes after last_sequence, or NOT_HASHED
    previous_hash: bytes
    hash: bytes


class Snapshot(Struct, frozen=True):
    """A book's encoded state after `sequence`; journal_hash is that of the row that ends there."""

    market_id: int
    sequence: int
    engine_version: int
    state_hash: bytes
    journal_hash: bytes
    state: bytes


class Stretch(Struct, frozen=True):
    """Rows of a journal that follow one another, kept in a file: what proves that the file holds them."""

    market_id: int
    first_sequence: int
    last_sequence: int
    journal_rows: int
    previous_hash: bytes  # of the row before the first
    hash: bytes  # of the last row
    file_bytes: int
    sha256: bytes  # of the file


class Fenced(Exception):
    """The market has another owner now; this one may not write any more."""


class JournalBroken(Exception):
    """A row does not follow the one before it, or does not hold what its hash says. Never repaired: find out why."""


def events_hash(steps: Sequence[Sequence[Event]], engine_version: int = ENGINE_VERSION) -> bytes:
    """SHA-256 of the msgpack of the events of each entry of a row. A refusal counts with its code, not its wording.

    engine_version: whose form the events are to have; fields that came later are left out of an older one's.
    """
    told: Sequence[object] = [
        [*events[:-1], events[-1].code] if events and type(events[-1]) is Refused else events for events in steps
    ]  # nothing follows a refusal
    fields = _SPEC_FIELDS.get(engine_version)
    if fields is not None:
        told = [[_with_fields(event, fields) for event in events] for events in steps]
    return hashlib.sha256(_encode(told)).digest()


def _with_fields(event: Event, spec_fields: int) -> object:
    """The event as its msgpack has it, with so many fields of a spec."""
    match event:
        case SpecChanged(spec=spec):
            return (event.__struct_config__.tag, astuple(spec)[:spec_fields])
        case Refused(code=code):
            return code
    return event


def seal(
    market_id: int,
    entries: Sequence[Entry],
    steps: Sequence[Sequence[Event]],
    previous_hash: bytes,
    state_hash: bytes = NOT_HASHED,
) -> JournalRow:
    """The row that appends these entries, of which `steps` are the events, to the chain."""
    row = JournalRow(
        market_id=market_id,
        first_sequence=entries[0].sequence,
        last_sequence=entries[-1].sequence,
        engine_version=ENGINE_VERSION,
        entries=_encode(entries),
        events_hash=events_hash(steps),
        state_hash=state_hash,
        previous_hash=previous_hash,
        hash=b"",
    )
    return msgspec.structs.replace(row, hash=_row_hash(row))


def check(row: JournalRow, last_sequence: int, previous_hash: bytes) -> list[Entry]:
    """The row's entries, after proving that it follows `last_sequence` and `previous_hash`.

    Raises JournalBroken with the row's place and what is wrong with it.
    """
    follow(row, last_sequence, previous_hash)
    where = _where(row)
    try:
        entries = _decode_entries(row.entries)
    except msgspec.MsgspecError as error:
        raise JournalBroken(f"{where}: its entries cannot be read: {error}") from error
    if [entry.sequence for entry in entries] != list(range(row.first_sequence, row.last_sequence + 1)):
        raise JournalBroken(f"{where}: its entries do not have its sequences")
    return entries


def follow(row: JournalRow, last_sequence: int, previous_hash: bytes) -> None:
    """Prove the row's place in the chain, and that it is what was sealed, whatever its entries are.

    Raises JournalBroken.
    """
    where = _where(row)
    if row.first_sequence != last_sequence + 1:
        raise JournalBroken(f"{where}: expected sequence {last_sequence + 1}; rows are missing")
    if row.previous_hash != previous_hash:
        raise JournalBroken(f"{where}: does not continue the row before it")
    if row.hash != _row_hash(row):
        raise JournalBroken(f"{where}: its contents are not those that were sealed")


def _where(row: JournalRow) -> str:
    return f"market {row.market_id}, row at sequence {row.first_sequence}"


def _row_hash(row: JournalRow) -> bytes:
    head = _encode(
        (
            row.market_id,
            row.first_sequence,
            row.last_sequence,
            row.engine_version,
            row.events_hash,
            row.state_hash,
            row.previous_hash,
        )
    )
    return hashlib.sha256(head + row.entries).digest()
