"""From a trade to its proof, and from a provider's word to a published value, through the running exchange."""

import base64
from pathlib import Path

import msgspec
import pytest

from commands.oracle import read_key
from tests.e2e.chain import Chain
from tests.support.installation import Installation, Person
from tests.support.patience import until

ROUND_SECONDS = 10
OTHER_ROOT = "00" * 32


def test_a_trade_is_settled_and_proven_on_the_command_line(
    installation: Installation, chain: Chain, seller: Person, buyer: Person, tmp_path: Path
) -> None:
    seller.place("sell", "3.000", "1.250")
    (fill,) = buyer.place("buy", "4.000", "1.250")["fills"]

    found = until(
        lambda: buyer.call("GET", f"/trades/{fill['trade_id']}/settlement"), lambda one: one["status"] == "finalized"
    )

    settlement = buyer.call("GET", f"/chain/settlements/{found['settlement_id']}")
    assert {part["status"] for part in settlement["parts"]} == {"finalized"}
    told = chain.settlement(found["settlement_id"])
    assert (told["root"].hex(), told["count"]) == (settlement["root"], settlement["trades"])
    assert told["parts_done"] == told["parts"] == len(settlement["parts"])
    assert chain.has(found["transaction_signature"])
    assert found["proof"]["participant_id"] == int(buyer.user_id)
    assert installation.person().ask("GET", f"/trades/{fill['trade_id']}/settlement").status_code == 401
    answer = tmp_path / "trade.json"
    answer.write_bytes(msgspec.json.encode(found))
    proven = installation.command("wattbook", "proof", "verify", str(answer), told["root"].hex())
    assert proven.returncode == 0, proven.stdout + proven.stderr
    assert f"trade {fill['trade_id']} is in settlement {found['settlement_id']}" in proven.stdout
    refused = installation.command("wattbook", "proof", "verify", str(answer), OTHER_ROOT)
    assert refused.returncode == 1
    assert "not proven: it is of another settlement" in refused.stdout
    assert "Traceback" not in refused.stdout + refused.stderr


def test_a_provider_says_a_value_on_the_command_line_and_it_is_published(
    installation: Installation, chain: Chain, admin: Person, tmp_path: Path
) -> None:
    feed = {"feed": "e2e_price", "name": "A price", "unit": "THB/kWh", "decimals": 3, "single_provider": True}
    admin.call("POST", "/oracle/feeds", feed | {"round_seconds": ROUND_SECONDS})
    file = tmp_path / "provider.pem"
    assert installation.command("wattbook", "oracle", "key", str(file)).returncode == 0
    public_key = base64.b64encode(read_key(file).public_key().public_bytes_raw()).decode()
    provider = admin.call(
        "POST", "/oracle/providers", {"name": "grid", "public_key": public_key, "feeds": ["e2e_price"]}
    )

    said = installation.command(
        "wattbook", "oracle", "submit", "e2e_price", "4.5", "--provider", provider["id"], "--key", str(file)
    )

    assert "e2e_price 4.500 at" in said.stdout, said.stdout + said.stderr
    found = until(lambda: admin.call("GET", "/oracle/feeds/e2e_price"), lambda one: one["value"] is not None)
    assert (found["value"], found["spread"], found["stale"]) == ("4.500", "0.000", False)
    path = "/oracle/feeds/e2e_price/rounds"
    first = until(lambda: admin.call("GET", path)["items"][-1], lambda one: one["chain_status"] == "finalized")
    assert chain.has(first["transaction_signature"])
    assert chain.round("e2e_price", first["round"])["value"] == 4_500


@pytest.mark.parametrize("arguments", [("none.json", OTHER_ROOT), ("/", OTHER_ROOT)])
def test_what_cannot_be_read_is_one_line(installation: Installation, arguments: tuple[str, str]) -> None:
    refused = installation.command("wattbook", "proof", "verify", *arguments)

    assert refused.returncode == 1
    assert "cannot be read" in refused.stdout
    assert "Traceback" not in refused.stdout + refused.stderr
