"""Meters that are not there: a simulation for a running exchange."""

from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated

import typer
import uvloop
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from commands.shared import Failure, console
from config.load import load
from config.settings import Settings
from seeding import ADMIN_EMAIL

if TYPE_CHECKING:
    from bench.simulator import Outcome

app = typer.Typer(no_args_is_help=True)
INTERRUPTED = 130


@app.callback()
def meters() -> None:
    """Meters: a simulation of them for an exchange that runs."""


@app.command()
def simulate(
    count: Annotated[int, typer.Option("--meters", min=1, max=10_000, help="Households, each with a meter.")] = 20,
    hours: Annotated[int, typer.Option(min=1, max=160, help="Of the past, until now.")] = 24,
    seed: Annotated[int, typer.Option(help="Of homes, weather and everything that goes wrong.")] = 7,
    loss: Annotated[float, typer.Option(min=0, max=90, help="Percent of readings that never arrive.")] = 1,
    duplicates: Annotated[float, typer.Option(min=0, max=90, help="Percent that are sent twice.")] = 3,
    late: Annotated[float, typer.Option(min=0, max=90, help="Percent that are read out hours later.")] = 3,
    corrected: Annotated[float, typer.Option(min=0, max=90, help="Percent that are put right later.")] = 1,
    skew: Annotated[int, typer.Option(min=0, max=3_600, help="Seconds by which clocks are off at most.")] = 20,
    acknowledged: Annotated[
        Path | None, typer.Option(help="Write every acknowledged reading to this file, for `wattbook audit`.")
    ] = None,
) -> None:
    """Households' meters send the last hours to the exchange that runs: signed, some lost, twice, late or corrected."""
    from bench.meters import ReadingLog
    from bench.simulator import Outcome, Plan, run

    settings = load()
    plan = Plan(settings.url, settings.default_zone, count, hours, seed, loss, duplicates, late, corrected, skew)
    log, outcome, began = ReadingLog(acknowledged), Outcome.empty(), monotonic()
    admin = admin_of(settings)
    if admin is None:
        console.print("no admin's password at hand, so no head-end signs batches")
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"), TimeElapsedColumn())
    try:
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(f"{count} meters, {hours} h", total=hours * 4, note="installing")

            def told(done: int) -> None:
                progress.update(task, completed=done, note=f"{sum(outcome.verdicts.values())} verdicts")

            uvloop.run(run(plan, log, outcome, admin, told))
    except KeyboardInterrupt:
        console.print("stopped; what was acknowledged is in the exchange")
        raise typer.Exit(INTERRUPTED) from None
    except TimeoutError:
        raise Failure("the exchange did not answer for half a minute") from None
    finally:
        log.close()
        if outcome.said:
            console.print(_table(outcome, log.count, monotonic() - began))


def admin_of(settings: Settings) -> tuple[str, str] | None:
    """E-mail and password, if this machine has them."""
    file = settings.keys / "admin-password"
    password = settings.admin_password or (file.read_text().strip() if file.is_file() else "")
    return (settings.admin_email or ADMIN_EMAIL, password) if password else None


def _table(outcome: "Outcome", acknowledged: int, seconds: float) -> Table:
    table = Table(box=None, show_header=False)
    table.add_row("readings", f"{outcome.said}, of them lost on the way {outcome.lost}")
    table.add_row("requests", ", ".join(f"{form}: {count}" for form, count in sorted(outcome.requests.items())))
    for verdict, count in outcome.verdicts.most_common():
        table.add_row(verdict, str(count))
    table.add_row("acknowledged", f"{acknowledged} in {seconds:.1f} s, with signing up")
    for name, wh in outcome.energy.items():
        table.add_row(f"energy {name}", f"{wh / 1_000:.3f} kWh")
    return table
