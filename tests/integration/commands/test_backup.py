"""A backup is one instant of an exchange that trades; what comes back is that, or nothing at all.

Seen to fail for: a dump of another instant than its manifest, a draft that stays after an interruption, digests
that are not compared, a data directory that is not emptied again, a restore in many transactions, any master key taken.
"""

import asyncio
import contextlib
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from actors.audit import verify
from commands import manifest as backups
from commands.audit import audit_of, verified_log
from commands.backup import copy_chain, write_backup
from commands.restore import read_backup
from commands.shared import Failure
from config.load import load
from config.settings import Settings
from engine.book import state
from engine.messages import ENGINE_VERSION, Side
from persistence.archive import ArchivedJournal
from persistence.catalogue import PostgresCatalogue
from persistence.dumps import DumpFailed, dump, emptiness
from persistence.postgres import open_pool
from persistence.sealing import MasterKeyFolder
from persistence.snapshots import PostgresSnapshots
from tests.support.exchange import Exchange, order
from tests.support.patience import eventually

RESTORE_STEPS_MIN = 200  # that pg_restore tells of the smallest database


def quiet(_: str) -> None:
    """Nobody listens."""


def settings_of(folder: Path, dsn: str, **more: str) -> Settings:
    return load({"WATTBOOK_DATA_DIR": str(folder), "WATTBOOK_DATABASE_URL": dsn, **more})


def with_keys(folder: Path) -> MasterKeyFolder:
    """A data directory with the files that a started exchange has."""
    keys = MasterKeyFolder(folder / "keys")
    keys.add()
    (folder / "keys" / "chain").mkdir(mode=0o700)
    for name in ("jwt-0001.pem", "ray-token", "chain/oracle.json"):
        (folder / "keys" / name).write_text(f"content of {name}")
    return keys


@pytest.fixture
async def source(database: str, tmp_path: Path) -> Settings:
    with_keys(tmp_path / "source")
    return settings_of(tmp_path / "source", database)


@pytest.fixture
def target(empty_database: str, tmp_path: Path) -> Settings:
    return settings_of(tmp_path / "target", empty_database)


async def books(settings: Settings) -> dict[str, tuple[int, bytes]]:
    """Sequence and state of every market, as a replay of its journal alone finds them."""
    pool, journal = await open_pool(settings.database_url), ArchivedJournal(settings.database_url, settings.archive)
    try:
        found = {}
        for spec in await PostgresCatalogue(pool).markets():
            replayed = await verify(spec, journal, PostgresSnapshots(pool))
            assert replayed.violations == []
            found[spec.symbol] = replayed.book.sequence, state.state_hash(state.encode(replayed.book))
        return found
    finally:
        await journal.close()
        await pool.close()


async def test_a_backup_of_an_exchange_that_trades_comes_back_to_the_unit(
    exchange: Exchange, source: Settings, target: Settings, tmp_path: Path
) -> None:
    for symbol in ("M", "N"):
        await exchange.open_market(symbol)
        exchange.start_market(symbol)
        exchange.follow(symbol, snapshot_every=20)
    buyer, seller = await exchange.trader("buyer"), await exchange.trader("seller")
    told: dict[str, int] = {}

    async def trade(symbol: str) -> None:
        while True:
            await exchange.placed(symbol, order(seller, Side.SELL, "3.000", "0.010"))
            answer = await exchange.placed(symbol, order(buyer, Side.BUY, "3.000", "0.010"))
            told[symbol] = answer.order.sequence

    async with asyncio.TaskGroup() as trading:
        tasks = [trading.create_task(trade(symbol)) for symbol in ("M", "N")]
        await eventually(lambda: len(told) == 2 and min(told.values()) >= 100)
        before = dict(told)
        taken = await write_backup(source, source.database_url, tmp_path / "backup", True, quiet)
        after = dict(told)
        for task in tasks:
            task.cancel()
    await read_backup(target, tmp_path / "backup", None, quiet)

    report = await audit_of(target, target.database_url, [])
    restored = await books(target)
    assert report.violations == []
    assert report.trades > 50
    heads = {head.symbol: head.sequence for head in taken.database.journals}
    assert {symbol: sequence for symbol, (sequence, _) in restored.items()} == heads
    assert all(before[symbol] <= heads[symbol] <= after[symbol] + 2 for symbol in heads), "an instant in between"
    assert min(after[symbol] - before[symbol] for symbol in heads) > 0, "nobody had to wait for the backup"
    _, broken = await verified_log(target.database_url, lambda _: None)
    assert broken == ""


