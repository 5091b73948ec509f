"""Meters and head-ends that speak without end while the exchange is tormented, and write down all that they are told.

One owner's meters speak one by one, another's in lists; a third's are read by two head-ends, which send every file both
and at once. Old bodies are sent again by chance. One meter's clock is ten minutes behind, one's as far ahead: it is
refused, until its clock is set. The log of what was acknowledged is the judge.
"""

import asyncio
import contextlib
import random
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any, Final

from actors.clock import clock_us
from bench.client import Trader, new_password
from bench.meters import Device, HeadEnd, ReadingLog, Said, found_head_end, install, submit
from bench.people import pool_of
from engine.metering.validation import DAY_US
from engine.units import SECOND_US
from tests.support.installation import ADMIN_EMAIL, ADMIN_PASSWORD, Installation
from tests.support.patience import HUNG_SECONDS

ZONE: Final = "Z1"
METERS: Final = 3  # of each owner
SECONDS: Final = 300  # of one reading: three to a window, so that windows close all the time
SKEW_US: Final = 600 * SECOND_US
PAUSE_SECONDS: Final = 0.02
REPLAY_PERCENT: Final = 20
RESUMED: Final = 60  # readings acknowledged before the meters count as back


class Spoken:
    """A meter that goes through the last days, five minutes at a time."""

    def __init__(self, device: Device, dice: random.Random) -> None:
        self._device, self._dice = device, dice
        self._next_us = (clock_us() - 6 * DAY_US) // (SECONDS * SECOND_US) * SECONDS * SECOND_US

    def says(self) -> Said:
        start_us, self._next_us = self._next_us, self._next_us + SECONDS * SECOND_US
        return self._device.says(start_us, self._dice.randrange(200), self._dice.randrange(800), SECONDS)


class ReadingLoad:
    def __init__(self, url: str, log: ReadingLog) -> None:
        self.log = log
        self.verdicts: Counter[str] = Counter()
        self.surprises: Counter[str] = Counter()  # verdicts that no fault may cause
        self._url, self._pool, self._host = url, *pool_of(url)
        self._over = asyncio.Event()
        self._speaking: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """All speak from now on."""
        owners = [await self._person() for _ in range(3)]
        meters = [[await install(owner, ZONE) for _ in range(METERS)] for owner in owners]
        admin = Trader(self._pool, self._host, ADMIN_EMAIL, ADMIN_PASSWORD)
        await admin.login()
        head_ends = [await found_head_end(admin, self._pool, self._host, meters[2]) for _ in range(2)]
        dice = random.Random(1)
        singles, listed, read = ([Spoken(device, dice) for device in part] for part in meters)
        work = [self._alone(owners[0], one) for one in singles]
        work += [self._in_lists(owners[1], listed), self._through_two(head_ends, read)]
        for skew_us in (-SKEW_US, SKEW_US):
            work.append(self._with_a_wrong_clock(owners[0], await install(owners[0], ZONE), skew_us))
        self._speaking = [asyncio.create_task(one) for one in work]
        await self.recovered()

    async def stop(self) -> None:
        """Raises what ended a sender."""
        self._over.set()
        try:
            await asyncio.gather(*self._speaking)
        finally:
            self._pool.close()
            self.log.close()

    async def recovered(self) -> float:
        """Wait until readings are acknowledged again; how long the first one took."""
        began, since, first = monotonic(), self.log.count, 0.0
        while self.log.count < since + RESUMED:
            if self.log.count > since and not first:
                first = monotonic() - began
            assert monotonic() - began < HUNG_SECONDS, dict(self.verdicts)
            for task in self._speaking:
                assert not task.done(), task
            await asyncio.sleep(0.005)
        return first

    async def _person(self) -> Trader:
        person = Trader(self._pool, self._host, f"meters-{secrets.token_hex(4)}@example.org", new_password())
        await person.register("Meters")
        return person

    async def _alone(self, owner: Trader, meter: Spoken) -> None:
        sent: list[Said] = []
        while not self._over.is_set():
            said = meter.says()
            await self._send(owner, said.shown(), [said])
            sent.append(said)
            again = random.choice(sent)
            await self._replay(owner, again.shown(), [again])
            await asyncio.sleep(PAUSE_SECONDS)

    async def _in_lists(self, owner: Trader, meters: list[Spoken]) -> None:
        before: list[Said] = []
        while not self._over.is_set():
            said = [meter.says() for meter in meters for _ in range(4)]
            await self._send(owner, [one.shown() for one in said], said)
            await self._replay(owner, [one.shown() for one in before], before)
            before = said
            await asyncio.sleep(PAUSE_SECONDS)

    async def _through_two(self, head_ends: list[HeadEnd], meters: list[Spoken]) -> None:
        """Both send the same file at the same time. The first one is signed by the meters, which proves their keys."""
        said = [meter.says() for meter in meters]
        await self._send(head_ends[0], [one.shown() for one in said], said)
        while not self._over.is_set():
            said = [meter.says() for meter in meters for _ in range(4)]
            await asyncio.gather(*(self._send(one, one.batch(said), said) for one in head_ends))
            await asyncio.sleep(PAUSE_SECONDS)

    async def _with_a_wrong_clock(self, owner: Trader, device: Device, skew_us: int) -> None:
        """A second at a time; what is refused because of the clock moves nothing. It is set right at the end."""
        while not self._over.is_set():
            await self._send(owner, *self._now(device, skew_us), ahead=skew_us > 0)
            await asyncio.sleep(1.1)
        await self._send(owner, *self._now(device, 0))

    def _now(self, device: Device, skew_us: int) -> tuple[dict[str, Any], list[Said]]:
        said = device.says(clock_us() - 2 * SECOND_US + skew_us, 1, 1, 1)
        return said.shown(), [said]

    async def _send(self, sender: Trader, body: Any, readings: list[Said], *, ahead: bool = False) -> None:
        fitting = ("IN_FUTURE",) if ahead else ("accepted", "duplicate")
        for verdict in await submit(sender, body, readings, self.log, HUNG_SECONDS):
            told = verdict.get("code") or verdict["status"]
            self.verdicts[told] += 1
            if told not in fitting:
                self.surprises[told] += 1

    async def _replay(self, sender: Trader, body: Any, readings: list[Said]) -> None:
        """What was acknowledged is a duplicate for ever."""
        if not readings or random.uniform(0, 100) > REPLAY_PERCENT:
            return
        for verdict in await submit(sender, body, readings, self.log, HUNG_SECONDS):
            self.verdicts["replayed"] += 1
            if verdict["status"] != "duplicate":
                self.surprises[f"replay: {verdict}"] += 1


@asynccontextmanager
async def judged_readings(installation: Installation, folder: Path) -> AsyncIterator[ReadingLoad]:
    """Meters from beginning to end of the block, then the judgement over everything that was acknowledged."""
    path = folder / "readings.jsonl"
    load = ReadingLoad(installation.url, ReadingLog(path))
    try:
        await load.start()
        yield load
    except BaseException:
        with contextlib.suppress(Exception):  # what failed first is what counts
            await load.stop()
        raise
    await load.stop()
    print(f"{load.log.count} acknowledgements, verdicts {dict(load.verdicts)}")
    assert not load.surprises, load.surprises
    audit = await asyncio.to_thread(installation.command, "wattbook", "audit", "--readings", str(path))
    assert audit.returncode == 0, audit.stdout + audit.stderr
    assert "acknowledged readings" in audit.stdout
    print(audit.stdout.replace("\n", " "))
