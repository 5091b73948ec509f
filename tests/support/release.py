"""A second release of the program, for tests of an upgrade: the same code with another engine version.

A copy of everything that the wheel has, which comes first in an exchange's PYTHONPATH. Another engine is installed
into it while the exchange runs, as an operator does it: what runs already goes on with what it has read, and each new
process begins with the new one.
"""

import re
import shutil
import tomllib
from pathlib import Path
from typing import Final

from engine import messages

ROOT: Final = Path(__file__).parents[2]
_VERSION: Final = re.compile(r"^ENGINE_VERSION: Final = \d+", re.MULTILINE)
_REPLAYED: Final = re.compile(r"^VERSIONS_REPLAYED: Final = frozenset\(\{[\d, ]+\}\)", re.MULTILINE)
NEXT_VERSION: Final = messages.ENGINE_VERSION + 1


def release(folder: Path) -> Path:
    """Install this program there, where anybody may read it."""
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]["targets"]["wheel"]
    for name in wheel["only-include"]:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder


def put_engine(folder: Path, version: int, replayed: frozenset[int]) -> None:
    """Install an engine that writes this version and replays these; whoever starts meanwhile has the old or the new."""
    file = folder / "engine" / "messages.py"
    text, versions = _VERSION.subn(f"ENGINE_VERSION: Final = {version}", file.read_text("utf-8"))
    listed = ", ".join(map(str, sorted(replayed)))
    text, lists = _REPLAYED.subn(f"VERSIONS_REPLAYED: Final = frozenset({{{listed}}})", text)
    assert (versions, lists) == (1, 1)
    unfinished = file.with_suffix(".unfinished")
    unfinished.write_text(text, "utf-8")
    unfinished.rename(file)
