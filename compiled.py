"""Which form the engine has in this process: Python as it stands, or machine code that mypyc made of these very files.

Both do the same. deploy/compile_engine.py puts machine code of the hot half into the environment, with the digest of
its sources, and a .pth file by which each Python there begins with `prefer`. Sources that have changed since are Python
again until they are compiled anew: what runs is always what can be read.

ENGINE_FORM=python keeps to Python, ENGINE_FORM=compiled refuses to go without machine code.
Source: docs/decisions/0058.
"""

import hashlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Final

VARIABLE: Final = "ENGINE_FORM"
PYTHON: Final = "python"
COMPILED: Final = "compiled"
SEAL: Final = "sources.sha256"
_SUFFIX: Final = EXTENSION_SUFFIXES[0]
_HERE: Final = Path(__file__).parent


def form() -> str:
    """PYTHON or COMPILED. Raises ImportError where importing the engine does."""
    return COMPILED if any(isinstance(one, Finder) and one.files() for one in sys.meta_path) else PYTHON


def prefer(folder: str) -> None:
    """From here on this process imports the machine code in `folder`, if it fits."""
    sys.meta_path.insert(0, Finder(Path(folder), os.environ.get(VARIABLE, "")))


class Finder:
    """Tells the import system where machine code is. It looks at no file before somebody imports the engine."""

    def __init__(self, folder: Path, wanted: str) -> None:
        self._folder, self._wanted = folder, wanted
        self._files: dict[str, str] | None = None

    def find_spec(
        self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not name.startswith("engine.") and not name.endswith("__mypyc"):  # what the modules have in common
            return None
        file = self.files().get(name)
        if file is None:
            return None
        return importlib.util.spec_from_file_location(name, file, loader=ExtensionFileLoader(name, file))

    def files(self) -> dict[str, str]:
        """Of each module that has machine code, by its name; none if it is not wanted, or made of other sources."""
        if self._files is None:
            self._files = self._found()
        return self._files

    def _found(self) -> dict[str, str]:
        if self._wanted == PYTHON:
            return {}
        if self._wanted not in ("", COMPILED):
            raise ImportError(f"{VARIABLE} is {PYTHON}, {COMPILED} or not set, not {self._wanted!r}")
        seal = self._folder / SEAL
        if seal.exists() and seal.read_text() == digest():
            names = {str(file.relative_to(self._folder)): str(file) for file in self._folder.rglob(f"*{_SUFFIX}")}
            return {name.removesuffix(_SUFFIX).replace(os.sep, "."): file for name, file in names.items()}
        if self._wanted == COMPILED:
            raise ImportError(f"{VARIABLE}={COMPILED}, but nothing was compiled of these sources: make compiled")
        return {}


def digest() -> str:
    """SHA-256 over all of the engine's sources, because what is compiled builds on the rest."""
    whole = hashlib.sha256()
    for file in sorted((_HERE / "engine").rglob("*.py")):
        content = file.read_bytes()
        whole.update(f"{file.relative_to(_HERE).as_posix()} {len(content)}\n".encode() + content)
    return whole.hexdigest()
