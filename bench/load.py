"""Open-loop load on the public API: orders leave at their intended times, whatever the answers do.

Latency counts from the intended time, so a stall shows in every request that it delayed (no coordinated omission). An
unknown outcome is resolved by repeating with the same client_order_id; every acknowledgement goes to the AckLog.
Requests are encoded before the run and sent by one timer; an answer costs one callback. No task per request.
"""

import asyncio
import itertools
import random
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from time import perf_counter_ns
from typing import Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from bench.client import UNKNOWN_STATUSES, AckLog, Trader
from bench.http import REQUEST_SECONDS_MAX, Line, connect, request_head, request_tail
from bench.machine import percentile, undisturbed
from bench.metronome import Metronome
from bench.orders import PRICE_MICRO, wish
from bench.people import registered

IN_FLIGHT_MAX: Final = 5_000
PREPARED_MAX: Final = 200_000  # requests encoded before the run; what a longer run needs beyond, it encodes on the way
SURGE_EVERY_SECONDS: Final = 5
REPEAT_SECONDS_MAX: Final = 30.0
RECONNECT_SECONDS_MAX: Final = 30.0
LOGIN_SECONDS: Final = 600.0  # access tokens live 900
HOUSEKEEPING_SECONDS: Final = 0.2
GAP_NS_MIN: Final = 100_000  # between two turns of the timer: what is due meanwhile leaves together
SECOND_NS: Final = 1_000_000_000


Observe = Callable[[int, int, str], None]


class Plan(Struct, frozen=True):
    """What to send: `rate` requests per second for `seconds`, from `users` participants.

    surge: so many times the rate in the first of every SURGE_EVERY_SECONDS. filling_percent: of the requests before the
    first cancel, so that there is always something to cancel.
    """

    url: str
    rate: int
    seconds: float
    users: int = 10
    markets: tuple[str, ...] = ("CAMPUS",)
    connections: int = 64
    seed: int = 7
    cancel_percent: int = 15
    price_micro: int = PRICE_MICRO
    surge: int = 1
    filling_percent: int = 5

    @property
    def total(self) -> int:
        return int(self._at_once * self.seconds / SURGE_EVERY_SECONDS)

    def intended_ns(self, number: int) -> int:
        """When this request is to leave, from the beginning of the run."""
        surges, place = divmod(number, self._at_once)
        first = self.rate * self.surge  # of them in the first second
        calm_ns = SECOND_NS + (place - first) * SECOND_NS // self.rate
        within_ns = place * SECOND_NS // first if place < first else calm_ns
        return surges * SURGE_EVERY_SECONDS * SECOND_NS + within_ns

    @property
    def _at_once(self) -> int:
        """Requests in SURGE_EVERY_SECONDS."""
        return self.rate * (self.surge + SURGE_EVERY_SECONDS - 1)


class Outcome(Struct):
    """What came of it. Latencies in nanoseconds, ascending."""

    latencies_ns: list[int]
    statuses: Counter[str]
    seconds: float = 0.0
    late: int = 0  # requests that could not leave because too many were under way
    repeats: int = 0  # of orders whose outcome was unknown
    cpu_us: float = 0.0  # of this process, per request: the generator's own share

    @property
    def rate(self) -> float:
        return len(self.latencies_ns) / self.seconds if self.seconds else 0.0

    @property
    def errors(self) -> int:
        """Answers that an exchange in good order does not give."""
        return sum(count for status, count in self.statuses.items() if status == "broken" or int(status) >= 500)

    def quantile_ms(self, per_mille: int) -> float:
        return percentile(self.latencies_ns, per_mille) / 1e6 if self.latencies_ns else 0.0


class Wanted(Struct, gc=False):
    """One request of the plan. cancels: rather take an order back, if there is one."""

    trader: int
    tail: bytes
    cancels: bool


class Job(Struct):
    """A request under way, until its outcome is known."""

    intended_ns: int
    trader: int
    request: bytes
    places: bool


class Shown(Struct):
    """What of an answered order says whether it rests."""

    order_id: str
    status: str


_shown = msgspec.json.Decoder(Shown).decode


