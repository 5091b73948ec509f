"""The processes of an exchange on this machine, by its data directory: which there are, and what each of them is."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil

ACTOR: Final = "ray::"  # Ray's title of a worker that is an actor
_RAY: Final = ("ray::", "ray-dashboard", "/ray/", "multiprocessing.")


class NoSuchPart(Exception):
    """The exchange has no such process at the moment."""


def of_exchange(data_dir: Path) -> list[psutil.Process]:
    """The daemon and everything that it has started, whoever is its parent by now."""
    mark = f"WATTBOOK_DATA_DIR={data_dir}".encode()
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and mark in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0"):
                found[process.pid] = process
    for process in list(found.values()):
        with contextlib.suppress(psutil.NoSuchProcess):
            found.update((child.pid, child) for child in process.children(recursive=True))
    return list(found.values())


def market(data_dir: Path, symbol: str) -> psutil.Process:
    """The process of this market's actor: the one that writes the market's log. Raises NoSuchPart."""
    log = str(data_dir / "logs" / f"market-{symbol}.log")
    for process in of_exchange(data_dir):
        with contextlib.suppress(psutil.Error):
            if title(process).startswith(f"{ACTOR}MarketActor") and log in (file.path for file in process.open_files()):
                return process
    raise NoSuchPart(f"no process of market {symbol}")


def title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline()) or process.name()
    return ""


def parts(data_dir: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Each process with the part of the system that it belongs to."""
    for process in of_exchange(data_dir):
        name = title(process)
        if name:
            yield _part(name), process


def _part(name: str) -> str:
    program = Path(name.split()[0]).name
    if name.startswith(ACTOR) and "Actor" in name.split()[0]:
        return name.removeprefix(ACTOR).partition("Actor")[0].lower()
    for known in ("postgres", "valkey"):
        if program.startswith(known) or f"guardian.py {known}" in name:
            return known
    if "guardian.py" in name:
        return "guardians"
    if "chain.devnet.server" in name:
        return "devnet"
    if any(mark in name for mark in _RAY):
        return "ray"
    return "daemon" if "wattbookd" in name else "other"
