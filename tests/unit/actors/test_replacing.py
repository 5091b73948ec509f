"""How the supervisor replaces a process, with something in the place of Ray: in order, forward only, nobody left over.

Seen to fail for: taking over before the owner has left; an heir that is kept when it was not needed; an owner that
hangs and is not ended; a second process that the death of a supervisor leaves behind.
"""

import asyncio
from collections import deque
from typing import Any

import pytest

from actors import handles, replacing
from actors.handles import Placement, Unreachable
from actors.hosting import GatewayActor, MarketActor
from actors.replacing import DONE, FAILED, REFUSED, other_name, settled
from actors.succession import LEFT, STANDING_BY
from actors.supervisor import Supervisor
from actors.watched import Watched
from engine.market import MarketSpec
from tests.support import builders
from tests.support.patience import HUNG_SECONDS


class Actor:
    """One process, as Ray would reach it."""

    def __init__(self, ray: "Ray", name: str, state: str, pid: int) -> None:
        self._ray, self.name, self.state, self.pid = ray, name, state, pid
        self.detail = ""
        self.hangs = False

    async def answer(self, method: str, *arguments: Any) -> Any:
        if method == "status":
            seen = {"state": self.state, "pid": self.pid, "sequence": 7, "detail": self.detail}
            return {**seen, "address": f"127.0.0.1:{self.pid}"}
        self._ray.calls.append(f"{method} {self.name}")
        if method == "hand_over":
            if self.hangs:
                raise Unreachable("hand_over: TimeoutError")
            self.state = LEFT
            return 7
        if method == "take_over":
            self.state = "serving"
        return None


class Ray:
    """Named actors, and what was asked of them, in order."""

    def __init__(self) -> None:
        self.actors: dict[str, Actor] = {}
        self.calls: list[str] = []
        self._pids = iter(range(1, 1_000))

    def start(self, kind: type, placement: Placement, _recipe: Any) -> Actor:
        name = placement.name
        if name not in self.actors:
            is_heir = kind is MarketActor and other_name(name, name.removesuffix("-heir")) in self.actors
            state = STANDING_BY if is_heir else "serving"
            self.actors[name] = Actor(self, name, state, next(self._pids))
        return self.actors[name]

    def names(self) -> frozenset[str]:
        return frozenset(self.actors)

    def find(self, name: str) -> Actor:
        if name not in self.actors:
            raise Unreachable(f"no actor is named {name}")
        return self.actors[name]

    async def call(self, actor: Actor, method: str, *arguments: Any, seconds: float = 0.0) -> Any:
        if self.actors.get(actor.name) is not actor:
            raise Unreachable(f"{method}: ended")
        return await actor.answer(method, *arguments)

    def end(self, actor: Actor) -> None:
        self.calls.append(f"end {actor.name}")
        self.actors.pop(actor.name, None)


class Catalogue:
    async def markets(self) -> list[MarketSpec]:
        return [builders.market(symbol="M")]

    async def hosts(self) -> dict[int, int]:
        return {}

    async def set_host(self, market_id: int, host: int | None) -> None:
        raise AssertionError("nothing is shared here")


