"""The operator's command line (console script wattbook): look, move, migrate, audit, replay, rotate, load, show."""

import sys

import httpx
import typer

from commands import (
    audit,
    backup,
    certificate,
    chain,
    deploy,
    devnet,
    keys,
    logs,
    look,
    meters,
    metrics,
    migrations,
    oracle,
    processes,
    proof,
    replay,
    restore,
    trace,
    traffic,
    users,
)
from commands.shared import Failure, console
from config.load import SettingsWrong
from persistence.migrate import MigrationProblem
from persistence.sealing import MasterKeyProblem

app = typer.Typer(
    name="wattbook",
    help="Operate a Wattbook energy exchange. Settings: config/default.toml, WATTBOOK_CONFIG, WATTBOOK_* variables.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for group in (look, backup, devnet, logs, metrics, replay, restore, trace, traffic):
    app.add_typer(group.app)
app.add_typer(migrations.app, name="migrate")
app.add_typer(audit.audits, name="audit")
app.add_typer(chain.app, name="chain")
app.add_typer(certificate.certificates, name="certificate")
app.add_typer(keys.app, name="keys")
app.add_typer(meters.app, name="meters")
app.add_typer(users.app, name="users")
app.add_typer(proof.app, name="proof")
app.add_typer(oracle.app, name="oracle")
app.add_typer(deploy.app, name="deploy")
app.add_typer(processes.market, name="market")
app.add_typer(processes.gateways, name="gateway")


def main() -> None:
    """Console script wattbook: every failure is one line that says what to do."""
    from bench.client import ApiError

    try:
        app()
    except (Failure, SettingsWrong, MigrationProblem, MasterKeyProblem, ApiError) as error:
        console.print(f"[red]{error}[/]")
        sys.exit(1)
    except ConnectionError as error:
        console.print(f"[red]The exchange does not answer ({error}). Start it with: make run[/]")
        sys.exit(1)
    except httpx.TransportError as error:
        console.print(f"[red]The exchange does not answer ({error}). Is it running? Start it with: make run[/]")
        sys.exit(1)
