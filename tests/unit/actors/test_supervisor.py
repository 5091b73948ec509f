"""What the supervisor remembers of actors that did not answer, for operators."""

from collections import deque
from typing import Any

import pytest

from actors import handles, supervisor
from actors.handles import Placement, Unreachable
from actors.hosting import MarketActor
from actors.watched import Absence, Watched


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
