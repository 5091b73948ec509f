"""Chaos for minutes: an exchange of its own, load, and trouble of every kind (tests/support/chaos.py).

Run:  make chaos SEED=8 MINUTES=10          without a seed: one that the clock chooses, and that is printed

Status 1 and the seed when anything was violated. The report goes to <data_dir>/chaos.json, where the status page of the
exchange of that directory finds it.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from config.load import load
from tests.support import chaos
from tests.support.installation import Installation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=time.time_ns() // 1_000_000 % 1_000_000)
    parser.add_argument("--minutes", type=float, default=5.0)
    given = parser.parse_args()
    print(f"seed {given.seed}, {given.minutes:g} minutes", flush=True)
    installation = Installation()
    try:
        installation.start()
        with tempfile.TemporaryDirectory() as folder:
            report = asyncio.run(chaos.run(installation, Path(folder), given.seed, given.minutes * 60))
    finally:
        installation.remove()
    file = load().folder / "chaos.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    print(file.read_text())
    print(f"{sum(report.faults.values())} faults, {len(report.violations)} violations; written to {file}")
    if report.violations:
        sys.exit(f"it failed with SEED={given.seed}")


if __name__ == "__main__":
    main()
