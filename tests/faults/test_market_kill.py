"""SIGKILL of a market's process under load: what was acknowledged is there, and nothing happened twice.

The judge is a client's own log of every answer it got, held against a replay of the journal.
Seen to fail for: a market that answers before the commit.
"""

import asyncio
import contextlib
import random
from collections import Counter
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import msgspec
import psutil

from bench.client import UNKNOWN_STATUSES, AckLog, Trader, new_password
from bench.http import Answer, ConnectionBroken, HttpPool
from tests.support.installation import Installation

SYMBOLS = ("CAMPUS", "RIVERSIDE")
TRADERS = 6
PAUSE_SECONDS = 0.01  # between the orders of one trader
RESUMED = 40  # orders acknowledged after a kill before the next one
RESUME_SECONDS_MAX = 60.0


class Watched(Trader):
    """A trader who counts what each request came to, repeats too."""

    def __init__(self, pool: HttpPool, host: str, email: str, outcomes: Counter[str]) -> None:
        super().__init__(pool, host, email, new_password())
        self._outcomes = outcomes

    async def send(self, method: str, path: str, body: Any = None) -> Answer:
        try:
            answer = await super().send(method, path, body)
        except (ConnectionBroken, ConnectionError):
            self._outcomes["broken"] += 1
            raise
        self._outcomes[str(answer.status)] += 1
        return answer


class Load:
    """Traders that place and cancel without end in both markets, until told to stop."""

    def __init__(self, url: str, log: AckLog) -> None:
        target = urlsplit(url)
        assert target.hostname
        assert target.port
        self.log = log
        self.outcomes: Counter[str] = Counter()
        self._host = f"{target.hostname}:{target.port}"
        self._pool = HttpPool(target.hostname, target.port, 32)
        self._over = asyncio.Event()

    async def people(self) -> list[Watched]:
        people = []
        for number in range(TRADERS):
            email = f"fault-{random.randbytes(4).hex()}@example.org"
            person = Watched(self._pool, self._host, email, self.outcomes)
            await person.register(f"Fault {number}")
            for asset, amount in (("THB", "20000"), ("energy:Z1", "2000")):
                await person.deposit(asset, amount)
            people.append(person)
        return people

    async def trade(self, person: Watched, seed: int) -> int:
        """How many outcomes stayed unknown in spite of repeats."""
        chance, unknown = random.Random(seed), 0
        resting: list[str] = []
        while not self._over.is_set():
            if resting and chance.random() < 0.25:
                with contextlib.suppress(ConnectionBroken, ConnectionError):
                    await person.send("DELETE", f"/orders/{resting.pop(chance.randrange(len(resting)))}")
            else:
                side = chance.choice(("buy", "sell"))
                price = chance.randrange(2_950, 3_050) + (530 if side == "buy" else 0)
                order = {
                    "market": chance.choice(SYMBOLS),
                    "side": side,
                    "type": "limit",
                    "price": f"{price / 1_000:.3f}",
                    "quantity": f"{chance.randrange(1, 1_000) / 1_000:.3f}",
                }
                answer = await person.place(order, self.log)
                unknown += answer.status in UNKNOWN_STATUSES
                if answer.status == 201 and answer.json()["status"] in ("open", "partially_filled"):
                    resting.append(answer.json()["order_id"])
            await asyncio.sleep(PAUSE_SECONDS)
        return unknown

    async def acknowledged(self, market: str, count: int, since: int) -> float:
        """Wait until this many orders were acknowledged after the first `since`; how long the first one took."""
        began, first = monotonic(), 0.0
        while True:
            fresh = sum(ack.market == market for ack in self.log.acknowledgements[since:])
            if fresh and not first:
                first = monotonic() - began
            if fresh >= count:
                return first
            assert monotonic() - began < RESUME_SECONDS_MAX, f"{market}: {fresh} orders, {dict(self.outcomes)}"
            await asyncio.sleep(0.005)

    @property
    def faults(self) -> int:
        return sum(self.outcomes[str(status)] for status in UNKNOWN_STATUSES)

    def stop(self) -> None:
        self._over.set()

    def close(self) -> None:
        self._pool.close()


async def test_nothing_acknowledged_is_lost_when_markets_are_killed(
    installation: Installation, tmp_path: Path, long: bool
) -> None:
    log_path = tmp_path / "acknowledged.jsonl"
    log = AckLog(log_path)
    load = Load(installation.url, log)
    victims = list(SYMBOLS) * 10 if long else [SYMBOLS[0]]
    people = await load.people()

    trading = [asyncio.create_task(load.trade(person, seed)) for seed, person in enumerate(people)]
    recoveries: list[float] = []
    try:
        for symbol in SYMBOLS:
            await load.acknowledged(symbol, RESUMED, 0)
        for symbol in [*victims, *victims[:1] * 4]:
            if len(recoveries) >= len(victims) and load.faults:
                break  # one more only if the kills so far happened to fall between requests
            process = await asyncio.to_thread(installation.market_process, symbol)
            process.kill()
            await asyncio.to_thread(_gone, process)
            await asyncio.sleep(0.02)  # answers that the dead process had sent are on their way
            since = len(log.acknowledgements)
            recoveries.append(await load.acknowledged(symbol, RESUMED, since))
            print(f"{symbol} served again {recoveries[-1]:.2f} s after SIGKILL")
    finally:
        load.stop()
    unresolved = await asyncio.gather(*trading)
    load.close()
    log.close()

    repeated = sum(ack.repeated for ack in log.acknowledgements)
    print(f"{len(log.acknowledgements)} acknowledgements, {repeated} of them repeated, outcomes {dict(load.outcomes)}")
    assert load.faults, "nobody noticed"
    assert load.outcomes["broken"] == 0, "the gateway was not killed"
    assert unresolved == [0] * TRADERS
    audit = await asyncio.to_thread(installation.command, "wattbook", "audit", "--acknowledged", str(log_path))
    assert audit.returncode == 0, audit.stdout + audit.stderr
    assert f"{len(log.acknowledgements)} acknowledgements" in audit.stdout
    installation.until_ready()


async def test_the_judge_finds_what_was_not_kept(installation: Installation, tmp_path: Path) -> None:
    """The same judgement on a log that says more than the exchange did."""
    log_path = tmp_path / "acknowledged.jsonl"
    log = AckLog(log_path)
    load = Load(installation.url, log)
    person = (await load.people())[0]
    order = {"market": "CAMPUS", "side": "sell", "type": "limit", "price": "9.000", "quantity": "1.000"}
    first = await person.place(dict(order), log)
    second = await person.place(dict(order), log)
    load.close()
    log.close()
    assert (first.status, second.status) == (201, 201)

    lines = log_path.read_bytes().splitlines()
    forged = msgspec.json.decode(lines[1])
    forged["client_order_id"] = "never-sent"
    log_path.write_bytes(lines[0] + b"\n" + msgspec.json.encode(forged) + b"\n")
    audit = await asyncio.to_thread(installation.command, "wattbook", "audit", "--acknowledged", str(log_path))

    assert audit.returncode == 1
    assert "has another client_order_id" in audit.stdout


def _gone(process: Any) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.wait(10)
