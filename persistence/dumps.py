"""The whole database into a folder and back, by PostgreSQL's own programs, and what it held at that instant.

The dump and what is said of it are of one snapshot, while everybody works on. A restore is one transaction: all or
nothing. The programs come with the private server's wheel and serve any server that is not newer than they are.
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
TIMESCALE = "/* dumps.timescale */ SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'"
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


async def dump(dsn: str, folder: Path, say: Say) -> Contents:
    """Write the database into this folder, which must not exist; `say` hears what is under way. Raises DumpFailed."""
    async with _session(dsn, "backup") as session, session.transaction(isolation="repeatable_read", readonly=True):
        if await session.fetchval(TIMESCALE):
            raise DumpFailed("the database uses TimescaleDB, which has rules of its own: see docs/operations.md")
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


async def restore(dsn: str, folder: Path, say: Say) -> None:
    """Bring what `dump` wrote into an empty database, in one transaction. Raises DumpFailed."""
    await _run(
        "pg_restore",
        dsn,
        *("--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges", str(folder)),
        say=say,
    )


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
