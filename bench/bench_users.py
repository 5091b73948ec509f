"""What 1,000 people notice who are logged in at the same time and look, wait, and now and then place an order.

Why it matters: the other benches press one thing; this is a busy evening. Each user has a connection of his own. 10,000
requests a minute for a minute, at their intended times whatever the answers do: 8 of 10 read (book, ticker, trades, own
balances, own open orders), the others place and cancel. All of it is real: tokens are verified, orders are durable,
balances and orders come from where they always come from. Only the password checks of 1,000 logins are left out, which
would take the two cores four minutes (bench/people.py says how).

Run:  python -m bench.bench_users            the canonical size; quote only these numbers
      python -m bench.bench_users --smoke    small; run by the tests, so that it cannot rot
"""

import asyncio
import random
import time
import zlib
from collections import Counter, deque
from time import perf_counter_ns
from typing import Final
from urllib.parse import urlsplit

import msgspec
import uvloop
from msgspec import Struct

from bench.client import Trader
from bench.http import REQUEST_SECONDS_MAX, Line, connect, request_bytes
from bench.installation import Target, arguments, settle, target
from bench.load import SECOND_NS, Observe
from bench.machine import Result, machine, percentile, record, times, undisturbed
from bench.metronome import Metronome
from bench.orders import MARKET, wish
from bench.people import people

GOAL_P95_MS, GOAL_ERRORS = 100.0, 0.001
USERS, PER_MINUTE, SECONDS = 1_000, 10_000, 60.0
READS: Final = {
    "book": f"/markets/{MARKET}/book?depth=20",
    "ticker": f"/markets/{MARKET}/ticker",
    "trades": f"/markets/{MARKET}/trades?limit=20",
    "balances": "/balances",
    "own orders": "/orders?status=open&limit=20",
}
SHARES: Final = {"book": 25, "ticker": 15, "trades": 10, "balances": 15, "own orders": 15, "place": 15, "cancel": 5}
EXPECTED: Final = {"place": (201,), "cancel": (200, 409)}  # 409: it had traded meanwhile


class Request(Struct):
    """One request of the plan; the order to cancel is chosen when it is sent."""

    intended_ns: int
    kind: str
    data: bytes = b""


class Placed(Struct):
    order_id: str
    quantity: str
    status: str


_placed = msgspec.json.Decoder(Placed).decode


class User:
    """A person with a connection; what is due while the answer before is still missing waits its turn."""

    def __init__(self, trader: Trader, evening: "Evening") -> None:
        self.trader, self._evening = trader, evening
        self._line: Line | None = None
        self._waiting: deque[Request] = deque()
        self.resting: list[str] = []

    async def connect(self, host: str, port: int) -> None:
        self._line = await connect(host, port, self._answered, self._lost)

    def want(self, request: Request) -> None:
        if self._line is None:
            self._evening.done(request, "broken")
        elif self._line.job is not None:
            self._waiting.append(request)
        else:
            self._send(request)

    def _send(self, request: Request) -> None:
        assert self._line is not None
        self._line.job, self._line.sent_ns = request, perf_counter_ns()
        self._line.send(request.data)

    def _answered(self, line: Line, status: int, body: bytes) -> None:
        request, line.job = line.job, None
        self._evening.done(request, str(status))
        if request.kind == "place" and status == 201:
            order = _placed(body)
            self._evening.quantities.append(order.quantity)
            if order.status in ("open", "partially_filled"):
                self.resting.append(order.order_id)
        elif status not in EXPECTED.get(request.kind, (200,)):
            self._evening.surprises.append(f"{request.kind}: {status} {body[:200]!r}")
        if self._waiting and line.is_open:
            self._send(self._waiting.popleft())

    def _lost(self, line: Line) -> None:
        self._line = None
        for request in ([line.job] if line.job is not None else []) + list(self._waiting):
            self._evening.done(request, "broken")
        self._waiting.clear()

    def hang_up(self, silent_since_ns: int = 0) -> None:
        """Unless an answer is awaited that may still come."""
        if self._line is not None and (
            silent_since_ns == 0 or (self._line.job and self._line.sent_ns < silent_since_ns)
        ):
            self._line.close()


