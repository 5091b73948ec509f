"""A few figures for Ray's own dashboard and its Prometheus targets, once in five seconds and as gauges only.

What Ray is told is copied through its agent on each node: a value each time something happens would stall that agent.
"""

from collections.abc import Callable
from typing import Final

from ray.util.metrics import Gauge

from actors.sampling import Figures

MEANINGS: Final = {
    "loop_lag_seconds": "How late the event loop was at worst",
    "waiting": "Commands or readings that wait",
    "open_orders": "Orders in the book",
    "trades": "Trades since the process began",
}


def teller(part: str) -> Callable[[Figures], None]:
    """What to call with a part's figures: those in MEANINGS are shown as wattbook_<name>, by part."""
    gauges = {name: Gauge(f"wattbook_{name}", meaning, tag_keys=("part",)) for name, meaning in MEANINGS.items()}

    def tell(figures: Figures) -> None:
        for name in gauges.keys() & figures.keys():
            gauges[name].set(figures[name], tags={"part": part})

    return tell
