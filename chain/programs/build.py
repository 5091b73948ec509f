"""Builds the programs: IDL to header, C to BPF object (clang), objects to shared object (linker.py). `make programs`.

The same sources and compiler give the same bytes on every machine. COMPILER is part of that: another version may
schedule instructions otherwise, so a test that builds anew asks for this one.
"""

import hashlib
import importlib.metadata
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from chain.linker import BadObject, LinkError, link
from chain.programs.header import Unsupported, header
from chain.programs.interface import BUILT, FOLDER, NAMES, derived, load_idl, write_idl

COMPILER: Final = "0.17.1"  # of ziglang, which brings clang with its BPF target; compiler.txt pins the same
HASHES: Final = BUILT / "SHA256SUMS"
FLAGS: Final = (
    *("-target", "bpfel-freestanding-none", "-mcpu=v2", "-mllvm", "-bpf-stack-size=4096", "-fno-jump-tables"),
    *("-O2", "-std=c17", "-ffreestanding", "-fno-builtin", "-nostdinc", "-fno-strict-aliasing", "-fno-sanitize=all"),
    *("-Wall", "-Wextra", "-Werror", "-Wno-unused-const-variable", "-Wno-address-of-packed-member"),
    "-Wno-gnu-flexible-array-initializer",
)
COMPILE_SECONDS_MAX: Final = 120


class BuildFailed(Exception):
    """A program does not compile or link; holds what the compiler said."""


def compiler_version() -> str | None:
    """Of the compiler in this environment; None without one."""
    try:
        return importlib.metadata.version("ziglang")
    except importlib.metadata.PackageNotFoundError:
        return None


def build(name: str, folder: Path) -> bytes:
    """The program's shared object; `folder` takes what is made on the way. Raises BuildFailed."""
    try:
        made = header(name, {each: load_idl(each) for each in NAMES})
        (folder / f"{name}.h").write_text(made, "utf-8")
        _compile(FOLDER / "source" / f"{name}.c", folder / f"{name}.o", folder)
        return link([folder / f"{name}.o"])
    except (Unsupported, LinkError, BadObject) as error:
        raise BuildFailed(f"{name}: {error}") from error


def _compile(source: Path, made: Path, headers: Path) -> None:
    command = [sys.executable, "-m", "ziglang", "cc", *FLAGS, f"-I{FOLDER / 'sdk'}", f"-I{headers}"]
    command += ["-c", str(source), "-o", str(made)]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_SECONDS_MAX, check=False)
    if outcome.returncode:
        raise BuildFailed(f"{source.name}:\n{outcome.stderr}")


def hash_lines(programs: dict[str, bytes]) -> str:
    """As sha256sum writes and checks them."""
    return "".join(f"{hashlib.sha256(raw).hexdigest()}  {name}.so\n" for name, raw in programs.items())


def main() -> None:
    """Writes IDLs, programs and hashes; ends with status 1 and the compiler's words when one fails."""
    found = compiler_version()
    if found != COMPILER:
        sys.exit(f"ziglang {COMPILER} is needed, and here is {found or 'none'}: make programs")
    governance = load_idl("governance")
    for name in NAMES:
        write_idl(name, derived(load_idl(name), governance))
    with tempfile.TemporaryDirectory() as folder:
        try:
            programs = {name: build(name, Path(folder)) for name in NAMES}
        except BuildFailed as error:
            sys.exit(str(error))
    BUILT.mkdir(exist_ok=True)
    for name, raw in programs.items():
        (BUILT / f"{name}.so").write_bytes(raw)
    HASHES.write_text(hash_lines(programs), "ascii")
    sys.stdout.write(HASHES.read_text("ascii"))


if __name__ == "__main__":
    main()
