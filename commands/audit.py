"""Is everything still true? Tables, acknowledgements, the audit log, and journals alone."""

import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from actors.audit import Acknowledged, Report
from actors.audit import audit as run_audit
from actors.metering_audit import audit_metering
from commands.shared import Failure, console, with_database
from config.load import load
from config.settings import Settings
from engine.audit import Chain
from engine.metering.books import AcknowledgedReading
from engine.units import SECOND_US
from persistence.archive import ArchivedJournal
from persistence.audit import PostgresAudit
from persistence.audit_log import PostgresAuditLog
from persistence.catalogue import PostgresCatalogue
from persistence.metering_audit import PostgresMeteringAudit
from persistence.postgres import open_pool
from persistence.snapshots import PostgresSnapshots

AUDIT_ROWS_AT_ONCE: Final = 1_000

audits = typer.Typer(invoke_without_command=True)
audit_log = typer.Typer(help="The audit log: who changed what.", no_args_is_help=True)
audits.add_typer(audit_log, name="log")


@audits.callback()
def audit(
    context: typer.Context,
    acknowledged: Annotated[
        Path | None, typer.Option("--acknowledged", help="A client's log of acknowledgements, one JSON object a line.")
    ] = None,
    readings: Annotated[
        Path | None, typer.Option("--readings", help="The same of acknowledged readings of meters.")
    ] = None,
) -> None:
    """Hold every table and every acknowledgement against a replay of the journals. Status 1 on any violation."""
    if context.invoked_subcommand is not None:
        return
    settings = load()
    told = read_acknowledged(acknowledged) if acknowledged else []
    measured = read_readings(readings) if readings else []
    report = with_database(lambda dsn: audit_of(settings, dsn, told, measured))
    console.print(
        f"{report.markets} markets, {report.entries} journal entries, {report.orders} orders, {report.trades} trades, "
        f"{report.auctions} auctions, {report.snapshots} snapshots, {report.acknowledgements} acknowledgements"
    )
    if report.meters:
        console.print(
            f"{report.meters} meters, {report.readings} readings in force, {report.windows} windows, "
            f"{report.acknowledged_readings} acknowledged readings"
        )
    for violation in report.violations:
        console.print(f"[red]violation[/] {violation}")
    if report.violations:
        raise Failure(f"{len(report.violations)} violations")
    console.print("[green]no violations[/]: journal, tables, ledger and acknowledgements agree to the unit")


@audit_log.command("verify")
def audit_log_verify() -> None:
    """Recompute the chain of the audit log. Status 1, and the first broken row, when one was changed or removed."""
    with console.status("audit log") as shown:
        chain, broken = with_database(
            lambda dsn: verified_log(dsn, lambda number: shown.update(f"audit log: {number} rows"))
        )
    if broken:
        raise Failure(f"the audit log is broken at {broken}; {chain.number} rows before it are as they were written")
    console.print(f"[green]verified[/]: {chain.number} rows, the last one {chain.hash.hex()}", soft_wrap=True)


async def audit_of(
    settings: Settings, dsn: str, acknowledged: list[Acknowledged], readings: Sequence[AcknowledgedReading] = ()
) -> Report:
    """Audit the database behind this address."""
    pool = await open_pool(dsn, 4, "audit")
    journal = ArchivedJournal(dsn, settings.archive)
    try:
        specs = await PostgresCatalogue(pool).markets()
        report = await run_audit(
            specs, journal, PostgresSnapshots(pool), PostgresAudit(pool), settings.currency, acknowledged
        )
        await audit_metering(PostgresMeteringAudit(pool), report, readings)
        return report
    finally:
        await journal.close()
        await pool.close()


async def verified_log(dsn: str, progress: Callable[[int], None]) -> tuple[Chain, str]:
    """The audit log's chain as far as it holds, and where and why it breaks, or the empty string."""
    pool = await open_pool(dsn, 2, "audit log")
    try:
        log, chain = PostgresAuditLog(pool), Chain()
        number, hash_ = await log.head()
        while chain.number < number and (rows := await log.after(chain.number, AUDIT_ROWS_AT_ONCE)):
            for row in rows[: number - chain.number]:
                if broken := chain.take(row):
                    return chain, broken
            progress(chain.number)
        return chain, chain.end(number, hash_)
    finally:
        await pool.close()


def read_acknowledged(path: Path) -> list[Acknowledged]:
    """A client's log in the engine's units. Raises Failure with the line that cannot be read."""
    from bench.client import Acknowledgement

    found = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            ack = msgspec.json.decode(line, type=Acknowledgement)
            market_id, order_id = ack.order_id.split("-")
            kwh, _, decimals = ack.quantity.partition(".")
            found.append(
                Acknowledged(
                    participant_id=int(ack.participant),
                    market_id=int(market_id),
                    order_id=int(order_id),
                    client_order_id=ack.client_order_id,
                    sequence=ack.sequence,
                    quantity_wh=int(kwh) * 1_000 + int(decimals.ljust(3, "0")),
                    trades=tuple(int(trade.split("-")[1]) for trade in ack.trades),
                )
            )
        except (msgspec.MsgspecError, ValueError, IndexError) as error:
            raise Failure(f"{path}, line {number}: not an acknowledgement ({error})") from error
    return found


def read_readings(path: Path) -> list[AcknowledgedReading]:
    """A log of readings, each of them once, however often it was acknowledged. Raises Failure with the line."""
    from bench.meters import Acknowledged as Line

    found: dict[tuple[str, int], AcknowledgedReading] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            one = msgspec.json.decode(line, type=Line)
            found[one.meter_id, one.counter] = AcknowledgedReading(
                uuid.UUID(one.meter_id).bytes,
                one.counter,
                one.start_us,
                one.start_us + one.duration_s * SECOND_US,
                one.import_wh,
                one.export_wh,
                one.corrects,
            )
        except (msgspec.MsgspecError, ValueError) as error:
            raise Failure(f"{path}, line {number}: not an acknowledged reading ({error})") from error
    return list(found.values())
