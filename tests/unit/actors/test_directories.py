"""Who asks where the markets are is told when that changes, and asks at once when he knows better himself.

Seen to fail for: a supervisor that answers at once whatever is known, that never answers who knows what there is; links
that go on waiting for the directory after a connection has broken, that ask without a pause while one cannot dial.
"""

import asyncio

import pytest

from actors import supervisor as module
from actors.dataplane import Secret
from actors.links import Links, Place
from actors.supervisor import Supervisor
from engine.messages import CancelAll
from engine.views import Applied
from tests.support.builders import market
from tests.support.exchange import eventually
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

    digest, changed = await asyncio.wait_for(waiting, 10)
    assert digest != known
    assert changed != places
    assert await made.directory(b"") == (digest, changed)


async def test_nobody_waits_without_a_bound(made: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NEWS_SECONDS_MAX", 0.01)
    known = await made.directory(b"")

    assert await asyncio.wait_for(made.directory(known[0]), 10) == known
    shards = await made.meter_directory(b"")
    assert await asyncio.wait_for(made.meter_directory(shards[0]), 10) == shards


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
    assert await asyncio.wait_for(links.submit(1, CancelAll(3)), 10) == Applied(3)
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
