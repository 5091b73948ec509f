"""Where the supervisor puts markets that share processes, with something in the place of Ray and of the hosts.

Seen to fail for: a place that is not stored before the market changes hands; a shared process that is left empty and
goes on; a live one that is ended because nobody was known to be in it yet; an own process that a cut-short move left.
"""

import asyncio
from typing import Any

import pytest

from actors import handles, replacing
from actors.handles import Placement, Unreachable
from actors.replacing import DONE, FAILED, REFUSED
from actors.succession import LEFT, STANDING_BY
from actors.supervisor import Supervisor
from engine.market import MarketSpec
from tests.support import builders
from tests.support.patience import HUNG_SECONDS


class World:
    """Actors by name; those of markets have a state, shared ones have markets with states. What was done, in order."""

    def __init__(self, *hosts: int | None) -> None:
        self.specs = [builders.market(market_id=n, symbol=f"M{n}") for n in range(1, len(hosts) + 1)]
        self.stored = {n: host for n, host in enumerate(hosts, 1) if host is not None}
        self.actors: dict[str, Any] = {}
        self.done: list[str] = []
        self.is_stored = self.is_read = True

    # --- the catalogue

    async def markets(self) -> list[MarketSpec]:
        if not self.is_read:
            raise ConnectionError("planted")
        return self.specs

    async def hosts(self) -> dict[int, int]:
        return dict(self.stored)

    async def set_host(self, market_id: int, host: int | None) -> None:
        if not self.is_stored:
            raise ConnectionError("planted")
        self.done.append(f"store M{market_id} in {host}")
        if host is None:
            del self.stored[market_id]
        else:
            self.stored[market_id] = host

    # --- Ray

    def start(self, _kind: type, placement: Placement, recipe: Any) -> str:
        if placement.name not in self.actors:
            stands_by = recipe is not None and recipe[1]
            self.actors[placement.name] = {} if placement.name.startswith("markets-") else _state(stands_by)
        return placement.name

    def names(self) -> frozenset[str]:
        return frozenset(self.actors)

    def find(self, name: str) -> str:
        if name not in self.actors:
            raise Unreachable(name)
        return name

    def end(self, name: str) -> None:
        self.done.append(f"end {name}")
        self.actors.pop(name, None)

    async def call(self, name: str, method: str, *arguments: Any, seconds: float = 0.0) -> Any:
        actor = self.actors.get(name)
        if actor is None:
            raise Unreachable(f"{name} ended")
        if name.startswith("markets-"):
            return self._host(name, actor, method, *arguments)
        return self._market(name, actor, method)

    def _host(self, name: str, markets: dict[int, Any], method: str, *arguments: Any) -> Any:
        if method == "status":
            return {"state": "serving", "pid": 100, "address": ""}
        if method == "markets":
            return {number: {**one, "address": f"{name}:{number}", "pid": 100} for number, one in markets.items()}
        if method == "admit":
            market_id, _, stands_by = arguments
            markets.setdefault(market_id, {})["state"] = STANDING_BY if stands_by else "serving"
            markets[market_id] |= {"sequence": 7, "detail": ""}
        elif method == "dismiss":
            self.done.append(f"dismiss M{arguments[0]} from {name}")
            markets.pop(arguments[0], None)
        elif method == "of_market":
            if arguments[0] not in markets:
                raise Unreachable("KeyError")
            return self._market(f"M{arguments[0]} in {name}", markets[arguments[0]], arguments[1])
        return ""

    def _market(self, name: str, market: dict[str, Any], method: str) -> Any:
        if method == "status":
            return {**market, "address": name}
        self.done.append(f"{method} {name}")
        market["state"] = {"hand_over": LEFT, "take_over": "serving"}.get(method, market["state"])
        return 7


def _state(stands_by: bool) -> dict[str, Any]:
    return {"state": STANDING_BY if stands_by else "serving", "pid": 1, "sequence": 7, "detail": ""}


class Recipes:
    def market(self, _market_id: int, symbol: str, *, stands_by: bool = False) -> Any:
        return symbol, stands_by

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


