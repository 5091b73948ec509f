"""All tests, in two halves at once: those that only compute, and those that start servers and mostly wait for them.

Run:  python -m tests [pytest's options]        with coverage: coverage run -m tests

One half needs one core, the other the second one. A new folder of tests belongs to the second half until it is named
here. The exit status is that of the half that did worse; Ctrl-C ends both.
"""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

COMPUTING = ("tests/unit", "tests/property", "tests/simulation", "bench/micro")
_HERE = Path(__file__).parent
_APART = frozenset({"__pycache__", "support", *(Path(folder).name for folder in COMPUTING)})


def serving() -> list[str]:
    """Every other folder of tests. Faults come last, when the other half is over and the machine is theirs."""
    folders = {folder.name for folder in _HERE.iterdir() if folder.is_dir()} - _APART
    return [f"tests/{name}" for name in sorted(folders, key=lambda name: (name == "faults", name))]


def main(options: list[str]) -> int:
    halves = {"computing": [*COMPUTING], "serving": serving()}
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
        for name, folders in halves.items()
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
    return max(abs(process.wait()) for process in processes.values())


def _relay(name: str, process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    for line in process.stdout:
        print(f"{name:9} | {line}", end="", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
