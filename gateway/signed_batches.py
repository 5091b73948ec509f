"""A head-end's batch as it mostly is: intervals without corrections, read straight into the bytes that were signed.

What is anything else, or not well formed, is None here: then readings.py reads it reading by reading, and says why.
"""

import struct
import uuid
from collections.abc import Callable
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from engine.metering.messages import SUBMIT_READINGS_MAX
from engine.metering.readings import COUNTER_MAX, DURATION_S_MAX, METER_ID_BYTES
from engine.units import FOREVER_US

_DOMAIN: Final = b"wattbook-reading-v1"
_SIGNED: Final = struct.Struct(f"<{len(_DOMAIN)}s{METER_ID_BYTES}sQqIqq")  # engine/metering/readings.py, signed_bytes
_I64_MAX: Final = 2**63 - 1


class Plain(Struct, frozen=True, gc=False):
    """A ReadingRequest of which every field is the usual one."""

    meter_id: str
    counter: Annotated[int, Meta(ge=0, le=COUNTER_MAX)]
    start: Annotated[int, Meta(ge=0, le=FOREVER_US)]
    duration_s: Annotated[int, Meta(ge=1, le=DURATION_S_MAX)]
    import_wh: Annotated[int, Meta(ge=0, le=_I64_MAX)]
    export_wh: Annotated[int, Meta(ge=0, le=_I64_MAX)]
    at: UnsetType = UNSET
    import_register_wh: UnsetType = UNSET
    export_register_wh: UnsetType = UNSET
    corrects: None = None
    signature: Annotated[str, Meta(max_length=0)] = ""


class PlainBatch(NamedTuple):
    """signed: as engine/metering/messages.py, SubmitBatch."""

    signed: bytes
    readings: int
    meter_ids: frozenset[bytes]


def plain_batch(body: bytes, decode: Callable[[bytes], list[Plain]]) -> PlainBatch | None:
    """The readings of a batch, or None where one of them is not a plain one."""
    try:
        readings = decode(body)
        ids = {text: msgspec.convert(text, uuid.UUID).bytes for text in {one.meter_id for one in readings}}
    except msgspec.DecodeError:  # a validation error is one of these
        return None
    if not 1 <= len(readings) <= SUBMIT_READINGS_MAX:
        return None
    pack = _SIGNED.pack
    signed = b"".join(
        [
            pack(_DOMAIN, ids[one.meter_id], one.counter, one.start, one.duration_s, one.import_wh, one.export_wh)
            for one in readings
        ]
    )
    return PlainBatch(signed, len(readings), frozenset(ids.values()))
