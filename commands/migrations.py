"""The version of the database's tables."""

from typing import Annotated

import typer
from rich.table import Table

from commands.shared import console, with_database
from persistence import migrate

app = typer.Typer(help="Look at and change the version of the database's tables.", no_args_is_help=True)


@app.command("up")
def migrate_up() -> None:
    """Apply every migration that is missing."""
    applied = with_database(lambda dsn: migrate.up(dsn))
    console.print("\n".join(f"applied {name}" for name in applied) or "up to date")


@app.command("down")
def migrate_down(
    steps: Annotated[int, typer.Argument(min=1, help="How many migrations to undo, newest first.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask: undoing a migration throws its data away.")] = False,
) -> None:
    """Undo the newest migrations, with the data that only they hold."""
    if not yes:
        typer.confirm("This throws the data of those tables away. Go on?", abort=True)
    undone = with_database(lambda dsn: migrate.down(dsn, steps))
    console.print("\n".join(f"undone {name}" for name in undone) or "nothing to undo")


@app.command("status")
def migrate_status() -> None:
    """Which migrations exist and which of them the database has."""
    table = Table("migration", "applied", box=None)
    for row in with_database(lambda dsn: migrate.status(dsn)):
        table.add_row(row.name, "yes" if row.applied_us else "no")
    console.print(table)
