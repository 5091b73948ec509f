"""What a polite trader notices while another one sends 20 times what he may.

Why it matters: limits are there for the others. A trader places 40 orders a second, alone and then beside one who sends
1,000 a second where 50 are permitted; nearly all of those are refused, and refusing must be cheap. The exchange is the
bench's own, with `orders_per_second` lowered, for the generator could not send 20 times the default. Latency counts
from the intended send time (open loop), and the generator shares the machine.

Run:  python -m bench.bench_abuse            the canonical size; quote only these numbers
      python -m bench.bench_abuse --smoke    small; run by the tests, so that it cannot rot
"""

import argparse
import zlib
from collections import Counter
from time import perf_counter_ns
from typing import Final

import msgspec
import uvloop

from bench.client import AckLog, Trader
from bench.http import Line, connect, request_bytes
from bench.installation import Installation, settle
from bench.load import SECOND_NS, Outcome, Plan, run
from bench.machine import Result, machine, percentile, record, times
from bench.metronome import Metronome
from bench.orders import PRICE_MICRO, Wish
from bench.people import people

LIMIT, POLITE, TIMES_OVER = 50, 40, 20
SECONDS: Final = 20.0
GOAL_RATIO: Final = 3.0  # of the p99 beside the abuser to the p99 alone
BURST: Final = LIMIT * 5 // 2
CONNECTIONS: Final = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a small run that proves that the bench works")
    smoke = parser.parse_args().smoke
    seconds = 3.0 if smoke else SECONDS
    with Installation(WATTBOOK_ORDERS_PER_SECOND=str(LIMIT)) as exchange:
        alone, beside, flood = uvloop.run(_run(exchange, seconds, smoke))
    print(f"machine: {machine()}")
    for name, (outcome, log) in (("alone", alone), ("beside", beside)):
        checksum = zlib.crc32("".join(sorted(ack.quantity for ack in log.acknowledgements)).encode())
        print(f"{name}: acknowledged={len(log.acknowledgements)} checksum={checksum:08x} {times(outcome.latencies_ns)}")
    print(f"abuser: sent={flood.sent} late={flood.late} statuses={dict(flood.statuses)}")
    p99_ms = [percentile(outcome.latencies_ns, 990) / 1e6 for outcome, _ in (alone, beside)]
    print(f"ratio={p99_ms[1] / p99_ms[0]:.2f}")
    if not smoke:
        bench = f"abuse, {TIMES_OVER} times the limit"
        ratio = round(p99_ms[1] / p99_ms[0], 2)
        record(
            [
                Result(bench, "p99 alone", round(p99_ms[0], 2), "ms"),
                Result(bench, "p99 beside the abuser", round(p99_ms[1], 2), "ms"),
                Result(bench, "ratio", ratio, "", GOAL_RATIO, ratio <= GOAL_RATIO),
            ]
        )
    polite = alone[0].statuses + beside[0].statuses
    if set(polite) != {"201"}:
        raise SystemExit(f"the polite trader was refused: {dict(polite)}")
    if set(flood.statuses) != {201, 429}:
        raise SystemExit(f"the abuser got {dict(flood.statuses)}")
    if flood.statuses[201] > (seconds + 2) * LIMIT + BURST:
        raise SystemExit(f"the abuser had {flood.statuses[201]} orders accepted")


class Flood:
    """Orders at a fixed rate on many connections, whatever the answers; none is repeated."""

    def __init__(self, exchange: Installation, abuser: Trader, per_second: int) -> None:
        self._host, self._port = "127.0.0.1", exchange.port
        self._gap_ns = SECOND_NS // per_second
        body = msgspec.json.encode({**Wish(0, 100, PRICE_MICRO // 2).fields(""), "client_order_id": None})
        self._request = request_bytes("POST", "/api/v1/orders", f"{self._host}:{self._port}", abuser.token, body)
        self._free: list[Line] = []
        self._metronome = Metronome(self._tick)
        self._due_ns = 0
        self.statuses: Counter[int] = Counter()
        self.sent = self.late = 0  # late: all connections were busy, so it was left out

    async def start(self) -> None:
        self._free = [await connect(self._host, self._port, self._answered, self._lost) for _ in range(CONNECTIONS)]
        self._due_ns = perf_counter_ns()
        self._metronome.at(self._due_ns)

    def stop(self) -> None:
        self._metronome.close()
        for line in self._free:
            line.close()

    def _tick(self) -> None:
        now_ns = perf_counter_ns()
        while self._due_ns <= now_ns:
            self._due_ns += self._gap_ns
            if self._free:
                self.sent += 1
                self._free.pop().send(self._request)
            else:
                self.late += 1
        self._metronome.at(self._due_ns)

    def _answered(self, line: Line, status: int, _body: bytes) -> None:
        self.statuses[status] += 1
        self._free.append(line)

    def _lost(self, line: Line) -> None:
        if line in self._free:
            self._free.remove(line)


async def _run(
    exchange: Installation, seconds: float, smoke: bool
) -> tuple[tuple[Outcome, AckLog], tuple[Outcome, AckLog], Flood]:
    polite, abuser = await people(exchange.url, exchange.data_dir, 2)
    if not smoke:
        settle()
    alone, beside = AckLog(), AckLog()
    first = await _polite(exchange.url, seconds, polite, alone, seed=7)
    flood = Flood(exchange, abuser, LIMIT * TIMES_OVER)
    await flood.start()
    second = await _polite(exchange.url, seconds, polite, beside, seed=8)
    flood.stop()
    return (first, alone), (second, beside), flood


async def _polite(url: str, seconds: float, trader: Trader, log: AckLog, seed: int) -> Outcome:
    return await run(Plan(url, POLITE, seconds, 1, connections=4, cancel_percent=0, seed=seed), log, [trader])


if __name__ == "__main__":
    main()