class Evening:
    """All users, the plan, and what came of it."""

    def __init__(
        self,
        exchange: Target,
        traders: list[Trader],
        per_minute: int,
        seconds: float,
        observe: Observe = lambda *_: None,
    ) -> None:
        self._observe = observe
        parts = urlsplit(exchange.url)
        self._address = parts.hostname or "127.0.0.1", parts.port or 80
        self._users = [User(trader, self) for trader in traders]
        self._per_minute, self._total = per_minute, int(per_minute * seconds / 60)
        self._random, self._sent, self._started_ns = random.Random(7), 0, 0
        self._marker = traders[0].user_id
        self._finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._metronome = Metronome(self._tick)
        self.latencies_ns: list[int] = []
        self.statuses: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.surprises: list[str] = []
        self.quantities: list[str] = []
        self.cpu_us = 0.0

    async def run(self) -> None:
        for user in self._users:
            await user.connect(*self._address)
        cpu_ns, self._started_ns = time.process_time_ns(), perf_counter_ns()
        self._metronome.at(self._started_ns)
        while not self._finished.done():
            await asyncio.wait([self._finished], timeout=1)
            for user in self._users:
                user.hang_up(perf_counter_ns() - int(REQUEST_SECONDS_MAX * SECOND_NS))
        self.cpu_us = (time.process_time_ns() - cpu_ns) / 1e3 / self._total
        self._metronome.close()
        for user in self._users:
            user.hang_up()
        self.latencies_ns.sort()

    def done(self, request: Request, status: str) -> None:
        latency_ns = perf_counter_ns() - request.intended_ns
        self.latencies_ns.append(latency_ns)
        self._observe(request.intended_ns - self._started_ns, latency_ns, status)
        self.statuses[status] += 1
        self.kinds[request.kind] += 1
        if status == "broken":
            self.surprises.append(f"{request.kind}: the connection broke")
        if len(self.latencies_ns) == self._total and not self._finished.done():
            self._finished.set_result(None)

    def _tick(self) -> None:
        now_ns = perf_counter_ns()
        while self._sent < self._total:
            intended_ns = self._started_ns + self._sent * 60 * SECOND_NS // self._per_minute
            if intended_ns > now_ns:
                self._metronome.at(intended_ns)
                return
            user = self._users[self._random.randrange(len(self._users))]
            user.want(self._request(intended_ns, user))
            self._sent += 1

    def _request(self, intended_ns: int, user: User) -> Request:
        """The chance is drawn the same way in every run; who has nothing to cancel looks whether that is so."""
        kind = self._random.choices(list(SHARES), list(SHARES.values()))[0]
        order, method, body = wish(self._random), "GET", b""
        if kind == "cancel" and user.resting:
            method, path = "DELETE", f"/orders/{user.resting.pop()}"
        elif kind == "place":
            method, path = "POST", "/orders"
            body = msgspec.json.encode(order.fields(f"{self._marker}-{self._sent}"))
        else:
            kind = kind if kind in READS else "own orders"
            path = READS[kind]
        host, port = self._address
        return Request(
            intended_ns, kind, request_bytes(method, "/api/v1" + path, f"{host}:{port}", user.trader.token, body)
        )


def main() -> None:
    given = arguments(__doc__).parse_args()
    users, per_minute, seconds = (20, 6_000, 2.0) if given.smoke else (USERS, PER_MINUTE, SECONDS)
    with target(given) as exchange:
        evening = uvloop.run(_run(exchange, users, per_minute, seconds, given.smoke))
    checksum = zlib.crc32("".join(sorted(evening.quantities)).encode())
    errors = len(evening.surprises) / len(evening.latencies_ns)
    print(f"machine: {machine()}")
    print(f"users={users} answers={len(evening.latencies_ns)} kinds={dict(sorted(evening.kinds.items()))}")
    print(f"acknowledged={len(evening.quantities)} checksum={checksum:08x} statuses={dict(evening.statuses)}")
    print(f"rate={per_minute / 60:.0f}/s errors={errors:.4%} generator={evening.cpu_us:.0f}us of CPU per request")
    p95_ms = percentile(evening.latencies_ns, 950) / 1e6
    print(f"{times(evening.latencies_ns)} p95={p95_ms:.2f}ms")
    for surprise in evening.surprises[:5]:
        print(f"error: {surprise}")
    if not given.smoke:
        bench = f"{USERS:,} users"
        record(
            [
                Result(bench, "p95", round(p95_ms, 2), "ms", GOAL_P95_MS, p95_ms < GOAL_P95_MS),
                Result(bench, "p50", round(percentile(evening.latencies_ns, 500) / 1e6, 2), "ms"),
                Result(bench, "p99", round(percentile(evening.latencies_ns, 990) / 1e6, 2), "ms"),
                Result(bench, "errors", round(errors * 100, 4), "%", GOAL_ERRORS * 100, errors < GOAL_ERRORS),
            ]
        )
    if errors >= GOAL_ERRORS:
        raise SystemExit(f"{len(evening.surprises)} requests failed")


async def _run(exchange: Target, users: int, per_minute: int, seconds: float, smoke: bool) -> Evening:
    traders = await people(exchange.url, exchange.data_dir, users)
    if not smoke:
        settle()
    evening = Evening(exchange, traders, per_minute, seconds)
    with undisturbed():
        await evening.run()
    return evening


if __name__ == "__main__":
    main()