async def test_restored_markets_are_those_that_a_replay_of_the_source_finds(
    exchange: Exchange, source: Settings, target: Settings, tmp_path: Path
) -> None:
    await exchange.open_market("M")
    exchange.start_market("M")
    exchange.follow("M")
    buyer, seller = await exchange.trader("buyer"), await exchange.trader("seller")
    await exchange.placed("M", order(seller, Side.SELL, "3.000", "5.000"))
    await exchange.placed("M", order(buyer, Side.BUY, "3.000"))
    await exchange.followed("M")

    await write_backup(source, source.database_url, tmp_path / "backup", True, quiet)
    await read_backup(target, tmp_path / "backup", None, quiet)

    assert await books(target) == await books(source)


async def test_keys_come_back_closed_to_others_and_what_is_made_anew_stays_away(
    source: Settings, target: Settings, tmp_path: Path
) -> None:
    await write_backup(source, source.database_url, tmp_path / "backup", True, quiet)
    await read_backup(target, tmp_path / "backup", None, quiet)

    names = {path.relative_to(target.keys).as_posix() for path in backups.files_below(target.keys)}
    assert names == {"wallet-0001.key", "jwt-0001.pem", "chain/oracle.json"}
    for path in (target.keys, *target.keys.rglob("*"), tmp_path / "backup"):
        assert not path.stat().st_mode & 0o077, path
    assert MasterKeyFolder(target.keys).key(1) == MasterKeyFolder(source.keys).key(1)
    assert not target.unfinished.exists()


async def test_master_keys_stay_at_home_unless_asked_for_and_the_right_ones_are_needed(
    source: Settings, target: Settings, tmp_path: Path
) -> None:
    backup, others = tmp_path / "backup", tmp_path / "others"
    await write_backup(source, source.database_url, backup, False, quiet)
    assert not list(backup.rglob("wallet-*.key"))
    MasterKeyFolder(others).add()

    with pytest.raises(Failure, match="--master-keys"):
        await read_backup(target, backup, None, quiet)
    with pytest.raises(Failure, match="not the one that sealed"):
        await read_backup(target, backup, others, quiet)
    assert not target.folder.exists()
    await read_backup(target, backup, source.keys, quiet)

    assert MasterKeyFolder(target.keys).key(1) == MasterKeyFolder(source.keys).key(1)


def _spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _edit(folder: Path, **changes: object) -> None:
    manifest = backups.read(folder)
    (folder / backups.NAME).write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, **changes)))


def _newer_database(folder: Path) -> None:
    database = backups.read(folder).database
    _edit(folder, database=msgspec.structs.replace(database, migrations=[*database.migrations, ("9999_x", "00")]))


def _outside(folder: Path) -> None:
    _edit(folder, files=[backups.File("../../etc/passwd", 1, "00")])


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "a changed byte": (lambda folder: _spoil(folder / "database" / "toc.dat"), "is not what was backed up"),
    "a missing file": (lambda folder: (folder / "keys" / "jwt-0001.pem").unlink(), "jwt-0001.pem: No such file"),
    "no manifest": (lambda folder: (folder / backups.NAME).unlink(), "is no backup"),
    "half a manifest": (lambda folder: (folder / backups.NAME).write_text('{"format": 1'), "cannot be read"),
    "another format": (lambda folder: _edit(folder, format=2), "has format 2"),
    "a newer engine": (lambda folder: _edit(folder, engine_version=ENGINE_VERSION + 1), "of engine version"),
    "a newer schema": (_newer_database, "migration 9999_x"),
    "a path that leads away": (_outside, "outside of the backup"),
}


async def test_what_does_not_fit_is_refused_before_anything_is_written(
    source: Settings, target: Settings, tmp_path: Path
) -> None:
    await write_backup(source, source.database_url, tmp_path / "backup", True, quiet)

    for what, (spoil, why) in WRONG.items():
        folder = tmp_path / what
        shutil.copytree(tmp_path / "backup", folder)
        spoil(folder)
        with pytest.raises(Failure, match=why):
            await read_backup(target, folder, None, quiet)
        assert not target.folder.exists(), what
        assert (await emptiness(target.database_url))[0], what


