"""A gateway's link while its market goes to another process: nothing is refused, doubled, lost or overtaken.

Seen to fail for: sending held requests as they came to be held; hanging up while answers are due; going back to the
process that was left because the directory is late; not holding what is asked for while the old process finishes;
staying away from a process that was left and is named again.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from actors import links as module
from actors.dataplane import Connection, Secret, Server
from actors.links import Link
from actors.succession import Moved
from engine.messages import CancelAll
from engine.views import Answer, Applied, Failed, Fault
from tests.support.patience import HUNG_SECONDS, eventually

SECRET = Secret(b"s" * 32)
_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.decode


class Process:
    """One process of a market: it keeps what it is sent, and answers when it is told to."""

    def __init__(self) -> None:
        self._server = Server(SECRET, self)
        self.address = ""
        self.heir = ""
        self.answers_at_once = True
        self.seen: list[int] = []  # participants, in the order of their commands
        self._owed: list[tuple[Connection, int, int]] = []

    async def start(self) -> "Process":
        self.address = await self._server.start("127.0.0.1")
        return self

    async def stop(self) -> None:
        await self._server.stop()

    def connected(self, connection: Connection) -> None: ...

    def lost(self, connection: Connection) -> None: ...

    def received(self, connection: Connection, frames: list[bytes]) -> None:
        for frame in frames:
            for request_id, (_, participant_id, *_) in _decode(frame):
                if self.heir:
                    connection.send(_encode((request_id, Moved(self.heir), 0)))
                    continue
                self.seen.append(participant_id)
                self._owed.append((connection, request_id, participant_id))
        if self.answers_at_once:
            self.answer()

    def answer(self) -> None:
        owed, self._owed = self._owed, []
        for connection, request_id, participant_id in owed:
            connection.send(_encode((request_id, Applied(participant_id), 0)))


@asynccontextmanager
async def linked() -> AsyncIterator[tuple[Link, Process, Process]]:
    """A link that is up, with the process at its other end and the one that will follow."""
    old, new = await Process().start(), await Process().start()
    link = Link("M", SECRET, lambda: None)
    task = asyncio.create_task(link.run())
    link.moved_to(old.address)
    await eventually(lambda: link.is_up)
    try:
        yield link, old, new
    finally:
        task.cancel()
        await asyncio.wait([task])
        await old.stop()
        await new.stop()


def ask(link: Link, *participants: int) -> "asyncio.Task[list[Answer]]":
    """One command of each, which leave together."""
    return asyncio.ensure_future(link.request([CancelAll(one) for one in participants]))


def applied(*participants: int) -> list[Any]:
    return [Applied(one) for one in participants]


async def test_what_comes_back_undone_goes_to_the_next_process_before_what_was_asked_later() -> None:
    async with linked() as (link, old, new):
        old.answers_at_once = False
        under_way = ask(link, 9)  # so that the link cannot leave yet
        await eventually(lambda: old.seen == [9])
        old.heir = new.address
        first, second = ask(link, 1, 2, 3), ask(link, 4)
        await eventually(lambda: not link.is_up)
        third = ask(link, 5)
        await asyncio.sleep(0)
        old.answer()

        assert [*await under_way, *await first, *await second, *await third] == applied(9, 1, 2, 3, 4, 5)
        assert old.seen == [9]
        assert new.seen == [1, 2, 3, 4, 5]


async def test_answers_that_are_due_are_waited_for_and_later_requests_wait_with_them() -> None:
    async with linked() as (link, old, new):
        old.answers_at_once = False
        under_way = ask(link, 1, 2)
        await eventually(lambda: old.seen == [1, 2])
        link.moved_to(new.address)
        later = ask(link, 3)
        assert not link.is_up  # the directory is asked more often meanwhile
        old.answer()

        assert await under_way == applied(1, 2)
        assert await later == applied(3)
        assert (old.seen, new.seen) == ([1, 2], [3])


async def test_a_directory_that_is_late_does_not_lead_back() -> None:
    async with linked() as (link, old, new):
        old.heir, new.answers_at_once = new.address, False
        asked = ask(link, 1)
        await eventually(lambda: new.seen == [1])
        link.moved_to(old.address)
        link.moved_to("")
        new.answer()

        assert await asked == applied(1)
        assert link.is_up
        link.moved_to(new.address)
        old.heir = ""
        link.moved_to(old.address)  # now it is news: the market has come back to this address
        await eventually(lambda: link.is_up)
        assert await ask(link, 2) == applied(2)
        assert old.seen == [2]


async def test_a_process_that_never_said_that_it_moved_is_gone_back_to() -> None:
    async with linked() as (link, old, new):
        await new.stop()
        link.moved_to(new.address)  # a second owner, which is gone before anybody has reached it
        asked = ask(link, 1)
        await eventually(lambda: bool(link._held))
        link.moved_to(old.address)

        assert await asyncio.wait_for(asked, HUNG_SECONDS) == applied(1)


async def test_a_process_that_owes_answers_for_too_long_is_left_and_their_outcome_is_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LEAVE_SECONDS_MAX", 0.05)
    async with linked() as (link, old, new):
        old.answers_at_once = False
        under_way = ask(link, 1)
        await eventually(lambda: old.seen == [1])
        link.moved_to(new.address)
        later = ask(link, 2)

        assert [_fault(one) for one in await under_way] == [Fault.OUTCOME_UNKNOWN]
        assert await later == applied(2)
        assert new.seen == [2]


async def test_what_is_held_for_a_process_that_never_comes_was_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HELD_SECONDS_MAX", 0.0)
    async with linked() as (link, old, new):
        await new.stop()
        old.heir = new.address
        asked = ask(link, 1)
        await eventually(lambda: bool(link._held))
        link.expire()

        assert [_fault(one) for one in await asked] == [Fault.UNAVAILABLE]


def _fault(answer: Answer) -> Fault | None:
    return answer.fault if isinstance(answer, Failed) else None


def test_the_word_for_having_moved_is_no_answer_and_no_news() -> None:
    decode: Callable[[bytes], Any] = msgspec.msgpack.Decoder(Answer).decode

    with pytest.raises(msgspec.ValidationError):
        decode(_encode(Moved("127.0.0.1:1")))
