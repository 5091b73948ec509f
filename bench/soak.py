"""Hours of ordinary load, and what grows meanwhile: memory of every part, tables and files, queues.

Why it matters: what grows without a bound ends an exchange at night. Growth is judged over the second half of the run,
per order and not per hour, so that a slow machine is judged like a quick one: a line is fitted to what each part had
after so many orders. Tables may grow with every order, up to a bound per order; the memory of a process by what markets
remember of ended orders, which is bounded; a queue not at all.

Run:  make soak HOURS=8          or  python -m bench.soak --hours 8
      python -m bench.soak --smoke    a minute
      make soak writes var/soak.json; status 1 when something grows beyond its bound, or a request failed
"""

import asyncio
import contextlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Final

import asyncpg
import httpx
import msgspec
import uvloop
from msgspec import Struct
from prometheus_client.parser import text_string_to_metric_families

from bench.bench_memory import measure
from bench.client import AckLog
from bench.installation import Target, arguments, target
from bench.machine import machine
from bench.report import Recorder
from bench.scenarios import SCENARIOS, play
from persistence.embedded import EmbeddedPostgres

MB: Final = 1_000_000
TELL_EVERY: Final = 10  # samples
REMEMBERED: Final = 200_000  # ended orders of both markets, and their numbers: after that memory must not grow
PROCESS_BYTES_PER_ORDER: Final = 3_000
TABLE_BYTES_PER_ORDER: Final = 8_000
SLACK_BYTES: Final = 64 * MB  # what an allocator or a table's free space may do by itself
QUEUE_GROWTH_MAX: Final = 1_000.0
QUEUES: Final = ("wattbook_market_waiting", "wattbook_meter_waiting", "wattbook_postgres_pool_connections")
TABLES: Final = """
    SELECT coalesce(parent.relname, child.relname) AS name, sum(pg_total_relation_size(child.oid))::bigint AS bytes
    FROM pg_class child
    LEFT JOIN pg_inherits i ON i.inhrelid = child.oid
    LEFT JOIN pg_class parent ON parent.oid = i.inhparent
    WHERE child.relkind = 'r' AND child.relnamespace = 'public'::regnamespace
    GROUP BY 1
"""


class Sample(Struct, frozen=True):
    """What there was after so many orders. Bytes for memory and disk, pieces for queues."""

    seconds: float
    orders: int
    memory: dict[str, float]
    disk: dict[str, float]
    queues: dict[str, float]


class Growth(Struct, frozen=True):
    """Of one series over the second half: what was fitted, and what was allowed."""

    name: str
    first: float
    last: float
    grown: float
    allowed: float

    @property
    def is_bounded(self) -> bool:
        return self.grown <= self.allowed


