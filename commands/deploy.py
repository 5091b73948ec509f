"""After a change of version: go on, or roll back? Said by what the new exchange does, not by how it was started.

The criteria are those of docs/slo.md, looked at over some minutes of traffic. With `--old` the same figures of the
version before are held beside them, for a change that is within the objectives can still be one for the worse.
"""

import time
from collections.abc import Mapping
from typing import Annotated, Final

import httpx
import typer
from msgspec import Struct
from prometheus_client.parser import text_string_to_metric_families
from rich.table import Table

from commands.audit import audit_of
from commands.shared import Failure, console, with_database
from config.load import load

ERRORS_MAX: Final = 0.001  # share of requests
P95_SECONDS_MAX: Final = 0.1
WORSE_MAX: Final = 1.5  # times the old version's p95
REQUESTS_MIN: Final = 100  # fewer prove nothing
BEHIND_MAX: Final = 10_000  # entries that the tables do not show
READ_SECONDS_MAX: Final = 10.0
UNDECIDED: Final = 3
REQUESTS: Final = "wattbook_http_request_seconds"
MUST_STAND_STILL: Final = {
    "wattbook_market_replays_total": "books thrown away",
    "wattbook_actor_faults_total": "actors that stopped answering",
    "wattbook_follower_faults_total": "followers that started over",
}

app = typer.Typer(no_args_is_help=True)


class Figures(Struct, frozen=True):
    """One page of metrics. buckets: of all requests, cumulative by upper bound in seconds."""

    requests: float
    errors: float
    buckets: dict[float, float]
    counters: dict[str, float]
    behind: dict[str, float]


class Finding(Struct, frozen=True):
    """One criterion. verdict: True go on, False roll back, None: nothing to judge by."""

    what: str
    seen: str
    wanted: str
    verdict: bool | None


@app.callback()
def deploy() -> None:
    """Changes of version: whether to go on or to roll back."""


@app.command()
def check(
    url: Annotated[str, typer.Option(help="The new version's API; by default that of the settings.")] = "",
    metrics: Annotated[str, typer.Option(help="Its metrics; by default those of the settings.")] = "",
    old: Annotated[str, typer.Option(help="Metrics of the version before, if it still takes requests.")] = "",
    seconds: Annotated[float, typer.Option(min=0.1, max=3_600, help="How long to look.")] = 60,
    audit: Annotated[
        bool, typer.Option("--audit", help="Hold tables against journals, too; may take minutes.")
    ] = False,
) -> None:
    """Status 0: go on. 1: roll back. 3: too little traffic to say."""
    settings = load()
    url = url or settings.url
    metrics = metrics or f"http://{settings.metrics_host}:{settings.metrics_port}/metrics"
    before, before_old = read(metrics), read(old) if old else None
    time.sleep(seconds)
    after, after_old = read(metrics), read(old) if old else None
    findings = [*judged(before, after), _ready(url)]
    if before_old is not None and after_old is not None:
        findings.append(compared(p95(before, after), p95(before_old, after_old)))
    if audit:
        report = with_database(lambda dsn: audit_of(settings, dsn, []))
        seen = "; ".join(report.violations[:3]) or f"{report.entries} entries agree"
        findings.append(Finding("audit", seen, "no violations", not report.violations))
    table = Table("", "criterion", "seen", "wanted", box=None)
    for one in findings:
        table.add_row(_mark(one.verdict), one.what, one.seen, one.wanted)
    console.print(table)
    if any(one.verdict is False for one in findings):
        raise Failure("roll back")
    if any(one.verdict is None for one in findings):
        console.print("[yellow]undecided[/]: too little traffic to say")
        raise typer.Exit(UNDECIDED)
    console.print("[green]go on[/]")


def read(url: str) -> Figures:
    """Raises httpx.HTTPError."""
    return parse(httpx.get(url, timeout=READ_SECONDS_MAX).raise_for_status().text)


def parse(text: str) -> Figures:
    """What counts in a page of metrics."""
    requests = errors = 0.0
    buckets: dict[float, float] = {}
    counters = dict.fromkeys(MUST_STAND_STILL, 0.0)
    reached: dict[str, dict[str, float]] = {"wattbook_market_sequence": {}, "wattbook_follower_sequence": {}}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == f"{REQUESTS}_count":
                requests += sample.value
                errors += sample.value * sample.labels["status"].startswith("5")
            elif sample.name == f"{REQUESTS}_bucket":
                bound = float(sample.labels["le"])
                buckets[bound] = buckets.get(bound, 0.0) + sample.value
            elif sample.name in counters:
                counters[sample.name] += sample.value
            elif sample.name in reached:
                reached[sample.name][sample.labels["market"]] = sample.value
    markets, followed = reached.values()
    behind = {market: sequence - followed.get(market, 0.0) for market, sequence in markets.items()}
    return Figures(requests, errors, buckets, counters, behind)


def judged(before: Figures, after: Figures) -> list[Finding]:
    """What happened between the two pages, by the criteria that need no other version."""
    requests, errors = after.requests - before.requests, after.errors - before.errors
    enough, seconds = requests >= REQUESTS_MIN, p95(before, after)
    share = errors / requests if requests else 0.0
    found = [
        Finding("requests", f"{requests:.0f}", f"at least {REQUESTS_MIN}", True if enough else None),
        Finding("failed", f"{share:.3%}", f"at most {ERRORS_MAX:.1%}", share <= ERRORS_MAX if enough else None),
        Finding(
            "p95 of requests",
            f"at most {seconds * 1_000:g} ms",
            f"at most {P95_SECONDS_MAX * 1_000:g} ms",
            seconds <= P95_SECONDS_MAX if enough else None,
        ),
    ]
    for name, meaning in MUST_STAND_STILL.items():
        count = after.counters[name] - before.counters[name]
        found.append(Finding(meaning, f"{count:.0f}", "none", count == 0))
    for market, behind in sorted(after.behind.items()):
        catches_up = behind <= BEHIND_MAX or behind < before.behind.get(market, 0.0)
        found.append(
            Finding(
                f"entries that tables of {market} lack",
                f"{behind:.0f}",
                f"at most {BEHIND_MAX}, or fewer than before",
                catches_up,
            )
        )
    return found


def compared(new: float, old: float) -> Finding:
    """The two p95, in seconds."""
    verdict = new <= old * WORSE_MAX if old else None
    return Finding(
        "p95 beside the old version's", f"{new * 1e3:g} ms", f"at most {WORSE_MAX:g} x {old * 1e3:g} ms", verdict
    )


def p95(before: Figures, after: Figures) -> float:
    """Upper bound, in seconds, of the bucket in which it lies; 0.0 without requests."""
    counts: Mapping[float, float] = {
        bound: count - before.buckets.get(bound, 0.0) for bound, count in after.buckets.items()
    }
    total = max(counts.values(), default=0.0)
    return next((bound for bound, count in sorted(counts.items()) if total and count >= 0.95 * total), 0.0)


def _ready(url: str) -> Finding:
    try:
        answer = httpx.get(f"{url}/health/ready", timeout=READ_SECONDS_MAX)
    except httpx.TransportError as error:
        return Finding("ready", f"does not answer ({error})", "yes", False)
    reasons = "; ".join(answer.json().get("reasons", []))
    return Finding("ready", reasons or "yes", "yes", answer.status_code == httpx.codes.OK)


def _mark(verdict: bool | None) -> str:
    return {True: "[green]ok[/]", False: "[red]no[/]", None: "[yellow]?[/]"}[verdict]
