"""A participant beside the others of his zone, so that no answer betrays one of them.

The rule: whole periods that are over, and figures of others only when they are at least five and none of them has more
than half of their total, which is not zero. Then their average is told, to 100 Wh, and in which quarter of all one
stands oneself; never a median or an extreme, which is one neighbour's very own figure. The flow of a zone is told to
who does not administer the exchange by the same rule.
"""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from engine.analytics.series import Flow
from engine.units import EnergyWh

OTHERS_MIN: Final = 5
AVERAGE_STEP_WH: Final = 100


class Peers(Struct, frozen=True):
    """quarter: 1 is the quarter with the least energy. Without `enough` others, nothing is told of them."""

    own_wh: EnergyWh
    enough: bool
    others_average_wh: EnergyWh | None = None
    quarter: int | None = None


def peers(own_wh: EnergyWh, others_wh: Sequence[EnergyWh]) -> Peers:
    """The average of the others is rounded down; who is level with others stands with the lowest of them."""
    if not are_enough(others_wh):
        return Peers(own_wh, False)
    average = sum(others_wh) // (len(others_wh) * AVERAGE_STEP_WH) * AVERAGE_STEP_WH
    below = sum(1 for other in others_wh if other < own_wh)
    return Peers(own_wh, True, average, below * 4 // (len(others_wh) + 1) + 1)


def are_enough(energies_wh: Sequence[EnergyWh]) -> bool:
    return _hide_one_another(len(energies_wh), max(energies_wh, default=0), sum(energies_wh))


def may_be_told(flow: Flow) -> bool:
    """Does nobody of this zone stand out?"""
    return _hide_one_another(flow.owners, flow.largest_wh, flow.import_wh + flow.export_wh)


def _hide_one_another(count: int, largest_wh: EnergyWh, total_wh: EnergyWh) -> bool:
    return count >= OTHERS_MIN and 0 < largest_wh * 2 <= total_wh
