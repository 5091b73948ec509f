"""How a server of ours steps back on the processors, so that whoever waits for an answer comes first.

A niceness counts only among the processes of one group. Where nobody has made control groups, Linux makes a group of
each session (sched(7), "The autogroup feature"), and each backend of PostgreSQL, as each server of ours, is a session
of its own. So its group is told, too; else it gets as much as all actors of the exchange together.
"""

import contextlib
import os
import time
from pathlib import Path
from typing import Final

WORDS_MAX: Final = 5
WORD_SECONDS: Final = 0.11  # the kernel takes one word of a user who is not root in a tenth of a second


def step_back(pid: int, nice: int) -> None:
    """`nice` for this process and for its session, of which it is the only one that works. May take half a second.

    Raises ProcessLookupError, PermissionError.
    """
    _step_back_among(pid, nice)
    for _ in range(WORDS_MAX):
        try:
            Path(f"/proc/{pid}/autogroup").write_text(str(nice))
        except BlockingIOError:
            time.sleep(WORD_SECONDS)
        except OSError:  # a kernel without such groups, or a container that may not change them
            return
        else:
            return


def step_back_with_children(pid: int, nice: int) -> list[int]:
    """`nice` for this process and all below it: which these are. Those that have ended meanwhile are left out.

    Their session is told only if the process leads one: else it is that of others, who do not step back.
    Raises PermissionError.
    """
    try:
        if os.getsid(pid) == pid:
            step_back(pid, nice)
        else:
            _step_back_among(pid, nice)
        below = [
            int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()
        ]
    except (ProcessLookupError, FileNotFoundError):
        return []
    return [pid, *(one for child in below for one in step_back_with_children(child, nice))]


def _step_back_among(pid: int, nice: int) -> None:
    """Each thread of it, for the kernel weighs threads: those that come later are like those that begin them."""
    os.setpriority(os.PRIO_PROCESS, pid, max(nice, os.getpriority(os.PRIO_PROCESS, pid)))
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # one that has ended meanwhile
            number = int(thread.name)
            os.setpriority(os.PRIO_PROCESS, number, max(nice, os.getpriority(os.PRIO_PROCESS, number)))
