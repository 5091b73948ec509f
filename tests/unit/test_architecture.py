"""The cut between the parts, as code. The picture is in docs/architecture.md; change both together.

Seen to fail for: an engine file that imports time, a gateway that imports actors, `.remote(` outside handles.py,
`import ray` in persistence, config read by an actor, a clock read through datetime in the engine.
"""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SIBLINGS = ("gateway", "actors", "persistence", "chain", "config")
# These alone may know everybody.
JOINTS = ("compiled.py", "daemon.py", "recipes.py", "chain_recipes.py", "wiring.py", "seeding.py", "cli.py", "commands")
OURS = {"engine", *SIBLINGS, *(name.removesuffix(".py") for name in JOINTS), "bench", "tests", "migrations"}

# What the engine may use of the standard library: nothing that waits, reads a clock, draws a number, logs or talks.
PURE = {
    "abc", "base64", "bisect", "collections", "dataclasses", "enum", "fractions", "functools", "hashlib", "heapq",
    "itertools", "math", "operator", "re", "statistics", "struct", "types", "typing", "zlib", "__future__",
}  # fmt: skip
PURE_PACKAGES = {"msgspec"}


def sources(*places: str) -> Iterator[Path]:
    for place in places:
        path = ROOT / place
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path] if path.exists() else []


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """All of the file."""
    return tuple(ast.walk(ast.parse(path.read_text())))


def imported(path: Path) -> set[str]:
    """Top-level names of all modules that the file imports, wherever in the file."""
    names: set[str] = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add((node.module or "").partition(".")[0])
    return names


def calls(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every call in the file; what is called on an expression keeps only its last names."""
    for node in nodes(path):
        if isinstance(node, ast.Call):
            yield node.lineno, ".".join(reversed(list(_dotted(node.func))))


def _dotted(node: ast.expr) -> Iterator[str]:
    while isinstance(node, ast.Attribute):
        yield node.attr
        node = node.value
    if isinstance(node, ast.Name):
        yield node.id


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", list(sources("engine")), ids=named)
def test_the_engine_imports_only_what_is_pure(path: Path) -> None:
    assert imported(path) - PURE - PURE_PACKAGES - {"engine"} == set()


@pytest.mark.parametrize("path", list(sources("engine")), ids=named)
def test_the_engine_prints_opens_and_draws_nothing(path: Path) -> None:
    impure = {"print", "open", "input", "id", "hash", "eval", "exec", "__import__"}
    found = [(line, name) for line, name in calls(path) if name in impure]

    assert not found  # id and hash differ between processes: a replay would too


@pytest.mark.parametrize("sibling", SIBLINGS)
def test_siblings_do_not_import_one_another(sibling: str) -> None:
    others = (OURS - {"engine", "migrations"}) - {sibling}
    found = {named(path): sorted(imported(path) & others) for path in sources(sibling)}

    assert {path: names for path, names in found.items() if names} == {}


def test_only_the_joints_import_config() -> None:
    readers = {named(path) for path in sources("engine", *SIBLINGS) if "config" in imported(path)}

    assert {path for path in readers if not path.startswith("config/")} == set()


def test_nothing_imports_the_joints() -> None:
    found = {named(path) for path in sources("engine", *SIBLINGS, *JOINTS) if imported(path) & {"daemon", "cli"}}

    assert found == set()


def test_only_handles_says_remote() -> None:
    found = {
        named(path)
        for path in sources("engine", *SIBLINGS, *JOINTS)
        for _, name in calls(path)
        if name == "remote" or name.endswith(".remote")
    }

    assert found - {"actors/handles.py", *JOINTS} == set()  # the joints may apply ray.remote to a class, see below
    for path in sources(*JOINTS):
        assert all(name == "ray.remote" for _, name in calls(path) if name.split(".")[-1] == "remote")


def test_only_actors_and_the_joints_know_ray() -> None:
    found = {named(path) for path in sources("engine", *SIBLINGS, *JOINTS) if "ray" in imported(path)}

    assert {path for path in found if not path.startswith("actors/")} - set(JOINTS) == set()


def test_only_the_gateway_and_the_joints_know_http_servers() -> None:
    found = {named(path) for path in sources("engine", *SIBLINGS) if imported(path) & {"litestar", "uvicorn"}}

    assert {path for path in found if not path.startswith("gateway/")} == set()


def test_only_persistence_knows_sql() -> None:
    found = {named(path) for path in sources("engine", *SIBLINGS) if "asyncpg" in imported(path)}

    assert {path for path in found if not path.startswith("persistence/")} == set()


def test_a_package_has_one_docstring_and_nothing_else_in_its_init() -> None:
    for path in sources("engine", *SIBLINGS):
        if path.name == "__init__.py":
            body = ast.parse(path.read_text()).body
            assert len(body) == 1, path
            assert isinstance(body[0], ast.Expr), path
            assert isinstance(body[0].value, ast.Constant), path


def test_every_module_says_what_it_is() -> None:
    silent = [named(path) for path in sources("engine", *SIBLINGS, *JOINTS) if not _docstring(path)]

    assert silent == []


def _docstring(path: Path) -> str | None:
    return ast.get_docstring(ast.parse(path.read_text()))


def test_the_lists_above_name_what_they_say() -> None:
    assert sys.stdlib_module_names >= PURE
    assert not PURE_PACKAGES & sys.stdlib_module_names
    assert not OURS & sys.stdlib_module_names
