"""Makes machine code of the engine's hot half, where compiled.py finds it; half a minute of work.

Run:  python deploy/compile_engine.py                   for the environment of this Python; `make compiled` does
      python deploy/compile_engine.py SITE_PACKAGES     for another one of the same Python, which has no tools: an image

It needs a C compiler and Python's headers. Without them, or if it fails, the engine stays Python.
"""

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Final

from rich.console import Console

import compiled

NAME: Final = "wattbook_compiled_engine"
ROOT: Final = Path(__file__).parents[1]
# What a command runs through. No auction: it is worked out in a thread beside the market's loop, and machine code would
# keep the interpreter to itself until it is done. No Struct: they are machine code already, msgspec's.
MODULES: Final = (
    "engine/accounts.py",
    "engine/book/answers.py",
    "engine/book/call.py",
    "engine/book/lanes.py",
    "engine/book/matching.py",
    "engine/book/order_book.py",
    "engine/book/reference.py",
    "engine/book/risk.py",
    "engine/book/ruling.py",
    "engine/book/side.py",
    "engine/book/stops.py",
    "engine/book/volatility.py",
    "engine/units.py",
)
_SETUP: Final = """
from mypyc.build import mypycify
from setuptools import setup

setup(name={name!r}, packages=[], ext_modules=mypycify({given!r}, opt_level="2", debug_level="0", target_dir={made!r}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="?", default=sysconfig.get_path("platlib"), type=Path, help="where to")
    packages: Path = parser.parse_args().packages
    console = Console()
    if lacking := missing():
        console.print(f"No {lacking} here: the engine stays Python, and a third as fast.")
        return
    console.print("Compiling the engine (once after each change of it; half a minute)")
    try:
        compile_into(packages)
    except subprocess.CalledProcessError as error:
        console.print(error.stdout[-4_000:], markup=False)
        console.print("The engine could not be compiled: it stays Python, and a third as fast.")


def missing() -> str:
    """What compiling needs and this machine has not; empty if it has all."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        return f"C compiler ({compiler})"
    headers = Path(sysconfig.get_path("include"))
    return "" if (headers / "Python.h").exists() else f"Python.h ({headers}, package python3-dev)"


def compile_into(packages: Path) -> None:
    """Machine code of the sources as they are now, and the line that begins with it, into `packages`.

    Raises subprocess.CalledProcessError, whose `stdout` says what is wrong.
    """
    folder, sealed = packages / NAME, compiled.digest()
    with tempfile.TemporaryDirectory(prefix="wattbook-") as made:
        given = [f"--config-file={ROOT / 'pyproject.toml'}", f"--cache-dir={made}/types", *MODULES]
        setup = Path(made) / "setup.py"
        setup.write_text(_SETUP.format(name=NAME, given=given, made=made))
        subprocess.run(
            [sys.executable, setup, "--quiet", "build_ext", f"--build-lib={made}/lib", f"--build-temp={made}/objects"],
            cwd=ROOT,
            env={**os.environ, compiled.VARIABLE: compiled.PYTHON},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
        )
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(f"{made}/lib", folder)
    (folder / compiled.SEAL).write_text(sealed)
    line = f"import importlib.util as u; u.find_spec('compiled') and __import__('compiled').prefer({str(folder)!r})\n"
    folder.with_suffix(".pth").write_text(line)


if __name__ == "__main__":
    main()
