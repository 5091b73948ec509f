"""Where the orders of a run spent their time: the exchange's stage histograms, read before and after.

Percentiles are interpolated within a histogram's bucket, so they are off by a fifth at most; means and sums are exact.
"""

from collections.abc import Mapping
from typing import Final

import httpx
from msgspec import Struct
from prometheus_client.parser import text_string_to_metric_families
from rich.table import Table

METRIC: Final = "wattbook_order_stage_seconds"
HAND_OVER_SECONDS: Final = 1.0  # after the last order, until its stages stand in the metrics
ORDER: Final = ("parse", "authenticate", "hop", "wait", "apply", "commit", "answer")
READ_SECONDS_MAX: Final = 10.0


class Spent(Struct):
    """One stage: cumulative counts by upper bound in seconds, ascending, and the sum of all seconds."""

    counts: dict[float, float]
    seconds: float = 0.0

    @property
    def count(self) -> float:
        return max(self.counts.values(), default=0.0)

    def since(self, before: "Spent | None") -> "Spent":
        """What came between the two readings."""
        if before is None:
            return self
        earlier = before.counts
        counts = {bound: count - earlier.get(bound, 0.0) for bound, count in self.counts.items()}
        return Spent(counts, self.seconds - before.seconds)

    def quantile_seconds(self, part: float) -> float:
        """Below this lies that part of the values; 0.0 without any."""
        wanted, below, lower = part * self.count, 0.0, 0.0
        for bound, count in sorted(self.counts.items()):
            if count >= wanted and count > below:
                share = (wanted - below) / (count - below)
                return lower if bound == float("inf") else lower + (bound - lower) * share
            below, lower = count, bound
        return 0.0


def parse(text: str) -> dict[str, Spent]:
    """The stages in a page of metrics."""
    found: dict[str, Spent] = {}
    for family in text_string_to_metric_families(text):
        if family.name != METRIC:
            continue
        for sample in family.samples:
            spent = found.setdefault(sample.labels["stage"], Spent({}))
            if sample.name.endswith("_bucket"):
                spent.counts[float(sample.labels["le"])] = sample.value
            elif sample.name.endswith("_sum"):
                spent.seconds = sample.value
    return found


def read(metrics_url: str) -> dict[str, Spent]:
    """Raises httpx.TransportError when nobody serves metrics there."""
    return parse(httpx.get(metrics_url, timeout=READ_SECONDS_MAX).raise_for_status().text)


def table(before: Mapping[str, Spent], after: Mapping[str, Spent]) -> Table:
    """One row per stage, in the order of an order's way."""
    shown = Table("stage", "orders", "mean", "p50", "p95", "p99", "share", box=None)
    stages = {name: after[name].since(before.get(name)) for name in ORDER if name in after}
    total = sum(spent.seconds for spent in stages.values())
    for name, spent in stages.items():
        if spent.count:
            figures = (spent.seconds / spent.count, *(spent.quantile_seconds(part) for part in (0.5, 0.95, 0.99)))
            shown.add_row(
                name,
                f"{spent.count:.0f}",
                *(f"{seconds * 1e3:.3f} ms" for seconds in figures),
                f"{100 * spent.seconds / total:.0f} %",
            )
    return shown
