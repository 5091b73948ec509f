"""Open-loop load on the public API: orders leave at their intended times, whatever the answers do.

Latency counts from the intended time, so a stall shows in every request that it delayed (no coordinated omission). An
unknown outcome is resolved by repeating with the same client_order_id; every acknowledgement goes to the AckLog.
"""

import asyncio
import random
import secrets
from collections import Counter
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any
from urllib.parse import urlsplit

import msgspec

from bench.client import AckLog, ApiError, Trader, new_password
from bench.http import ConnectionBroken, HttpPool
from bench.machine import percentile

IN_FLIGHT_MAX = 5_000
FILLING_PERCENT = 5  # of the requests before the first cancel, so that there is always something to cancel
FUNDING = (("THB", "100000"), ("energy:Z1", "10000"))


class Plan(msgspec.Struct, frozen=True):
    """What to send: `rate` requests per second for `seconds`, from `users` participants."""

    url: str
    rate: int
    seconds: float
    users: int = 10
    markets: tuple[str, ...] = ("CAMPUS",)
    connections: int = 64
    seed: int = 7
    cancel_percent: int = 15
    price_micro: int = 3_500_000


class Outcome(msgspec.Struct):
    """What came of it. Latencies in nanoseconds, ascending."""

    latencies_ns: list[int]
    statuses: Counter[str]
    seconds: float
    late: int  # requests that could not leave because too many were under way

    @property
    def rate(self) -> float:
        return len(self.latencies_ns) / self.seconds if self.seconds else 0.0

    @property
    def errors(self) -> int:
        """Answers that an exchange in good order does not give."""
        return sum(count for status, count in self.statuses.items() if status == "broken" or int(status) >= 500)

    def quantile_ms(self, per_mille: int) -> float:
        return percentile(self.latencies_ns, per_mille) / 1e6 if self.latencies_ns else 0.0


async def traders(plan: Plan, pool: HttpPool, host: str) -> list[Trader]:
    """Register, log in and fund the participants, a few at a time: passwords cost time on purpose."""
    turn = asyncio.Semaphore(8)
    marker = random.randbytes(4).hex()

    async def one(number: int) -> Trader:
        trader = Trader(pool, host, f"load-{marker}-{number}@example.org", new_password())
        async with turn:
            while True:
                try:
                    await trader.register(f"Load {number}")
                    break
                except ApiError as error:
                    if error.status != 429:
                        raise
                    await asyncio.sleep(1)
            for asset, amount in FUNDING:
                await trader.deposit(asset, amount)
        return trader

    return list(await asyncio.gather(*(one(number) for number in range(plan.users))))


async def run(
    plan: Plan, log: AckLog, people: list[Trader] | None = None, progress: Callable[[float], None] | None = None
) -> Outcome:
    """Send the plan; returns when every request has its answer."""
    target = urlsplit(plan.url)
    host, port = target.hostname or "127.0.0.1", target.port or 80
    pool = HttpPool(host, port, plan.connections)
    people = people or await traders(plan, pool, f"{host}:{port}")
    picking = random.Random(plan.seed)
    outcome = Outcome([], Counter(), 0.0, 0)
    resting: list[tuple[Trader, str]] = []
    under_way: set[asyncio.Task[None]] = set()
    total = int(plan.rate * plan.seconds)
    started_ns = perf_counter_ns()

    async def send(intended_ns: int, trader: Trader, order: dict[str, Any] | None, order_id: str) -> None:
        try:
            if order is None:
                answer = await trader.send("DELETE", f"/orders/{order_id}")
            else:
                answer = await trader.place(order, log)
                if answer.status == 201:
                    shown = answer.json()
                    if shown["status"] in ("open", "partially_filled"):
                        resting.append((trader, shown["order_id"]))
            outcome.statuses[str(answer.status)] += 1
        except (ConnectionBroken, ConnectionError, TimeoutError):
            outcome.statuses["broken"] += 1
        outcome.latencies_ns.append(perf_counter_ns() - intended_ns)

    for number in range(total):
        intended_ns = started_ns + number * 1_000_000_000 // plan.rate
        wait = intended_ns - perf_counter_ns()
        if wait > 0:
            await asyncio.sleep(wait / 1e9)
        elif number % 64 == 0:
            await asyncio.sleep(0)
        if len(under_way) >= IN_FLIGHT_MAX:
            outcome.late += 1
            await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
        random_ = random.Random(plan.seed * 1_000_003 + number)  # the same orders in every run, whatever is answered
        cancels = number > total * FILLING_PERCENT // 100 and random_.randrange(100) < plan.cancel_percent
        if cancels and resting:
            trader, order_id = resting.pop(picking.randrange(len(resting)))
            task = asyncio.create_task(send(intended_ns, trader, None, order_id))
        else:
            trader = random_.choice(people)
            task = asyncio.create_task(send(intended_ns, trader, _order(plan, random_), ""))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
        if progress is not None and number % 100 == 0:
            progress(number / total)
    if under_way:
        await asyncio.wait(under_way)
    outcome.seconds = (perf_counter_ns() - started_ns) / 1e9
    outcome.latencies_ns.sort()
    pool.close()
    return outcome


def _order(plan: Plan, random_: random.Random) -> dict[str, Any]:
    """Bids and asks around one price: about half of them trade."""
    side = random_.choice(("buy", "sell"))
    price_micro = plan.price_micro + random_.randrange(-100, 100) * 1_000
    if side == "sell":
        price_micro -= 600_000  # what wheeling and loss add until it has landed
    return {
        "market": random_.choice(plan.markets),
        "side": side,
        "type": "limit",
        "quantity": f"{random_.randrange(1, 20) / 10:.3f}",
        "price": f"{price_micro // 1_000_000}.{price_micro % 1_000_000 // 1_000:03d}",
        "client_order_id": secrets.token_hex(8),
    }
