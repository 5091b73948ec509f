"""Moves the oldest rows of journals into files, so that the database is bounded and nothing is lost.

    write the file -> record it -> read it back, against chain and table -> remove the rows

Whatever dies between two steps: a file without a record is written anew, rows of a recorded file are verified again and
then removed. Never moved are rows that the oldest kept snapshot or a follower still needs, and a journal's last row.
Source: docs/decisions/0047.
"""

from collections.abc import Callable

import structlog

from actors import metrics
from actors.ports import JournalArchive
from engine.journal import Stretch
from engine.units import SECOND_US, TimeUs

DAY_US = 86_400 * SECOND_US

log = structlog.get_logger()


class Archiver:
    """kept_us: how long rows stay in the table. `crash`: hears each step that is done, for tests that die there."""

    def __init__(self, archive: JournalArchive, kept_us: int, crash: Callable[[str], None] | None = None) -> None:
        self._archive, self._kept_us, self._crash = archive, kept_us, crash

    async def archive_due(self, now_us: TimeUs) -> int:
        """A duty: at most one file for each market, and how many that were. Raises JournalBroken.

        Rows go when they are kept_us old, and wait for others up to a day, so that files are few.
        """
        before_us, written = now_us - self._kept_us, 0
        for closed in await self._archive.closed():
            for stretch in await self._archive.recorded(closed.market_id):
                await self._finish(closed.symbol, stretch)
            if closed.oldest_us < before_us - min(self._kept_us, DAY_US):
                new = await self._archive.write(closed, before_us)
                if new is not None:
                    self._reached("written")
                    await self._archive.record(new)
                    self._reached("recorded")
                    await self._finish(closed.symbol, new)
                    written += 1
        return written

    async def _finish(self, symbol: str, stretch: Stretch) -> None:
        await self._archive.verify(stretch)
        self._reached("verified")
        await self._archive.remove(stretch)
        self._reached("removed")
        metrics.ARCHIVED_SEQUENCE.labels(symbol).set(stretch.last_sequence)
        log.info(
            "journal.archived",
            market=symbol,
            first_sequence=stretch.first_sequence,
            last_sequence=stretch.last_sequence,
            bytes=stretch.file_bytes,
        )

    def _reached(self, step: str) -> None:
        if self._crash is not None:
            self._crash(step)
