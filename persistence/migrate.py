"""Brings a database to the schema in migrations/ and back, one transaction a file.

NNNN_name.sql goes up, NNNN_name.undo.sql goes down. What was applied is kept in `schema_migrations` with the file's
checksum: an applied file that has changed since stops everything, and so does one that this version does not know.
A file whose first line is `-- no transaction` runs outside of one and must be a single statement.
"""

import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import asyncpg
from msgspec import Struct

FOLDER: Final = Path(__file__).parents[1] / "migrations"
FILE_NAME: Final = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
LOCK_KEY: Final = 0x57617474626F6F6B  # "Wattbook"
LOCK_SECONDS: Final = 60

CREATE_TABLE = """
    /* migrate.create_table */
    CREATE TABLE IF NOT EXISTS schema_migrations (
        number integer PRIMARY KEY,
        name text NOT NULL,
        checksum bytea NOT NULL,
        applied_us bigint NOT NULL DEFAULT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
    )
"""
LIST_APPLIED = "/* migrate.list_applied */ SELECT number, name, checksum, applied_us FROM schema_migrations ORDER BY 1"
ADD = "/* migrate.add */ INSERT INTO schema_migrations (number, name, checksum) VALUES ($1, $2, $3)"
REMOVE = "/* migrate.remove */ DELETE FROM schema_migrations WHERE number = $1"


class MigrationProblem(Exception):
    """The files, or what the database says was applied, do not fit together, or a file failed; says which and why."""


class MigrationStatus(Struct, frozen=True):
    """applied_us is None for a file that was not applied."""

    number: int
    name: str
    applied_us: int | None


class Migration(Struct, frozen=True):
    number: int
    name: str
    sql: str
    undo: str

    @property
    def checksum(self) -> bytes:
        return hashlib.sha256(self.sql.encode()).digest()


async def up(dsn: str, folder: Path = FOLDER) -> list[str]:
    """Apply everything that is missing, in order; the names of what was applied."""
    files = read(folder)
    async with _locked(dsn) as connection:
        applied = await _applied(connection, files)
        missing = [file for file in files if file.number not in applied]
        if missing and applied and missing[0].number < max(applied):
            raise MigrationProblem(f"{missing[0].name} was not applied, but a later one was: number it anew")
        for file in missing:
            await _execute(connection, file, file.sql, ADD, file.number, file.name, file.checksum)
    return [file.name for file in missing]


async def down(dsn: str, steps: int, folder: Path = FOLDER) -> list[str]:
    """Undo the last `steps` migrations, newest first; the names of what was undone."""
    files = {file.number: file for file in read(folder)}
    async with _locked(dsn) as connection:
        applied = await _applied(connection, list(files.values()))
        chosen = [files[number] for number in sorted(applied, reverse=True)[:steps]]
        for file in chosen:
            await _execute(connection, file, file.undo, REMOVE, file.number)
    return [file.name for file in chosen]


async def status(dsn: str, folder: Path = FOLDER) -> list[MigrationStatus]:
    """Every migration, in order. Raises MigrationProblem like `up`."""
    files = read(folder)
    async with _locked(dsn) as connection:
        applied = await _applied(connection, files)
    return [MigrationStatus(file.number, file.name, applied.get(file.number)) for file in files]


@asynccontextmanager
async def _locked(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection that holds the lock of all runners: a second one waits, and finds everything done."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
        try:
            await connection.execute("SELECT pg_advisory_lock($1)", LOCK_KEY)
        except asyncpg.LockNotAvailableError as error:
            raise MigrationProblem(f"another runner has been migrating for {LOCK_SECONDS} s") from error
        await connection.execute(CREATE_TABLE)
        yield connection
    finally:
        await connection.close()


def read(folder: Path = FOLDER) -> list[Migration]:
    """The files, in order. Raises MigrationProblem when they do not fit together."""
    found: dict[int, Migration] = {}
    for path in sorted(folder.glob("*.sql")):
        if path.name.endswith(".undo.sql"):
            if not path.with_name(path.name.replace(".undo.sql", ".sql")).exists():
                raise MigrationProblem(f"{path.name} undoes a migration that is not there")
            continue
        match = FILE_NAME.fullmatch(path.name)
        if match is None:
            raise MigrationProblem(f"{path.name} is not named like 0001_what_it_does.sql")
        undo = path.with_suffix(".undo.sql")
        if not undo.exists():
            raise MigrationProblem(f"{path.name} has no {undo.name} beside it")
        number = int(match[1])
        if number in found:
            raise MigrationProblem(f"{path.name} and {found[number].name}.sql have the same number")
        found[number] = Migration(number, path.stem, path.read_text("utf-8"), undo.read_text("utf-8"))
    if not found:
        raise MigrationProblem(f"no migrations in {folder}")
    return list(found.values())


async def _applied(connection: asyncpg.Connection, files: list[Migration]) -> dict[int, int]:
    """When each applied migration was applied, after checking that it is the one we know."""
    known = {file.number: file for file in files}
    applied = {}
    for number, name, checksum, applied_us in await connection.fetch(LIST_APPLIED):
        file = known.get(number)
        if file is None:
            raise MigrationProblem(f"the database has {name}, which this version does not know: it is newer than we")
        if (file.name, file.checksum) != (name, bytes(checksum)):
            raise MigrationProblem(f"{name} has changed since it was applied: undo the change, write a new migration")
        applied[number] = applied_us
    return applied


async def _execute(connection: asyncpg.Connection, file: Migration, sql: str, record: str, *values: object) -> None:
    try:
        if sql.startswith("-- no transaction"):
            await connection.execute(sql)
            await connection.execute(record, *values)
            return
        async with connection.transaction():
            await connection.execute(sql)
            await connection.execute(record, *values)
    except asyncpg.PostgresError as error:
        place = f" at character {error.position}" if error.position else ""
        raise MigrationProblem(f"{file.name}{place}: {error.message}") from error
