"""In a cluster the daemon asks the supervisor whether the exchange is there: no gateway listens beside it."""

from typing import Any

import pytest
from rich.console import Console

from actors import handles
from config.load import load
from daemon import Daemon

SECRET = {"WATTBOOK_RAY_ADDRESS": "10.0.0.1:6379", "WATTBOOK_CLUSTER_SECRET": "s" * 32}
UP, DOWN = {"up": True}, {"up": False}


@pytest.mark.parametrize(
    ("status", "down"),
    [
        ({"pid": 1, "market-CAMPUS": UP, "gateway-1": UP, "recent_faults": []}, ""),
        ({"pid": 1, "market-CAMPUS": DOWN, "gateway-1": UP, "persistence": DOWN}, "market-CAMPUS, persistence"),
        ({"pid": 1, "market-CAMPUS": UP}, "the supervisor is starting the others"),
    ],
)
async def test_all_actors_must_answer(status: dict[str, Any], down: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def call(_actor: object, _method: str) -> dict[str, Any]:
        return status

    monkeypatch.setattr(handles, "find", lambda _name: object())
    monkeypatch.setattr(handles, "call", call)

    daemon = Daemon(load(SECRET), Console())
    assert await daemon._what_is_down() == down
    assert await daemon._absent() == {name for name, one in status.items() if one is DOWN}


async def test_a_supervisor_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(_name: str) -> object:
        raise handles.Unreachable("no actor is named supervisor")

    monkeypatch.setattr(handles, "find", find)

    assert "no actor" in await Daemon(load(SECRET), Console())._what_is_down()
    assert await Daemon(load(SECRET), Console())._absent() == {"supervisor"}
