"""Traffic for a running exchange: a load, a day of fifty households."""

import time
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from commands.meters import admin_of
from commands.shared import Failure, console
from config.load import load as load_settings

app = typer.Typer()


@app.command()
def load(
    rate: Annotated[int, typer.Option(min=1, max=20_000, help="Orders per second.")] = 200,
    seconds: Annotated[float, typer.Option(min=0.1, max=3_600, help="For how long.")] = 10,
    users: Annotated[int, typer.Option(min=1, max=1_000, help="Participants; made for this run.")] = 10,
    market: Annotated[list[str] | None, typer.Option(help="Markets to trade in; CAMPUS by default.")] = None,
    acknowledged: Annotated[Path | None, typer.Option(help="Write every acknowledgement to this file.")] = None,
    stages: Annotated[bool, typer.Option("--stages", help="Show where the orders spent their time.")] = False,
) -> None:
    """Send orders at a fixed rate and show latency percentiles, counted from the intended send times."""
    from bench import stages as stage_times
    from bench.client import AckLog
    from bench.load import Plan
    from bench.load import run as run_load

    settings = load_settings()
    metrics_url = f"http://127.0.0.1:{settings.metrics_port}/metrics"
    before = stage_times.read(metrics_url) if stages else {}
    plan = Plan(settings.url, rate, seconds, users, tuple(market or ["CAMPUS"]))
    log = AckLog(acknowledged)
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task(f"{rate} orders/s for {seconds:g} s", total=1.0)
        outcome = uvloop.run(run_load(plan, log, progress=lambda done: progress.update(task, completed=done)))
    log.close()
    table = Table(box=None, show_header=False)
    table.add_row("answers", f"{len(outcome.latencies_ns)} in {outcome.seconds:.1f} s, {outcome.rate:.0f}/s")
    table.add_row("statuses", ", ".join(f"{status}: {n}" for status, n in sorted(outcome.statuses.items())))
    for name, per_mille in (("p50", 500), ("p95", 950), ("p99", 990), ("p99.9", 999)):
        table.add_row(name, f"{outcome.quantile_ms(per_mille):.2f} ms")
    table.add_row("could not leave in time", str(outcome.late))
    console.print(table)
    if stages:
        time.sleep(stage_times.HAND_OVER_SECONDS)
        console.print(stage_times.table(before, stage_times.read(metrics_url)))
    if outcome.errors:
        raise Failure(f"{outcome.errors} requests failed")


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
