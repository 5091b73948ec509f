"""All tests, in two rounds of parts that run side by side: small ones and the laws, then whole exchanges.

Run:  python -m tests [pytest's options]        with coverage: coverage run -m tests

One part computes, others wait for disks, blocks and other processes much of the time. Coverage looks at those that
reach lines which no other reaches. It sees no machine code, so for the units the engine is Python (compiled.py);
elsewhere it is what users have, and its units run once more among the laws. Of whole exchanges one is used, another one
tormented, and those that some tests start for themselves come one after the other, a cluster last; coverage does not
look on. The laws compute longest and take what the others leave. All at once takes no less: an exchange that waits for
its turn costs, too. A new folder of tests belongs to the exchange until it is named here, and one of integration to the
part of that name.
What failed is said once more at the end, for whoever sees only that. The exit status is that of the part that did
worst; Ctrl-C ends all.
"""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import compiled

ROUNDS = (("laws", "units", "chain", "integration", "stores"), ("faults", "exchange", "apart"))
NAMED = {
    "faults": ("tests/faults",),
    "laws": ("tests/property", "tests/simulation", "bench/micro", "tests/unit/engine"),
    "chain": ("tests/integration/chain",),
    "units": ("tests/unit",),
    "stores": ("tests/integration/persistence",),
    "apart": ("tests/apart", "tests/integration/cluster"),
}
NOT_MEASURED = frozenset({"faults", "laws", "apart", "exchange"})
STEPS_BACK = "laws"
_HERE = Path(__file__).parent
MEASURED = "COVERAGE_PROCESS_CONFIG"  # coverage sets it for the processes that its own starts
_BAD = ("FAILED ", "ERROR ")  # how a line of pytest's summary begins


def parts() -> dict[str, tuple[str, ...]]:
    """The folders of each."""
    named = {folder for folders in NAMED.values() for folder in folders}
    integration = set(_folders(_HERE / "integration")) - named
    exchange = set(_folders(_HERE)) - {*named, "tests/integration", "tests/support"}
    return {**NAMED, "integration": tuple(sorted(integration)), "exchange": tuple(sorted(exchange))}


def _folders(parent: Path) -> list[str]:
    return [str(one.relative_to(_HERE.parent)) for one in parent.iterdir() if one.is_dir() and one.name[0] != "_"]


class Runs:
    """Each part is a pytest of its own, and a thread that says what it says."""

    def __init__(self, options: list[str]) -> None:
        self._options, self._processes = options, dict[str, subprocess.Popen[str]]()
        self._bad: list[str] = []

    def all(self) -> int:
        """The worst exit status. Raises KeyboardInterrupt when all have ended after a Ctrl-C."""
        folders = parts()
        with ThreadPoolExecutor(len(folders)) as threads:
            try:
                for names in ROUNDS:
                    list(threads.map(self._run, names, [folders[name] for name in names]))
            except KeyboardInterrupt:
                for process in self._processes.values():
                    process.send_signal(signal.SIGINT)
                raise
        statuses = {name: process.returncode for name, process in self._processes.items()}
        for name, status in statuses.items():
            if status:
                print(f"{name} ended with status {status}.")
        print(*self._bad, sep="", end="", flush=True)
        return max(abs(int(status)) for status in statuses.values())

    def _run(self, name: str, folders: tuple[str, ...]) -> None:
        process = self._processes[name] = subprocess.Popen(
            _command(name, folders, self._options),
            cwd=_HERE.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=_environment(name),
            process_group=0,  # the terminal's Ctrl-C comes to us alone, and from us to them once
        )
        assert process.stdout is not None
        for line in process.stdout:
            print(f"{name:11} | {line}", end="", flush=True)
            if line.startswith(_BAD):
                self._bad.append(line)
        process.wait()


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


if __name__ == "__main__":
    sys.exit(Runs(sys.argv[1:]).all())
