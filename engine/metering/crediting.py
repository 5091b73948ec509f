"""Whom a closed window credits, and what of it is used up at once: pure sums over balances that the caller has locked.

    generation -> main account     the exported energy of a verified meter, once per (meter, window)
    main account -> retired        min(available, import) against the owner's consumption
    main account -> generation     what a correction takes back; what has been sold already becomes a debt in energy

A debt is paid by the next credits of the same owner in the same zone, before he gets anything.
"""

from collections.abc import Sequence
from typing import TypeAlias

from msgspec import Struct

from engine.units import EnergyWh, TimeUs

Holder: TypeAlias = tuple[int, str]  # participant, zone


class Due(Struct, frozen=True):
    """Energy to be accounted for: of a closed window, or of an adjustment to one (then maybe below zero)."""

    meter: int
    window_us: TimeUs
    holder: Holder
    import_wh: int
    export_wh: int
    verified: bool
    retires: bool
    cause: str  # unique for ever: what its transfers are called after


class Purse(Struct):
    """What one holder has free, and owes."""

    available_wh: EnergyWh = 0
    debt_wh: EnergyWh = 0


class Posting(Struct, frozen=True):
    """What one `Due` moves. credited_wh is below zero for what is taken back."""

    due: Due
    credited_wh: int
    retired_wh: EnergyWh
    debt_wh: int  # by how much the debt grows, or shrinks


def post(dues: Sequence[Due], purses: dict[Holder, Purse]) -> list[Posting]:
    """One posting each, in order; the purses are as they will be afterwards."""
    return [_post(due, purses[due.holder]) for due in dues]


def _post(due: Due, purse: Purse) -> Posting:
    credited = debt = retired = 0
    if due.verified and due.export_wh > 0:
        debt = -min(purse.debt_wh, due.export_wh)
        credited = due.export_wh + debt
    elif due.verified and due.export_wh < 0:
        credited = -min(purse.available_wh, -due.export_wh)
        debt = credited - due.export_wh
    purse.available_wh += credited
    purse.debt_wh += debt
    if due.retires and due.import_wh > 0:
        retired = min(purse.available_wh, due.import_wh)
        purse.available_wh -= retired
    return Posting(due, credited, retired, debt)