@pytest.fixture
def patch(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(replacing, "LINGER_SECONDS", 0.0)
    return monkeypatch


async def supervised(world: World, patch: pytest.MonkeyPatch, most: int = 2) -> Supervisor:
    """It has begun the markets, and they answer."""
    for name in ("start", "find", "call", "end", "names"):
        patch.setattr(handles, name, getattr(world, name))
    made = Supervisor(world, Recipes(), 0, 0, most)
    await made._start_markets()
    for _ in range(2):
        for one in (*made._others.values(), *made._markets.values()):
            await one.look()
    return made


async def moved(made: Supervisor, name: str, shared: bool | None = None) -> dict[str, Any]:
    begun = await made.replace(name, by_snapshot=False, shared=shared)
    if begun["state"] == REFUSED:
        return begun
    assert made._replacing is not None
    await asyncio.wait_for(made._replacing, HUNG_SECONDS)
    return dict(made.replacements()[name])


async def test_markets_that_have_no_place_yet_fill_the_first_process_with_room(patch: pytest.MonkeyPatch) -> None:
    world = World(0, None, 0, 0, 1)

    made = await supervised(world, patch)

    assert world.stored == {1: 1, 3: 2, 4: 2, 5: 1}
    assert sorted(world.actors) == ["market-M2", "markets-1", "markets-2"]
    assert sorted(world.actors["markets-2"]) == [3, 4]
    assert {name: one["up"] for name, one in made.status().items() if name != "recent_faults"} == dict.fromkeys(
        ["market-M1", "market-M2", "market-M3", "market-M4", "market-M5", "markets-1", "markets-2"], True
    )


async def test_a_market_moves_out_and_its_empty_process_ends(patch: pytest.MonkeyPatch) -> None:
    world = World(1)
    made = await supervised(world, patch)

    told = await moved(made, "market-M1", shared=False)

    assert told["state"] == DONE, told
    assert world.done == [
        "store M1 in None",
        "hand_over M1 in markets-1",
        "take_over market-M1",
        "drain M1 in markets-1",
        "dismiss M1 from markets-1",
        "end markets-1",
    ]
    assert sorted(world.actors) == ["market-M1"]


async def test_a_market_moves_in(patch: pytest.MonkeyPatch) -> None:
    world = World(1, None)
    made = await supervised(world, patch)

    told = await moved(made, "market-M2", shared=True)

    assert told["state"] == DONE, told
    assert world.done[:3] == ["store M2 in 1", "hand_over market-M2", "take_over M2 in markets-1"]
    assert world.actors == {"markets-1": world.actors["markets-1"]}
    assert sorted(world.actors["markets-1"]) == [1, 2]


async def test_a_place_that_cannot_be_stored_leaves_the_market_where_it_is(patch: pytest.MonkeyPatch) -> None:
    world = World(None)
    made = await supervised(world, patch)
    world.is_stored = False

    told = await moved(made, "market-M1", shared=True)

    assert (told["state"], "cannot be stored" in told["detail"]) == (FAILED, True)
    assert world.actors["market-M1"]["state"] == "serving"
    assert sorted(world.actors) == ["market-M1"], "the process that was begun for it has ended"


async def test_all_markets_of_a_process_move_to_a_fresh_one(patch: pytest.MonkeyPatch) -> None:
    world = World(1, 1, 2)
    made = await supervised(world, patch)

    told = await moved(made, "markets-1")

    assert told["state"] == DONE, told
    assert world.stored == {1: 3, 2: 3, 3: 2}
    assert sorted(world.actors) == ["markets-2", "markets-3"]
    assert sorted(world.actors["markets-3"]) == [1, 2]


async def test_what_makes_no_sense_is_refused(patch: pytest.MonkeyPatch) -> None:
    world = World(1, None)
    made = await supervised(world, patch)

    refused = [await moved(made, *asked) for asked in (("market-M1", None), ("market-M1", True), ("markets-1", True))]
    with_node = await made.replace("market-M2", by_snapshot=False, node="ab", shared=True)

    assert [told["state"] for told in (*refused, with_node)] == [REFUSED] * 4


async def test_a_supervisor_that_comes_back_puts_right_what_a_cut_short_move_left(patch: pytest.MonkeyPatch) -> None:
    """M1 was on its way in, and its place is stored; M2 was on its way out, and its place is not; M3's is."""
    world = World(1, 1, None, 1)
    world.actors = {
        "market-M1": _state(False),
        "market-M2": _state(True),
        "markets-1": {1: _state(True), 2: _state(False), 3: _state(False), 4: _state(False)},
        "markets-7": {},
    }

    await supervised(world, patch)

    assert sorted(world.actors) == ["market-M3", "markets-1"]
    assert {number: one["state"] for number, one in world.actors["markets-1"].items()} == dict.fromkeys(
        (1, 2, 4), "serving"
    )
    assert {"end market-M1", "end market-M2", "end markets-7", "dismiss M3 from markets-1"} <= set(world.done)


async def test_nothing_is_ended_while_the_catalogue_cannot_be_read(patch: pytest.MonkeyPatch) -> None:
    world = World(1)
    world.actors = {"markets-1": {1: _state(False)}}
    patch.setattr(world, "hosts", World.set_host.__get__(world))  # raises: it lacks arguments

    made = await supervised(world, patch)

    assert not world.done
    assert not made._markets
