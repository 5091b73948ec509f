"""How many commands per second one order book takes, on one core, without I/O.

Why it matters: a market is one actor, so this is the ceiling of a market's throughput. The mix is what market makers
send: 9 % GTC, 3 % IOC, 6 % cancels, 82 % price amends, 1,000 resting orders of 1,000 participants. Funds are checked
and events built.

Run:  python -m bench.bench_engine            the canonical size; quote only these numbers
      python -m bench.bench_engine --smoke    small; run by the tests, so that it cannot rot
"""

import argparse
import random
import zlib
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from time import perf_counter_ns

import msgspec

from bench.machine import Result, machine, percentile, record, undisturbed
from engine.book.order_book import OrderBook
from engine.market import MarketSpec, Path
from engine.messages import (
    CURRENCY,
    AmendOrder,
    CancelOrder,
    Command,
    Entry,
    Event,
    Fund,
    OrderAccepted,
    OrderAmended,
    OrderEnded,
    PlaceOrder,
    Side,
    TimeInForce,
    Traded,
)

GOAL_PER_SECOND = 200_000
PARTICIPANTS = 1_000
RESTING = 1_000
BATCH = 512  # as many as a market commits at once
ZONE = "Z1"
SPEC = MarketSpec(
    market_id=1, symbol="BENCH", zones=(ZONE,), paths=(Path(ZONE, ZONE, 500_000, 100),), taker_fee_bps=10, band_bps=0
)
START_US = 1_800_000_000_000_000


def _price(random_: random.Random, side: Side) -> int:
    """Two clouds 100 ticks wide that overlap by a tenth once the asks have landed."""
    return (3_340_000 if side is Side.BUY else 2_900_000) + random_.randrange(100) * 1_000


class Workload:
    """Commands that fit the book's present state, made while it runs but outside the measured time."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.open: dict[int, tuple[int, Side]] = {}
        self.ids: list[int] = []

    def fund(self) -> list[Command]:
        commands: list[Command] = []
        for participant in range(1, PARTICIPANTS + 1):
            for asset, amount in ((CURRENCY, 10**12), (ZONE, 10**9)):
                commands.append(Fund(len(commands) + 1, participant, asset, amount))
        return commands

    def rest(self) -> PlaceOrder:
        side = Side(self.random.randrange(2))
        return PlaceOrder(self.random.randint(1, PARTICIPANTS), side, _price(self.random, side), 1_000, ZONE)

    def next(self) -> Command:
        draw = self.random.randrange(100)
        order_id = self._some_order()
        if draw < 9 or order_id == 0:
            return self.rest()
        if draw < 12:
            side = Side(self.random.randrange(2))
            price = 3_700_000 if side is Side.BUY else 2_700_000
            return PlaceOrder(
                self.random.randint(1, PARTICIPANTS), side, price, 500, ZONE, time_in_force=TimeInForce.IOC
            )
        participant, side = self.open[order_id]
        if draw < 18 and len(self.open) > RESTING:
            return CancelOrder(participant, order_id)
        return AmendOrder(participant, order_id, _price(self.random, side))

    def saw(self, command: Command, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, OrderAccepted) and isinstance(command, PlaceOrder):
                self.open[event.order_id] = (command.participant_id, command.side)
                self.ids.append(event.order_id)
            elif isinstance(event, OrderEnded):
                self.open.pop(event.order_id, None)

    def _some_order(self) -> int:
        ids = self.ids
        while ids:
            place = self.random.randrange(len(ids))
            if ids[place] in self.open:
                return ids[place]
            ids[place] = ids[-1]
            ids.pop()
        return 0


def entries_for(count: int) -> tuple[list[Entry], list[Entry]]:
    """Entries that fill the book, and the `count` that are measured, made with a book of their own."""
    book, workload = OrderBook(SPEC), Workload(seed=7)
    entries: list[Entry] = []

    def step(command: Command) -> None:
        entry = Entry(book.sequence + 1, START_US + book.sequence * 50, command)
        workload.saw(command, book.apply(entry))
        entries.append(entry)

    for command in workload.fund():
        step(command)
    while len(workload.open) < RESTING:
        step(workload.rest())
    prepared = len(entries)
    while len(entries) < prepared + count:
        step(workload.next())
    return entries[:prepared], entries[prepared:]


@dataclass
class Observed:
    """What a run of its own shows, so that reading the clock and looking at events does not slow the rate."""

    checksum: int = 0  # CRC32 of all events
    open: int = 0  # orders that rest at the end
    events: Counter[type] = field(default_factory=Counter)  # by type
    times_ns: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))  # of the commands, by kind


def observe(before: list[Entry], measured: list[Entry]) -> Observed:
    book, observed = filled(before), Observed()
    with undisturbed():
        for entry in measured:
            start_ns = perf_counter_ns()
            events = book.apply(entry)
            time_ns = perf_counter_ns() - start_ns
            observed.times_ns[_kind(entry.command, events)].append(time_ns)
            observed.checksum = zlib.crc32(msgspec.msgpack.encode(events), observed.checksum)
            observed.events.update(map(type, events))
    observed.open = len(book.orders)
    return observed


def measure_rate(before: list[Entry], measured: list[Entry]) -> int:
    """Commands per second. Events live as long as in a market: until their batch has been committed."""
    book = filled(before)
    apply = book.apply
    batches = [measured[start : start + BATCH] for start in range(0, len(measured), BATCH)]
    with undisturbed():
        start_ns = perf_counter_ns()
        for batch in batches:
            steps = [apply(entry) for entry in batch]
        elapsed_ns = perf_counter_ns() - start_ns
    assert len(steps) == len(batches[-1])
    assert book.sequence == measured[-1].sequence
    return len(measured) * 10**9 // elapsed_ns


def filled(before: list[Entry]) -> OrderBook:
    book = OrderBook(SPEC)
    for entry in before:
        book.apply(entry)
    return book


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a small run that proves that the bench works")
    smoke = parser.parse_args().smoke
    count = 2_000 if smoke else 300_000
    before, measured = entries_for(count)

    seen = observe(before, measured)
    rates = sorted(measure_rate(before, measured) for _ in range(1 if smoke else 5))
    rate = rates[len(rates) // 2]
    times_ns = sorted(time_ns for times in seen.times_ns.values() for time_ns in times)
    print(f"machine: {machine()}")
    print(f"commands={count} checksum={seen.checksum:08x} open={seen.open} trades={seen.events[Traded]}")
    print(f"amended={seen.events[OrderAmended]} accepted={seen.events[OrderAccepted]}")
    print(f"rate={rate}/s (median of {len(rates)} runs, {rates[0]} to {rates[-1]})")
    print(
        f"p50={percentile(times_ns, 500)}ns p99={percentile(times_ns, 990)}ns "
        f"p99.9={percentile(times_ns, 999)}ns max={times_ns[-1]}ns"
    )
    for kind, times in sorted(seen.times_ns.items(), key=lambda item: -sum(item[1])):
        print(
            f"  {kind:26} {len(times) / count:6.1%} of the commands {sum(times) / sum(times_ns):6.1%} of the time, "
            f"median {sorted(times)[len(times) // 2]}ns"
        )
    if not smoke:
        record([Result("engine", "rate", rate, "commands/s", GOAL_PER_SECOND, rate >= GOAL_PER_SECOND)])


def _kind(command: Command, events: list[Event]) -> str:
    trades = sum(isinstance(event, Traded) for event in events)
    traded = "no trade" if trades == 0 else "one trade" if trades == 1 else "several trades"
    return f"{type(command).__name__}, {traded}"


if __name__ == "__main__":
    main()
