"""Who trades with whom: fills of one price become pairs of a bid and an ask, never both of one participant.

In an auction everybody trades with everybody, so pairs only say whose energy the ledger books to whom. They follow
priority; where that would pair a participant with himself, two pairs swap their asks.
"""

from collections.abc import Iterable, Iterator

from msgspec import Struct

from engine.auction.orders import Fill
from engine.messages import Side
from engine.units import EnergyWh


class Pair(Struct, frozen=True, array_like=True, gc=False):
    """One trade: this much of the bid's fill comes from the ask's."""

    bid: Fill
    ask: Fill
    energy_wh: EnergyWh

    @property
    def is_self_trade(self) -> bool:
        return self.bid.participant_id == self.ask.participant_id


def pair(fills: Iterable[Fill]) -> tuple[list[Pair], list[Pair]]:
    """Pairs of different participants, and what is left of pairs with oneself: all of one participant. O(n).

    As much is left as his purchases and sales together exceed the volume, hence nothing for an auction's own fills
    (engine.auction.uniform.exceeding). Bought and sold must be equal; at most 4 pairs come of a fill.
    """
    own, others = list[Pair](), list[Pair]()
    for one in _in_order(fills):
        _take_in(one, own, others)
    if not own:
        return others, []
    participant_id, kept = own[0].bid.participant_id, list[Pair]()
    for other in others:
        left = other.energy_wh
        while own and left and participant_id not in (other.bid.participant_id, other.ask.participant_id):
            left -= _swap(own, Pair(other.bid, other.ask, left), kept)
        if left:
            kept.append(Pair(other.bid, other.ask, left))
    return kept, own


def _in_order(fills: Iterable[Fill]) -> Iterator[Pair]:
    """First bid with first ask, each until it is used up."""
    sides: tuple[list[Fill], list[Fill]] = ([], [])
    for fill in fills:
        sides[fill.side].append(fill)
    asks = iter(sides[Side.SELL])
    ask, ask_left = None, 0
    for bid in sides[Side.BUY]:
        bid_left = bid.energy_wh
        while bid_left:
            if not ask_left:
                ask = next(asks)
                ask_left = ask.energy_wh
            assert ask is not None
            energy_wh = min(bid_left, ask_left)
            yield Pair(bid, ask, energy_wh)
            bid_left, ask_left = bid_left - energy_wh, ask_left - energy_wh


def _take_in(one: Pair, own: list[Pair], others: list[Pair]) -> None:
    """A pair with oneself swaps with those of somebody else that wait; all that then wait are of one participant."""
    if not one.is_self_trade:
        others.append(one)
        return
    left = one.energy_wh
    while left and own and own[-1].bid.participant_id != one.bid.participant_id:
        left -= _swap(own, Pair(one.bid, one.ask, left), others)
    if left:
        own.append(Pair(one.bid, one.ask, left))


def _swap(own: list[Pair], other: Pair, out: list[Pair]) -> EnergyWh:
    """Let the last of `own` and the other exchange their asks, for as much as both have; that much."""
    last = own.pop()
    energy_wh = min(last.energy_wh, other.energy_wh)
    out += (Pair(last.bid, other.ask, energy_wh), Pair(other.bid, last.ask, energy_wh))
    if last.energy_wh > energy_wh:
        own.append(Pair(last.bid, last.ask, last.energy_wh - energy_wh))
    return energy_wh
