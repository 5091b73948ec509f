"""Traffic for a running exchange: a load, a day of fifty households."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer
import uvloop
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from commands.meters import admin_of
from commands.shared import Failure, console
from config.load import load as load_settings

if TYPE_CHECKING:
    from bench.report import Recorder
    from bench.scenarios import Scenario

NAMES: Final = (
    "steady",
    "burst",
    "mixed",
    "order-storm",
    "cancel-storm",
    "slow-readers",
    "reconnect-storm",
    "reading-flood",
)

app = typer.Typer()


@app.command()
def load(
    scenario: Annotated[str, typer.Option(help=f"One of {', '.join(NAMES)}.")] = "steady",
    rate: Annotated[int | None, typer.Option(min=1, max=20_000, help="Orders per second.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.1, max=86_400, help="For how long.")] = None,
    users: Annotated[int | None, typer.Option(min=1, max=1_000, help="Participants; made for this run.")] = None,
    market: Annotated[list[str] | None, typer.Option(help="Markets to trade in; CAMPUS by default.")] = None,
    acknowledged: Annotated[Path | None, typer.Option(help="Write every acknowledgement to this file.")] = None,
    stages: Annotated[bool, typer.Option("--stages", help="Show where the orders spent their time.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write an HTML page with plots to this file.")] = None,
) -> None:
    """Send orders at a fixed rate and show latency percentiles, counted from the intended send times."""
    from bench import stages as stage_times
    from bench.client import AckLog
    from bench.installation import Target
    from bench.scenarios import SCENARIOS, data_dir_of, play

    if scenario not in SCENARIOS:
        raise Failure(f"there is no scenario {scenario!r}; there are {', '.join(SCENARIOS)}")
    settings, wanted = load_settings(), SCENARIOS[scenario]
    given = {"rate": rate, "seconds": seconds, "users": users}
    wanted = msgspec.structs.replace(wanted, **{name: value for name, value in given.items() if value is not None})
    metrics_url = f"http://127.0.0.1:{settings.metrics_port}/metrics"
    before = stage_times.read(metrics_url) if stages else {}
    log, target = AckLog(acknowledged), Target(settings.url, data_dir_of(settings.url))
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task(f"{scenario}: {wanted.rate} orders/s for {wanted.seconds:g} s", total=1.0)
        recorder, beside = uvloop.run(
            play(
                target,
                wanted,
                log,
                tuple(market or ["CAMPUS"]),
                progress=lambda done: progress.update(task, completed=done),
            )
        )
    log.close()
    table = Table(box=None, show_header=False)
    table.add_row("answers", f"{recorder.answers}, {recorder.answers / wanted.seconds:.0f}/s")
    table.add_row("statuses", ", ".join(f"{status}: {n}" for status, n in sorted(recorder.statuses.items())))
    for at, ms in recorder.percentiles_ms().items():
        table.add_row("slowest" if at == 100 else f"p{at:g}", f"{ms:.2f} ms")
    for name, count in beside.items():
        table.add_row(name, str(count))
    console.print(table)
    if stages:
        time.sleep(stage_times.HAND_OVER_SECONDS)
        console.print(stage_times.table(before, stage_times.read(metrics_url)))
    if report is not None:
        report.write_text(_page(scenario, wanted, recorder, beside), "utf-8")
        console.print(f"{report} has the plots")
    if recorder.errors:
        raise Failure(f"{recorder.errors} requests failed")


def _page(name: str, wanted: "Scenario", recorder: "Recorder", beside: Mapping[str, int]) -> str:
    from bench.machine import machine
    from bench.report import Report, page

    plan = {"orders per second": wanted.rate, "seconds": wanted.seconds, "users": wanted.users}
    return page(
        Report(
            title=f"Wattbook load: {name}",
            about=wanted.about,
            machine=machine(),
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            plan={key: f"{value:g}" for key, value in plan.items()},
            statuses=dict(recorder.statuses),
            beside=dict(beside),
            percentiles_ms=recorder.percentiles_ms(),
            timeline=recorder.timeline(),
        )
    )


@app.command()
def demo(
    seconds: Annotated[float, typer.Option(min=5, max=86_400, help="How long the day takes.")] = 120,
    homes: Annotated[int, typer.Option(min=2, max=500, help="Households; half of them have panels.")] = 50,
    seed: Annotated[int, typer.Option(help="Of the weather and the homes.")] = 7,
) -> None:
    """Fifty households trade a real day through the public API. Starts the exchange first if it does not run."""
    from bench.demo import main as run_demo

    settings = load_settings()
    run_demo(console, settings, seconds, homes, seed, lambda: admin_of(settings))
