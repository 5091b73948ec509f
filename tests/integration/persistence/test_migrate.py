"""Migrations go up, down and up again, and refuse what does not fit together."""

import asyncio
import shutil
from pathlib import Path

import asyncpg
import pytest

from persistence import migrate
from persistence.migrate import MigrationProblem

COLUMNS = """
    SELECT table_name, column_name, data_type, is_nullable, column_default
    FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2
"""
RULES = """
    SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2
"""
INDEXES = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1"
FUNCTIONS = "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY 1"


async def schema(dsn: str) -> list[object]:
    connection = await asyncpg.connect(dsn)
    rows = [tuple(row) for sql in (COLUMNS, RULES, INDEXES, FUNCTIONS) for row in await connection.fetch(sql)]
    await connection.close()
    return [row for row in rows if "schema_migrations" not in str(row[0])]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    copy = tmp_path / "migrations"
    copy.mkdir()
    for number in (1, 2):
        (copy / f"000{number}_table.sql").write_text(f"CREATE TABLE t{number} (id bigint)")
        (copy / f"000{number}_table.undo.sql").write_text(f"DROP TABLE t{number}")
    return copy


async def test_every_migration_goes_up_down_and_up_to_the_same_schema(empty_database: str) -> None:
    names = await migrate.up(empty_database)
    first = await schema(empty_database)

    undone = await migrate.down(empty_database, len(names))
    nothing = await schema(empty_database)
    again = await migrate.up(empty_database)

    assert undone == names[::-1]
    assert nothing == []
    assert again == names
    assert await schema(empty_database) == first


async def test_second_run_does_nothing(database: str) -> None:
    assert await migrate.up(database) == []
    assert all(line.applied_us for line in await migrate.status(database))


async def test_runners_at_the_same_time_apply_each_file_once(empty_database: str) -> None:
    done = await asyncio.gather(*(migrate.up(empty_database) for _ in range(4)))

    assert sorted(map(len, done))[:3] == [0, 0, 0]
    assert max(map(len, done)) == len(await migrate.status(empty_database))


async def test_status_shows_what_is_missing(empty_database: str, folder: Path) -> None:
    await migrate.up(empty_database, folder)
    await migrate.down(empty_database, 1, folder)

    first, second = await migrate.status(empty_database, folder)

    assert first.applied_us is not None
    assert second.applied_us is None


async def test_failing_file_leaves_nothing_behind_and_is_named(empty_database: str, folder: Path) -> None:
    (folder / "0003_broken.sql").write_text("CREATE TABLE half (id bigint); SELECT nonsense")
    (folder / "0003_broken.undo.sql").write_text("DROP TABLE half")

    with pytest.raises(MigrationProblem, match=r"0003_broken.*nonsense"):
        await migrate.up(empty_database, folder)

    connection = await asyncpg.connect(empty_database)
    assert await connection.fetchval("SELECT to_regclass('half')") is None
    assert await connection.fetchval("SELECT max(number) FROM schema_migrations") == 2
    await connection.close()


async def test_changed_applied_file_is_refused(empty_database: str, folder: Path) -> None:
    await migrate.up(empty_database, folder)
    (folder / "0001_table.sql").write_text("CREATE TABLE other (id bigint)")

    with pytest.raises(MigrationProblem, match="0001_table has changed"):
        await migrate.up(empty_database, folder)


async def test_database_of_a_newer_version_is_refused(empty_database: str, folder: Path) -> None:
    await migrate.up(empty_database, folder)
    (folder / "0002_table.sql").unlink()
    (folder / "0002_table.undo.sql").unlink()

    with pytest.raises(MigrationProblem, match="0002_table, which this version does not know"):
        await migrate.status(empty_database, folder)


async def test_file_numbered_before_an_applied_one_is_refused(empty_database: str, folder: Path) -> None:
    await migrate.up(empty_database, folder)
    shutil.copy(folder / "0001_table.sql", folder / "0000_late.sql")
    shutil.copy(folder / "0001_table.undo.sql", folder / "0000_late.undo.sql")

    with pytest.raises(MigrationProblem, match="0000_late"):
        await migrate.up(empty_database, folder)


@pytest.mark.parametrize(
    ("name", "said"), [("0003_alone.sql", "has no 0003_alone.undo.sql"), ("three.sql", "is not named like")]
)
async def test_file_without_undo_or_number_is_refused(empty_database: str, folder: Path, name: str, said: str) -> None:
    (folder / name).write_text("SELECT 1")

    with pytest.raises(MigrationProblem, match=said):
        await migrate.up(empty_database, folder)
