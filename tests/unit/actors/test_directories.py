"""Who asks where the markets are is told when that changes, and asks at once when he knows better himself.

Seen to fail for: a supervisor that answers at once whatever is known, that never answers who knows what there is; links
that go on waiting for the directory after a connection has broken, that ask without a pause while one cannot dial, that
forget a market of which the directory says nothing; a supervisor that denies markets which it has not read of yet.
"""

import asyncio
from typing import Any

import pytest

from actors import supervisor as module
from actors.dataplane import Secret
from actors.links import Links, Place
from actors.supervisor import Supervisor
from engine.messages import CancelAll
from engine.views import Applied
from tests.support.builders import market
from tests.support.patience import HUNG_SECONDS, eventually
from tests.unit.actors.test_links import Process
from tests.unit.actors.test_sharing import World, supervised

SECRET = Secret(b"s" * 32)


@pytest.fixture
async def made(monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    return await supervised(World(None), monkeypatch)


async def round_of(made: Supervisor) -> None:
    """What the supervisor does when everybody has been asked."""
    made._looked.set()
    made._looked = asyncio.Event()
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_knows_what_there_is_waits_for_what_is_new(made: Supervisor) -> None:
    known, places = await made.directory(b"")
    waiting = asyncio.create_task(made.directory(known))
    await round_of(made)
    assert not waiting.done()

    made._markets[1].address = "127.0.0.1:9"
    await round_of(made)

    digest, changed = await asyncio.wait_for(waiting, HUNG_SECONDS)
    assert digest != known
    assert changed != places
    assert await made.directory(b"") == (digest, changed)


async def test_nobody_waits_without_a_bound(made: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NEWS_SECONDS_MAX", 0.01)
    known = await made.directory(b"")

    assert await asyncio.wait_for(made.directory(known[0]), HUNG_SECONDS) == known
    shards = await made.meter_directory(b"")
    assert await asyncio.wait_for(made.meter_directory(shards[0]), HUNG_SECONDS) == shards


class Silent:
    """A directory that has nothing new to say after its first answer: who waits for that, waits for ever."""

    def __init__(self, address: str) -> None:
        self.address, self.waiting, self._has_answered = address, 0, False

    async def __call__(self, *, waits: bool = False) -> list[Place]:
        has_answered, self._has_answered = self._has_answered, True
        if waits and has_answered:
            self.waiting += 1
            try:
                await asyncio.Event().wait()
            finally:
                self.waiting -= 1
        return [Place(market(), self.address)]


async def test_a_broken_connection_ends_the_wait_for_news() -> None:
    first, second = await Process().start(), await Process().start()
    directory = Silent(first.address)
    links = Links(directory, SECRET)
    running = asyncio.create_task(links.run())
    await eventually(lambda: directory.waiting == 1)

    directory.address = second.address
    await first.stop()

    await eventually(lambda: directory.waiting == 1 and second.address in _dialled(links))
    assert await asyncio.wait_for(links.submit(1, CancelAll(3)), HUNG_SECONDS) == Applied(3)
    running.cancel()
    await asyncio.wait([running])
    assert not directory.waiting
    await second.stop()


def _dialled(links: Links) -> set[str]:
    return {link._dialler.address for link in links._links.values()}


async def test_a_market_that_cannot_be_dialled_has_nobody_ask_without_a_pause() -> None:
    asked = 0

    async def directory(*, waits: bool = False) -> list[Place]:
        nonlocal asked
        asked += 1
        links.refresh_soon()  # as each failed dial does
        return [Place(market(), "")]

    links = Links(directory, SECRET)
    running = asyncio.create_task(links.run())
    for _ in range(1_000):  # turns of the loop, which take some tens of milliseconds in all
        await asyncio.sleep(0)

    assert 1 <= asked < 30
    running.cancel()
    await asyncio.wait([running])


async def test_a_supervisor_that_knows_no_markets_yet_does_not_deny_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEARN_SECONDS_MAX", 0.01)
    world = World(None)
    world.is_read = False
    made = await supervised(world, monkeypatch)
    with pytest.raises(TimeoutError):
        await made.directory(b"")

    world.is_read = True
    await made._start_markets()

    _, places = await made.directory(b"")
    assert len(places) == 1


async def test_an_exchange_without_markets_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    made = await supervised(World(), monkeypatch)

    _, places = await made.directory(b"")

    assert places == []


async def test_a_new_market_is_told_of_when_it_has_begun(made: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    begins, has_begun = asyncio.Event(), asyncio.Event()

    async def settled(name: str) -> str:
        begins.set()
        await has_begun.wait()
        return name

    monkeypatch.setattr(module, "settled", settled)
    world: Any = made._catalogue
    world.specs.append(market(market_id=2, symbol="M2"))
    starting = asyncio.create_task(made._start_markets())
    await asyncio.wait_for(begins.wait(), HUNG_SECONDS)
    assert len((await made.directory(b""))[1]) == 1

    has_begun.set()
    await starting

    assert len((await made.directory(b""))[1]) == 2


async def test_what_was_a_market_is_one_whatever_the_directory_forgets() -> None:
    process = await Process().start()
    told: list[list[Place]] = [[Place(market(), process.address)], []]
    has_forgotten = asyncio.Event()

    async def directory(*, waits: bool = False) -> list[Place]:
        if not told:
            has_forgotten.set()
            await asyncio.Event().wait()
        return told.pop(0)

    links = Links(directory, SECRET)
    assert links.markets() == {}
    running = asyncio.create_task(links.run())
    await asyncio.wait_for(links.known(), HUNG_SECONDS)
    await asyncio.wait_for(has_forgotten.wait(), HUNG_SECONDS)

    assert list(links.markets()) == [market().symbol]
    assert await asyncio.wait_for(links.submit(1, CancelAll(3)), HUNG_SECONDS) == Applied(3)
    running.cancel()
    await asyncio.wait([running])
    await process.stop()
