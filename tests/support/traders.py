"""Several participants who trade without end while the exchange is tormented, and write down all that they are told.

Their log is the judge: whatever they were told must be in the journals afterwards, once. An order whose outcome is
unknown is repeated with the same client_order_id until it is known. What each request came to, and how long it took, is
counted, repeats too.
"""

import asyncio
import contextlib
import os
import random
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from time import monotonic
from typing import Any, Final
from urllib.parse import urlsplit

from bench.client import UNKNOWN_STATUSES, AckLog, Trader, new_password
from bench.http import REQUEST_SECONDS_MAX, Answer, ConnectionBroken, HttpPool
from tests.support.installation import Installation
from tests.support.patience import HUNG_SECONDS

SYMBOLS: Final = ("CAMPUS", "RIVERSIDE")
TRADERS: Final = 6
PAUSE_SECONDS: Final = 0.01 if os.environ.get("LONG") else 0.03  # between the orders of one trader
RESUMED: Final = 20  # orders acknowledged in a market before it counts as back
BROKEN: Final = (ConnectionBroken, ConnectionError, TimeoutError)


class TimedLog(AckLog):
    """Knows as well when each acknowledgement came (seconds of monotonic)."""

    def __init__(self, path: Path | None = None) -> None:
        super().__init__(path)
        self.at: list[float] = []

    def add(self, participant: str, order: dict[str, Any]) -> None:
        super().add(participant, order)
        self.at.append(monotonic())

    def longest_pause(self, since: int) -> float:
        """Between two acknowledgements one after the other, of those after the first `since`."""
        return max((later - earlier for earlier, later in pairwise(self.at[since:])), default=0.0)


class Watched(Trader):
    """A trader who counts what each request came to, repeats too, and how long the longest took."""

    def __init__(self, pool: HttpPool, host: str, load: "Load") -> None:
        super().__init__(pool, host, f"fault-{secrets.token_hex(4)}@example.org", new_password())
        self._load = load

    async def send(self, method: str, path: str, body: Any = None) -> Answer:
        began, load = monotonic(), self._load
        try:
            answer = await super().send(method, path, body)
        except BROKEN:
            load.outcomes["broken"] += 1
            raise
        finally:
            load.seconds_max = max(load.seconds_max, monotonic() - began)
        load.outcomes[str(answer.status)] += 1
        if answer.status == 500 or (answer.status == 404 and method == "POST"):
            load.surprises[f"{method} {path.split('/')[1]}: {answer.status}"] += 1
        return answer


