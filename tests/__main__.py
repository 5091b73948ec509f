"""All tests: units beside those that start small servers, then whole exchanges and, in what they leave, the laws.

Run:  python -m tests [pytest's options]        with coverage: coverage run -m tests

The small ones run side by side: one computes, the others wait for disks, blocks and other processes much of the time.
Coverage looks at those that reach lines which no other reaches. It sees no machine code, so for the units the engine is
Python (compiled.py); elsewhere it is what users have, and its units run once more among the laws. Exchanges are timed
by what a user would wait for, so coverage does not look on; one is used, another one tormented (after a cluster, which
must not be starved), and those that some tests start for themselves come one after the other. The laws compute longest,
go where units have been, and step back behind all. A new folder of tests belongs to the exchange until it is named
here, and one of integration to the part of that name.
What failed is said once more at the end, for whoever sees only that. The exit status is that of the part that did
worst; Ctrl-C ends all.
"""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import compiled

SMALL = {
    "units": ("tests/unit",),
    "stores": ("tests/integration/persistence",),
    "chain": ("tests/integration/chain",),
}
WHOLE = {
    "faults": ("tests/integration/cluster", "tests/faults"),
    "apart": ("tests/apart",),
    "laws": ("tests/property", "tests/simulation", "bench/micro", "tests/unit/engine"),
}
NOT_MEASURED = frozenset({*WHOLE, "exchange"})
STEPS_BACK = "laws"
_HERE = Path(__file__).parent
_NAMED = frozenset(folder for folders in (*SMALL.values(), *WHOLE.values()) for folder in folders)
MEASURED = "COVERAGE_PROCESS_CONFIG"  # coverage sets it for the processes that its own starts
_BAD = ("FAILED ", "ERROR ")  # how a line of pytest's summary begins


def integration() -> tuple[str, ...]:
    """Every folder of tests/integration that is not named above."""
    return tuple(sorted(set(_folders(_HERE / "integration")) - _NAMED))


def exchange() -> tuple[str, ...]:
    """Every other folder of tests."""
    return tuple(sorted(set(_folders(_HERE)) - {*_NAMED, "tests/integration", "tests/support"}))


def _folders(parent: Path) -> list[str]:
    return [str(one.relative_to(_HERE.parent)) for one in parent.iterdir() if one.is_dir() and one.name[0] != "_"]


def main(options: list[str]) -> int:
    bad: list[str] = []
    statuses = _together({**SMALL, "integration": integration()}, options, bad)
    statuses |= _together({"exchange": exchange(), **WHOLE}, options, bad)
    for name, status in statuses.items():
        if status:
            print(f"{name} ended with status {status}.")
    print(*bad, sep="", end="", flush=True)
    return max(statuses.values())


def _together(parts: dict[str, tuple[str, ...]], options: list[str], bad: list[str]) -> dict[str, int]:
    """Run the parts at once; their exit statuses, and into `bad` what failed in them.

    Raises KeyboardInterrupt when they have ended after a Ctrl-C.
    """
    processes = {
        name: subprocess.Popen(
            _command(name, folders, options),
            cwd=_HERE.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=_environment(name),
            process_group=0,  # the terminal's Ctrl-C comes to us alone, and from us to them once
        )
        for name, folders in parts.items()
    }
    readers = [threading.Thread(target=_relay, args=(name, process, bad)) for name, process in processes.items()]
    for reader in readers:
        reader.start()
    try:
        for reader in readers:
            reader.join()
    except KeyboardInterrupt:
        for process in processes.values():
            process.send_signal(signal.SIGINT)
        for reader in readers:
            reader.join()
        raise
    return {name: abs(process.wait()) for name, process in processes.items()}


def _command(part: str, folders: tuple[str, ...], options: list[str]) -> list[str]:
    first = ["nice", "-n", "19"] if part == STEPS_BACK else []
    return [*first, sys.executable, "-m", "pytest", "-o", f"cache_dir=.pytest_cache/{part}", *folders, *options]


def _environment(part: str) -> dict[str, str]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    # where it is set each of some hundred processes compiles our modules again: a quarter of an exchange's start
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    if part in NOT_MEASURED:
        environment.pop(MEASURED, None)
    if part == "units":
        environment[compiled.VARIABLE] = compiled.PYTHON
    return environment


def _relay(name: str, process: "subprocess.Popen[str]", bad: list[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        print(f"{name:11} | {line}", end="", flush=True)
        if line.startswith(_BAD):
            bad.append(line)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
