"""Journals verified without an exchange that runs."""

from time import perf_counter
from typing import Annotated

import typer

from actors.audit import verify
from actors.recovery import NothingToRecover
from commands.shared import Failure, console, with_database
from config.load import load
from engine.book import state
from engine.journal import JournalBroken
from engine.market import MarketSpec
from persistence.archive import ArchivedJournal
from persistence.catalogue import PostgresCatalogue
from persistence.postgres import open_pool
from persistence.snapshots import PostgresSnapshots

app = typer.Typer()


@app.command()
def replay(
    market: Annotated[str, typer.Option(help="Only this market; all by default.")] = "",
) -> None:
    """Verify journals offline: hash chain, effects, state hashes, balances. Changes nothing."""
    broken = with_database(lambda dsn: _replay(dsn, market))
    if broken:
        raise Failure("a journal does not verify")


async def _replay(dsn: str, symbol: str) -> int:
    """How many journals are broken; prints a line for each."""
    pool = await open_pool(dsn, 2, "replay")
    journal = ArchivedJournal(dsn, load().archive)
    try:
        specs = [spec for spec in await PostgresCatalogue(pool).markets() if symbol in ("", spec.symbol)]
        if not specs:
            raise Failure(f"there is no market {symbol}" if symbol else "there are no markets yet")
        return sum([await _replay_one(spec, journal, PostgresSnapshots(pool)) for spec in specs])
    finally:
        await journal.close()
        await pool.close()


async def _replay_one(spec: MarketSpec, journal: ArchivedJournal, snapshots: PostgresSnapshots) -> int:
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
