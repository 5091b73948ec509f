"""markets.toml becomes records of the engine, exactly, and every wrong line is named.

Seen to fail for: decimals through floats, capacities without their market, unknown zones let through.
"""

from pathlib import Path

import pytest

from config.load import SettingsWrong
from config.markets import load_markets
from engine.market import UNLIMITED_WH, Mechanism
from engine.market import Path as GridPath
from engine.records import CapacityRecord, CostRecord

START = """
[[zones]]
id = "Z1"
name = "One"
[[costs]]
from = "Z1"
to = "Z1"
wheeling = "0.500"
loss_bps = 100
"""
MARKET = """
[[markets]]
symbol = "M"
zones = ["Z1"]
"""


def problems(path: Path, text: str) -> str:
    path.write_text(text)
    with pytest.raises(SettingsWrong) as caught:
        load_markets(path)
    return str(caught.value)


def test_what_comes_with_wattbook_is_good_for_trading() -> None:
    beginning = load_markets()

    campus, riverside = beginning.markets
    assert (campus.symbol, campus.zones, campus.band_bps) == ("CAMPUS", ("Z1",), 0)
    assert campus.paths == (GridPath("Z1", "Z1", 500_000, 100, UNLIMITED_WH),)
    assert (riverside.symbol, riverside.zones) == ("RIVERSIDE", ("Z1", "Z2", "Z3"))
    assert (riverside.band_bps, riverside.reference_price_micro) == (2_000, 3_500_000)
    assert GridPath("Z1", "Z2", 1_000_000, 300, 250_000) in riverside.paths
    assert GridPath("Z1", "Z3", 1_700_000, 500, UNLIMITED_WH) in riverside.paths
    assert len(riverside.paths) == 9
    assert (riverside.price_micro_min, riverside.price_micro_max) == (500_000, 20_000_000)
    assert (riverside.taker_fee_bps, riverside.maker_fee_bps) == (10, 0)
    assert riverside.mechanism is Mechanism.CONTINUOUS
    assert not campus.problems() + riverside.problems()
    assert CostRecord("Z2", "Z3", 1_000_000, 300, 0) in beginning.costs
    assert CapacityRecord("Z1", "Z2", 250_000) in beginning.capacities


def test_every_problem_is_said_with_its_place(tmp_path: Path) -> None:
    said = problems(
        tmp_path / "m.toml",
        START
        + """
[[costs]]
from = "Z1"
to = "Z9"
wheeling = "1.0000001"
loss_bps = 1
[[markets]]
symbol = "M"
zones = ["Z1", "Z8"]
tick = "0.0015"
mechanism = "lottery"
""",
    )

    assert "costs Z1 to Z9: 'Z9' is not one of the file's zones" in said
    assert "costs Z1 to Z9: wheeling: '1.0000001' is not a decimal of at most 6 places" in said
    assert "markets M: zones: 'Z8' is not one of the file's zones" in said
    assert "markets M: tick: must be a multiple of 0.001" in said
    assert "markets M: mechanism: 'lottery' is not one of continuous" in said


@pytest.mark.parametrize("text", ["-1", "1e3", "nan", "", ".5", "1,5", " 1", "1_000", "٣", "9" * 30])
def test_decimal_that_is_not_plain_is_refused(tmp_path: Path, text: str) -> None:
    said = problems(tmp_path / "m.toml", START + MARKET + f'price_max = "{text}"\n')

    assert "price_max" in said


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (MARKET + MARKET, "markets M: each symbol may appear once"),
        (START, "each pair may appear once"),
        (MARKET + "price_max = 20\n", "Expected `str`, got `int`"),
        (MARKET + 'prize_max = "20"\n', "unknown field `prize_max`"),
        ('[[markets]]\nsymbol = "M"\n', "missing required field `zones`"),
    ],
)
def test_file_that_says_a_thing_twice_or_wrongly_is_refused(tmp_path: Path, more: str, said: str) -> None:
    assert said in problems(tmp_path / "m.toml", START + more)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsWrong, match=r"none\.toml: cannot be read"):
        load_markets(tmp_path / "none.toml")


def test_a_market_may_share_a_process(tmp_path: Path) -> None:
    path = tmp_path / "markets.toml"
    path.write_text(START + MARKET + MARKET.replace('"M"', '"QUIET"') + "shared_process = true\n")

    assert load_markets(path).sharing == {"QUIET"}
    assert load_markets().sharing == frozenset()
