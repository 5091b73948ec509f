"""Which way the newest orders of a gateway went, by the id of their request: a ring of records in a mapped file.

    request id (64 bytes, zeros behind), came at (us UTC), market, order, sequence (8 bytes each), and in seconds to
    authenticate, to read, for the market, to answer (floats of 4 bytes); little-endian, 112 bytes

Writing one is a copy into memory, less than a microsecond: every order is kept, and the kernel writes when it likes.
It survives the process, not a power cut. Source: docs/decisions/0048.
"""

import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from struct import Struct as Layout
from typing import Final

from msgspec import Struct

SUFFIX: Final = ".ring"
_RECORD: Final = Layout("<64sqqqqffff")
_ID_BYTES: Final = 64
_CAME_AT: Final = 1  # of a record


class OrderTrace(Struct, frozen=True):
    """gateway: the file's name. Sequence: of the command in its market's journal. The last four follow one another."""

    gateway: str
    request_id: str
    came_us: int
    market_id: int
    order_id: int
    sequence: int
    authenticate_us: int
    read_us: int
    market_us: int
    answer_us: int


class OrderTraces:
    """What one gateway writes to. A file of another size is begun anew."""

    def __init__(self, file: Path, records: int) -> None:
        assert records > 0
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        size = records * _RECORD.size
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if os.fstat(descriptor).st_size != size:
                os.ftruncate(descriptor, 0)
                os.ftruncate(descriptor, size)
            self._map = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        newest = max(enumerate(_RECORD.iter_unpack(self._map)), key=lambda each: each[1][_CAME_AT])
        self._next = (newest[0] + 1) * _RECORD.size % size  # where a former process stopped

    def keep(
        self,
        request_id: str,
        came_us: int,
        order: tuple[int, int, int],
        authenticate: float,
        read: float,
        market: float,
        answer: float,
    ) -> None:
        """`order`: market, order, sequence; the last four in seconds."""
        at = self._next
        _RECORD.pack_into(self._map, at, request_id.encode(), came_us, *order, authenticate, read, market, answer)
        self._next = (at + _RECORD.size) % len(self._map)


def find(folder: Path, request_id: str) -> list[OrderTrace]:
    """What the gateways of this machine know of the request, newest first; more than one if its id was used again."""
    wanted = request_id.encode()
    if not wanted or len(wanted) > _ID_BYTES:
        return []
    found = [trace for file in sorted(folder.glob(f"*{SUFFIX}")) for trace in _found(file, wanted)]
    return sorted(found, key=lambda trace: -trace.came_us)


def _found(file: Path, wanted: bytes) -> Iterator[OrderTrace]:
    content = file.read_bytes()
    padded, at = wanted.ljust(_ID_BYTES, b"\0"), -1
    while (at := content.find(padded, at + 1)) >= 0:
        if at % _RECORD.size == 0:
            raw, *numbers, authenticate, read, market, answer = _RECORD.unpack_from(content, at)
            took = (round(seconds * 1_000_000) for seconds in (authenticate, read, market, answer))
            yield OrderTrace(file.stem, raw.rstrip(b"\0").decode(), *numbers, *took)
