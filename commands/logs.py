"""`wattbook logs`: what all parts of the exchange on this machine have logged, as one story that people can read.

Reads `<data_dir>/logs/<part>.log` with its older files, one JSON object a line; what is none (Ray's own words) is shown
when its part is asked for by name. Keeps no more lines in memory than it will show.
"""

import heapq
import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.text import Text

from commands.shared import Failure, console
from config.load import load

LOOK_SECONDS: Final = 0.2
LINE_BYTES_MAX: Final = 1_000_000  # of one line that is being followed; a longer one comes in pieces
LEVELS: Final = {"debug": 0, "info": 1, "warning": 2, "error": 3, "critical": 4}
STYLES: Final = {"warning": "yellow", "error": "red", "critical": "bold red"}
TAKEN: Final = frozenset({"timestamp", "level", "event", "logger", "exception", "exc_info"})

app = typer.Typer()


class Line(msgspec.Struct, frozen=True, order=True):
    """at: as it was written, ISO 8601 UTC, so that texts sort as times; empty for what is not ours."""

    at: str
    part: str
    fields: dict[str, Any]


@app.command()
def logs(
    level: Annotated[str, typer.Option(help="This and worse: debug, info, warning, error, critical.")] = "info",
    process: Annotated[str, typer.Option(help="Only these parts, such as gateway-1 or 'market-*'.")] = "*",
    request: Annotated[str, typer.Option(help="Only what was logged of the request with this id.")] = "",
    text: Annotated[str, typer.Option(help="Only lines with this text somewhere.")] = "",
    lines: Annotated[int, typer.Option(min=0, max=100_000, help="The newest so many.")] = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
) -> None:
    """Show the logs of all parts of this machine in the order of their times."""
    if level not in LEVELS:
        raise Failure(f"--level: must be one of {', '.join(LEVELS)}")
    folder = load().logs
    if not folder.is_dir():
        raise Failure(f"{folder} is not there: nothing has been started with this data directory yet")

    def wanted(line: Line) -> bool:
        if LEVELS.get(str(line.fields.get("level", "info")), 1) < LEVELS[level]:
            return False
        if request and line.fields.get("request_id") != request:
            return False
        return not text or text in " ".join(map(str, line.fields.values()))

    following = Following(folder, process)
    for line in newest(folder, process, wanted, lines):
        console.print(shown(line), soft_wrap=True)
    try:
        while follow:
            for line in filter(wanted, following.new()):
                console.print(shown(line), soft_wrap=True)
            time.sleep(LOOK_SECONDS)
    except KeyboardInterrupt:
        return


def newest(folder: Path, process: str, wanted: Callable[[Line], bool], count: int) -> list[Line]:
    """The last `count` wanted lines of all files, oldest first."""
    parts = {path.name.partition(".log")[0] for path in folder.glob("*.log*")}
    stories = [_story(folder, part) for part in sorted(parts) if _is_meant(part, process)]
    return list(deque(filter(wanted, heapq.merge(*stories, key=lambda line: line.at)), maxlen=count))


def parsed(part: str, raw: bytes) -> Line:
    """A line of a file; what is no log entry of ours becomes one without a time."""
    try:
        fields = msgspec.json.decode(raw, type=dict[str, Any])
    except msgspec.MsgspecError:
        return Line("", part, {"event": raw.decode(errors="replace").rstrip()})
    return Line(str(fields.get("timestamp", "")), part, fields)


def shown(line: Line) -> Text:
    """`10:21:07.312  gateway-1  warning  request timed out  path=/api/v1/orders`, a traceback below."""
    level, fields = str(line.fields.get("level", "")), line.fields
    try:
        at = f"{datetime.fromisoformat(line.at):%m-%d %H:%M:%S.%f}"[:-3]
    except ValueError:
        at = line.at
    found = Text(f"{at}  ", style="dim")
    found.append(f"{line.part:<16} ", style="cyan")
    found.append(f"{level:<8} ", style=STYLES.get(level, ""))
    found.append(str(fields.get("event", "")), style="bold" if level in STYLES else "")
    for name, value in fields.items():
        if name not in TAKEN:
            found.append(f"  {name}=", style="dim").append(str(value))
    if "exception" in fields:
        found.append("\n" + str(fields["exception"]), style="dim")
    return found


class Following:
    """What is added to the files from now on, through every rotation; new files of new parts too."""

    def __init__(self, folder: Path, process: str) -> None:
        self._folder, self._process = folder, process
        self._at: dict[Path, tuple[int, int]] = {}  # inode, and up to where it was read
        for path in self._files():
            found = path.stat()
            self._at[path] = found.st_ino, found.st_size

    def new(self) -> list[Line]:
        """Whole lines that have come since the last call, in the order of their times."""
        found: list[Line] = []
        for path in self._files():
            try:
                found += self._read(path)
            except FileNotFoundError:  # between two names
                continue
        return sorted(found, key=lambda line: line.at)

    def _read(self, path: Path) -> Iterator[Line]:
        inode, start = self._at.get(path, (0, 0))
        with path.open("rb") as file:
            now = path.stat()
            if inode and now.st_ino != inode:  # rotated: what was left of the older one is in the next
                older = path.with_name(path.name + ".1")
                if older.exists() and older.stat().st_ino == inode:
                    yield from _lines(path, older.read_bytes()[start:])[0]
                start = 0
            elif now.st_size < start:
                start = 0
            file.seek(start)
            lines, used = _lines(path, file.read(LINE_BYTES_MAX))
            self._at[path] = now.st_ino, start + used
        yield from lines

    def _files(self) -> list[Path]:
        return [path for path in sorted(self._folder.glob("*.log")) if _is_meant(path.stem, self._process)]


def _lines(path: Path, content: bytes) -> tuple[list[Line], int]:
    """The whole lines at the beginning of this, and how many bytes they are."""
    end = content.rfind(b"\n") + 1 or (len(content) if len(content) == LINE_BYTES_MAX else 0)
    return [parsed(path.stem, raw) for raw in content[:end].splitlines()], end


def _story(folder: Path, part: str) -> Iterator[Line]:
    """All that this part has logged, oldest first: `.log.2`, `.log.1`, `.log`."""
    older = sorted((path for path in folder.glob(f"{part}.log.[0-9]*")), key=lambda path: -int(path.suffix[1:]))
    for path in (*older, *folder.glob(f"{part}.log")):
        with path.open("rb") as file:
            for raw in file:
                yield parsed(part, raw)


def _is_meant(part: str, process: str) -> bool:
    """Ray's own words only by name: they have no times."""
    return fnmatchcase(part, process) if process != "*" else part != "ray"
