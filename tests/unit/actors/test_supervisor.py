"""What the supervisor remembers of actors that did not answer, for operators."""

import asyncio
import random
from collections import deque
from itertools import pairwise
from typing import Any
from unittest import mock

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from actors import handles, supervisor
from actors.handles import Placement, Unmade, Unreachable
from actors.hosting import MarketActor
from actors.supervisor import WATCH_SECONDS_WHILE_DOWN
from actors.watched import Absence, Watched
from tests.support.patience import HUNG_SECONDS
from tests.support.virtual_loop import VirtualLoop


class Answering:
    """In the place of Ray: answers, or not."""

    def __init__(self) -> None:
        self.answers = True

    def start(self, *_: Any) -> object:
        return object()

    async def call(self, _actor: object, method: str, *, seconds: float) -> Any:
        if not self.answers:
            raise Unreachable(f"{method}: planted")
        return {"state": "serving", "address": "127.0.0.1:1"}


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Answering:
    stands_in = Answering()
    monkeypatch.setattr(handles, "start", stands_in.start)
    monkeypatch.setattr(handles, "call", stands_in.call)
    return stands_in


def watched(absences: deque[Absence]) -> Watched:
    async def never_made() -> Any:
        raise AssertionError("nothing starts here")

    return Watched(Placement("market-CAMPUS"), MarketActor, never_made, absences)


async def test_an_absence_is_kept_from_when_until_when_and_why(ray: Answering) -> None:
    absences: deque[Absence] = deque(maxlen=supervisor.FAULTS_KEPT)
    one = watched(absences)
    await one.look()
    ray.answers = False
    await one.look()
    await one.look()  # still away: the same absence
    away = [dict(absence) for absence in absences]
    ray.answers = True
    await one.look()

    assert [(absence["actor"], absence["back_us"], absence["why"]) for absence in away] == [
        ("market-CAMPUS", None, "status: planted")
    ]
    assert one.faults == 1
    assert len(absences) == 1
    assert absences[0]["back_us"] is not None
    assert absences[0]["back_us"] >= absences[0]["at_us"]


async def test_an_actor_that_has_not_come_up_yet_is_no_fault(ray: Answering) -> None:
    ray.answers = False
    absences: deque[Absence] = deque(maxlen=supervisor.FAULTS_KEPT)
    one = watched(absences)

    await one.look()

    assert not absences
    assert one.faults == 0


class Dead:
    """An actor whose process raised this in the making."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __getattr__(self, _method: str) -> "Dead":
        return self

    async def remote(self, *_: Any) -> None:
        raise self._error


async def test_what_could_not_be_made_says_with_what_error() -> None:
    cause = RayTaskError("MeterAggregatorActor.__init__", "Traceback\n  somewhere\nIndentationError: planted", None)  # type: ignore[no-untyped-call]

    with pytest.raises(Unmade, match=r"^IndentationError: planted$"):
        await handles.call(Dead(ActorDiedError(cause)), "status")


async def test_what_died_otherwise_was_not_unmade() -> None:
    with pytest.raises(Unreachable) as caught:
        await handles.call(Dead(ActorDiedError()), "status")

    assert not isinstance(caught.value, Unmade)


def test_what_cannot_be_made_is_tried_at_once_and_then_ever_more_seldom(ray: Answering) -> None:
    loop, starts, made = VirtualLoop(random.Random(0)), list[float](), object()

    async def call(actor: object, _method: str, *, seconds: float) -> Any:
        if actor is made:
            return {"state": "serving", "address": ""}
        raise Unmade("planted")

    def start(*_: Any) -> object:
        starts.append(loop.time())
        return made if len(starts) == 9 else object()

    async def watch() -> None:
        one = watched(deque())
        while not one.is_up:
            await one.look()
            await asyncio.sleep(WATCH_SECONDS_WHILE_DOWN)

    with mock.patch.multiple(handles, start=start, call=call), asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(asyncio.wait_for(watch(), HUNG_SECONDS))

    pauses = [later - earlier for earlier, later in pairwise(starts)]
    assert pauses[0] == 0.0
    assert pauses[1:] == pytest.approx([0.6, 1.1, 2.1, 4.1, 8.1, 10.1, 10.1], abs=0.11)
