"""Energy on its way from sellers' zones to buyers' zones: a flow through lanes with capacities, in whole lots.

Nodes 0 to zones - 1 are where energy is sold, zones to 2 * zones - 1 where it is bought; lanes lead from the first to
the second. A flow is changed by pushing along paths of what is still free and of what can be taken back, so nothing
but integers ever appears.
"""

from collections.abc import Iterable
from itertools import pairwise

from engine.units import EnergyWh


class Routing:
    """What each lane carries and can still carry; sold_wh and bought_wh are the sums at both ends."""

    __slots__ = ("_after", "_before", "bought_wh", "carried_wh", "free_wh", "sold_wh", "zones")

    def __init__(self, zones: int) -> None:
        self.zones = zones
        self.sold_wh = [0] * zones
        self.bought_wh = [0] * zones
        self.free_wh: dict[tuple[int, int], EnergyWh] = {}
        self.carried_wh: dict[tuple[int, int], EnergyWh] = {}  # on the lanes of free_wh
        self._after: list[list[int]] = [[] for _ in range(zones)]
        self._before: list[list[int]] = [[] for _ in range(zones)]

    def open_lane(self, sold_at: int, bought_at: int, capacity_wh: EnergyWh) -> None:
        """From here on up to this much may pass."""
        self.free_wh[sold_at, bought_at] = capacity_wh
        self.carried_wh[sold_at, bought_at] = 0
        self._after[sold_at].append(bought_at)
        self._before[bought_at].append(sold_at)

    def push(self, start: dict[int, EnergyWh], goal: dict[int, EnergyWh]) -> EnergyWh:
        """Send as much as possible from `start` to `goal`; both are lowered by what was sent. How much it was.

        A sellers' node in `start` sells more, a buyers' node there buys less; in `goal` a buyers' node buys more and a
        sellers' node sells less. Shortest paths first, so there are at most (nodes x lanes) of them.
        """
        sent = 0
        while path := self._path(start, goal):
            energy_wh = min(start[path[0]], goal[path[-1]])
            for here, there in pairwise(path):
                lane = self._lane(here, there)
                energy_wh = min(energy_wh, self.free_wh[lane] if here < there else self.carried_wh[lane])
            for here, there in pairwise(path):
                lane, change = self._lane(here, there), energy_wh if here < there else -energy_wh
                self.free_wh[lane] -= change
                self.carried_wh[lane] += change
            for node, change in ((path[0], energy_wh), (path[-1], -energy_wh)):
                if node < self.zones:
                    self.sold_wh[node] += change
                else:
                    self.bought_wh[node - self.zones] -= change
            start[path[0]] -= energy_wh
            goal[path[-1]] -= energy_wh
            sent += energy_wh
        return sent

    def reaching(self, goal: Iterable[int]) -> set[int]:
        """All nodes from which more could be sent to one of these, themselves included."""
        found = set(goal)
        waiting = list(found)
        while waiting:
            node = waiting.pop()
            if node < self.zones:
                before = [self.zones + there for there in self._after[node] if self.carried_wh[node, there]]
            else:
                bought_at = node - self.zones
                before = [here for here in self._before[bought_at] if self.free_wh[here, bought_at]]
            for other in before:
                if other not in found:
                    found.add(other)
                    waiting.append(other)
        return found

    def _lane(self, here: int, there: int) -> tuple[int, int]:
        return (here, there - self.zones) if here < there else (there, here - self.zones)

    def _path(self, start: dict[int, EnergyWh], goal: dict[int, EnergyWh]) -> list[int]:
        """A shortest one on which at least one lot can go; empty if there is none."""
        came_from = {node: -1 for node, energy_wh in start.items() if energy_wh > 0}
        waiting = list(came_from)
        zones, free, carried = self.zones, self.free_wh, self.carried_wh
        for node in waiting:  # grows while it is walked through
            if goal.get(node, 0) > 0:
                path = [node]
                while (node := came_from[node]) >= 0:
                    path.append(node)
                return path[::-1]
            if node < zones:
                after = [zones + there for there in self._after[node] if free[node, there]]
            else:
                after = [here for here in self._before[node - zones] if carried[here, node - zones]]
            for other in after:
                if other not in came_from:
                    came_from[other] = node
                    waiting.append(other)
        return []
