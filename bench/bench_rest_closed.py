"""How many durable orders per second the exchange takes over HTTP, and how many empty requests the same server takes.

Why it matters: the first is the capacity that users share; the ratio of both says how much of it our own code costs.
64 connections, each with its next order as soon as the one before is answered. Rounds of both servers take turns, so
that a slow minute of the machine slows both; the ratio is of the medians.

Run:  python -m bench.bench_rest_closed            the canonical size; quote only these numbers
      python -m bench.bench_rest_closed --smoke    small; run by the tests, so that it cannot rot
"""

import statistics
import zlib
from collections import Counter

import msgspec
import uvloop

from bench.closed import CONNECTIONS, Round, closed_loop
from bench.http import request_bytes
from bench.installation import Target, arguments, settle, target
from bench.machine import Result, machine, record, times
from bench.noop import Noop
from bench.orders import wishes
from bench.people import PLENTY, people, pool_of

GOAL_RATE, GOAL_RATIO = 5_000, 0.5
USERS = 32


class Acknowledged(msgspec.Struct):
    client_order_id: str
    quantity: str


_acknowledged = msgspec.json.Decoder(Acknowledged).decode


def main() -> None:
    given = arguments(__doc__).parse_args()
    count, rounds, users = (200, 1, 4) if given.smoke else (20_000, 3, USERS)
    with target(given) as exchange, Noop() as noop:
        ours, bare, checksum = uvloop.run(_measure(exchange, noop.url, count, rounds, users, given.smoke))
    rate, bare_rate = (int(statistics.median(one.rate for one in many)) for many in (ours, bare))
    ratio = round(rate / bare_rate, 3)
    print(f"machine: {machine()}")
    print(f"acknowledged={count * rounds} checksum={checksum:08x} connections={CONNECTIONS}")
    for name, many in (("no-op", bare), ("ours", ours)):
        for one in many:
            cpu_us = one.cpu_ns / 1e3 / count
            print(
                f"{name}: rate={one.rate:.0f}/s {times(one.latencies_ns)} generator={cpu_us:.0f}us of CPU per request"
            )
    print(f"rate={rate}/s no-op={bare_rate}/s ratio={ratio:.3f}")
    if not given.smoke:
        bench = "rest closed loop"
        record(
            [
                Result(bench, "rate", rate, "orders/s", GOAL_RATE, rate >= GOAL_RATE),
                Result(bench, "no-op POST", bare_rate, "requests/s"),
                Result(bench, "ours / no-op", ratio, "", GOAL_RATIO, ratio >= GOAL_RATIO),
            ]
        )


async def _measure(
    exchange: Target, noop_url: str, count: int, rounds: int, users: int, smoke: bool
) -> tuple[list[Round], list[Round], int]:
    """Rounds of ours, rounds of the no-op server, CRC32 of all acknowledged quantities. Raises SystemExit."""
    traders = await people(exchange.url, exchange.data_dir, users, PLENTY)
    marker = traders[0].user_id  # nobody else's client_order_ids begin with it in this market
    ours, bare, checksum = [], [], 0
    for number in range(rounds):
        bodies = [
            msgspec.json.encode(wish.fields(f"{marker}-{number}-{place}"))
            for place, wish in enumerate(wishes(count, seed=7 + number))
        ]
        host = pool_of(noop_url)[1]
        nothing = [request_bytes("POST", "/api/v1/orders", host, "", body) for body in bodies]
        if not smoke:
            settle()
        bare.append(await closed_loop(noop_url, nothing))
        host = pool_of(exchange.url)[1]
        orders = [
            request_bytes("POST", "/api/v1/orders", host, traders[place % users].token, body)
            for place, body in enumerate(bodies)
        ]
        ours.append(await closed_loop(exchange.url, orders))
        for one in (bare[-1], ours[-1]):
            if one.statuses != Counter({201: count}):
                raise SystemExit(f"not every request was answered with 201: {dict(one.statuses)}")
        checksum = zlib.crc32(_quantities(ours[-1].bodies, bodies), checksum)
    return ours, bare, checksum


def _quantities(answers: list[bytes], asked: list[bytes]) -> bytes:
    """What was acknowledged, in the order of asking. Raises SystemExit when an answer is to something else."""
    shown = [_acknowledged(body) for body in answers]
    if shown != [_acknowledged(body) for body in asked]:
        raise SystemExit("an answer is not that of its request")
    return "".join(one.quantity for one in shown).encode()


if __name__ == "__main__":
    main()
