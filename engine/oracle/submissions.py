"""What a provider signs: a public contract (docs/oracle.md). Integers are little-endian, and every field is covered."""

import struct
from typing import Final

from engine.units import SECOND_US, TimeUs

FEED_BYTES: Final = 16  # a feed's name is its id on the chain
VALUE_MAX: Final = 10**15
FRESH_US: Final = 300 * SECOND_US  # what a round takes is not older
AHEAD_US: Final = 60 * SECOND_US  # how wrong a provider's clock may be

_SUBMISSION: Final = struct.Struct("<16s16sqq")


def feed_id(feed: str) -> bytes:
    """The name, filled up with zeros."""
    name = feed.encode("ascii")
    assert 0 < len(name) <= FEED_BYTES, "who makes a feed looks at its name"
    return name.ljust(FEED_BYTES, b"\0")


def signed_bytes(provider_id: bytes, feed: str, value: int, observed_us: TimeUs) -> bytes:
    """provider_id: the 16 bytes of its UUID; value: in the feed's smallest step."""
    return b"wattbook-oracle-v1" + _SUBMISSION.pack(provider_id, feed_id(feed), value, observed_us)