def requests(plan: Plan, people: int) -> Iterator[Wanted]:
    """All requests of the plan, the same in every run whatever is answered, but for the client_order_ids."""
    marker, total, encode = secrets.token_hex(4), plan.total, msgspec.json.Encoder().encode
    for number in range(total):
        random_ = random.Random(plan.seed * 1_000_003 + number)
        cancels = number > total * plan.filling_percent // 100 and random_.randrange(100) < plan.cancel_percent
        trader = random_.choice(range(people))
        body = wish(random_, plan.markets, plan.price_micro).fields(f"{marker}-{number}")
        yield Wanted(trader, request_tail(encode(body)), cancels)


async def run(
    plan: Plan,
    log: AckLog,
    people: list[Trader] | None = None,
    progress: Callable[[float], None] | None = None,
    observe: Observe | None = None,
) -> Outcome:
    """Send the plan; returns when every request has its answer. Raises ConnectionError when the exchange stays away.

    Raises ApiError when somebody's login cannot be renewed.

    observe: told of each answer, when its request was to leave (ns from the beginning), its latency (ns), its status.
    """
    people = people or await registered(plan.url, plan.users)
    sender = _Sender(plan, people, log, observe)
    prepared = requests(plan, len(people))
    first = list(itertools.islice(prepared, PREPARED_MAX))
    await sender.connect()
    renewal = asyncio.create_task(sender.renew_logins())
    try:
        with undisturbed():
            sending = asyncio.create_task(sender.send_all(itertools.chain(first, prepared), progress))
            try:
                await asyncio.wait({sending, renewal}, return_when=asyncio.FIRST_COMPLETED)
                if renewal.done():
                    renewal.result()  # it never ends by itself: raises why all would soon be refused
                return sending.result()
            finally:
                sending.cancel()
                await asyncio.wait([sending])
    finally:
        renewal.cancel()
        await asyncio.gather(renewal, return_exceptions=True)
        sender.close()