def judged(samples: Sequence[Sample]) -> list[Growth]:
    """How everything grew over the second half of the run, the worst first."""
    half = samples[len(samples) // 2 :]
    orders = half[-1].orders - half[0].orders
    allowances = {
        "memory": SLACK_BYTES + PROCESS_BYTES_PER_ORDER * min(orders, REMEMBERED),
        "disk": SLACK_BYTES + TABLE_BYTES_PER_ORDER * orders,
        "queues": QUEUE_GROWTH_MAX,
    }
    found = []
    for kind, allowed in allowances.items():
        for name in sorted(set().union(*(getattr(one, kind) for one in half))):
            points = [(float(one.orders), float(getattr(one, kind).get(name, 0.0))) for one in half]
            found.append(Growth(f"{kind}: {name}", points[0][1], points[-1][1], slope(points) * orders, allowed))
    return sorted(found, key=lambda one: -one.grown / one.allowed)


def stood_still(samples: Sequence[Sample]) -> str:
    """Since when nothing was acknowledged in a third of the second half, so that nothing could grow; empty if never."""
    half = samples[len(samples) // 2 :]
    third = max(1, (len(half) - 1) // 3)
    for earlier, later in zip(half, half[third:], strict=False):
        if later.orders == earlier.orders:
            return f"nothing was acknowledged from {earlier.seconds:.0f} to {later.seconds:.0f} s"
    return ""


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Of the line that fits best (least squares); 0.0 for fewer than two different abscissas."""
    mean_x, mean_y = (sum(values) / len(points) for values in zip(*points, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


class Watch:
    """Takes a sample every so often while others load the exchange."""

    def __init__(self, data_dir: Path, metrics_url: str, log: AckLog) -> None:
        self._data_dir, self._metrics_url, self._log = data_dir, metrics_url, log
        self._began = monotonic()
        self.samples: list[Sample] = []

    async def run(self, every_seconds: float) -> None:
        while True:
            await self.look()
            if len(self.samples) % TELL_EVERY == 0:
                self._tell()
            await asyncio.sleep(every_seconds)

    async def look(self) -> None:
        memory = await asyncio.to_thread(measure, self._data_dir)
        self.samples.append(
            Sample(
                round(monotonic() - self._began, 1),
                self._log.count,
                {name: part.pss_mb * MB for name, part in memory.items()},
                {**await self._tables(), "logs": _size_of(self._data_dir / "logs")},
                await asyncio.to_thread(_queues, self._metrics_url),
            )
        )

    def _tell(self) -> None:
        """A line, for who waits for hours."""
        now = self.samples[-1]
        memory, disk = (sum(one.values()) / MB for one in (now.memory, now.disk))
        print(
            f"{now.seconds / 60:6.0f} min  {now.orders:,} orders  {memory:,.0f} MB of memory  {disk:,.0f} MB on disk",
            flush=True,
        )

    async def _tables(self) -> dict[str, float]:
        connection = await asyncpg.connect(EmbeddedPostgres(self._data_dir).address)
        try:
            return {row["name"]: float(row["bytes"]) for row in await connection.fetch(TABLES)}
        finally:
            await connection.close()


class CountingLog(AckLog):
    """Hours of acknowledgements need not be remembered one by one."""

    def add_bytes(self, participant: str, body: bytes) -> None:  # noqa: ARG002 - as the log that keeps them
        self.count += 1


async def soak(exchange: Target, metrics_url: str, seconds: float, every_seconds: float) -> tuple[Watch, Recorder]:
    """Load for this long, with samples on the way. Raises what the load or a look raises, in a group."""
    assert exchange.data_dir is not None
    log = CountingLog()
    watch = Watch(exchange.data_dir, metrics_url, log)
    scenario = msgspec.structs.replace(SCENARIOS["burst"], seconds=seconds)
    async with asyncio.TaskGroup() as tasks:  # when it cannot look any more, the load ends, too
        looking = tasks.create_task(watch.run(every_seconds))
        recorder, _ = await play(exchange, scenario, log, ("CAMPUS", "RIVERSIDE"))
        await watch.look()
        looking.cancel()
    return watch, recorder


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--hours", type=float, default=8.0)
    parser.add_argument("--metrics", default="", help="where the exchange of --url serves its metrics")
    given = parser.parse_args()
    seconds = 60.0 if given.smoke else given.hours * 3_600
    with target(given) as exchange:
        if exchange.data_dir is None:
            raise SystemExit("needs --data-dir: it looks at processes and tables")
        metrics_url = given.metrics or exchange.metrics_url
        watch, recorder = uvloop.run(soak(exchange, metrics_url, seconds, min(60.0, seconds / 30)))
    grown = judged(watch.samples)
    print(f"machine: {machine()}")
    print(f"{recorder.answers} answers in {seconds:.0f} s, {recorder.errors} failed, {len(watch.samples)} samples")
    for one in grown[:12]:
        verdict = "" if one.is_bounded else "  GROWS"
        print(f"{one.name:<42} {_shown(one.first)} -> {_shown(one.last)}, allowed {_shown(one.allowed)}{verdict}")
    file = Path("var/soak.json")
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(msgspec.json.format(msgspec.json.encode({"samples": watch.samples, "growth": grown})))
    beyond = [one.name for one in grown if not one.is_bounded]
    if still := stood_still(watch.samples):
        sys.exit(f"{still}, and that proves nothing; answers: {dict(recorder.statuses)}")
    if beyond or recorder.errors:
        sys.exit(f"grows beyond its bound: {', '.join(beyond) or 'nothing'}; {recorder.errors} requests failed")


def _shown(value: float) -> str:
    return f"{value / MB:,.1f} MB" if value >= MB / 10 else f"{value:,.0f}"


def _size_of(folder: Path) -> float:
    total = 0.0
    for file in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += file.stat().st_size
    return total


def _queues(metrics_url: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(httpx.get(metrics_url, timeout=10).text):
        for sample in family.samples:
            if sample.name in QUEUES and sample.labels.get("state") != "idle":
                found[f"{sample.name}{_labels(sample.labels)}"] = sample.value
    return found


def _labels(labels: Mapping[str, str]) -> str:
    return "".join(f" {labels[name]}" for name in sorted(labels) if name != "state")


if __name__ == "__main__":
    main()