async def test_a_target_that_is_not_empty_is_left_alone(source: Settings, target: Settings, tmp_path: Path) -> None:
    await write_backup(source, source.database_url, tmp_path / "backup", True, quiet)
    occupied = settings_of(tmp_path / "target", source.database_url)

    with pytest.raises(Failure, match="the database is not empty"):
        await read_backup(occupied, tmp_path / "backup", None, quiet)
    assert list(occupied.folder.iterdir()) == []
    (target.folder / "mine").write_text("kept")
    with pytest.raises(Failure, match="is not empty: a restore replaces nothing"):
        await read_backup(target, tmp_path / "backup", None, quiet)
    with pytest.raises(Failure, match="is there already"):
        await write_backup(source, source.database_url, tmp_path / "backup", True, quiet)

    assert (target.folder / "mine").read_text() == "kept"
    assert (await emptiness(target.database_url))[0]


class Interrupted:
    """Cancels the task that tells it the n-th thing, as Ctrl-C does."""

    def __init__(self, at: int) -> None:
        self.at, self.told = at, 0
        self.task: asyncio.Task[None] | None = None

    def __call__(self, _: str) -> None:
        self.told += 1
        if self.told == self.at:
            assert self.task is not None
            self.task.cancel()


@pytest.mark.parametrize("done", [0.0, 0.5, 1.0])
async def test_an_interrupted_backup_leaves_nothing(source: Settings, tmp_path: Path, done: float) -> None:
    async def backup(interrupted: Interrupted) -> None:
        interrupted.task = asyncio.current_task()
        await write_backup(source, source.database_url, tmp_path / "backup", True, interrupted)

    steps = Interrupted(0)
    await backup(steps)
    shutil.rmtree(tmp_path / "backup")

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(backup(Interrupted(max(1, round(steps.told * done)))))

    assert not list(tmp_path.glob("backup*"))


@pytest.mark.parametrize("done", [0.0, 0.3, 0.6, 0.9])
async def test_an_interrupted_restore_leaves_nothing(
    source: Settings, target: Settings, tmp_path: Path, done: float
) -> None:
    await write_backup(source, source.database_url, tmp_path / "backup", True, quiet)

    async def restore(interrupted: Interrupted) -> None:
        interrupted.task = asyncio.current_task()
        await read_backup(target, tmp_path / "backup", None, interrupted)

    steps = len(backups.read(tmp_path / "backup").files) + RESTORE_STEPS_MIN

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(restore(Interrupted(max(1, round(steps * done)))))

    assert not target.folder.exists() or list(target.folder.iterdir()) == []
    assert (await emptiness(target.database_url))[0]


async def test_a_restore_that_was_killed_is_no_data_directory(
    source: Settings, target: Settings, tmp_path: Path
) -> None:
    await write_backup(source, source.database_url, tmp_path / "backup", True, quiet)
    target.folder.mkdir()
    target.unfinished.touch()

    with pytest.raises(Failure, match="was not finished"):
        await read_backup(target, tmp_path / "backup", None, quiet)


async def test_what_a_killed_backup_left_is_cleared_and_a_living_ones_is_not(source: Settings, tmp_path: Path) -> None:
    left = tmp_path / "backup.unfinished" / "database"
    left.mkdir(parents=True)
    (left / "toc.dat").write_text("half")

    first = asyncio.create_task(write_backup(source, source.database_url, tmp_path / "backup", True, quiet))
    await asyncio.sleep(0)
    with pytest.raises(Failure, match="another backup"):
        await write_backup(source, source.database_url, tmp_path / "backup", True, quiet)
    await first

    assert backups.read(tmp_path / "backup").database.postgres >= 18


async def test_a_dump_that_fails_says_why_in_the_programs_words(database: str, tmp_path: Path) -> None:
    (tmp_path / "database").mkdir()
    (tmp_path / "database" / "toc.dat").write_text("of another")

    with pytest.raises(DumpFailed, match=r"pg_dump ended with status 1: .*not empty"):
        await dump(database, tmp_path / "database", quiet)


def test_the_private_chain_is_copied_whole_while_somebody_writes(tmp_path: Path) -> None:
    source, copied = tmp_path / "chain.sqlite", tmp_path / "copy" / "chain.sqlite"
    with contextlib.closing(sqlite3.connect(source)) as chain:
        chain.execute("PRAGMA journal_mode = WAL")
        chain.execute("CREATE TABLE facts (name TEXT)")
        chain.commit()
        chain.execute("INSERT INTO facts VALUES ('durable')")
        chain.commit()
        chain.execute("INSERT INTO facts VALUES ('under way')")

        copy_chain(source, copied)

    copy_chain(source, tmp_path / "after its end" / "chain.sqlite")
    for each in (copied, tmp_path / "after its end" / "chain.sqlite"):
        with contextlib.closing(sqlite3.connect(each)) as chain:
            assert chain.execute("SELECT name FROM facts").fetchall() == [("durable",)]
