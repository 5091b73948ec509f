"""Journals whose oldest rows are files: one journal to whoever reads, and nothing lost wherever something dies.

Seen to fail for: rows moved that a snapshot or a follower needs, a last row that goes too, files not read back,
rows that are not compared with their file, files that a reader passes over, a death after which rows stay for ever.
"""

from pathlib import Path

import asyncpg
import pytest

from actors.archiving import Archiver
from actors.audit import audit, verify
from actors.clock import clock_us
from actors.recovery import recover
from engine.book import state
from engine.journal import JournalBroken, JournalRow
from engine.messages import Side
from persistence import archive as archives
from persistence.archive import ArchivedJournal, FileArchive
from persistence.audit import PostgresAudit
from tests.support.exchange import CURRENCY, Exchange, order
from tests.support.patience import eventually

STEPS = ("written", "recorded", "verified", "removed")


class Killed(Exception):
    """Here everything ends."""


class World:
    """A market that has traded, and what archives it."""

    def __init__(self, exchange: Exchange, folder: Path) -> None:
        self.exchange, self.folder = exchange, folder
        self.archive = FileArchive(exchange.dsn, exchange.pool, folder)

    async def trade(self, times: int) -> None:
        for _ in range(times):
            await self.exchange.placed("M", order(self.seller, Side.SELL, "3.000", "0.010"))
            await self.exchange.placed("M", order(self.buyer, Side.BUY, "3.000", "0.010"))

    async def begin(self) -> "World":
        await self.exchange.open_market("M")
        self.exchange.start_market("M")
        self.exchange.follow("M", snapshot_every=10, snapshots_kept=2)
        self.buyer, self.seller = await self.exchange.trader("buyer"), await self.exchange.trader("seller")
        for _ in range(5):
            await self.trade(5)
            await self.exchange.followed("M")
        await eventually(self.oldest_snapshot)
        return self

    async def oldest_snapshot(self) -> int:
        """Of those that a recovery would take, not the one at sequence 0."""
        kept = [one.sequence async for one in self.exchange.snapshots.newest_first(1) if one.sequence]
        return min(kept, default=0)

    async def archive_all(self, step: str = "") -> int:
        """How many files were written; killed when `step` is done."""

        def crash(reached: str) -> None:
            if reached == step:
                raise Killed(step)

        archiver, written = Archiver(self.archive, 1, crash), 0
        while new := await archiver.archive_due(clock_us()):
            written += new
        return written

    async def in_table(self) -> list[tuple[int, bytes]]:
        rows = await self.exchange.pool.fetch("SELECT first_sequence, hash FROM journal ORDER BY 1")
        return [(row[0], row[1]) for row in rows]

    async def rows(self, limit: int = 7) -> list[JournalRow]:
        """The whole journal, as whoever replays it reads it."""
        journal, found = ArchivedJournal(self.exchange.dsn, self.folder), list[JournalRow]()
        while page := await journal.rows(1, found[-1].last_sequence if found else 0, limit):
            assert len(page) <= limit
            found += page
        await journal.close()
        return found

    async def violations(self) -> list[str]:
        journal = ArchivedJournal(self.exchange.dsn, self.folder)
        tables = PostgresAudit(self.exchange.pool)
        report = await audit(self.exchange.specs.values(), journal, self.exchange.snapshots, tables, CURRENCY)
        await journal.close()
        return report.violations

    def files(self) -> list[Path]:
        return sorted(self.folder.rglob("*.zst"))


@pytest.fixture
async def world(exchange: Exchange, tmp_path: Path) -> World:
    return await World(exchange, tmp_path / "archive").begin()


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "ENTRIES_BYTES_MAX", 600)


@pytest.mark.usefixtures("small_files")
async def test_files_and_table_are_one_journal(world: World) -> None:
    before, in_table = await world.rows(), await world.in_table()

    written = await world.archive_all()

    assert written == len(world.files()) > 2
    left = await world.in_table()
    assert 0 < len(left) < len(in_table)
    assert in_table[-len(left) :] == left
    for limit in (1, 7, 1_000):
        assert await world.rows(limit) == before
    assert await world.violations() == []


async def test_a_market_and_its_follower_go_on_where_they_were(world: World) -> None:
    await world.archive_all()
    before = await world.exchange.sequence("M")
    await world.exchange.kill("M")
    await world.exchange.kill("follower M")

    world.exchange.start_market("M")
    world.exchange.follow("M")
    await world.trade(3)

    assert await world.exchange.followed("M") > before
    assert await world.violations() == []