class _Sender:
    """The state of one run."""

    def __init__(self, plan: Plan, people: list[Trader], log: AckLog, observe: Observe | None) -> None:
        self._plan, self._people, self._log, self._observe = plan, people, log, observe
        target = urlsplit(plan.url)
        self._host, self._port = target.hostname or "127.0.0.1", target.port or 80
        self._loop = asyncio.get_running_loop()
        self._place_heads: list[bytes] = []
        self._picking = random.Random(plan.seed)
        self._outcome = Outcome([], Counter())
        self._resting: list[tuple[int, str]] = []
        self._lines: list[Line] = []
        self._idle: list[Line] = []
        self._waiting: deque[Job] = deque()
        self._reconnecting: set[asyncio.Task[None]] = set()
        self._under_way = 0  # taken from the plan and not answered
        self._taken = 0
        self._held = False
        self._finished: asyncio.Future[None] = self._loop.create_future()
        self._wanted: Iterator[Wanted] = iter(())
        self._started_ns = 0
        self._metronome = Metronome(self._tick)
        self._write_heads()

    async def connect(self) -> None:
        for _ in range(self._plan.connections):
            self._lines.append(await connect(self._host, self._port, self._answered, self._lost))
        self._idle = list(self._lines)

    async def send_all(self, wanted: Iterator[Wanted], progress: Callable[[float], None] | None) -> Outcome:
        self._wanted = wanted
        cpu_ns, self._started_ns = time.process_time_ns(), perf_counter_ns()
        self._metronome.at(self._started_ns)
        while not self._finished.done():
            await asyncio.wait([self._finished], timeout=HOUSEKEEPING_SECONDS)
            self._give_up_on_the_silent()
            if progress is not None:
                progress(self._taken / max(1, self._plan.total))
        await self._finished
        outcome = self._outcome
        outcome.seconds = (perf_counter_ns() - self._started_ns) / 1e9
        outcome.cpu_us = (time.process_time_ns() - cpu_ns) / 1e3 / max(1, len(outcome.latencies_ns))
        outcome.latencies_ns.sort()
        return outcome

    async def renew_logins(self) -> None:
        """A long run outlives its access tokens."""
        while True:
            await asyncio.sleep(LOGIN_SECONDS)
            for trader in self._people:
                await trader.login()
            self._write_heads()

    def close(self) -> None:
        self._metronome.close()
        for task in self._reconnecting:
            task.cancel()
        for line in self._lines:
            line.job = None
            line.close()

    def _write_heads(self) -> None:
        host = f"{self._host}:{self._port}"
        self._place_heads = [request_head("POST", "/api/v1/orders", host, one.token) for one in self._people]

    # --- out -----------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        """Send all that is due, and come back when the next is."""
        now_ns = perf_counter_ns()
        while True:
            intended_ns = self._started_ns + self._plan.intended_ns(self._taken)
            if self._taken >= self._plan.total or intended_ns > now_ns:
                self._held = False
                break
            if self._under_way >= IN_FLIGHT_MAX:
                self._held = True  # the next answer goes on here
                return
            self._outcome.late += self._held
            self._take(intended_ns)
        if self._taken < self._plan.total:
            self._metronome.at(max(intended_ns, now_ns + GAP_NS_MIN))

    def _take(self, intended_ns: int) -> None:
        wanted = next(self._wanted)
        self._taken += 1
        self._under_way += 1
        if wanted.cancels and self._resting:
            trader, order_id = self._resting.pop(self._picking.randrange(len(self._resting)))
            host = f"{self._host}:{self._port}"
            head = request_head("DELETE", f"/api/v1/orders/{order_id}", host, self._people[trader].token)
            self._send(Job(intended_ns, trader, head + request_tail(), False))
        else:
            request = self._place_heads[wanted.trader] + wanted.tail
            self._send(Job(intended_ns, wanted.trader, request, True))

    def _send(self, job: Job) -> None:
        while self._idle:
            line = self._idle.pop()
            if line.is_open:
                self._send_on(line, job)
                return
        self._waiting.append(job)

    def _send_on(self, line: Line, job: Job) -> None:
        line.job, line.sent_ns = job, perf_counter_ns()
        line.send(job.request)

    # --- in ------------------------------------------------------------------------------------------------------

    def _answered(self, line: Line, status: int, body: bytes) -> None:
        job, line.job = line.job, None
        if job is None:
            line.close()  # an answer that nobody asked for
            return
        if job.places and (status in UNKNOWN_STATUSES or status == 429) and self._repeats(job, 0.05):
            pass
        else:
            self._known(job, str(status))
            if status == 201 and job.places:
                self._log.add_bytes(self._people[job.trader].user_id, body)
                shown = _shown(body)
                if shown.status in ("open", "partially_filled"):
                    self._resting.append((job.trader, shown.order_id))
        if self._waiting and line.is_open:
            self._send_on(line, self._waiting.popleft())
        else:
            self._idle.append(line)

    def _known(self, job: Job, status: str) -> None:
        latency_ns = perf_counter_ns() - job.intended_ns
        self._outcome.latencies_ns.append(latency_ns)
        self._outcome.statuses[status] += 1
        if self._observe is not None:
            self._observe(job.intended_ns - self._started_ns, latency_ns, status)
        self._under_way -= 1
        if self._held:
            self._metronome.at(perf_counter_ns())
        if self._under_way == 0 and self._taken == self._plan.total and not self._finished.done():
            self._finished.set_result(None)

    def _repeats(self, job: Job, seconds: float) -> bool:
        """Send an order again a little later, with the same client_order_id; not for ever."""
        if perf_counter_ns() - job.intended_ns > REPEAT_SECONDS_MAX * SECOND_NS:
            return False
        self._outcome.repeats += 1
        self._loop.call_later(seconds, self._send, job)
        return True

    def _lost(self, line: Line) -> None:
        job, line.job = line.job, None
        if self._finished.done():
            return
        if job is not None and not (job.places and self._repeats(job, 0.1)):
            self._known(job, "broken")
        task = self._loop.create_task(self._reconnect(line))
        self._reconnecting.add(task)
        task.add_done_callback(self._reconnecting.discard)

    async def _reconnect(self, line: Line) -> None:
        """A new connection in the place of a lost one; a run whose exchange stays away ends."""
        for _ in range(int(RECONNECT_SECONDS_MAX * 10)):
            try:
                fresh = await connect(self._host, self._port, self._answered, self._lost)
            except OSError:
                await asyncio.sleep(0.1)
                continue
            self._lines[self._lines.index(line)] = fresh
            if self._waiting:
                self._send_on(fresh, self._waiting.popleft())
            else:
                self._idle.append(fresh)
            return
        if not self._finished.done():
            self._finished.set_exception(ConnectionError(f"no connection for {RECONNECT_SECONDS_MAX:g} s"))

    def _give_up_on_the_silent(self) -> None:
        long_ago_ns = perf_counter_ns() - int(REQUEST_SECONDS_MAX * SECOND_NS)
        for line in self._lines:
            if line.job is not None and line.sent_ns < long_ago_ns:
                line.close()
