"""How much memory the whole embedded system takes while nothing happens, part by part.

Why it matters: it says how small a machine may be. Two sums: RSS counts what processes share (the program, Postgres'
buffers) once for each of them; PSS shares it out, so that its sum is what the machine really gives. Run it against an
exchange that has just started: what was used once is not given back.

Run:  python -m bench.bench_memory            the canonical size; quote only these numbers
      python -m bench.bench_memory --smoke    without the pause before it; run by the tests, so that it cannot rot
"""

import contextlib
import time
from collections import defaultdict
from pathlib import Path

import psutil
from msgspec import Struct

from bench.installation import arguments, target
from bench.machine import Result, machine, record
from bench.processes import parts

IDLE_SECONDS = 15.0
MB = 1_000_000
NEEDED = ("daemon", "gateway", "market", "persistence", "postgres", "ray", "supervisor", "valkey")


class Part(Struct):
    """Memory of one part's processes, in MB."""

    processes: int = 0
    rss_mb: float = 0.0
    pss_mb: float = 0.0


def main() -> None:
    given = arguments(__doc__).parse_args()
    with target(given) as exchange:
        if exchange.data_dir is None:
            raise SystemExit("this bench needs --data-dir: it looks at the processes of the exchange")
        if not given.smoke:
            time.sleep(IDLE_SECONDS)
        found = measure(exchange.data_dir)
    whole = Part(
        sum(one.processes for one in found.values()),
        sum(one.rss_mb for one in found.values()),
        sum(one.pss_mb for one in found.values()),
    )
    print(f"machine: {machine()}")
    for name, part in sorted(found.items(), key=lambda one: -one[1].pss_mb):
        print(f"{name:<12} {part.processes:>3} processes  PSS {part.pss_mb:>5.0f} MB  RSS {part.rss_mb:>5.0f} MB")
    print(f"{'whole':<12} {whole.processes:>3} processes  PSS {whole.pss_mb:>5.0f} MB  RSS {whole.rss_mb:>5.0f} MB")
    if missing := [name for name in NEEDED if name not in found]:
        raise SystemExit(f"not found: {', '.join(missing)}")
    if not given.smoke:
        figures = [("whole, PSS", whole.pss_mb), ("whole, RSS", whole.rss_mb)]
        figures += [(f"{name}, PSS", part.pss_mb) for name, part in sorted(found.items())]
        record([Result("idle memory", metric, round(value), "MB") for metric, value in figures])


def measure(data_dir: Path) -> dict[str, Part]:
    found: defaultdict[str, Part] = defaultdict(Part)
    for name, process in parts(data_dir):
        with contextlib.suppress(psutil.NoSuchProcess):
            memory = process.memory_full_info()
            part = found[name]
            part.processes += 1
            part.rss_mb += memory.rss / MB
            part.pss_mb += getattr(memory, "pss", memory.rss) / MB  # only Linux tells
    return dict(found)


if __name__ == "__main__":
    main()
