"""Households' meters over some days: what they measure, and all that goes wrong between a meter and the exchange.

Loads are BDEW's H25, sun is pvlib's (bench/households.py); clocks are off, readings are lost, come twice, late or
corrected, each by the seed. A meter speaks by itself, in its owner's list, or through a head-end that signs for many.
The days end now, so the whole past is sent as fast as the exchange takes it, quarter by quarter.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from msgspec import Struct

from actors.clock import clock_us
from bench.client import Trader
from bench.households import QUARTERS, Home, homes
from bench.meters import Device, ReadingLog, Said, found_head_end, install, submit
from bench.people import pool_of, registered
from engine.metering.windows import WINDOW_US
from engine.units import SECOND_US

METERS_PER_OWNER: Final = 10
LATE_QUARTERS_MAX: Final = 12
PLACE_QUARTERS: Final = 28  # Bangkok's day begins seven hours before that of UTC
AT_ONCE: Final = 16
FORMS: Final = ("single", "list", "batch")


class Plan(Struct, frozen=True):
    """Percentages are of readings; skew_seconds: how far a meter's clock is off at most, either way."""

    url: str
    zone: str
    meters: int = 20
    hours: int = 24
    seed: int = 7
    loss_percent: float = 1.0
    duplicate_percent: float = 3.0
    late_percent: float = 3.0
    corrected_percent: float = 1.0
    skew_seconds: int = 20


class Event(Struct, frozen=True):
    """What one meter does in one quarter of an hour: measured, late or corrected energy of the quarter `of`."""

    of: int
    import_wh: int
    export_wh: int
    is_correction: bool = False
    is_lost: bool = False
    is_repeated: bool = False


class Outcome(Struct):
    """What was sent and what came back; it grows while the simulation runs. energy: kWh by what became of it."""

    requests: Counter[str]
    verdicts: Counter[str]
    said: int = 0
    lost: int = 0
    quarters: int = 0
    energy: dict[str, int] = {}

    @classmethod
    def empty(cls) -> "Outcome":
        return cls(Counter(), Counter())


