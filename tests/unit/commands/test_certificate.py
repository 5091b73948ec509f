"""`wattbook certificate verify` believes true results, refuses false ones and says what is wrong with a file."""

from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

import cli
from commands.shared import Failure
from engine.auction.certificate import Published, publish
from engine.auction.network import clear_network
from engine.auction.uniform import clear_zone
from engine.messages import Side
from tests.support.auctions import listed, rules
from tests.support.builders import A, B, path

ORDERS = listed((Side.BUY, 1, 9, 1_500), (Side.SELL, 2, 3, 1_000))


def verified(tmp_path: Path, published: Published) -> str:
    file = tmp_path / "auction.json"
    file.write_bytes(msgspec.json.encode(published))
    result = CliRunner().invoke(cli.app, ["certificate", "verify", str(file)])
    if result.exception is not None:
        raise result.exception
    return result.output


def test_a_true_result_is_verified(tmp_path: Path) -> None:
    said = verified(tmp_path, publish(ORDERS, rules(), clear_zone(ORDERS, A, rules())))

    assert "verified: A: 1.000 kWh at 0.006; 2 orders, SHA-256 " in said


def test_an_empty_auction_and_a_network_are_verified(tmp_path: Path) -> None:
    both = rules(path(A, A), path(B, B))

    assert "nothing traded; 0 orders" in verified(tmp_path, publish([], rules(), clear_zone([], A, rules())))
    assert "2 zones, 1.000 kWh" in verified(tmp_path, publish(ORDERS, both, clear_network(ORDERS, (A, B), both)))


def test_a_false_result_is_refused_with_what_is_wrong(tmp_path: Path) -> None:
    published = publish(ORDERS, rules(), clear_zone(ORDERS, A, rules()))
    assert published.zone is not None
    false = replace(published, zone=replace(published.zone, price_micro=5_000, buyer_price_micro=5_000))

    with pytest.raises(Failure, match="not the result of these 2 orders"):
        verified(tmp_path, false)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        (b"", "not a published auction"),
        (b"[1]", "not a published auction"),
        (b'{"format": "wattbook-auction-1"}', "missing required field `rules`"),
        (b"[" * 100_000, "not a published auction"),
        (b"\xff", "not a published auction"),
    ],
)
def test_other_files_are_refused_with_a_reason(tmp_path: Path, content: bytes | None, said: str) -> None:
    file = tmp_path / "auction.json"
    if content is not None:
        file.write_bytes(content)

    result = CliRunner().invoke(cli.app, ["certificate", "verify", str(file)])

    assert isinstance(result.exception, Failure)
    assert said in str(result.exception)
