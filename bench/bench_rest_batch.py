"""How many durable orders per second the exchange takes over HTTP when they come in batches.

Why it matters: market makers and aggregators send many orders at once; a batch pays for HTTP once. Eight connections,
each with its next batch of 250 orders as soon as the one before is answered; every order has an answer of its own. Half
of the participants buy, half sell: nobody trades with himself.

Run:  python -m bench.bench_rest_batch            the canonical size; quote only these numbers
      python -m bench.bench_rest_batch --smoke    small; run by the tests, so that it cannot rot
"""

import statistics
import zlib
from collections import Counter

import msgspec
import uvloop

from bench.closed import Round, closed_loop
from bench.http import request_bytes
from bench.installation import Target, arguments, settle, target
from bench.machine import Result, machine, record, times
from bench.orders import wishes
from bench.people import PLENTY, people, pool_of

GOAL_RATE = 25_000
BATCH, CONNECTIONS, USERS = 250, 8, 32


class Order(msgspec.Struct):
    """What a result must say; a problem says something else."""

    client_order_id: str
    quantity: str


class Answer(msgspec.Struct):
    results: list[Order]


_answer = msgspec.json.Decoder(Answer).decode


def main() -> None:
    given = arguments(__doc__).parse_args()
    batches, rounds, users = (8, 1, 4) if given.smoke else (200, 3, USERS)
    with target(given) as exchange:
        many, checksum = uvloop.run(_measure(exchange, batches, rounds, users, given.smoke))
    rates = [one.rate * BATCH for one in many]
    rate = int(statistics.median(rates))
    print(f"machine: {machine()}")
    print(f"acknowledged={batches * BATCH * rounds} checksum={checksum:08x} batch={BATCH} connections={CONNECTIONS}")
    for one in many:
        cpu_us = one.cpu_ns / 1e3 / batches / BATCH
        print(
            f"rate={one.rate * BATCH:.0f}/s, of each batch {times(one.latencies_ns)} generator={cpu_us:.1f}us per order"
        )
    print(f"rate={rate}/s (median of {len(rates)} rounds)")
    if not given.smoke:
        record([Result("rest batch", "rate", rate, "orders/s", GOAL_RATE, rate >= GOAL_RATE)])


async def _measure(exchange: Target, batches: int, rounds: int, users: int, smoke: bool) -> tuple[list[Round], int]:
    """The rounds, and CRC32 of all acknowledged quantities. Raises SystemExit when an order has another answer."""
    traders = await people(exchange.url, exchange.data_dir, users, PLENTY)
    marker, host = traders[0].user_id, pool_of(exchange.url)[1]
    many, checksum = [], 0
    for number in range(rounds):
        asked = [
            [
                wish.fields(f"{marker}-{number}-{place}-{index}")
                for index, wish in enumerate(wishes(BATCH, place, place % 2))
            ]
            for place in range(number * batches, (number + 1) * batches)
        ]
        bodies = [msgspec.json.encode({"orders": orders}) for orders in asked]
        requests = [
            request_bytes("POST", "/api/v1/orders/batch", host, traders[place % users].token, body)
            for place, body in enumerate(bodies)
        ]
        if not smoke:
            settle()
        many.append(await closed_loop(exchange.url, requests, CONNECTIONS))
        if many[-1].statuses != Counter({200: batches}):
            raise SystemExit(f"not every batch was answered with 200: {dict(many[-1].statuses)}")
        for orders, body in zip(asked, many[-1].bodies, strict=True):
            checksum = zlib.crc32(_quantities(body, orders), checksum)
    return many, checksum


def _quantities(body: bytes, asked: list[dict[str, str]]) -> bytes:
    try:
        shown = _answer(body).results
    except msgspec.ValidationError as error:
        problem = next(one for one in msgspec.json.decode(body)["results"] if "client_order_id" not in one)
        raise SystemExit(f"an order was refused: {problem}") from error
    if [(one.client_order_id, one.quantity) for one in shown] != [
        (one["client_order_id"], one["quantity"]) for one in asked
    ]:
        raise SystemExit("the results are not those of the orders")
    return "".join(one.quantity for one in shown).encode()


if __name__ == "__main__":
    main()
