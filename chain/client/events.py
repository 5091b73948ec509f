"""Events of our programs in the log of one transaction, in order, each with the place that makes it unique.

Rules: only a program's own frame speaks for it, so that another program cannot write a line that looks like its event;
a transaction that failed has no events; a log that the runtime cut off is no whole account, and is refused.
"""

import base64
import binascii
import re
from typing import Final

from msgspec import Struct
from solders.pubkey import Pubkey

from chain.client.programs import Event, Programs

INVOKED: Final = re.compile(r"Program (\w{32,44}) invoke \[(\d+)\]")
ENDED: Final = re.compile(r"Program (\w{32,44}) (success|failed(: .*)?)")
DATA: Final = "Program data: "
CUT: Final = "Log truncated"


class LogUnusable(Exception):
    """The log is cut off or its frames do not fit: what happened must be read from accounts instead."""


class Placed(Struct, frozen=True):
    """instruction: number of the instruction in the transaction; index: number of the event within it."""

    instruction: int
    index: int
    event: Event


def events(programs: Programs, logs: list[str]) -> list[Placed]:
    """Of a transaction that succeeded; the caller leaves others out. Raises LogUnusable, CannotDecode."""
    found: list[Placed] = []
    frames: list[str] = []
    instruction, index = -1, 0
    for line in logs:
        if line == CUT:
            raise LogUnusable("the log was cut off")
        if invoked := INVOKED.fullmatch(line):
            if int(invoked[2]) != len(frames) + 1:
                raise LogUnusable(f"a call at depth {invoked[2]} within {len(frames)}")
            if not frames:
                instruction, index = instruction + 1, 0
            frames.append(invoked[1])
        elif (ended := ENDED.fullmatch(line)) and frames and ended[1] == frames[-1]:
            frames.pop()
        elif line.startswith(DATA) and frames:
            event = _event(programs, frames[-1], line.removeprefix(DATA))
            if event:
                found.append(Placed(instruction, index, event))
                index += 1
    if frames:
        raise LogUnusable(f"the log ends within a call of {frames[-1]}")
    return found


def _event(programs: Programs, frame: str, text: str) -> Event | None:
    program = programs.by_id(Pubkey.from_string(frame))
    if program is None:
        return None
    try:
        return program.event(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):  # several slices, which our programs never write
        return None
