"""How long one order takes over HTTP when 1,000 come every second, with everything durable.

Why it matters: this is what a trader feels. The exchange runs as `make run` starts it, with its own data directory; the
load generator shares the machine. Latency counts from the intended send time (open loop), so a stall shows in full.

Run:  python -m bench.bench_rest            the canonical size; quote only these numbers
      python -m bench.bench_rest --smoke    small; run by the tests, so that it cannot rot
"""

import zlib

import uvloop

from bench.client import AckLog
from bench.installation import Target, arguments, target
from bench.load import Outcome, Plan, run
from bench.machine import Result, machine, record, times
from bench.people import people

GOAL_P50_MS, GOAL_P99_MS = 2.0, 10.0
USERS = 32


def main() -> None:
    given = arguments(__doc__).parse_args()
    rate, seconds, users = (50, 2.0, 4) if given.smoke else (1_000, 20.0, USERS)
    log = AckLog()
    with target(given) as exchange:
        outcome = uvloop.run(_run(exchange, Plan(exchange.url, rate, seconds, users), log))
    _print(outcome, log, rate)
    if not given.smoke:
        _record(outcome)
    if outcome.errors:
        raise SystemExit(f"{outcome.errors} requests failed")


async def _run(exchange: Target, plan: Plan, log: AckLog) -> Outcome:
    return await run(plan, log, await people(exchange.url, exchange.data_dir, plan.users))


def _print(outcome: Outcome, log: AckLog, rate: int) -> None:
    quantities = sorted(ack.quantity for ack in log.acknowledgements)  # which order came first is chance
    checksum = zlib.crc32("".join(quantities).encode())
    print(f"machine: {machine()}")
    print(f"answers={len(outcome.latencies_ns)} acknowledged={len(quantities)} checksum={checksum:08x}")
    print(f"statuses={dict(sorted(outcome.statuses.items()))} late={outcome.late} repeats={outcome.repeats}")
    print(f"rate={outcome.rate:.0f}/s (intended {rate}/s) generator={outcome.cpu_us:.0f}us of CPU per request")
    print(times(outcome.latencies_ns))


def _record(outcome: Outcome) -> None:
    bench, p50, p99 = "rest open loop 1,000/s", outcome.quantile_ms(500), outcome.quantile_ms(990)
    record(
        [
            Result(bench, "p50", round(p50, 3), "ms", GOAL_P50_MS, p50 <= GOAL_P50_MS),
            Result(bench, "p99", round(p99, 3), "ms", GOAL_P99_MS, p99 <= GOAL_P99_MS),
            Result(bench, "p99.9", round(outcome.quantile_ms(999), 3), "ms"),
            Result(bench, "max", round(outcome.latencies_ns[-1] / 1e6, 3), "ms"),
            Result(bench, "errors", outcome.errors, "requests", 0, not outcome.errors),
        ]
    )


if __name__ == "__main__":
    main()
