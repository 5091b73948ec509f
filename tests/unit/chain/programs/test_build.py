"""The committed programs are what the sources say: hashes, derived values of the IDLs, and a build from scratch.

Seen to fail for: a changed source without a build, a discriminator typed wrong, a program without its hash.
"""

import copy
from pathlib import Path

import pytest

from chain.programs import build
from chain.programs.header import Unsupported, header, length
from chain.programs.interface import BUILT, IDLS, NAMES, derived, load_idl, shown

FOUND = build.compiler_version()
needs_compiler = pytest.mark.skipif(
    FOUND != build.COMPILER,
    reason=f"ziglang {build.COMPILER} builds the programs, and here is {FOUND or 'none'}: make programs installs it",
)


def test_hashes_are_those_of_the_programs() -> None:
    programs = {name: (BUILT / f"{name}.so").read_bytes() for name in NAMES}

    assert build.HASHES.read_text("ascii") == build.hash_lines(programs)


@needs_compiler
@pytest.mark.parametrize("name", NAMES)
def test_a_build_from_scratch_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    assert build.build(name, tmp_path) == (BUILT / f"{name}.so").read_bytes()


@needs_compiler
def test_what_does_not_compile_is_told_in_the_compilers_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "oracle.c").write_text("int entrypoint(void) { return nothing; }")
    monkeypatch.setattr(build, "FOLDER", tmp_path)

    with pytest.raises(build.BuildFailed, match="nothing"):
        build.build("oracle", tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_derived_values_stand_in_the_idl(name: str) -> None:
    idl = load_idl(name)

    assert derived(copy.deepcopy(idl), load_idl("governance")) == idl


@pytest.mark.parametrize("name", NAMES)
def test_an_idl_is_written_as_it_stands(name: str) -> None:
    assert shown(load_idl(name)) == (IDLS / f"{name}.json").read_text("utf-8")


def test_a_type_of_varying_length_is_refused() -> None:
    with pytest.raises(Unsupported, match="string"):
        length("string", {})


def test_an_argument_that_c_cannot_hold_is_refused() -> None:
    idls = {name: load_idl(name) for name in NAMES}
    idls["oracle"]["instructions"][0]["args"] = [{"name": "label", "type": "string"}]

    with pytest.raises(Unsupported, match="label"):
        header("oracle", idls)
