"""A trade as a settlement sees it, and the bytes of its leaf: a public contract (docs/settlement.md).

Integers are little-endian. The two sides are hashed by themselves, each with a blind: 32 bytes that only who sees the
trade's proof learns. So a side's owner can prove the trade without telling, or being told, who the other one was.
"""

import hashlib
import struct
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

from msgspec import Struct

from engine.messages import ParticipantId
from engine.settlement.merkle import leaf_hash
from engine.units import EnergyWh, MoneyMicro, TimeUs

SALT_BYTES: Final = 32
ID_BYTES: Final = 16
SideName: TypeAlias = Literal["buyer", "seller"]
SIDES: Final[tuple[SideName, SideName]] = ("buyer", "seller")

_BLIND: Final = struct.Struct("<IQB")
_SIDE: Final = struct.Struct("<QqqB")
_TRADE: Final = struct.Struct("<IQQqQ")
_SETTLEMENT: Final = struct.Struct("<QI")


class SettledSide(Struct, frozen=True, gc=False):
    """One side's own: what it pays or receives without the fee, and the fee, below zero for a rebate."""

    participant_id: ParticipantId
    zone: str
    value_micro: MoneyMicro
    fee_micro: MoneyMicro


class SettledTrade(Struct, frozen=True, gc=False):
    """number: of the trade in its market; sequence: of the journal entry that made it."""

    market_id: int
    number: int
    sequence: int
    time_us: TimeUs
    energy_wh: EnergyWh
    buyer: SettledSide
    seller: SettledSide

    def side(self, name: SideName) -> SettledSide:
        return self.buyer if name == "buyer" else self.seller


def blind_of(salt: bytes, market_id: int, number: int, side: SideName) -> bytes:
    """What hides this side of this trade; salt: the settlement's secret."""
    return hashlib.sha256(b"wattbook-blind-v1" + salt + _BLIND.pack(market_id, number, SIDES.index(side))).digest()


def side_hash(side: SettledSide, blind: bytes) -> bytes:
    zone = side.zone.encode()
    numbers = _SIDE.pack(side.participant_id, side.value_micro, side.fee_micro, len(zone))
    return hashlib.sha256(b"wattbook-side-v1" + blind + numbers + zone).digest()


def trade_leaf(
    market_id: int, number: int, sequence: int, time_us: TimeUs, energy_wh: EnergyWh, buyer: bytes, seller: bytes
) -> bytes:
    """The leaf's hash; buyer and seller: the hashes of the sides."""
    numbers = _TRADE.pack(market_id, number, sequence, time_us, energy_wh)
    return leaf_hash(b"wattbook-trade-v1" + numbers + buyer + seller)


def leaf_of(trade: SettledTrade, salt: bytes) -> bytes:
    """The leaf's hash of a trade in the settlement that has this salt."""
    market_id, number = trade.market_id, trade.number
    buyer, seller = (side_hash(trade.side(name), blind_of(salt, market_id, number, name)) for name in SIDES)
    return trade_leaf(market_id, number, trade.sequence, trade.time_us, trade.energy_wh, buyer, seller)


def leaves_of(trades: Sequence[SettledTrade], salt: bytes) -> list[bytes]:
    return [leaf_of(trade, salt) for trade in trades]


def settlement_id(number: int, count: int, root: bytes) -> bytes:
    """What the chain knows the settlement by: 16 bytes that nothing else can have, not even in another installation.

    It covers the count of trades, which the root of a tree leaves open.
    """
    return hashlib.sha256(b"wattbook-settlement-v1" + _SETTLEMENT.pack(number, count) + root).digest()[:ID_BYTES]
