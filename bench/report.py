"""What a load came to, as one HTML file without anything from elsewhere: percentiles, and how they went over time."""

import html
import math
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from hdrh.histogram import HdrHistogram
from msgspec import Struct

from bench.machine import percentile

LATENCY_US_MAX: Final = 120_000_000
DIGITS: Final = 3  # of a latency that are kept
PERCENTILES: Final = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99, 100.0)
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 760, 220, 60, 24, 12
COLOURS: Final = ("#2f6f4f", "#c98a00", "#b03030", "#5a5f66")

Series = Mapping[str, Sequence[tuple[float, float]]]


class Second(Struct, frozen=True):
    """Of the requests that were meant to leave in this second; latencies in milliseconds."""

    second: int
    answers: int
    errors: int
    p50_ms: float
    p99_ms: float
    max_ms: float


class Recorder:
    """Told of every answer. Latencies count from when a request was meant to leave."""

    def __init__(self) -> None:
        self.histogram = HdrHistogram(1, LATENCY_US_MAX, DIGITS)
        self.statuses: Counter[str] = Counter()
        self._us: dict[int, array[int]] = {}
        self._errors: Counter[int] = Counter()

    def observe(self, meant_ns: int, latency_ns: int, status: str) -> None:
        """meant_ns: since the beginning of the run."""
        us, second = min(max(1, latency_ns // 1_000), LATENCY_US_MAX), meant_ns // 1_000_000_000
        self.histogram.record_value(us)
        self.statuses[status] += 1
        self._us.setdefault(second, array("L")).append(us)
        self._errors[second] += is_error(status)

    @property
    def answers(self) -> int:
        return sum(self.statuses.values())

    @property
    def errors(self) -> int:
        return sum(self._errors.values())

    def percentiles_ms(self) -> dict[float, float]:
        return {at: self.histogram.get_value_at_percentile(at) / 1_000 for at in PERCENTILES}

    def timeline(self) -> list[Second]:
        found = []
        for second, unordered in sorted(self._us.items()):
            us = sorted(unordered)
            p50_ms, p99_ms = (percentile(us, at) / 1_000 for at in (500, 990))
            found.append(Second(second, len(us), self._errors[second], p50_ms, p99_ms, us[-1] / 1_000))
        return found


class Report(Struct, frozen=True):
    """One run. beside: what went on besides the trading, counted."""

    title: str
    about: str
    machine: str
    at: str
    plan: dict[str, str]
    statuses: dict[str, int]
    beside: dict[str, int]
    percentiles_ms: dict[float, float]
    timeline: list[Second]


def is_error(status: str) -> bool:
    """Answers that an exchange in good order does not give; refusals to who asks too much are not among them."""
    return status == "broken" or int(status) >= 500


def page(report: Report) -> str:
    """The file."""
    seconds = report.timeline
    latencies = {
        "p50": [(one.second, one.p50_ms) for one in seconds],
        "p99": [(one.second, one.p99_ms) for one in seconds],
        "max": [(one.second, one.max_ms) for one in seconds],
    }
    rates = {
        "answers": [(one.second, float(one.answers)) for one in seconds],
        "errors": [(one.second, float(one.errors)) for one in seconds],
    }
    curve = {"latency": [(_nines(at), ms) for at, ms in report.percentiles_ms.items() if at < 100]}
    rows = {f"p{at:g}": f"{ms:.2f} ms" for at, ms in report.percentiles_ms.items()}
    return _PAGE.format(
        title=html.escape(report.title),
        about=html.escape(report.about),
        where=html.escape(f"{report.at}, {report.machine}"),
        plan=_table(report.plan),
        answers=_table({status: str(count) for status, count in sorted(report.statuses.items())}),
        beside=_table({name: str(count) for name, count in report.beside.items()}),
        percentiles=_table(rows),
        latency=plot(latencies, "ms", "s", log=True),
        rate=plot(rates, "per second", "s"),
        curve=plot(curve, "ms", "nines", log=True),
    )


def plot(series: Series, unit: str, along: str, *, log: bool = False) -> str:
    """Lines over time as SVG; `log` for the upright axis."""
    points = [point for line in series.values() for point in line]
    if not points:
        return "<p>nothing was answered</p>"
    x_max = max(x for x, _ in points) or 1.0
    low, high = (min(y for _, y in points), max(y for _, y in points)) if log else (0.0, max(y for _, y in points))
    low, high = (math.log10(max(low, 1e-3)), math.log10(max(high, 1e-2))) if log else (low, high or 1.0)
    span = (high - low) or 1.0

    def place(x: float, y: float) -> str:
        height = math.log10(max(y, 1e-3)) if log else y
        right, up = (WIDTH - LEFT - 10) * x / x_max, (HEIGHT - BOTTOM - TOP) * (height - low) / span
        return f"{LEFT + right:.1f},{HEIGHT - BOTTOM - up:.1f}"

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">']
    for step in range(5):
        value = low + span * step / 4
        y = HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * step / 4
        shown = 10**value if log else value
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - 10}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" class="right">{shown:.3g}</text>')
    for number, (name, line) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        at = " ".join(place(x, y) for x, y in line)
        parts.append(f'<polyline points="{at}" stroke="{colour}"/>')
        parts.append(f'<text x="{LEFT + 90 * number}" y="{HEIGHT - 4}" fill="{colour}">{html.escape(name)}</text>')
    parts.append(f'<text x="{WIDTH - 10}" y="{HEIGHT - 4}" class="right">{x_max:g} {along}; {unit}</text></svg>')
    return "".join(parts)


def _nines(at: float) -> float:
    """50 % is 0.3, 90 % is 1, 99 % is 2: how HDR percentiles are drawn."""
    return -math.log10(1 - at / 100)


def _table(rows: Mapping[str, str]) -> str:
    cells = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>" for name, text in rows.items())
    return f"<table>{cells}</table>"


_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #22262b; }}
h1 {{ font-size: 1.3rem; }} h2 {{ font-size: 1rem; margin: 1.6rem 0 .4rem; }} .soft {{ color: #6b7178; }}
.side {{ display: flex; flex-wrap: wrap; gap: 2rem; }}
th {{ text-align: left; font-weight: 500; padding-right: 1.2rem; }}
td {{ text-align: right; font-variant-numeric: tabular-nums; }} svg {{ width: 100%; background: #fafaf7; }}
polyline {{ fill: none; stroke-width: 1.6; }} .grid {{ stroke: #e2e2dc; }} text {{ font-size: 11px; fill: #6b7178; }}
.right {{ text-anchor: end; }}
</style></head><body>
<h1>{title}</h1><p>{about}</p><p class="soft">{where}</p>
<div class="side"><div><h2>Plan</h2>{plan}</div><div><h2>Answers</h2>{answers}</div>
<div><h2>Beside</h2>{beside}</div><div><h2>Latency, from when it was meant to leave</h2>{percentiles}</div></div>
<h2>Latency over time</h2>{latency}
<h2>Answers over time</h2>{rate}
<h2>Latency by percentile (1 is 90 %, 2 is 99 %, 3 is 99.9 %)</h2>{curve}
</body></html>
"""
