"""Rows of `readings` in the bytes of PostgreSQL's binary COPY: what is usual is packed in one go.

Source: https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format": per row the number of columns, then each
column's length, -1 for null, and its value, all of it big-endian.
"""

import struct
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Final

from engine.metering.readings import Stored
from engine.metering.runs import Run

COLUMNS: Final = (*Stored.__struct_fields__, "signature")
CHUNK_BYTES: Final = 2**18  # written at once, so that the loop can do something else meanwhile
HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER: Final = b"\xff\xff"

_FOUR: Final = (4).to_bytes(4, "big")
_EIGHT: Final = (8).to_bytes(4, "big")
_NULL: Final = b"\xff\xff\xff\xff"
_FRONT: Final = struct.Struct(">h4sq4si4s")  # columns, meter, device, the length of the counter
_RUN: Final = struct.Struct(">26sq4sq4sq4sq4sq16sh16s")
_BETWEEN: Final = 3 * _NULL + (2).to_bytes(4, "big")  # no correction, no register, the length of the flags
_INT: Final = struct.Struct(">iq")
_SHORT: Final = struct.Struct(">ih")


async def copied(runs: Sequence[Run], others: Sequence[tuple[Stored, bytes | None]]) -> AsyncIterator[bytes]:
    """The whole of a COPY, in chunks."""
    pieces, size = [HEADER], 0
    for piece in _pieces(runs, others):
        pieces.append(piece)
        size += len(piece)
        if size >= CHUNK_BYTES:
            yield b"".join(pieces)
            pieces, size = [], 0
    yield b"".join((*pieces, TRAILER))


def _pieces(runs: Iterable[Run], others: Iterable[tuple[Stored, bytes | None]]) -> Iterator[bytes]:
    for run in runs:
        yield _of_run(run)
    for stored, signature in others:
        yield _of_one(stored, signature)


def _of_run(run: Run) -> bytes:
    front = _FRONT.pack(len(COLUMNS), _EIGHT, run.meter, _FOUR, run.device, _EIGHT)
    back, pack, eight, between = _EIGHT + run.received_us.to_bytes(8, "big") + _NULL, _RUN.pack, _EIGHT, _BETWEEN
    return b"".join(
        [
            pack(front, counter, eight, start, eight, end, eight, import_wh, eight, export_wh, between, flags, back)
            for counter, start, end, import_wh, export_wh, flags in run.kept
        ]
    )


def _of_one(one: Stored, signature: bytes | None) -> bytes:
    front = _FRONT.pack(len(COLUMNS), _EIGHT, one.meter, _FOUR, one.device, _EIGHT)
    numbers = (
        one.start_us,
        one.end_us,
        one.import_wh,
        one.export_wh,
        one.corrects,
        one.import_register_wh,
        one.export_register_wh,
    )
    return b"".join(
        (
            front,
            one.counter.to_bytes(8, "big"),
            *(_NULL if number is None else _INT.pack(8, number) for number in numbers),
            _SHORT.pack(2, one.flags),
            _INT.pack(8, one.received_us),
            _NULL if signature is None else len(signature).to_bytes(4, "big") + signature,
        )
    )
