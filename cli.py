"""The operator's command line (console script wattbook): look, migrate, audit, replay, rotate, load, demonstrate."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, Final, TypeVar

import httpx
import msgspec
import typer
import uvloop
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from actors.audit import Acknowledged, Report, verify
from actors.audit import audit as run_audit
from actors.recovery import NothingToRecover
from config.load import SettingsWrong
from config.load import load as load_settings
from config.settings import Settings
from engine.audit import Chain
from engine.book import state
from engine.journal import JournalBroken
from engine.market import MarketSpec
from persistence import migrate
from persistence.audit import PostgresAudit
from persistence.audit_log import PostgresAuditLog
from persistence.catalogue import PostgresCatalogue
from persistence.embedded import AlreadyRunning, EmbeddedPostgres, StartFailed
from persistence.journal import PostgresJournal
from persistence.people import PostgresPeople
from persistence.postgres import open_pool
from persistence.sealing import MasterKeyFolder, MasterKeyProblem, master_keys
from persistence.snapshots import PostgresSnapshots
from persistence.wallets import Resealed, Vault

app = typer.Typer(
    name="wattbook",
    help="Operate a Wattbook energy exchange. Settings: config/default.toml, WATTBOOK_CONFIG, WATTBOOK_* variables.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
migrations = typer.Typer(help="Look at and change the version of the database's tables.", no_args_is_help=True)
keys = typer.Typer(help="New keys: those that sign access tokens, those that seal wallets.", no_args_is_help=True)
app.add_typer(migrations, name="migrate")
audits = typer.Typer(invoke_without_command=True)
app.add_typer(audits, name="audit")
audit_log = typer.Typer(help="The audit log: who changed what.", no_args_is_help=True)
audits.add_typer(audit_log, name="log")
app.add_typer(keys, name="keys")
users = typer.Typer(help="Help people whom the API cannot help any more.", no_args_is_help=True)
app.add_typer(users, name="users")
console = Console(highlight=False)
WALLETS_PER_BATCH: Final = 200
T = TypeVar("T")
AUDIT_ROWS_AT_ONCE = 1_000


class Failure(Exception):
    """Ends a command with a message and status 1."""


@app.command()
def status() -> None:
    """How the running exchange is: every dependency, every market, what is not ready and why."""
    settings = load_settings()
    with _api(settings) as client:
        health = client.get("/health").json()
        ready = client.get("/health/ready")
    table = Table("part", "state", "latency", "why", box=None)
    for name, part in health.get("dependencies", {}).items():
        table.add_row(name, part["state"], f"{part['latency_ms']} ms", part.get("reason") or "")
    console.print(table)
    if ready.status_code == httpx.codes.OK:
        console.print("[green]ready[/]: orders can be placed in every open market")
        return
    for reason in ready.json().get("reasons", []):
        console.print(f"[red]not ready[/]: {reason}")
    raise Failure("the exchange is not ready")


@app.command()
def devnet(
    port: Annotated[int, typer.Option(min=1, max=65_534, help="For RPC; the WebSocket also has the next.")] = 8899,
    host: Annotated[str, typer.Option(help="An address of this machine alone.")] = "127.0.0.1",
    state: Annotated[Path | None, typer.Option(help="Where the chain is kept; without it, it ends with this.")] = None,
    faults: Annotated[bool, typer.Option("--faults", help="Let RPC calls devnet_* make it fail, for tests.")] = False,
) -> None:
    """A local Solana with the five programs, until Ctrl-C."""
    from chain.devnet.server import NotLoopback, serve

    console.print(f"Solana on http://{host}:{port}, ws://{host}:{port + 1}")
    try:
        with contextlib.suppress(KeyboardInterrupt):
            uvloop.run(serve(host, port, state, with_faults=faults))
    except (NotLoopback, ValueError, OSError) as error:
        raise Failure(str(error)) from error


@app.command()
def markets() -> None:
    """The markets with their phase, best prices and last trade."""
    settings = load_settings()
    with _api(settings) as client:
        items = client.get("/api/v1/markets").raise_for_status().json()["items"]
        table = Table("market", "phase", "zones", "bid", "ask", "reference", "fees (bps)", box=None)
        for market in items:
            book = client.get(f"/api/v1/markets/{market['symbol']}/book?depth=1").raise_for_status().json()
            table.add_row(
                market["symbol"],
                market["phase"],
                " ".join(market["zones"]),
                book["bids"][0][0] if book["bids"] else "-",
                book["asks"][0][0] if book["asks"] else "-",
                market["reference_price"],
                f"{market['maker_fee_bps']} / {market['taker_fee_bps']}",
            )
    console.print(table)


@migrations.command("up")
def migrate_up() -> None:
    """Apply every migration that is missing."""
    applied = _run(lambda dsn: migrate.up(dsn))
    console.print("\n".join(f"applied {name}" for name in applied) or "up to date")


@migrations.command("down")
def migrate_down(
    steps: Annotated[int, typer.Argument(min=1, help="How many migrations to undo, newest first.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask: undoing a migration throws its data away.")] = False,
) -> None:
    """Undo the newest migrations, with the data that only they hold."""
    if not yes:
        typer.confirm("This throws the data of those tables away. Go on?", abort=True)
    undone = _run(lambda dsn: migrate.down(dsn, steps))
    console.print("\n".join(f"undone {name}" for name in undone) or "nothing to undo")


@migrations.command("status")
def migrate_status() -> None:
    """Which migrations exist and which of them the database has."""
    table = Table("migration", "applied", box=None)
    for row in _run(lambda dsn: migrate.status(dsn)):
        table.add_row(row.name, "yes" if row.applied_us else "no")
    console.print(table)


@keys.command("rotate-wallets")
def rotate_wallets() -> None:
    """Seal the secrets of all platform wallets with a new master key. Interrupted, the next call goes on.

    Keys that are files get a new one; with wallet_master_keys, add the next version to the setting first.
    """
    settings = load_settings()
    damaged = _run(lambda dsn: rotated_wallets(dsn, settings))
    for address in damaged:
        console.print(f"[red]does not open[/] {address}: its master key is gone, or its row was changed")
    if damaged:
        raise Failure(f"{len(damaged)} wallets could not be sealed anew; they are as they were")


@users.command("password")
def users_password(email: Annotated[str, typer.Argument(help="Of a local account.")]) -> None:
    """Give somebody a new password, and end all of his sessions: for the admin who has lost his."""
    password = typer.prompt("New password", hide_input=True, confirmation_prompt=True)
    ended = _run(lambda dsn: new_password(dsn, email, password))
    console.print(f"{email} has a new password; {ended} sessions ended")


@audits.callback()
def audit(
    context: typer.Context,
    acknowledged: Annotated[
        Path | None, typer.Option("--acknowledged", help="A client's log of acknowledgements, one JSON object a line.")
    ] = None,
) -> None:
    """Hold every table and every acknowledgement against a replay of the journals. Status 1 on any violation."""
    if context.invoked_subcommand is not None:
        return
    settings = load_settings()
    report = _run(lambda dsn: audit_of(settings, dsn, read_acknowledged(acknowledged) if acknowledged else []))
    console.print(
        f"{report.markets} markets, {report.entries} journal entries, {report.orders} orders, {report.trades} trades, "
        f"{report.snapshots} snapshots, {report.acknowledgements} acknowledgements"
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
        chain, broken = _run(lambda dsn: verified_log(dsn, lambda number: shown.update(f"audit log: {number} rows")))
    if broken:
        raise Failure(f"the audit log is broken at {broken}; {chain.number} rows before it are as they were written")
    console.print(f"[green]verified[/]: {chain.number} rows, the last one {chain.hash.hex()}", soft_wrap=True)


@keys.command("rotate")
def keys_rotate(
    now: Annotated[
        bool, typer.Option("--now", help="A key is known to others: remove all old ones, which ends all access tokens.")
    ] = False,
) -> None:
    """Make a new key, which signs from half a minute on, and remove those that no living token was signed with."""
    from gateway.auth.keys import rotate
    from gateway.settings import ACCESS_SECONDS

    folder = Path(load_settings().data_dir) / "keys"
    if not folder.is_dir():
        raise Failure(f"{folder} is not there: nothing has been started with this data directory yet")
    rotation = rotate(folder, ACCESS_SECONDS, now=now)
    console.print(f"made {rotation.made}" + "".join(f"\nremoved {name}" for name in rotation.removed))


@app.command()
def replay(
    market: Annotated[str, typer.Option(help="Only this market; all by default.")] = "",
) -> None:
    """Verify journals offline: hash chain, effects, state hashes, balances. Changes nothing."""
    broken = _run(lambda dsn: _replay(dsn, market))
    if broken:
        raise Failure("a journal does not verify")


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
    plan = Plan(_url(settings), rate, seconds, users, tuple(market or ["CAMPUS"]))
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

    run_demo(console, load_settings(), seconds, homes, seed)


# --- shared ---------------------------------------------------------------------------------------------------------


async def audit_of(settings: Settings, dsn: str, acknowledged: list[Acknowledged]) -> Report:
    """Audit the database behind this address."""
    pool = await open_pool(dsn, 4, "audit")
    journal = PostgresJournal(dsn)
    try:
        specs = await PostgresCatalogue(pool).markets()
        return await run_audit(
            specs, journal, PostgresSnapshots(pool), PostgresAudit(pool), settings.currency, acknowledged
        )
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


async def new_password(dsn: str, email: str, password: str) -> int:
    """How many sessions it ended. Raises Failure for an unknown account, one of the directory, a weak password."""
    from gateway.auth.passwords import COST_MIN, Passwords, check_acceptable
    from gateway.errors import Problem

    pool, passwords = await open_pool(dsn, 2, "new password"), Passwords(COST_MIN, 1, 1)
    try:
        people = PostgresPeople(pool)
        user = await people.by_email(email.strip().lower())
        if user is None or user.source != "local":
            raise Failure(f"there is no local account {email}")
        check_acceptable(password, user.email, user.name)
        now_us = time.time_ns() // 1_000
        open_ones = len(await people.sessions(user.user_id, now_us))
        await people.set_password(user.user_id, await passwords.hash(password), "", now_us)
        return open_ones
    except Problem as problem:
        raise Failure(problem.detail) from None
    finally:
        passwords.close()
        await pool.close()


async def rotated_wallets(dsn: str, settings: Settings) -> list[str]:
    """Seal every platform wallet with the newest master key; the addresses of those that do not open."""
    pool = await open_pool(dsn, 2, "rotate wallets")
    try:
        held = master_keys(settings.wallet_master_keys, Path(settings.data_dir) / "keys")
        vault = Vault(pool, held)
        done, damaged = await _resealed(vault, held.newest())  # what an interrupted call has left
        if isinstance(held, MasterKeyFolder) and not done:
            done, damaged = await _resealed(vault, held.add())
        console.print(f"{done} wallets are sealed with master key {held.newest()} now")
        return damaged
    finally:
        await pool.close()


async def _resealed(vault: Vault, version: int) -> tuple[int, list[str]]:
    """How many wallets were sealed anew with this key, the newest, and the addresses of those that do not open."""
    done, damaged, batch = 0, list[str](), Resealed("", 0, [])
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(f"master key {version}", total=await vault.behind())
        while (batch := await vault.reseal(batch.last, WALLETS_PER_BATCH)).last:
            done += batch.done
            damaged += batch.damaged
            progress.update(task, completed=done + len(damaged))
    return done, damaged


async def _replay(dsn: str, symbol: str) -> int:
    """How many journals are broken; prints a line for each."""
    pool = await open_pool(dsn, 2, "replay")
    journal = PostgresJournal(dsn)
    try:
        specs = [spec for spec in await PostgresCatalogue(pool).markets() if symbol in ("", spec.symbol)]
        if not specs:
            raise Failure(f"there is no market {symbol}" if symbol else "there are no markets yet")
        return sum([await _replay_one(spec, journal, PostgresSnapshots(pool)) for spec in specs])
    finally:
        await journal.close()
        await pool.close()


async def _replay_one(spec: MarketSpec, journal: PostgresJournal, snapshots: PostgresSnapshots) -> int:
    started = perf_counter()
    try:
        with console.status(spec.symbol) as shown:
            done = await verify(
                spec, journal, snapshots, lambda sequence: shown.update(f"{spec.symbol}: {sequence} entries")
            )
    except (JournalBroken, NothingToRecover) as error:
        console.print(f"[red]broken[/] {spec.symbol}: {error}")
        return 1
    for violation in done.violations:
        console.print(f"[red]violation[/] {violation}")
    book, seconds = done.book, perf_counter() - started
    console.print(
        f"{'[red]broken[/]' if done.violations else '[green]verified[/]'} {spec.symbol}: {book.sequence} entries in "
        f"{seconds:.1f} s ({book.sequence / max(seconds, 1e-9):.0f}/s), {book.trades} trades, "
        f"{len(book.orders)} open orders, state {state.state_hash(state.encode(book)).hex()[:16]}"
    )
    return bool(done.violations)


def _run(work: Callable[[str], Coroutine[Any, Any, T]]) -> T:
    """Do something with the database: the configured one, the running private one, or that one started for it."""

    async def inside() -> T:
        async with _database(load_settings()) as dsn:
            return await work(dsn)

    return asyncio.run(inside())


@contextlib.asynccontextmanager
async def _database(settings: Settings) -> AsyncIterator[str]:
    if settings.database_url:
        yield settings.database_url
        return
    server = EmbeddedPostgres(Path(settings.data_dir))
    try:
        yield await asyncio.to_thread(server.start)
    except AlreadyRunning:
        yield server.address
    except StartFailed as error:
        raise Failure(str(error)) from error
    finally:
        await asyncio.to_thread(server.stop)


def _api(settings: Settings) -> httpx.Client:
    return httpx.Client(base_url=_url(settings), timeout=10)


def _url(settings: Settings) -> str:
    return f"http://{settings.http_host}:{settings.http_port}"


def main() -> None:
    """Console script wattbook: every failure is one line that says what to do."""
    from bench.client import ApiError

    try:
        app()
    except (Failure, SettingsWrong, migrate.MigrationProblem, MasterKeyProblem, ApiError) as error:
        console.print(f"[red]{error}[/]")
        sys.exit(1)
    except ConnectionError as error:
        console.print(f"[red]The exchange does not answer ({error}). Start it with: make run[/]")
        sys.exit(1)
    except httpx.TransportError as error:
        console.print(f"[red]The exchange does not answer ({error}). Is it running? Start it with: make run[/]")
        sys.exit(1)
