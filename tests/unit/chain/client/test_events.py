"""Events of a log, and of no log that somebody else wrote.

Seen to fail for: data of another program's frame, a frame that does not end, a place that repeats.
"""

import base64

import pytest
from solders.pubkey import Pubkey

from chain.client.events import LogUnusable, events
from chain.client.programs import CannotDecode, reference_programs
from chain.programs.interface import discriminator

PROGRAMS = reference_programs()
OURS = str(PROGRAMS.governance.id)
OTHER = str(Pubkey(bytes([9] * 32)))


def paused(number: int) -> str:
    raw = discriminator("event", "Paused") + bytes([number] * 32)
    return f"Program data: {base64.b64encode(raw).decode()}"


def frame(program: str, *lines: str, depth: int = 1) -> list[str]:
    return [f"Program {program} invoke [{depth}]", *lines, f"Program {program} success"]


def found(logs: list[str]) -> list[tuple[int, int, int]]:
    return [(each.instruction, each.index, bytes(each.event.fields["authority"])[0]) for each in events(PROGRAMS, logs)]


def test_each_has_its_place() -> None:
    logs = [*frame(OURS, paused(1), paused(2)), *frame(OTHER), *frame(OURS, paused(3))]

    assert found(logs) == [(0, 0, 1), (0, 1, 2), (2, 0, 3)]


def test_another_programs_data_is_not_ours() -> None:
    assert found(frame(OTHER, paused(1))) == []
    assert found(frame(OURS, *frame(OTHER, paused(1), depth=2))) == []


def test_after_a_call_our_frame_speaks_again() -> None:
    assert found(frame(OURS, *frame(OTHER, depth=2), paused(1))) == [(0, 0, 1)]
    assert found(frame(OTHER, *frame(OURS, paused(2), depth=2))) == [(0, 0, 2)]


def test_a_log_line_that_looks_like_a_frame_is_text() -> None:
    lines = [f"Program log: Program {OURS} invoke [2]", f"Program log: {paused(1)}"]

    assert found(frame(OTHER, *lines)) == []


@pytest.mark.parametrize("text", ["", "AAAA", "not base64!", "QUFB QUFB", base64.b64encode(bytes(40)).decode()])
def test_data_that_is_no_event_is_left_out(text: str) -> None:
    assert found(frame(OURS, f"Program data: {text}")) == []


def test_lines_between_frames_are_left_out() -> None:
    assert found([paused(1), *frame(OURS, "Program consumption: 5 units remaining")]) == []


@pytest.mark.parametrize(
    "logs",
    [
        [*frame(OURS, paused(1)), "Log truncated"],
        frame(OURS, paused(1))[:-1],
        frame(OURS, depth=2),
        [f"Program {OURS} invoke [1]", f"Program {OTHER} success"],
    ],
    ids=["cut", "no end", "wrong depth", "another's end"],
)
def test_a_log_that_is_not_whole_is_refused(logs: list[str]) -> None:
    with pytest.raises(LogUnusable):
        events(PROGRAMS, logs)


def test_a_damaged_event_is_refused() -> None:
    raw = discriminator("event", "Paused") + bytes(3)

    with pytest.raises(CannotDecode):
        events(PROGRAMS, frame(OURS, f"Program data: {base64.b64encode(raw).decode()}"))
