"""The whole database into a folder and back, by PostgreSQL's own programs, and what it held at that instant.

The dump and what is said of it are of one snapshot, while everybody works on. A restore is one transaction: all or
nothing. The programs come with the private server's wheel and serve any server that is not newer than they are.

A database that uses TimescaleDB comes back into one that has the same version of it, between the two functions by which
the extension lets its own tables be written. Those are a superuser's.
Source: https://www.tigerdata.com/docs/self-hosted/latest/backup-and-restore/logical-backup
"""

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit, urlunsplit

import asyncpg
from msgspec import Struct

from persistence.embedded import postgres_program
from persistence.postgres import ACQUIRE_SECONDS, LOCK_SECONDS, Connection, server_settings

STOP_SECONDS: Final = 5.0
LAST_LINES: Final = 5  # of what a program said, when it fails
COMPRESSION: Final = "gzip:1"  # a third of the time of the default, a tenth more bytes

EXPORT = "/* dumps.export */ SELECT pg_export_snapshot()"
RELATIONS = """
    /* dumps.relations */
    SELECT count(*)
    FROM pg_class
    WHERE relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname = ANY (current_schemas(false)))
"""
TIMESCALE = "/* dumps.timescale */ SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'"
TIMESCALE_VERSIONS = """
    /* dumps.timescale_versions */
    SELECT version
    FROM pg_available_extension_versions
    WHERE name = 'timescaledb'
"""
CREATE_TIMESCALE = "/* dumps.create_timescale */ SELECT format('CREATE EXTENSION timescaledb VERSION %L', $1::text)"
BEFORE_RESTORE = "/* dumps.before_restore */ SELECT timescaledb_pre_restore()"
AFTER_RESTORE = "/* dumps.after_restore */ SELECT timescaledb_post_restore()"
VERSION = "/* dumps.version */ SELECT current_setting('server_version_num')::integer / 10000"
MIGRATIONS = "/* dumps.migrations */ SELECT name, encode(checksum, 'hex') FROM schema_migrations ORDER BY number"
JOURNALS = """
    /* dumps.journals */
    SELECT m.symbol, coalesce(j.last_sequence, 0), coalesce(encode(j.hash, 'hex'), '')
    FROM markets m
    LEFT JOIN LATERAL (
        SELECT last_sequence, hash
        FROM journal
        WHERE market_id = m.market_id
        ORDER BY first_sequence DESC
        LIMIT 1
    ) AS j ON true
    ORDER BY m.market_id
"""
AUDIT_HEAD = "/* dumps.audit_head */ SELECT number, encode(hash, 'hex') FROM audit_head"
LEDGER = "/* dumps.ledger */ SELECT coalesce(max(transfer_id), 0) FROM transfers"

Say = Callable[[str], None]


class DumpFailed(Exception):
    """Nothing was written, or nothing that counts; says why, in the program's own words where it has some."""


class JournalHead(Struct, frozen=True):
    """hash: in hex, of the last row; empty before the first."""

    symbol: str
    sequence: int
    hash: str


class Contents(Struct, frozen=True):
    """What tells one state of the database from another."""

    postgres: int  # major version of the server
    migrations: list[tuple[str, str]]  # name, SHA-256 in hex
    journals: list[JournalHead]
    audit_number: int
    audit_hash: str
    transfers: int  # number of the ledger's newest
    timescale: str = ""  # version of the extension; empty without it


async def dump(dsn: str, folder: Path, say: Say) -> Contents:
    """Write the database into this folder, which must not exist; `say` hears what is under way. Raises DumpFailed."""
    async with _session(dsn, "backup") as session, session.transaction(isolation="repeatable_read", readonly=True):
        snapshot = await session.fetchval(EXPORT)
        held = await _contents(session)
        await _run(
            "pg_dump",
            dsn,
            *("--format=directory", f"--file={folder}", f"--snapshot={snapshot}", f"--compress={COMPRESSION}"),
            *("--no-owner", "--no-privileges", f"--lock-wait-timeout={LOCK_SECONDS}s"),
            say=say,
        )
    return held


async def restore(dsn: str, folder: Path, timescale: str, say: Say) -> None:
    """Bring what `dump` wrote into an empty database, in one transaction. Raises DumpFailed.

    `timescale`: the version that the dump's database had of it, or nothing.
    """
    arguments = ["--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges"]
    if not timescale:
        await _run("pg_restore", dsn, *arguments, str(folder), say=say)
        return
    # An extension's comment is its owner's to set, who need not be whoever restores. Never --jobs: the extension's own
    # tables would be filled in the wrong order.
    async with _timescale_lets_us(dsn, timescale):
        await _run("pg_restore", dsn, *arguments, "--no-comments", str(folder), say=say)


