"""Many markets in one process: who lives there, who is begun anew, who is shown out.

Seen to fail for: a market that is begun twice; a market whose end takes the others along; a market that a move left
behind and nobody dismisses; an heir that does not stand by; a process
that was ended and counts as down.
"""

import asyncio
import math
from collections import deque
from typing import Any

import pytest

from actors import handles, market_host, metrics
from actors.handles import Unreachable
from actors.market_host import MarketHost
from actors.succession import STANDING_BY, Heir
from actors.watched import Lodger, WatchedHost, host_name, host_number, host_with_room
from tests.support.patience import HUNG_SECONDS


class Tenant:
    """A market as its host knows it; it lives until it is told to end."""

    def __init__(self, market_id: int, symbol: str, stands_by: bool) -> None:
        self.address, self.symbol = f"127.0.0.1:{market_id}", symbol
        self.state = STANDING_BY if stands_by else "serving"
        self.asked: list[str] = []
        self.over = asyncio.Event()
        self.error: Exception | None = None

    async def run(self) -> None:
        await self.over.wait()
        if self.error is not None:
            raise self.error

    async def drain(self) -> None:
        self.asked.append("drain")
        self.over.set()

    def status(self) -> dict[str, Any]:
        return {"state": self.state, "market": self.symbol, "sequence": 7}

    def measure(self) -> dict[str, float]:
        return {"open_orders": 2.0}

    def take_over(self) -> None:
        self.asked.append("take_over")
        self.state = "serving"

    async def hand_over(self, heir: Heir) -> int:
        self.asked.append(f"hand_over {heir.address}")
        return 7


class World:
    """One host, and the markets that were made in it, in order."""

    def __init__(self) -> None:
        self.made: list[Tenant] = []
        self.host = MarketHost("markets-1", self.make)
        self.is_reachable = True

    def make(self, market_id: int, symbol: str, stands_by: bool) -> Tenant:
        self.made.append(Tenant(market_id, symbol, stands_by))
        return self.made[-1]

    async def call(self, _actor: object, method: str, *arguments: Any, seconds: float = 0.0) -> Any:
        """In the place of Ray: what MarketHostActor does."""
        if not self.is_reachable:
            raise Unreachable(f"{method}: planted")
        if method == "status":
            return {**self.host.status(), "address": ""}
        if method == "of_market":
            market_id, name, *rest = arguments
            told = getattr(self.host.of(market_id), name)(*rest)
            return await told if asyncio.iscoroutine(told) else told
        told = getattr(self.host, method)(*arguments)
        return await told if asyncio.iscoroutine(told) else told


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(handles, "start", lambda *_: object())
    monkeypatch.setattr(handles, "call", made.call)
    monkeypatch.setattr(handles, "end", lambda *_: None)
    return made


async def ended(tenant: Tenant) -> None:
    tenant.over.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def nobody() -> Any:
    raise AssertionError("nothing starts here")


def watched() -> WatchedHost:
    return WatchedHost(1, nobody, deque())


async def test_a_market_is_begun_once(world: World) -> None:
    world.host.admit(1, "A", False)
    world.host.admit(1, "A", False)
    world.host.admit(2, "B", True)

    assert [tenant.symbol for tenant in world.made] == ["A", "B"]
    assert {number: said["state"] for number, said in world.host.markets().items()} == {1: "serving", 2: STANDING_BY}
    assert world.host.markets()[2]["address"] == "127.0.0.1:2"
    assert world.host.measure() == {"open_orders": 4.0}


async def test_a_late_loop_is_every_markets(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    late: dict[str, list[float]] = {}
    monkeypatch.setattr(market_host, "lag_of", lambda name: late.setdefault(name, []).append)
    world.host.admit(1, "A", False)
    world.host.admit(2, "B", False)
    world.host.was_late(0.25)
    await ended(world.made[0])
    world.host.was_late(0.5)

    assert late == {"market-A": [0.25], "market-B": [0.25, 0.5]}


async def test_a_process_that_was_ended_is_neither_up_nor_down(world: World) -> None:
    host = watched()
    await host.look()
    up = metrics.ACTOR_UP.labels("markets-1")._value
    assert up.get() == 1

    await host.end()
    world.is_reachable = False
    await host.look()

    assert math.isnan(up.get()), "an alarm would be for nothing"


@pytest.mark.parametrize("error", [None, RuntimeError("planted")])
async def test_a_market_that_ends_takes_nobody_along_and_is_begun_anew(world: World, error: Exception | None) -> None:
    running = asyncio.create_task(world.host.run())
    host = watched()
    one, other = Lodger(1, "A", host, deque()), Lodger(2, "B", host, deque())
    for lodger in (one, other, one, other):
        await lodger.look()
    assert (one.is_up, other.is_up) == (True, True)

    world.made[0].error = error
    await ended(world.made[0])
    await one.look()
    assert not one.is_up
    assert one.faults == 1
    await one.look()
    await other.look()

    assert (one.is_up, other.is_up, other.faults) == (True, True, 0)
    assert [tenant.symbol for tenant in world.made] == ["A", "B", "A"]
    assert not running.done()
    running.cancel()


async def test_a_market_that_does_not_belong_there_is_shown_out(world: World) -> None:
    host = watched()
    stays = Lodger(1, "A", host, deque())
    for _ in range(2):
        await stays.look()
    world.host.admit(2, "LEFTBEHIND", False)

    await host.look()

    assert list(world.host.markets()) == [1]
    await stays.end()
    assert not world.host.markets()
    assert not host.lodgers


async def test_an_heir_stands_by_until_it_is_none(world: World) -> None:
    heir = Lodger(1, "A", watched(), deque(), is_heir=True)
    for _ in range(3):
        await heir.look()
    assert (heir.status["state"], world.made[0].asked) == (STANDING_BY, [])

    heir.is_heir = False
    await heir.look()

    assert world.made[0].asked == ["take_over"]


async def test_a_market_that_cannot_be_asked_to_end_goes_when_its_host_answers(world: World) -> None:
    host = watched()
    lodger = Lodger(1, "A", host, deque())
    for _ in range(2):
        await lodger.look()
    world.is_reachable = False
    await lodger.end()
    world.is_reachable = True
    assert list(world.host.markets()) == [1]

    await host.look()

    assert not world.host.markets()


async def test_a_host_drains_everybody(world: World) -> None:
    running = asyncio.create_task(world.host.run())
    world.host.admit(1, "A", False)
    world.host.admit(2, "B", False)

    await world.host.drain()
    await asyncio.wait_for(running, HUNG_SECONDS)

    assert [tenant.asked for tenant in world.made] == [["drain"], ["drain"]]
    world.host.admit(3, "C", False)
    assert len(world.made) == 2, "nobody moves in while it ends"


@pytest.mark.parametrize(
    ("lodgers", "most", "chosen"),
    [({}, 2, 1), ({1: 1}, 2, 1), ({1: 2}, 2, 2), ({1: 2, 2: 2, 3: 1}, 2, 3), ({2: 2}, 2, 3), ({1: 5}, 2, 2)],
)
def test_the_first_process_with_room_is_chosen(lodgers: dict[int, int], most: int, chosen: int) -> None:
    assert host_with_room(lodgers, most) == chosen


def test_the_name_of_a_shared_process_is_nobody_elses() -> None:
    assert host_number(host_name(12)) == 12
    assert [host_number(name) for name in ("market-1", "markets-", "markets-x", "1", "gateway-1")] == [None] * 5
