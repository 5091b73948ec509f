"""Short global names are the price of paths that agree: each top-level name must be ours and nobody else's.

Seen to fail for: another installed distribution that names `config` among its top-level modules.
"""

import importlib.metadata
import importlib.util
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHIPPED = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"][
    "only-include"
]
NAMES = [name.removesuffix(".py") for name in SHIPPED if (ROOT / name).exists()]
IMPORTED = [name for name in NAMES if name != "migrations"]  # SQL files, no code


def test_the_parts_ship_and_the_tests_do_not() -> None:
    shipped = {name.removesuffix(".py") for name in SHIPPED}

    assert {"engine", "gateway", "actors", "persistence", "config", "migrations", "daemon", "cli"} <= shipped
    assert not {"tests", "docs", "deploy"} & shipped


@pytest.mark.parametrize("name", IMPORTED)
def test_a_top_level_name_is_this_repositorys(name: str) -> None:
    spec = importlib.util.find_spec(name)

    assert spec is not None
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())
    assert places
    assert all(Path(place).resolve().is_relative_to(ROOT) for place in places), places


@pytest.mark.parametrize("name", NAMES)
def test_no_other_distribution_ships_the_name(name: str) -> None:
    owners = set(importlib.metadata.packages_distributions().get(name, []))

    assert owners <= {"wattbook"}
