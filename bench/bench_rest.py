"""How long one order takes over HTTP, and how many the exchange takes, with everything durable.

Why it matters: this is what a trader feels. The exchange runs as `make run` starts it, with its own data directory; the
load generator shares the machine. Latency counts from the intended send time (open loop), so a stall shows in full.

Run:  python -m bench.bench_rest            the canonical size; quote only these numbers
      python -m bench.bench_rest --smoke    small; run by the tests, so that it cannot rot
"""

import argparse
import asyncio
import zlib

from bench.client import AckLog
from bench.installation import Installation
from bench.load import Outcome, Plan, run
from bench.machine import Result, machine, record

GOAL_P50_MS, GOAL_P99_MS = 2.0, 10.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a small run that proves that the bench works")
    parser.add_argument("--url", default="", help="an exchange that runs already; else one is started for the bench")
    arguments = parser.parse_args()
    rate, seconds, users = (50, 2.0, 4) if arguments.smoke else (1_000, 20.0, 32)
    log = AckLog()
    if arguments.url:
        outcome = asyncio.run(run(Plan(arguments.url, rate, seconds, users), log))
    else:
        with Installation() as installation:
            outcome = asyncio.run(run(Plan(installation.url, rate, seconds, users), log))
    _print(outcome, log, rate)
    if not arguments.smoke:
        _record(outcome)
    if outcome.errors:
        raise SystemExit(f"{outcome.errors} requests failed")


def _print(outcome: Outcome, log: AckLog, rate: int) -> None:
    quantities = sorted(ack.quantity for ack in log.acknowledgements)  # which order came first is chance
    checksum = zlib.crc32("".join(quantities).encode())
    print(f"machine: {machine()}")
    print(f"answers={len(outcome.latencies_ns)} acknowledged={len(quantities)} checksum={checksum:08x}")
    print(f"statuses={dict(sorted(outcome.statuses.items()))} late={outcome.late}")
    print(f"rate={outcome.rate:.0f}/s (intended {rate}/s)")
    print(
        f"p50={outcome.quantile_ms(500):.2f}ms p99={outcome.quantile_ms(990):.2f}ms "
        f"p99.9={outcome.quantile_ms(999):.2f}ms max={outcome.latencies_ns[-1] / 1e6:.2f}ms"
    )


def _record(outcome: Outcome) -> None:
    p50, p99 = outcome.quantile_ms(500), outcome.quantile_ms(990)
    record(
        [
            Result("rest open loop 1,000/s", "p50", round(p50, 3), "ms", GOAL_P50_MS, p50 <= GOAL_P50_MS),
            Result("rest open loop 1,000/s", "p99", round(p99, 3), "ms", GOAL_P99_MS, p99 <= GOAL_P99_MS),
            Result("rest open loop 1,000/s", "errors", outcome.errors, "requests", 0, outcome.errors == 0),
        ]
    )


if __name__ == "__main__":
    main()
