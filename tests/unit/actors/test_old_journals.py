"""A journal that an older engine wrote replays: the same events, whatever form its states had.

The files are rows as those versions wrote them; a version whose rows must not be read any more leaves
VERSIONS_REPLAYED with its file. Seen to fail for: rows of version 2 refused, their states compared byte by byte.
"""

from pathlib import Path

import msgspec
import pytest

from actors.recovery import Replica, advance
from engine.book import state
from engine.journal import GENESIS_HASH, JournalBroken, JournalRow
from engine.messages import ENGINE_VERSION, VERSIONS_REPLAYED

JOURNALS = Path(__file__).with_name("journals")
OLDER = sorted(VERSIONS_REPLAYED - {ENGINE_VERSION})


def journal(version: int) -> tuple[Replica, list[JournalRow]]:
    """The first snapshot, and the rows after it."""
    data = (JOURNALS / f"version_{version}.msgpack").read_bytes()
    first, rows = msgspec.msgpack.decode(data, type=tuple[bytes, list[JournalRow]])
    return Replica(state.decode(first), GENESIS_HASH), rows


def replay(replica: Replica, rows: list[JournalRow]) -> None:
    for row in rows:
        advance(replica, row)


@pytest.mark.parametrize("version", OLDER)
def test_what_an_older_engine_wrote_replays(version: int) -> None:
    replica, rows = journal(version)
    assert {row.engine_version for row in rows} == {version}

    replay(replica, rows)

    assert replica.book.trades > 40
    assert replica.book.sequence == rows[-1].last_sequence


@pytest.mark.parametrize("version", OLDER)
def test_events_that_differ_from_those_of_then_stop_a_replay(version: int) -> None:
    replica, rows = journal(version)
    replica.book.fees.taker_bps += 1

    with pytest.raises(JournalBroken, match="other events"):
        replay(replica, rows)


def test_a_row_of_a_version_that_is_not_known_is_refused() -> None:
    replica, rows = journal(2)

    with pytest.raises(JournalBroken, match="written by engine version"):
        advance(replica, msgspec.structs.replace(rows[0], engine_version=ENGINE_VERSION + 1))
