"""How many durable orders per second the exchange takes over WebSocket in the compact form, pipelined.

Why it matters: the fastest way in, for machines; what is left of a request when HTTP and JSON are gone. Beside it an
echo of the same frames by the same server with nothing behind it. 32 connections of 32 participants, each with at most
32 orders unanswered. Rounds of both servers take turns; the ratio is of the medians.

Run:  python -m bench.bench_ws            the canonical size; quote only these numbers
      python -m bench.bench_ws --smoke    small; run by the tests, so that it cannot rot
"""

import statistics
import zlib
from collections import Counter

import msgspec
import uvloop

from bench.client import Trader
from bench.closed import Round
from bench.installation import Target, arguments, settle, target
from bench.machine import Result, machine, record, times
from bench.noop import Noop
from bench.orders import Wish, wishes
from bench.people import PLENTY, people
from bench.sockets import pipelined

GOAL_RATE = 25_000
USERS, WINDOW = 32, 32

_encode, _decode = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode


def main() -> None:
    given = arguments(__doc__).parse_args()
    each, rounds, users = (50, 1, 4) if given.smoke else (2_000, 3, USERS)
    with target(given) as exchange, Noop() as noop:
        ours, bare, checksum = uvloop.run(_measure(exchange, noop.url, each, rounds, users, given.smoke))
    rate, bare_rate = (int(statistics.median(one.rate for one in many)) for many in (ours, bare))
    ratio, count = round(rate / bare_rate, 3), each * users
    print(f"machine: {machine()}")
    print(f"acknowledged={count * rounds} checksum={checksum:08x} connections={users} window={WINDOW}")
    for name, many in (("echo", bare), ("ours", ours)):
        for one in many:
            cpu_us = one.cpu_ns / 1e3 / count
            print(f"{name}: rate={one.rate:.0f}/s {times(one.latencies_ns)} generator={cpu_us:.1f}us of CPU per order")
    print(f"rate={rate}/s echo={bare_rate}/s ratio={ratio:.3f}")
    if not given.smoke:
        bench = "websocket compact"
        record(
            [
                Result(bench, "rate", rate, "orders/s", GOAL_RATE, rate >= GOAL_RATE),
                Result(bench, "echo", bare_rate, "messages/s"),
                Result(bench, "ours / echo", ratio, ""),
            ]
        )


async def _measure(
    exchange: Target, echo_url: str, each: int, rounds: int, users: int, smoke: bool
) -> tuple[list[Round], list[Round], int]:
    """Rounds of ours, rounds of the echo, CRC32 of all acknowledged quantities. Raises SystemExit."""
    traders = await people(exchange.url, exchange.data_dir, users, PLENTY)
    hellos = [_encode({"op": "auth", "id": 0, "token": trader.token}) for trader in traders]
    ours, bare, checksum = [], [], 0
    for number in range(rounds):
        wanted = wishes(each * users, seed=7 + number)
        payloads = _payloads(wanted, traders, number)
        if not smoke:
            settle()
        bare.append(await pipelined(echo_url, [], payloads, WINDOW))
        ours.append(await pipelined(exchange.url, hellos, payloads, WINDOW))
        if bare[-1].statuses != Counter({"o": len(wanted)}):
            raise SystemExit(f"not every frame came back: {dict(bare[-1].statuses)}")
        if ours[-1].statuses != Counter({"a": len(wanted)}):
            refused = next(body for body in map(_decode, ours[-1].bodies) if body[0] == "e")
            raise SystemExit(f"not every order was acknowledged: {dict(ours[-1].statuses)}, {refused}")
        if len({_decode(body)[2] for body in ours[-1].bodies}) != len(wanted):
            raise SystemExit("two acknowledgements are of one order")
        quantities = ",".join(str(wish.quantity_wh) for wish in wanted)
        checksum = zlib.crc32(quantities.encode(), checksum)
    return ours, bare, checksum


def _payloads(wanted: list[Wish], traders: list[Trader], number: int) -> list[list[bytes]]:
    """Each participant's orders: ["o", place, market, side, price_micro, quantity_wh, client_order_id, flags]."""
    marker, each = traders[0].user_id, len(wanted) // len(traders)
    encoded = [
        _encode(["o", place, one.market, one.side, one.price_micro, one.quantity_wh, f"{marker}-{number}-{place}", 0])
        for place, one in enumerate(wanted)
    ]
    return [encoded[index * each : (index + 1) * each] for index in range(len(traders))]


if __name__ == "__main__":
    main()