async def test_without_a_usable_snapshot_a_market_comes_back_from_its_first_entry(world: World) -> None:
    journal = ArchivedJournal(world.exchange.dsn, world.folder)
    replayed = await verify(world.exchange.specs["M"], journal, world.exchange.snapshots)
    await world.archive_all()
    await world.exchange.pool.execute("UPDATE snapshots SET state = '\\x00' WHERE sequence > 0")

    recovered = await recover(1, journal, world.exchange.snapshots)

    assert state.encode(recovered.book) == state.encode(replayed.book)
    await journal.close()


@pytest.mark.usefixtures("small_files")
@pytest.mark.parametrize("step", STEPS)
async def test_whatever_dies_between_two_steps_nothing_is_lost(world: World, step: str) -> None:
    before = await world.rows()

    with pytest.raises(Killed):
        await world.archive_all(step)
    between = await world.rows()
    await world.archive_all()

    assert between == before
    assert await world.rows() == before
    assert await world.violations() == []
    archived = await world.exchange.pool.fetchval("SELECT max(last_sequence) FROM journal_archives")
    assert (await world.in_table())[0][0] > archived, "what is in files has left the table"
    assert not [path for path in world.folder.rglob("*") if path.is_file() and path.suffix != ".zst"]


async def test_what_a_recovery_or_a_follower_needs_stays(world: World) -> None:
    await world.exchange.kill("follower M")
    snapshot = await world.oldest_snapshot()
    cursor = await world.exchange.projections.cursor(1)
    await world.trade(5)

    await world.archive_all()
    await world.exchange.pool.execute("UPDATE cursors SET sequence = sequence + 1_000_000")
    await world.archive_all()

    first = (await world.in_table())[0][0]
    assert first <= snapshot + 1 <= cursor + 1


async def test_rows_behind_a_follower_that_stands_still_stay(world: World) -> None:
    await world.exchange.kill("follower M")
    await world.exchange.pool.execute("UPDATE cursors SET sequence = 5")

    await world.archive_all()

    assert (await world.in_table())[0][0] <= 6


async def test_the_last_row_of_a_journal_stays(world: World) -> None:
    await world.exchange.kill("M")
    await world.exchange.kill("follower M")
    last = (await world.in_table())[-1]
    await world.exchange.pool.execute("DELETE FROM snapshots WHERE sequence > 0")
    await world.exchange.pool.execute(
        "INSERT INTO snapshots (market_id, sequence, engine_version, state_hash, journal_hash, state, state_bytes) "
        "VALUES (1, 1000000, 1, sha256(''), sha256(''), '', 0)"
    )
    await world.exchange.pool.execute("UPDATE cursors SET sequence = 1000000")

    await world.archive_all()

    assert await world.in_table() == [last]


async def test_young_rows_stay(world: World) -> None:
    archiver = Archiver(world.archive, 3_600 * 10**6)

    assert await archiver.archive_due(clock_us()) == 0
    assert world.files() == []


async def test_rows_of_a_file_that_cannot_be_read_back_stay(world: World) -> None:
    in_table = await world.in_table()
    with pytest.raises(Killed):
        await world.archive_all("recorded")
    _spoil(world.files()[0])

    with pytest.raises(JournalBroken, match="is not what was written"):
        await world.archive_all()

    assert await world.in_table() == in_table


async def test_rows_that_are_not_those_of_the_file_stay(world: World) -> None:
    with pytest.raises(Killed):
        await world.archive_all("recorded")
    await world.exchange.pool.execute("UPDATE journal SET hash = sha256('other') WHERE first_sequence = 3")
    in_table = await world.in_table()

    with pytest.raises(JournalBroken, match="does not hold the rows of the table"):
        await world.archive_all()

    assert await world.in_table() == in_table


@pytest.mark.parametrize("harm", ["spoilt", "gone"])
async def test_a_replay_says_which_file_is_harmed(world: World, harm: str) -> None:
    await world.archive_all()
    file = world.files()[0]
    _spoil(file) if harm == "spoilt" else file.unlink()

    [violation] = await world.violations()

    assert str(file) in violation


async def test_a_version_without_archives_is_not_gone_back_to_with_rows_in_files(world: World) -> None:
    await world.archive_all()
    undo = (Path(__file__).parents[3] / "migrations" / "0034_journal_archives.undo.sql").read_text()

    with pytest.raises(asyncpg.RaiseError, match="are in files"):
        await world.exchange.pool.execute(undo)


def _spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
