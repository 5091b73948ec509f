"""What a gateway may ask of a market: commands, queries, and either of them with the trace that it belongs to.

Fund and ClearEpoch are missing on purpose: only the market itself turns a draw from the ledger into funds, and an
auction into trades.
"""

from typing import TypeAlias

from msgspec import Struct

from engine.messages import (
    AmendOrder,
    CancelAll,
    CancelAllAt,
    CancelOrder,
    Defund,
    PlaceOrder,
    SetFees,
    SetPhase,
    SetRisk,
    SetSpec,
    Tick,
)
from engine.views import Query

WireCommand: TypeAlias = (
    PlaceOrder
    | AmendOrder
    | CancelOrder
    | CancelAll
    | CancelAllAt
    | Defund
    | SetPhase
    | SetSpec
    | SetFees
    | SetRisk
    | Tick
)


class Traced(Struct, frozen=True, array_like=True, tag=201):
    """parent: the W3C `traceparent` of the span in which the gateway asks."""

    parent: str
    body: WireCommand | Query


Asked: TypeAlias = WireCommand | Query | Traced
