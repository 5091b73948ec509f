"""Closed-loop load: every connection sends its next request when it has the answer to the one before.

It shows the rate that the server sustains. For what a user waits, see load.py: here a slow server is asked less often.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from time import perf_counter_ns
from urllib.parse import urlsplit

from msgspec import Struct

from bench.http import Line, connect
from bench.machine import undisturbed

CONNECTIONS = 64
STALL_SECONDS_MAX = 30.0


class Round(Struct):
    """What came of one round. latencies_ns ascending; bodies in the order of their requests."""

    seconds: float
    latencies_ns: list[int]
    statuses: Counter[int]
    bodies: list[bytes]
    cpu_ns: int  # of this process: the generator's own share

    @property
    def rate(self) -> float:
        return len(self.latencies_ns) / self.seconds


async def closed_loop(url: str, requests: Sequence[bytes], connections: int = CONNECTIONS) -> Round:
    """Send all requests, in order. Raises ConnectionError when one ends, TimeoutError when all is still."""
    target = urlsplit(url)
    finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    left = iter(range(len(requests)))
    latencies_ns, bodies = [0] * len(requests), [b""] * len(requests)
    statuses: Counter[int] = Counter()
    answers = 0

    def send(line: Line) -> None:
        number = next(left, -1)
        if number >= 0:
            line.job, line.sent_ns = number, perf_counter_ns()
            line.send(requests[number])

    def answered(line: Line, status: int, body: bytes) -> None:
        nonlocal answers
        latencies_ns[line.job] = perf_counter_ns() - line.sent_ns
        bodies[line.job] = body
        statuses[status] += 1
        answers += 1
        if answers == len(requests) and not finished.done():
            finished.set_result(None)
        send(line)

    def lost(_: Line) -> None:
        if not finished.done():
            finished.set_exception(ConnectionError("a connection ended in the middle of the bench"))

    lines = [
        await connect(target.hostname or "127.0.0.1", target.port or 80, answered, lost) for _ in range(connections)
    ]
    with undisturbed():
        cpu_ns, started_ns = time.process_time_ns(), perf_counter_ns()
        for line in lines:
            send(line)
        seen = -1
        while not finished.done():
            if seen == answers:
                raise TimeoutError(f"no answer for {STALL_SECONDS_MAX:g} s, {answers} of {len(requests)} before")
            seen = answers
            await asyncio.wait([finished], timeout=STALL_SECONDS_MAX)
        await finished
        elapsed_ns, cpu_ns = perf_counter_ns() - started_ns, time.process_time_ns() - cpu_ns
    for line in lines:
        line.close()
    latencies_ns.sort()
    return Round(elapsed_ns / 1e9, latencies_ns, statuses, bodies, cpu_ns)
