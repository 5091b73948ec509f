"""What every benchmark prints the same way: the machine, percentiles, and rows for var/bench.json."""

import contextlib
import gc
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

import compiled

RESULTS = Path("var/bench.json")
_PERCENTILES = (("p50", 500), ("p99", 990), ("p99.9", 999))


class Result(Struct, frozen=True):
    """One measured figure; goal 0 where there is none, met tells whether it was reached."""

    bench: str
    metric: str
    value: float
    unit: str
    goal: float = 0
    met: bool = True


def machine() -> str:
    """Processor, cores, Python and the engine's form: without them a figure means nothing."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{model}, {cores} cores, {python}, engine {compiled.form()}"


def percentile(ordered: Sequence[int], per_mille: int) -> int:
    """The value below which `per_mille` thousandths of the ascending values lie."""
    return ordered[min(len(ordered) - 1, len(ordered) * per_mille // 1_000)]


def times(ordered_ns: Sequence[int]) -> str:
    """The percentiles that every bench prints, in milliseconds."""
    shown = [f"{name}={percentile(ordered_ns, at) / 1e6:.2f}ms" for name, at in _PERCENTILES]
    return f"{' '.join(shown)} max={ordered_ns[-1] / 1e6:.2f}ms"


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """What was prepared is not walked through by the garbage collector while the clock runs."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def record(results: Sequence[Result]) -> None:
    """Merge the figures into var/bench.json: the newest of each bench and metric stays."""
    kept = {(one.bench, one.metric): one for one in [*recorded(), *results]}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_bytes(msgspec.json.format(msgspec.json.encode(list(kept.values())), indent=1) + b"\n")


def recorded() -> list[Result]:
    """The figures that var/bench.json holds."""
    return msgspec.json.decode(RESULTS.read_bytes(), type=list[Result]) if RESULTS.exists() else []