def story(home: Home, plan: Plan, dice: random.Random, first_quarter: int) -> list[list[Event]]:
    """[quarters] of what the meter does in each; `first_quarter` is that of the day, by the sun."""
    count = plan.hours * 4
    days: list[list[Event]] = [[] for _ in range(count + LATE_QUARTERS_MAX + 1)]
    for quarter in range(count):
        surplus_wh = home.surplus_wh((first_quarter + quarter) % QUARTERS)
        energies = max(0, -surplus_wh), max(0, surplus_wh)
        later = quarter + dice.randrange(2, LATE_QUARTERS_MAX)
        if dice.uniform(0, 100) < plan.late_percent:
            days[later].append(Event(quarter, *energies))
            continue
        is_lost = dice.uniform(0, 100) < plan.loss_percent
        is_repeated = dice.uniform(0, 100) < plan.duplicate_percent
        days[quarter].append(Event(quarter, *energies, is_lost=is_lost, is_repeated=is_repeated))
        if not is_lost and dice.uniform(0, 100) < plan.corrected_percent:
            days[later].append(Event(quarter, energies[0] * 9 // 10, energies[1] * 9 // 10, is_correction=True))
    return days[:count] if count else []


class Meter:
    """A device with its story."""

    def __init__(self, device: Device, days: list[list[Event]], first_us: int) -> None:
        self.device, self._days, self._first_us = device, days, first_us
        self._counters: dict[int, int] = {}  # by quarter, of what was sent

    def says(self, quarter: int) -> Iterator[tuple[Event, Said]]:
        for event in self._days[quarter]:
            corrects = self._counters[event.of] if event.is_correction else None
            start_us = self._first_us + event.of * WINDOW_US
            said = self.device.says(start_us, event.import_wh, event.export_wh, corrects=corrects)
            self._counters.setdefault(event.of, said.reading.counter)
            yield event, said


class Sender(Struct, frozen=True):
    """Who speaks for some meters, and how."""

    form: str
    by: Any  # a Trader, or a HeadEnd for batches
    meters: list[Meter]


async def run(
    plan: Plan,
    log: ReadingLog,
    outcome: Outcome,
    admin: tuple[str, str] | None,
    progress: Callable[[int], None],
) -> None:
    """Simulate; `outcome` is told as it goes. admin: e-mail and password, without which there are no batches.

    Raises ApiError, TimeoutError.
    """
    owners = await registered(plan.url, -(-plan.meters // METERS_PER_OWNER), ())
    senders = await _install(plan, owners, admin)
    for quarter in range(plan.hours * 4):
        turn = asyncio.Semaphore(AT_ONCE)
        await asyncio.gather(*(_deliver(sender, quarter, log, outcome, turn) for sender in senders))
        outcome.quarters += 1
        progress(outcome.quarters)
    outcome.energy = await _energy(owners)


async def _install(plan: Plan, owners: Sequence[Trader], admin: tuple[str, str] | None) -> list[Sender]:
    """Meters of the three forms in turn; those of a head-end prove their keys with a first reading of their own."""
    pool, host = pool_of(plan.url)
    first_us = (clock_us() // WINDOW_US - plan.hours * 4) * WINDOW_US
    first_quarter = (first_us // WINDOW_US + PLACE_QUARTERS) % QUARTERS
    dice = random.Random(plan.seed)
    forms = FORMS if admin is not None else FORMS[:2]
    made: list[tuple[str, Trader, Meter]] = []
    for number, home in enumerate(homes(plan.meters, plan.seed)):
        owner = owners[number // METERS_PER_OWNER]
        skew_us = dice.randint(-plan.skew_seconds, plan.skew_seconds) * SECOND_US
        meter = Meter(await install(owner, plan.zone), story(home, plan, dice, first_quarter), first_us + skew_us)
        made.append((forms[number % len(forms)], owner, meter))
    senders = [Sender("single", owner, [meter]) for form, owner, meter in made if form == "single"]
    for owner in owners:
        listed = [meter for form, of, meter in made if form == "list" and of is owner]
        if listed:
            senders.append(Sender("list", owner, listed))
    batched = [meter for form, _, meter in made if form == "batch"]
    if batched and admin is not None:
        boss = Trader(pool, host, *admin)
        await boss.login()
        head_end = await found_head_end(boss, pool, host, [meter.device for meter in batched])
        senders.append(Sender("batch", head_end, batched))
    return senders


async def _deliver(sender: Sender, quarter: int, log: ReadingLog, outcome: Outcome, turn: asyncio.Semaphore) -> None:
    """All that these meters say in this quarter, and what of it is sent once more."""
    readings: list[Said] = []
    repeated: list[Said] = []
    for meter in sender.meters:
        for event, said in meter.says(quarter):
            outcome.said += 1
            outcome.lost += event.is_lost
            if not event.is_lost:
                readings.append(said)
            if event.is_repeated:
                repeated.append(said)
    for some in (readings, repeated):
        for body, part in _bodies(sender, some, by_themselves=quarter == 0):
            async with turn:
                verdicts = await submit(sender.by, body, part, log)
            outcome.requests[sender.form] += 1
            outcome.verdicts.update(one.get("code") or one["status"] for one in verdicts)


def _bodies(sender: Sender, readings: list[Said], *, by_themselves: bool) -> Iterator[tuple[Any, list[Said]]]:
    if not readings:
        return
    if sender.form == "single":
        for said in readings:
            yield said.shown(), [said]
    elif sender.form == "list" or by_themselves:
        yield [said.shown() for said in readings], readings
    else:
        yield sender.by.batch(readings), readings


async def _energy(owners: Sequence[Trader]) -> dict[str, int]:
    """Wh of all owners together, as the exchange has it now."""
    sums: Counter[str] = Counter()
    for owner in owners:
        balance = await owner.call("GET", "/energy/balance")
        for name in ("generated", "consumed", "credited", "retired"):
            sums[name] += _wh(balance[name])
        sums["available"] += sum(_wh(held) for held in balance["available"].values())
    return dict(sums)


def _wh(kwh: str) -> int:
    whole, _, decimals = kwh.lstrip("-").partition(".")
    amount = int(whole) * 1_000 + int(decimals.ljust(3, "0"))
    return -amount if kwh.startswith("-") else amount
