"""Runs every benchmark in turn and ends with a table of all figures and their goals."""

import subprocess
import sys

from rich.console import Console
from rich.table import Table

from bench.machine import machine, recorded

BENCHES = ("bench.bench_engine", "bench.bench_rest")


def main() -> None:
    console, smoke = Console(), [one for one in sys.argv[1:] if one == "--smoke"]
    for name in BENCHES:
        console.rule(name)
        subprocess.run([sys.executable, "-m", name, *smoke], check=True)
    if smoke:
        return
    console.rule("bench.micro")
    options = ("--benchmark-enable", "--benchmark-columns=median,ops,rounds", "--benchmark-warmup=on")
    subprocess.run([sys.executable, "-m", "pytest", "bench/micro", *options], check=True)
    table = Table("bench", "metric", "value", "goal", "met", title=machine(), box=None)
    for one in recorded():
        goal = f"{one.goal:g} {one.unit}" if one.goal or not one.met else ""
        table.add_row(one.bench, one.metric, f"{one.value:g} {one.unit}", goal, "yes" if one.met else "[red]no[/]")
    console.print(table)


if __name__ == "__main__":
    main()
