"""What is kept of feeds, providers and rounds, as persistence reads it and the gateway shows it."""

from typing import Literal

from msgspec import Struct

from engine.oracle.rounds import is_stale
from engine.units import SECOND_US, TimeUs


class FeedTaken(Exception):
    """There is a feed of this name."""


class KeyTaken(Exception):
    """Another provider has this public key."""


class UnknownFeed(Exception):
    """There is no feed of this name."""


class OracleFull(Exception):
    """There are as many feeds or providers as there may be."""


class NotNewer(Exception):
    """The provider has said something else about this instant, or something about a later one."""


class NewFeed(Struct, frozen=True):
    """source: `providers`, or `trades` for what our own markets traded at. Values are in `unit`, with `decimals`."""

    feed: str
    name: str
    unit: str
    decimals: int
    single_provider: bool
    round_seconds: int
    source: str = "providers"


class FeedRecord(Struct, frozen=True):
    """closed_round: the last one that ended; value, spread, round, at_us: what was published last, None before."""

    feed: str
    name: str
    unit: str
    decimals: int
    single_provider: bool
    round_seconds: int
    source: str
    closed_round: int
    value: int | None
    spread: int | None
    round: int | None
    at_us: TimeUs | None
    active: int

    def is_stale(self, now_us: TimeUs) -> bool:
        """Also when nothing has been published yet."""
        if self.at_us is None:
            return True
        return is_stale(now_us, self.at_us, self.round_seconds * SECOND_US, missed=self.closed_round != self.round)


class NewProvider(Struct, frozen=True):
    provider_id: bytes
    name: str
    public_key: bytes
    feeds: tuple[str, ...]


class ProviderChange(Struct, frozen=True):
    """None: as it was."""

    name: str | None = None
    feeds: tuple[str, ...] | None = None
    active: bool | None = None


class ProviderRecord(Struct, frozen=True):
    """flagged: feeds for which it has been an outlier too often."""

    provider_id: bytes
    name: str
    public_key: bytes
    feeds: tuple[str, ...]
    active: bool
    created_us: TimeUs
    flagged: tuple[str, ...] = ()


class Heard(Struct, frozen=True):
    """One provider's part in a round, with which anybody can check it. signature: base64; provider_id: a UUID."""

    provider_id: str
    value: int
    observed_us: TimeUs
    signature: str
    outlier: bool


class RoundRecord(Struct, frozen=True):
    """value, spread: None below the quorum. chain_state: of its submission, None when the chain is told nothing."""

    feed: str
    round: int
    at_us: TimeUs
    status: Literal["published", "below_quorum"]
    value: int | None
    spread: int | None
    quorum: int
    heard: tuple[Heard, ...]
    chain_state: str | None = None
    signature: str | None = None


class Latest(Struct, frozen=True):
    """The last published value of a feed, in steps of its decimals, and how old it is."""

    value: int
    spread: int
    at_us: TimeUs
    age_us: int
    stale: bool
