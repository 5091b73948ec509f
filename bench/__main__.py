"""Runs every benchmark in turn and ends with a table of all figures and their goals; status 1 when one of them failed.

A goal that is missed is no failure but a figure. One exchange, started for the run, serves all benches that need one.
"""

import subprocess
import sys
from collections.abc import Iterator
from typing import Final

from rich.console import Console
from rich.table import Table

from bench.installation import Installation
from bench.machine import RESULTS, Result, machine, record, recorded

ALONE: Final = ("bench.bench_engine", "bench.bench_auction", "bench.bench_abuse")
# Memory first, while nothing has happened; the market is killed before its book is as large as the others leave it.
TOGETHER: Final = (
    "bench.bench_memory",
    "bench.bench_rest",
    "bench.bench_kill",
    "bench.bench_users",
    "bench.bench_rest_closed",
    "bench.bench_rest_batch",
    "bench.bench_ws",
    "bench.bench_feed",
    "bench.bench_readings",
    "bench.bench_commit",
    "bench.bench_energy_queries",
    "bench.bench_epoch",
    "bench.bench_settlement",
    "bench.bench_recovery",
)
MICRO: Final = ("--benchmark-enable", "--benchmark-columns=median,ops,rounds", "--benchmark-warmup=on")


def main() -> None:
    console, smoke = Console(), [one for one in sys.argv[1:] if one == "--smoke"]
    failed = [name for name in ALONE if not _run(console, "-m", name, *smoke)]
    console.rule("an exchange for the other benches starts")
    with Installation() as exchange:
        where = ("--url", exchange.url, "--data-dir", str(exchange.data_dir))
        failed += [name for name in TOGETHER if not _run(console, "-m", name, *where, *smoke)]
    if not smoke:
        if not _run(console, "-m", "pytest", "bench/micro", *MICRO):
            failed.append("bench/micro")
        record(list(_ratios()))
        console.print(_table())
        console.print(f"written to {RESULTS}")
    if failed:
        console.print(f"[red]failed: {', '.join(failed)}[/]")
        sys.exit(1)


def _run(console: Console, *arguments: str) -> bool:
    console.rule(arguments[1])
    return subprocess.run([sys.executable, *arguments], check=False).returncode == 0


def _ratios() -> Iterator[Result]:
    """What stands in different benches of one run, put into proportion."""
    found = {(one.bench, one.metric): one.value for one in recorded()}
    rows, row = ("bare COPY, rows=200", "rate"), ("bare COPY, rows=1", "p50")
    for name, ours, bare in (
        ("REST batch / COPY of 200 rows, rate", ("rest batch", "rate"), rows),
        ("WebSocket compact / COPY of 200 rows, rate", ("websocket compact", "rate"), rows),
        ("REST open loop / COPY of 1 row, p50", ("rest open loop 1,000/s", "p50"), row),
    ):
        if found.get(ours) and found.get(bare):
            yield Result("ours / bare", name, round(found[ours] / found[bare], 3), "")


def _table() -> Table:
    table = Table("bench", "metric", "value", "goal", "met", title=machine(), box=None)
    for one in recorded():
        has_goal = bool(one.goal) or not one.met
        met = ("yes" if one.met else "[red]no[/]") if has_goal else ""
        table.add_row(
            one.bench, one.metric, f"{one.value:,.10g} {one.unit}", f"{one.goal:,g} {one.unit}" if has_goal else "", met
        )
    return table


if __name__ == "__main__":
    main()
