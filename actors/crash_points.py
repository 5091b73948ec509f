"""Named places between which a part of the exchange may die, for the tests that make it die there.

Off unless the process was started with CRASH_POINTS: the path of an order file. No setting of the exchange leads here.
While that file holds `part:point:times` (`market.CAMPUS:commit:3`), the process that reaches this point of this part
for that time takes the order file away, leaves its own name in `<file>.died`, and ends as by a power cut: SIGKILL.
Because the order is taken away, whoever comes after it lives.
"""

import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

VARIABLE: Final = "CRASH_POINTS"
MARKET_POINTS: Final = {
    "reserve": "funds are about to be drawn from the ledger",
    "reserved": "the ledger has moved the funds, the market has not heard of it",
    "fund": "the draw is about to be applied to the book",
    "apply": "the batch is applied in memory and not in the journal",
    "commit": "the batch is in the journal, nobody has been answered",
    "answer": "some of those who asked have been answered",
}
FOLLOWER_POINTS: Final = {
    "project": "the rows are applied to the replica, the tables are not written",
    "projected": "the tables and the cursor are written, no snapshot is taken",
    "snapshot": "a snapshot is made and not saved",
}
SUBMITTER_POINTS: Final = {
    "claimed": "effects are claimed, nothing is signed",
    "signed": "transactions are signed in memory, the table does not have them",
    "recorded": "signed bytes are in the table, nothing is sent",
    "sent": "bytes are sent, the table does not say so",
    "learnt": "the chain has answered, the table does not have it",
}
LISTENER_POINTS: Final = {
    "heard": "events are heard and not written down",
    "read": "final events are read and not taken up",
    "taken_up": "final events are taken up with their cursors",
}

POINTS: Final = {
    "market": MARKET_POINTS,
    "follower": FOLLOWER_POINTS,
    "submitter": SUBMITTER_POINTS,
    "listener": LISTENER_POINTS,
}

Reached = Callable[[str], None]
log = structlog.get_logger()


class OrderUnclear(Exception):
    """The order file names no part and point that there are."""


def of(part: str) -> Reached | None:
    """What this part calls at each of its points: nothing at all, unless this process was started to be crashed."""
    path = os.environ.get(VARIABLE)
    return CrashPoints(part, Path(path)).reached if path else None


def order(file: Path, part: str, point: str, times: int = 1) -> None:
    """Have the part die when it reaches the point for that time from now on."""
    unfinished = file.with_name(file.name + ".unfinished")
    unfinished.write_text(f"{part}:{point}:{times}")
    _parsed(unfinished.read_text())
    unfinished.rename(file)


class CrashPoints:
    """The order file as one part sees it."""

    def __init__(self, part: str, file: Path) -> None:
        self._part, self._file = part, file
        self._reached: Counter[tuple[int, str]] = Counter()  # by order (its inode) and point

    def reached(self, point: str) -> None:
        """Die here if that is the order."""
        try:
            which, text = self._file.stat().st_ino, self._file.read_text()
        except FileNotFoundError:
            return
        part, wanted, times = _parsed(text)
        if (part, wanted) != (self._part, point):
            return
        self._reached[which, point] += 1
        if self._reached[which, point] < times:
            return
        log.critical("crash_point.reached", part=part, point=point, times=times)
        self._file.with_name(self._file.name + ".died").write_text(f"{part}:{point}:{times} {os.getpid()}")
        self._file.unlink(missing_ok=True)  # who gave the order may take it away as soon as the word is out
        os.kill(os.getpid(), signal.SIGKILL)


def _parsed(text: str) -> tuple[str, str, int]:
    part, _, rest = text.strip().partition(":")
    point, _, times = rest.partition(":")
    known = POINTS.get(part.partition(".")[0], {})
    if point not in known or not times.isdigit() or int(times) < 1:
        raise OrderUnclear(f"{text!r}: expected part:point:times, such as market.CAMPUS:commit:3")
    return part, point, int(times)
