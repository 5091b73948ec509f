"""How long a market is away when its process is killed in the middle of trading.

Why it matters: processes die, and a trader with an open position cares for how long. Orders come at a fixed rate; the
market's process gets SIGKILL, several times. The time is that from the kill to the first order of that market that is
acknowledged by the next process; orders whose outcome is unknown are repeated with their client_order_ids meanwhile. In
the end `wattbook audit` holds every acknowledgement against a replay of the journal.

Run:  python -m bench.bench_kill            the canonical size; quote only these numbers
      python -m bench.bench_kill --smoke    small; run by the tests, so that it cannot rot
"""

import asyncio
import tempfile
from pathlib import Path
from time import perf_counter

import psutil
import uvloop

from bench import processes
from bench.client import AckLog
from bench.installation import Target, arguments, audit, target
from bench.load import Outcome, Plan, run
from bench.machine import Result, machine, record
from bench.orders import MARKET
from bench.people import people

GOAL_SECONDS = 3.0
USERS = 16
BETWEEN = 2.0  # seconds of trading before each kill
AWAY_SECONDS_MAX = 60.0
IN_FLIGHT_SECONDS = 0.02  # answers that the dead process had sent are on their way


def main() -> None:
    given = arguments(__doc__).parse_args()
    rate, kills = (50, 1) if given.smoke else (500, 5)
    with target(given) as exchange, tempfile.TemporaryDirectory(prefix="wb-") as folder:
        if exchange.data_dir is None:
            raise SystemExit("this bench needs --data-dir: it kills a process of the exchange")
        log = AckLog(Path(folder) / "acknowledged.jsonl")
        away, outcome = uvloop.run(_torment(exchange, exchange.data_dir, rate, kills, log))
        log.close()
        audited = audit(exchange.data_dir, Path(folder) / "acknowledged.jsonl")
    repeated = sum(ack.repeated for ack in log.acknowledgements)
    print(f"machine: {machine()}")
    print(f"rate={rate}/s kills={kills} acknowledged={len(log.acknowledgements)} of them repeated={repeated}")
    print(f"statuses={dict(sorted(outcome.statuses.items()))} repeats={outcome.repeats}")
    print(f"away: {' '.join(f'{seconds:.2f}s' for seconds in away)} max={max(away):.2f}s")
    print(f"audit: {audited.stdout.strip().splitlines()[-1]}")
    if audited.returncode:
        raise SystemExit(audited.stdout + audited.stderr)
    if outcome.errors:
        raise SystemExit(f"{outcome.errors} requests failed for good")
    if not given.smoke:
        seconds = round(max(away), 2)
        record([Result("market killed", "away, longest", seconds, "s", GOAL_SECONDS, seconds <= GOAL_SECONDS)])


async def _torment(exchange: Target, data_dir: Path, rate: int, kills: int, log: AckLog) -> tuple[list[float], Outcome]:
    """Seconds that the market was away after each kill, and what came of the load."""
    traders = await people(exchange.url, exchange.data_dir, USERS)
    seconds = (BETWEEN + GOAL_SECONDS) * kills
    plan = Plan(exchange.url, rate, seconds, USERS, cancel_percent=0)  # a cancel has no name to repeat it by
    away: list[float] = []
    async with asyncio.TaskGroup() as tasks:
        load = tasks.create_task(run(plan, log, traders))
        for _ in range(kills):
            await asyncio.sleep(BETWEEN)
            away.append(await _kill(data_dir, log))
    return away, load.result()


async def _kill(data_dir: Path, log: AckLog) -> float:
    process = await asyncio.to_thread(processes.market, data_dir, MARKET)
    began = perf_counter()
    process.kill()
    await asyncio.to_thread(_gone, process)
    await asyncio.sleep(IN_FLIGHT_SECONDS)
    before = len(log.acknowledgements)
    async with asyncio.timeout(AWAY_SECONDS_MAX):
        while len(log.acknowledgements) == before:  # noqa: ASYNC110 - the log is a list, and 2 ms are near enough
            await asyncio.sleep(0.002)
    return perf_counter() - began


def _gone(process: psutil.Process) -> None:
    psutil.wait_procs([process], timeout=10)


if __name__ == "__main__":
    main()
