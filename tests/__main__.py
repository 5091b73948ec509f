"""All tests: those that compute beside those that start small servers, then those of one whole exchange, alone.

Run:  python -m tests [pytest's options]        with coverage: coverage run -m tests

The first two parts need a core each. The last one is timed by what a user would wait for, and ends with faults: the
machine is the exchange's then, as in earnest. A new folder belongs to it until it is named here. The exit status is
that of the part that did worst; Ctrl-C ends all.
"""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

COMPUTING = ("tests/unit", "tests/property", "tests/simulation", "bench/micro")
INTEGRATION = ("tests/integration",)
_HERE = Path(__file__).parent
_APART = frozenset({"__pycache__", "support", *(Path(folder).name for folder in (*COMPUTING, *INTEGRATION))})


def exchange() -> tuple[str, ...]:
    """Every other folder of tests, faults last."""
    folders = {folder.name for folder in _HERE.iterdir() if folder.is_dir()} - _APART
    return tuple(f"tests/{name}" for name in sorted(folders, key=lambda name: (name == "faults", name)))


def main(options: list[str]) -> int:
    statuses = [
        status
        for parts in ({"computing": COMPUTING, "integration": INTEGRATION}, {"exchange": exchange()})
        for status in _together(parts, options)
    ]
    return max(statuses)


def _together(parts: dict[str, tuple[str, ...]], options: list[str]) -> list[int]:
    """Run the parts at once; their exit statuses. Raises KeyboardInterrupt when they have ended after a Ctrl-C."""
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-m", "pytest", "-o", f"cache_dir=.pytest_cache/{name}", *folders, *options],
            cwd=_HERE.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            process_group=0,  # the terminal's Ctrl-C comes to us alone, and from us to them once
        )
        for name, folders in parts.items()
    }
    readers = [threading.Thread(target=_relay, args=(name, process)) for name, process in processes.items()]
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
    return [abs(process.wait()) for process in processes.values()]


def _relay(name: str, process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    for line in process.stdout:
        print(f"{name:11} | {line}", end="", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
