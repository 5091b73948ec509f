"""A market outlives the node that it runs on, and moves to one that is added.

What happens is in tests/support/cluster.py; here is what must hold.

Seen to fail for: an old owner that opens the journal again and so takes the market back (a bug that it found).
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.support.cluster import ORDERS_BEFORE, Facts

ROOT = Path(__file__).parents[3]
SECONDS_MAX = 600


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Ray's sockets lie below it, and a socket's path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="wc-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def test_a_market_serves_on_another_node_and_has_lost_nothing(database: str, short_folder: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.support.cluster", database, str(short_folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-3_000:] + ran.stderr[-6_000:]
    facts = msgspec.json.decode(ran.stdout.splitlines()[-1], type=Facts)
    print(facts)

    assert sorted(facts.nodes_before.values()) == [0, 1], "the markets were not spread"
    surviving = 1 - facts.nodes_before[facts.lost]
    assert set(facts.nodes_after.values()) == {surviving}
    assert facts.violations == []
    assert facts.unresolved == 0
    assert facts.failed > 0, "nobody noticed the loss"
    assert facts.acknowledged >= 2 * 2 * 2 * ORDERS_BEFORE
    assert "OrderAnswer" not in facts.old_owner
    assert (facts.move, facts.moved_to) == ("done", 2), "the market is on the node that was added"
    assert facts.refused_by_the_move == []
