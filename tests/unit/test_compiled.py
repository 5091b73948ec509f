"""The engine's two forms are one: what is compiled does the same, and is used only while it fits its sources.

Seen to fail for: a change of the engine after which the old machine code still ran, a form that nobody knows taken for
none, a module of the book that was not compiled, a fee rounded differently in one of them.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import compiled
from deploy import compile_engine

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With machine code of one module, made of the sources as they are."""
    (tmp_path / "engine").mkdir()
    (tmp_path / f"engine/units{compiled._SUFFIX}").write_bytes(b"")
    (tmp_path / compiled.SEAL).write_text(compiled.digest())
    return tmp_path


def test_machine_code_is_taken_while_it_fits_the_sources(folder: Path) -> None:
    finder = compiled.Finder(folder, "")

    found = finder.find_spec("engine.units")
    assert found is not None
    assert found.origin == str(folder / f"engine/units{compiled._SUFFIX}")
    assert finder.find_spec("engine.market") is None  # has none
    assert finder.find_spec("gateway.units") is None


def test_after_a_change_of_any_source_the_engine_is_python(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = folder / "changed"
    shutil.copytree(ROOT / "engine", copy / "engine", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(compiled, "_HERE", copy)
    assert compiled.Finder(folder, "").files()

    with (copy / "engine/analytics/trend.py").open("a") as source:
        source.write("\n")

    assert compiled.Finder(folder, "").files() == {}
    with pytest.raises(ImportError, match="make compiled"):
        compiled.Finder(folder, compiled.COMPILED).files()


def test_who_wants_python_gets_it(folder: Path) -> None:
    assert compiled.Finder(folder, compiled.PYTHON).files() == {}


def test_a_form_that_there_is_not_is_refused(folder: Path) -> None:
    with pytest.raises(ImportError, match="ENGINE_FORM is python, compiled or not set, not 'fast'"):
        compiled.Finder(folder, "fast").files()


def test_all_of_the_book_is_compiled_but_its_structs() -> None:
    book = {f"engine/book/{file.name}" for file in (ROOT / "engine/book").glob("*.py") if file.name != "__init__.py"}
    structs = {name for name in book | set(compile_engine.MODULES) if "(Struct" in (ROOT / name).read_text()}

    assert book - structs <= set(compile_engine.MODULES)
    assert not structs & set(compile_engine.MODULES)  # mypyc drops the options of their classes


def test_without_a_compiler_the_engine_stays_python(tmp_path: Path) -> None:
    answer = _python("deploy/compile_engine.py", PATH=str(tmp_path))

    assert answer.returncode == 0
    assert "No C compiler" in answer.stdout


def test_without_headers_the_engine_stays_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["compile_engine.py", str(tmp_path)])

    compile_engine.main()

    assert "No Python.h" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_compiled_stays_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever runs the exchange is not stopped by it; the test below is, and an image that is built."""
    monkeypatch.setattr(compile_engine, "missing", lambda: "")
    monkeypatch.setattr(compile_engine, "MODULES", ("engine/nowhere.py",))
    monkeypatch.setattr(sys, "argv", ["compile_engine.py", str(tmp_path)])

    compile_engine.main()

    assert "could not be compiled" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(bool(compile_engine.missing()), reason="without a compiler there is one form only")
def test_both_forms_make_the_same_events_of_the_same_commands() -> None:
    """The CRC of all events of a mix of orders, cancels and amends, which `make compiled` comes before."""
    made = {form: _python("-m", "bench.bench_engine", "--smoke", ENGINE_FORM=form) for form in ("python", "compiled")}

    for form, answer in made.items():
        assert answer.returncode == 0, answer.stdout
        assert f"engine {form}" in answer.stdout
    python, machine = (re.findall(r"checksum=\w+|open=\d+|trades=\d+", answer.stdout) for answer in made.values())
    assert len(python) == 3
    assert python == machine


def _python(*given: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *given],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
