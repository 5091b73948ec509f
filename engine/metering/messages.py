"""What gateways and meter aggregators say to each other over the data plane."""

from typing import ClassVar, Final

from msgspec import Struct

from engine.metering.readings import Reading
from engine.metering.records import PostedWindow
from engine.metering.runs import SIGNED

ACCEPTED: Final = 0
DUPLICATE: Final = 1
SUBMIT_READINGS_MAX: Final = 10_000


class Signed(Struct, frozen=True, array_like=True, gc=False):
    """A reading with its signature; with `raw`, bytes in which the gateway has read it and which are signed instead.

    algorithm: empty for Ed25519, else one of OCMF's.
    """

    reading: Reading
    signature: bytes = b""
    raw: bytes = b""
    algorithm: str = ""


class Submit(Struct, frozen=True, array_like=True, tag=1):
    """Readings of meters of this shard. submitter: a user, who must own them; 0: a head-end, whose meters they are.

    vouched: a head-end's signature over all of them has been verified, so theirs are not looked at.
    """

    submitter: int
    readings: list[Signed]
    vouched: bool = False

    @property
    def count(self) -> int:
        return len(self.readings)


class SubmitBatch(Struct, frozen=True, array_like=True, tag=3):
    """Interval readings that correct nothing, as a head-end has signed them, one after the other: runs.SIGNED.

    Its signature has been verified, and all of them are of its own meters.
    """

    signed: bytes
    vouched: ClassVar[bool] = True

    @property
    def count(self) -> int:
        return len(self.signed) // SIGNED.size


class WatchWindows(Struct, frozen=True, array_like=True, tag=2):
    """Tell of every window that closes, from now on."""


class Judged(Struct, frozen=True, array_like=True, tag=201):
    """Per reading ACCEPTED, DUPLICATE or a ReadingCode; by its place what there is to add. All that is accepted is
    durable.
    """

    codes: list[int]
    details: dict[int, str]
    flags: dict[int, int]


class Watching(Struct, frozen=True, array_like=True, tag=202):
    """Windows will be told of."""


class WindowNews(Struct, frozen=True, array_like=True, tag=203):
    """Windows that were closed, and adjustments that were posted, in one transaction."""

    windows: list[PostedWindow]