@contextlib.asynccontextmanager
async def _timescale_lets_us(dsn: str, version: str) -> AsyncIterator[None]:
    """The database has this version of the extension, which stays out of the way; afterwards it works again.

    Each step is a session of its own, because the extension's code is loaded once per session. Raises DumpFailed.
    """
    async with _session(dsn, "restore") as session:
        there = await session.fetchval(TIMESCALE)
        if there is None:
            known = [row["version"] for row in await session.fetch(TIMESCALE_VERSIONS)]
            if version not in known:
                raise DumpFailed(
                    f"the backup needs TimescaleDB {version}, this server has {', '.join(sorted(known)) or 'none'}"
                )
        elif there != version:
            raise DumpFailed(f"the backup needs TimescaleDB {version}, this database has {there}")
        create = await session.fetchval(CREATE_TIMESCALE, version)
    if there is None:
        await _said_to_timescale(dsn, create)
    await _said_to_timescale(dsn, BEFORE_RESTORE)
    try:
        yield
    finally:
        await _said_to_timescale(dsn, AFTER_RESTORE)


async def _said_to_timescale(dsn: str, statement: str) -> None:
    async with _session(dsn, "restore") as session:
        try:
            await session.execute(statement)
        except asyncpg.PostgresError as error:
            raise DumpFailed(f"TimescaleDB: {error}") from error


async def contents(dsn: str) -> Contents:
    """What the database holds now."""
    async with _session(dsn, "contents") as session, session.transaction(isolation="repeatable_read", readonly=True):
        return await _contents(session)


async def emptiness(dsn: str) -> tuple[bool, int]:
    """Is there nothing in the database yet, and the major version of its server."""
    async with _session(dsn, "restore") as session:
        return not await session.fetchval(RELATIONS), await session.fetchval(VERSION)


async def _contents(session: Connection) -> Contents:
    number, hash_ = await session.fetchrow(AUDIT_HEAD) or (0, "")
    return Contents(
        postgres=await session.fetchval(VERSION),
        migrations=[(row[0], row[1]) for row in await session.fetch(MIGRATIONS)],
        journals=[JournalHead(*row) for row in await session.fetch(JOURNALS)],
        audit_number=number,
        audit_hash=hash_,
        transfers=await session.fetchval(LEDGER),
        timescale=await session.fetchval(TIMESCALE) or "",
    )


@contextlib.asynccontextmanager
async def _session(dsn: str, name: str) -> AsyncIterator[Connection]:
    """A connection whose transaction may stay open for as long as a dump takes."""
    settings = {**server_settings(name), "idle_in_transaction_session_timeout": "0"}
    session = await asyncpg.connect(dsn, timeout=ACQUIRE_SECONDS, server_settings=settings)
    try:
        yield session
    finally:
        session.terminate()  # it has only read


async def _run(name: str, dsn: str, *arguments: str, say: Say) -> None:
    """Run one of the programs to its end; cancelled, it ends first. Raises DumpFailed."""
    address, password = _address(dsn)
    program = await asyncio.create_subprocess_exec(
        str(postgres_program(name)),
        *("--verbose", "--no-password", f"--dbname={address}", *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.defpath, "LC_ALL": "C", **({"PGPASSWORD": password} if password else {})},
        start_new_session=True,  # Ctrl-C is for us, who end it
    )
    assert program.stderr is not None
    last: deque[str] = deque(maxlen=LAST_LINES)
    try:
        async for line in program.stderr:
            last.append(line.decode(errors="replace").strip())
            say(last[-1].removeprefix(f"{name}: "))
        status = await program.wait()
    except BaseException:
        await _end(program)
        raise
    if status:
        raise DumpFailed(f"{name} ended with status {status}: " + "; ".join(last))


async def _end(program: asyncio.subprocess.Process) -> None:
    for stop in (program.terminate, program.kill):
        with contextlib.suppress(ProcessLookupError):
            stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await program.wait()
                return


def _address(dsn: str) -> tuple[str, str]:
    """The address without its password, because everybody may see a program's arguments; and the password."""
    parts = urlsplit(dsn)
    user, _, host = parts.netloc.rpartition("@")
    name, _, password = user.partition(":")
    return urlunsplit(parts._replace(netloc=f"{name}@{host}" if user else host)), unquote(password)