class Recipes:
    """Nothing is made here."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: name


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Ray:
    stands_in = Ray()
    for name in ("start", "find", "call", "end", "names"):
        monkeypatch.setattr(handles, name, getattr(stands_in, name))
    monkeypatch.setattr(replacing, "LINGER_SECONDS", 0.0)
    return stands_in


async def supervisor_of(ray: Ray) -> Supervisor:
    """It watches a market and a gateway, and both serve."""
    made = Supervisor(Catalogue(), Recipes(), 1)
    await made._start_markets()
    made._watch("gateway-1", GatewayActor, None)  # type: ignore[arg-type]
    for watched in (*made._markets.values(), *made._others.values()):
        await watched.look()
    ray.calls.clear()
    return made


async def replaced(supervisor: Supervisor, name: str, *, by_snapshot: bool = False) -> dict[str, Any]:
    begun = await supervisor.replace(name, by_snapshot=by_snapshot)
    if begun["state"] == REFUSED:
        return begun
    assert supervisor._replacing is not None
    await asyncio.wait_for(supervisor._replacing, HUNG_SECONDS)
    return dict(supervisor.replacements()[name])


async def test_a_market_leaves_before_its_heir_takes_over(ray: Ray) -> None:
    supervisor = await supervisor_of(ray)

    told = await replaced(supervisor, "market-M")

    assert (told["state"], told["from_pid"], told["to_pid"], told["sequence"]) == (DONE, 1, 3, 7)
    assert ray.calls[:2] == ["hand_over market-M", "take_over market-M-heir"]
    assert ray.calls[-2:] == ["drain market-M", "end market-M"]
    assert supervisor.status()["market-M"]["pid"] == 3
    assert (await replaced(supervisor, "market-M"))["state"] == DONE, "and back to its first name"
    assert sorted(ray.actors) == ["gateway-1", "market-M"]


async def test_an_owner_that_does_not_finish_is_ended_and_the_heir_takes_over(ray: Ray) -> None:
    supervisor = await supervisor_of(ray)
    ray.actors["market-M"].hangs = True

    told = await replaced(supervisor, "market-M")

    assert told["state"] == DONE
    assert "it was ended" in told["detail"]
    assert ray.calls[:3] == ["hand_over market-M", "end market-M", "take_over market-M-heir"]


async def test_an_heir_that_cannot_replay_the_journal_is_not_needed_unless_by_snapshot(ray: Ray) -> None:
    supervisor = await supervisor_of(ray)
    before = ray.start

    def flawed(*arguments: Any) -> Actor:
        actor = before(*arguments)
        actor.detail = "written by engine version 1" if actor.state == STANDING_BY else ""
        return actor

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(handles, "start", flawed)
        told = await replaced(supervisor, "market-M")
        assert told["state"] == FAILED
        assert "cannot replay" in told["detail"]
        assert ray.calls == ["end market-M-heir"]
        assert supervisor.status()["market-M"]["pid"] == 1
        assert (await replaced(supervisor, "market-M", by_snapshot=True))["state"] == DONE


async def test_a_gateway_is_drained_when_its_successor_serves(ray: Ray) -> None:
    supervisor = await supervisor_of(ray)

    told = await replaced(supervisor, "gateway-1")

    assert told["state"] == DONE
    assert ray.calls == ["drain gateway-1", "end gateway-1"]
    assert supervisor.status()["gateway-1"]["pid"] == 3


async def test_one_at_a_time_and_nothing_that_is_unknown(ray: Ray) -> None:
    supervisor = await supervisor_of(ray)

    assert (await replaced(supervisor, "market-NOWHERE"))["state"] == REFUSED
    begun = await supervisor.replace("market-M", by_snapshot=False)
    busy = await supervisor.replace("gateway-1", by_snapshot=False)
    assert (begun["state"], busy["state"]) == ("warming", REFUSED)
    assert supervisor._replacing is not None
    await asyncio.wait_for(supervisor._replacing, HUNG_SECONDS)


@pytest.mark.parametrize(
    ("first", "second", "stays"),
    [
        ("serving", STANDING_BY, "market-M"),
        ("recovering", STANDING_BY, "market-M"),
        (LEFT, STANDING_BY, "market-M-heir"),
        (LEFT, "serving", "market-M-heir"),
        (None, "serving", "market-M-heir"),
        ("serving", None, "market-M"),
        (None, None, "market-M"),
    ],
)
async def test_a_supervisor_finds_out_which_of_two_processes_counts(
    ray: Ray, first: str | None, second: str | None, stays: str
) -> None:
    for name, state in (("market-M", first), ("market-M-heir", second)):
        if state is not None:
            ray.actors[name] = Actor(ray, name, state, 9)

    assert await settled("market-M") == stays
    assert set(ray.actors) <= {stays}


async def test_a_market_that_stands_by_and_is_no_heir_is_told_to_take_over(ray: Ray) -> None:
    ray.actors["market-M"] = Actor(ray, "market-M", STANDING_BY, 9)

    await Watched(Placement("market-M"), MarketActor, None, deque()).look()  # type: ignore[arg-type]

    assert ray.calls == ["take_over market-M"]
