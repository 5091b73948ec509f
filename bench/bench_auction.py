"""How long an auction takes: one zone of 100,000 bids and 100,000 asks, and eight zones of 1,000 and 1,000 together.

Why it matters: the book stands still while an epoch is cleared, so this is what every trader waits for at its end.
Orders come by priority, as a book has them; `shuffled` shows what sorting costs. `certificate` is what one pass over
the published orders takes, hash included.

Run:  python -m bench.bench_auction            the canonical size; quote only these numbers
      python -m bench.bench_auction --smoke    small; run by the tests, so that it cannot rot
"""

import argparse
import random
import zlib
from collections.abc import Callable
from time import perf_counter_ns, process_time_ns
from typing import Final, TypeVar

import msgspec

from bench.machine import Result, machine, record, undisturbed
from engine.auction.certificate import problems, publish
from engine.auction.network import clear_network
from engine.auction.orders import AuctionOrder, Rules
from engine.auction.uniform import clear_zone
from engine.market import UNLIMITED_WH, Path
from engine.messages import Side

GOAL_ZONE_MS: Final = 150
GOAL_NETWORK_MS: Final = 50
PARTICIPANTS: Final = 5_000
ZONES: Final = tuple(f"Z{number}" for number in range(8))
T = TypeVar("T")


def rules() -> Rules:
    """The default costs between zones on a line, with lines that are too thin for all that would flow."""
    paths = []
    for a, zone_from in enumerate(ZONES):
        for b, zone_to in enumerate(ZONES):
            distance = abs(a - b)
            wheeling, loss = {0: (500_000, 100), 1: (1_000_000, 300)}.get(
                distance, (1_500_000 + 100_000 * distance, min(300 + 100 * distance, 1_500))
            )
            paths.append(Path(zone_from, zone_to, wheeling, loss, 200_000 if distance else UNLIMITED_WH))
    return Rules(tick_micro=1_000, lot_wh=1, price_micro_min=500_000, price_micro_max=20_000_000, paths=tuple(paths))


def orders_of(zones: tuple[str, ...], each: int, seed: int) -> list[AuctionOrder]:
    """As many bids as asks in each zone, 3,000 prices wide; sellers are cheaper in the first zones."""
    draw, orders = random.Random(seed), list[AuctionOrder]()
    for number in range(2 * each):
        for place, zone in enumerate(zones):
            side = Side(number % 2)
            middle = 2_500_000 + place * 900_000 if side is Side.SELL else 3_300_000 + place * 900_000
            orders.append(
                AuctionOrder(
                    len(orders) + 1,
                    draw.randint(1, PARTICIPANTS),
                    side,
                    middle + draw.randrange(3_000) * 1_000,
                    draw.randint(1, 5_000),
                    len(orders) + 1,
                    zone,
                )
            )
    return orders


def timed(work: Callable[[], T], rounds: int) -> tuple[T, list[tuple[float, float]]]:
    """What the work returns, and its times in milliseconds, ascending: on the clock and on the processor."""
    times = []
    with undisturbed():
        for _ in range(rounds):
            start_ns, start_cpu_ns = perf_counter_ns(), process_time_ns()
            done = work()
            times.append(((perf_counter_ns() - start_ns) / 1e6, (process_time_ns() - start_cpu_ns) / 1e6))
    return done, sorted(times)


def show(name: str, times: list[tuple[float, float]]) -> float:
    """Print, and return the median on the clock."""
    clock, processor = [one for one, _ in times], sorted(one for _, one in times)
    median = clock[len(clock) // 2]
    print(f"{name}: median={median:.1f}ms fastest={clock[0]:.1f}ms slowest={clock[-1]:.1f}ms of {len(clock)}")
    print(f"  on the processor: median={processor[len(processor) // 2]:.1f}ms")
    return median


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a small run that proves that the bench works")
    smoke = parser.parse_args().smoke
    rounds, many, few = (2, 200, 20) if smoke else (11, 100_000, 1_000)
    market, one_zone, all_zones = rules(), orders_of(ZONES[:1], many, 7), orders_of(ZONES, few, 7)
    shuffled = random.Random(7).sample(one_zone, len(one_zone))

    zone, zone_times = timed(lambda: clear_zone(one_zone, ZONES[0], market), rounds)
    again, shuffled_times = timed(lambda: clear_zone(shuffled, ZONES[0], market), rounds)
    assert again == zone
    network, network_times = timed(lambda: clear_network(all_zones, ZONES, market), rounds)
    published = publish(one_zone, market, zone)
    found, certificate_times = timed(lambda: list(problems(published)), min(rounds, 3))
    assert not found, found
    assert not list(problems(publish(all_zones, market, network)))

    checksum = zlib.crc32(msgspec.msgpack.encode(network), zlib.crc32(msgspec.msgpack.encode(zone)))
    crossing = sum(flow.energy_wh for flow in network.flows if flow.zone_from != flow.zone_to)
    print(f"machine: {machine()}")
    print(f"checksum={checksum:08x} price={zone.price_micro} volume={zone.volume_wh} fills={len(zone.fills)}")
    print(f"network: flows={len(network.flows)} between zones={crossing} fills={len(network.fills)}")
    zone_ms = show("one zone", zone_times)
    show("one zone, shuffled", shuffled_times)
    network_ms = show("eight zones", network_times)
    show("certificate of one zone", certificate_times)
    if not smoke:
        record(
            [
                Result("auction", "one zone", round(zone_ms, 1), "ms", GOAL_ZONE_MS, zone_ms <= GOAL_ZONE_MS),
                Result(
                    "auction", "eight zones", round(network_ms, 1), "ms", GOAL_NETWORK_MS, network_ms <= GOAL_NETWORK_MS
                ),
            ]
        )


if __name__ == "__main__":
    main()