class Load:
    """Traders that place, amend and cancel without end in these markets, until told to stop."""

    def __init__(self, url: str, log: TimedLog, symbols: Sequence[str] = SYMBOLS) -> None:
        target = urlsplit(url)
        assert target.hostname
        assert target.port
        self.log, self._symbols = log, symbols
        self.outcomes: Counter[str] = Counter()
        self.surprises: Counter[str] = Counter()  # answers that no fault may cause
        self.seconds_max = 0.0  # of one request
        self._host = f"{target.hostname}:{target.port}"
        self._pool = HttpPool(target.hostname, target.port, 32)
        self._over = asyncio.Event()
        self._trading: list[asyncio.Task[int]] = []

    async def people(self, count: int = TRADERS) -> list[Watched]:
        people = [Watched(self._pool, self._host, self) for _ in range(count)]
        for number, person in enumerate(people):
            await person.register(f"Fault {number}")
            for asset, amount in (("THB", "20000"), ("energy:Z1", "2000")):
                await person.deposit(asset, amount)
        return people

    async def start(self, each: int = RESUMED) -> None:
        """All trade from now on, all but the last from deep pockets; returns when each market has so many orders."""
        *people, pauper = await self.people()
        self._trading = [asyncio.create_task(self._trade(person, seed)) for seed, person in enumerate(people)]
        self._trading.append(asyncio.create_task(self._live_from_hand_to_mouth(pauper)))
        for symbol in self._symbols:
            await self.acknowledged(symbol, each, 0)

    async def stop(self) -> int:
        """Returns how many outcomes stayed unknown in spite of repeats; raises what ended a trader."""
        self._over.set()
        try:
            return sum(await asyncio.gather(*self._trading))
        finally:
            self._pool.close()
            self.log.close()

    async def acknowledged(self, market: str, count: int, since: int) -> float:
        """Wait until this many orders were acknowledged after the first `since`; how long the first one took."""
        began, first = monotonic(), 0.0
        while True:
            fresh = sum(ack.market == market for ack in self.log.acknowledgements[since:])
            if fresh and not first:
                first = monotonic() - began
            if fresh >= count:
                return first
            assert monotonic() - began < HUNG_SECONDS, f"{market}: {fresh} orders, {dict(self.outcomes)}"
            for task in self._trading:
                assert not task.done(), task
            await asyncio.sleep(0.005)

    async def recovered(self, each: int = RESUMED) -> float:
        """Wait until all markets have acknowledged so many orders; how long the slowest one's first one took."""
        since = len(self.log.acknowledgements)
        return max(await asyncio.gather(*(self.acknowledged(symbol, each, since) for symbol in self._symbols)))

    @property
    def faults(self) -> int:
        return self.outcomes["broken"] + sum(self.outcomes[str(status)] for status in UNKNOWN_STATUSES)

    async def _trade(self, person: Watched, seed: int) -> int:
        """Both sides of all markets, at prices that meet; some orders are amended or cancelled later."""
        chance, unknown = random.Random(seed), 0
        resting: list[str] = []
        while not self._over.is_set():
            draw = chance.random()
            if resting and draw < 0.25:
                with contextlib.suppress(*BROKEN):
                    await person.send("DELETE", f"/orders/{resting.pop(chance.randrange(len(resting)))}")
            elif resting and draw < 0.4:
                with contextlib.suppress(*BROKEN):
                    body = {"price": _price(chance, "sell")}
                    await person.send("PATCH", f"/orders/{chance.choice(resting)}", body)
            else:
                side = chance.choice(("buy", "sell"))
                quantity = f"{chance.randrange(1, 1_000) / 1_000:.3f}"
                order = _order(chance.choice(self._symbols), side, _price(chance, side), quantity)
                answer = await person.place(order, self.log)
                unknown += answer.status in UNKNOWN_STATUSES
                if answer.status == 201 and answer.json()["status"] in ("open", "partially_filled"):
                    resting.append(answer.json()["order_id"])
            await asyncio.sleep(PAUSE_SECONDS)
        return unknown

    async def _live_from_hand_to_mouth(self, person: Watched) -> int:
        """Spend all at once, so that every other order needs funds that the ledger must bring first."""
        unknown, round_ = 0, 0
        while not self._over.is_set():
            round_ += 1
            with contextlib.suppress(*BROKEN):
                body = {"asset": "THB", "amount": f"{4 + round_ % 3}"}
                await person.send("POST", "/deposits", body)
            answer = await person.place(
                _order(self._symbols[round_ % len(self._symbols)], "buy", "3.600", "1.000"), self.log
            )
            unknown += answer.status in UNKNOWN_STATUSES
            await asyncio.sleep(PAUSE_SECONDS)
        return unknown


@asynccontextmanager
async def judged(
    installation: Installation, folder: Path, symbols: Sequence[str] = SYMBOLS, each: int = RESUMED
) -> AsyncIterator[Load]:
    """Load from beginning to end of the block, then the judgement over everything that was acknowledged."""
    path = folder / "acknowledged.jsonl"
    load = Load(installation.url, TimedLog(path), symbols)
    try:
        await load.start(each)
        yield load
    except BaseException:
        with contextlib.suppress(Exception):  # what failed first is what counts
            await load.stop()
        raise
    assert await load.stop() == 0, "an outcome stayed unknown"
    acknowledgements = load.log.acknowledgements
    repeated = sum(ack.repeated for ack in acknowledgements)
    print(
        f"{len(acknowledgements)} acknowledgements, {repeated} of them repeated, outcomes {dict(load.outcomes)}, "
        f"longest request {load.seconds_max:.1f} s"
    )
    assert not load.surprises, load.surprises
    assert load.seconds_max < REQUEST_SECONDS_MAX, "the exchange let a request hang until its sender gave up"
    audit = await asyncio.to_thread(installation.command, "wattbook", "audit", "--acknowledged", str(path))
    assert audit.returncode == 0, audit.stdout + audit.stderr
    assert f"{len(acknowledgements)} acknowledgements" in audit.stdout
    print(audit.stdout.replace("\n", " "))


def _price(chance: random.Random, side: str) -> str:
    """What a buyer and a seller of the two markets agree on, with what transport costs."""
    return f"{(chance.randrange(2_950, 3_050) + (530 if side == 'buy' else 0)) / 1_000:.3f}"


def _order(market: str, side: str, price: str, quantity: str) -> dict[str, Any]:
    return {"market": market, "side": side, "type": "limit", "price": price, "quantity": quantity}
