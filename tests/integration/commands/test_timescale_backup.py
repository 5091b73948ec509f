"""A database that uses TimescaleDB is backed up and comes back as its documentation asks.

The extension itself is not to be had here. A stand-in has its name, two versions, its two functions around a restore,
and a table that takes no rows but between them: so the order of what is said to the server is tried with real programs,
and what the real extension makes of it is not.

Seen to fail for: a restore without the first function, or without the second one after a failure, the newest version
instead of the dump's, comments that are restored, a manifest that does not name the version.
"""

from pathlib import Path

import asyncpg
import msgspec
import pytest

from commands import manifest as backups
from commands.backup import write_backup
from commands.restore import read_backup
from config.settings import Settings
from persistence.dumps import DumpFailed, restore
from tests.integration.commands.test_backup import quiet, settings_of, with_keys

OLDER, NEWEST = "2.98.0", "2.99.0"
CONTROL = f"default_version = '{NEWEST}'\nrelocatable = false\n"
SCRIPT = """
    CREATE SCHEMA stand_in;
    CREATE TABLE stand_in.said (number serial, what text, tables bigint);
    CREATE FUNCTION stand_in.is_restoring() RETURNS boolean LANGUAGE sql AS $$
        SELECT current_setting('timescaledb.restoring', true) = 'on'
    $$;
    CREATE FUNCTION stand_in.hears(heard text) RETURNS boolean LANGUAGE sql AS $$
        INSERT INTO stand_in.said (what, tables)
        SELECT heard, count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
        RETURNING true
    $$;
    CREATE FUNCTION timescaledb_pre_restore() RETURNS boolean LANGUAGE plpgsql AS $$
    BEGIN
        EXECUTE format('ALTER DATABASE %I SET timescaledb.restoring = ''on''', current_database());
        RETURN stand_in.hears('before');
    END
    $$;
    CREATE FUNCTION timescaledb_post_restore() RETURNS boolean LANGUAGE plpgsql AS $$
    BEGIN
        EXECUTE format('ALTER DATABASE %I RESET timescaledb.restoring', current_database());
        RETURN stand_in.hears('after');
    END
    $$;
"""
SETTINGS = "SELECT count(*) FROM pg_db_role_setting s, unnest(s.setconfig) c WHERE c LIKE 'timescaledb.restoring=%'"


@pytest.fixture
def extension(server_folder: Path) -> Path:
    """What a server looks for extensions in, beside its own."""
    folder = server_folder / "stand-in"
    (folder / "extension").mkdir(parents=True, exist_ok=True)
    (folder / "extension" / "timescaledb.control").write_text(CONTROL)
    for version in (OLDER, NEWEST):
        (folder / "extension" / f"timescaledb--{version}.sql").write_text(SCRIPT)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)  # the server runs as another user when root runs the tests
    return folder


async def offer(dsn: str, extension: Path) -> None:
    """Have new sessions of this database find the stand-in."""
    name = await ask(dsn, "SELECT current_database()")
    await run(dsn, f"ALTER DATABASE \"{name}\" SET extension_control_path = '{extension}:$system'")


async def run(dsn: str, *statements: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def ask(dsn: str, query: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def said(dsn: str) -> list[tuple[str, bool]]:
    """What the extension heard, and whether there were tables then."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch("SELECT what, tables > 0 FROM stand_in.said ORDER BY number")
    finally:
        await connection.close()
    return [(row[0], row[1]) for row in rows]


@pytest.fixture
async def source(database: str, tmp_path: Path, extension: Path) -> Settings:
    """A database with the older version of the extension, and a table of it."""
    with_keys(tmp_path / "source")
    await offer(database, extension)
    await run(
        database,
        f"CREATE EXTENSION timescaledb VERSION '{OLDER}'",
        "CREATE TABLE chunk (wh bigint CHECK (stand_in.is_restoring()))",
        "COMMENT ON TABLE chunk IS 'only its owner may say this'",
        "SET timescaledb.restoring = 'on'",
        "INSERT INTO chunk VALUES (1250)",
    )
    return settings_of(tmp_path / "source", database)


@pytest.fixture
def target(empty_database: str, tmp_path: Path) -> Settings:
    return settings_of(tmp_path / "target", empty_database)


async def test_it_comes_back_between_the_two_functions_of_the_extension(
    source: Settings, target: Settings, extension: Path, tmp_path: Path
) -> None:
    await offer(target.database_url, extension)

    taken = await write_backup(source, source.database_url, tmp_path / "backup", True, quiet)
    await read_backup(target, tmp_path / "backup", None, quiet)

    dsn = target.database_url
    assert taken.database.timescale == OLDER
    assert await ask(dsn, "SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'") == OLDER
    assert await ask(dsn, "SELECT wh FROM chunk") == 1250
    assert await ask(dsn, "SELECT obj_description('chunk'::regclass)") is None
    assert await said(dsn) == [("before", False), ("after", True)]
    assert await ask(dsn, SETTINGS) == 0


async def test_a_database_that_has_the_extension_already_keeps_it(
    source: Settings, target: Settings, extension: Path, tmp_path: Path
) -> None:
    await write_backup(source, source.database_url, tmp_path / "backup", True, quiet)
    await offer(target.database_url, extension)
    await run(target.database_url, f"CREATE EXTENSION timescaledb VERSION '{OLDER}'")

    await read_backup(target, tmp_path / "backup", None, quiet)

    assert await said(target.database_url) == [("before", False), ("after", True)]


async def test_another_version_is_refused_before_anything_is_written(
    source: Settings, target: Settings, extension: Path, tmp_path: Path
) -> None:
    await write_backup(source, source.database_url, tmp_path / "backup", True, quiet)
    with pytest.raises(DumpFailed, match=rf"needs TimescaleDB {OLDER}, this server has none"):
        await read_backup(target, tmp_path / "backup", None, quiet)
    await offer(target.database_url, extension)
    await run(target.database_url, f"CREATE EXTENSION timescaledb VERSION '{NEWEST}'")

    with pytest.raises(DumpFailed, match=rf"needs TimescaleDB {OLDER}, this database has {NEWEST}"):
        await read_backup(target, tmp_path / "backup", None, quiet)

    assert await said(target.database_url) == []
    assert list(target.folder.iterdir()) == []


async def test_after_a_restore_that_fails_the_extension_works_again(
    target: Settings, extension: Path, tmp_path: Path
) -> None:
    dsn = target.database_url
    await offer(dsn, extension)

    with pytest.raises(DumpFailed, match="pg_restore ended with status 1"):
        await restore(dsn, tmp_path / "no dump", NEWEST, quiet)

    assert await said(dsn) == [("before", False), ("after", False)]
    assert await ask(dsn, SETTINGS) == 0


async def test_a_backup_of_before_says_nothing_of_the_extension(source: Settings, tmp_path: Path) -> None:
    taken = await write_backup(source, source.database_url, tmp_path / "backup", True, quiet)
    older = msgspec.to_builtins(taken)
    del older["database"]["timescale"]
    (tmp_path / "backup" / backups.NAME).write_bytes(msgspec.json.encode(older))

    assert backups.read(tmp_path / "backup").database.timescale == ""
