"""The chain of the running exchange, through the API alone: people, meters, energy, money in and out, a pause.

Whoever is outside of the exchange has a key of his own and speaks to the local chain by its address.
"""

import os
import time
import uuid
from decimal import Decimal
from typing import Any

import httpx
import pytest
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from spl.token.constants import TOKEN_PROGRAM_ID
from spl.token.instructions import (
    BurnParams,
    MintToParams,
    burn,
    create_idempotent_associated_token_account,
    get_associated_token_address,
    mint_to,
)

from chain.client.wallets import Authorities, Role, Signer
from chain_recipes import MasterSealer
from tests.e2e.chain import PROGRAMS, Chain
from tests.e2e.test_meters import WINDOW_US, Meter
from tests.support.installation import Installation, Person
from tests.support.patience import HUNG_SECONDS, until


def of_kind(person: Person, kind: str, status: str = "finalized") -> list[dict[str, Any]]:
    """One's own transactions of a kind, once they all have come so far."""
    path = f"/chain/transactions?kind={kind}"
    items = until(
        lambda: person.call("GET", path)["items"], lambda all_: all_ and {x["status"] for x in all_} == {status}
    )
    return list(items)


def linked(person: Person, key: Keypair) -> str:
    address = str(key.pubkey())
    challenge = person.call("POST", "/users/me/wallets/challenge", {"address": address})["challenge"]
    signature = str(key.sign_message(challenge.encode()))
    person.call("POST", "/users/me/wallets", {"address": address, "signature": signature})
    return address


def test_money_comes_and_goes(installation: Installation, chain: Chain) -> None:
    """Registered on the chain, paid out to a wallet, and paid in again from there."""
    person, key = installation.person().register(THB="100"), Keypair()
    wallet = linked(person, key)
    until(lambda: person.call("GET", "/chain/tokens")["currency"], lambda held: held == "100.00")
    (registered,) = of_kind(person, "user_registered")
    assert (registered["lane"], registered["attempts"]) == ("register", 1)

    stranger = str(Keypair().pubkey())
    assert (
        person.refused("POST", "/withdrawals", {"asset": "THB", "amount": "1", "address": stranger})
        == "VALIDATION_FAILED"
    )
    assert (
        person.refused("POST", "/withdrawals", {"asset": "THB", "amount": "101", "address": wallet})
        == "INSUFFICIENT_FUNDS"
    )
    order = {"asset": "THB", "amount": "40", "address": wallet}
    first = person.ask("POST", "/withdrawals", order, **{"Idempotency-Key": "out-1"}).json()
    again = person.ask("POST", "/withdrawals", order, **{"Idempotency-Key": "out-1"}).json()
    assert first["withdrawal_id"] == again["withdrawal_id"]
    assert person.balances()["THB"]["total"] == Decimal(60)
    until(lambda: person.call("GET", "/withdrawals")["items"][0]["status"], lambda status: status == "finalized")
    _, currency_mint = chain.mints()
    account = get_associated_token_address(key.pubkey(), currency_mint)
    assert chain.tokens(account) == 40_000_000

    tokens = person.call("GET", "/chain/tokens")
    participant = Pubkey.from_string(tokens["address"])
    holding = chain.holding(tokens["address"], "currency")
    accounts = {"holding": holding, "source": account, "participant": participant, "owner": key.pubkey()}
    paying = PROGRAMS.trading.instruction("deposit", {"amount": 15_000_000, "asset": 1}, accounts)
    chain.call("requestAirdrop", wallet, 10**9)
    chain.land(Signer(Role.SETTLER, key), paying)

    pending = until(lambda: [x for x in person.call("GET", "/deposits")["items"] if x["status"] == "pending"])
    assert pending[0]["amount"] == "15.00"
    assert person.balances()["THB"]["total"] == Decimal(60)  # a fork could still undo it
    until(lambda: person.balances()["THB"]["total"], lambda total: total == Decimal(75))
    assert [x for x in person.call("GET", "/deposits")["items"] if x["status"] == "pending"] == []
    assert person.call("GET", "/chain/tokens")["currency"] == "75.00"


def test_energy_is_minted_once_for_each_window(installation: Installation, chain: Chain) -> None:
    owner = installation.person().register()
    meter = Meter(owner, f"CHAIN-{uuid.uuid4().hex[:12]}")
    first = time.time_ns() // 1_000 // WINDOW_US * WINDOW_US - 8 * WINDOW_US
    readings = [meter.says(place, first + place * WINDOW_US, 250) for place in range(8)]
    assert owner.call("POST", "/readings", readings)["accepted"] == 8

    assert len(of_kind(owner, "meter_registered")) == 1
    minted = until(
        lambda: owner.call("GET", "/chain/transactions?kind=energy_generated")["items"], lambda x: len(x) >= 2
    )
    done = of_kind(owner, "energy_generated")
    assert len({one["key"] for one in done}) == len(done) >= len(minted)
    kwh = until(
        lambda: Decimal(owner.call("GET", "/chain/tokens")["energy"]), lambda held: held == Decimal("0.250") * len(done)
    )
    assert kwh > 0
    assert owner.call("POST", "/readings", readings)["duplicates"] == 8  # and no new effect
    assert len(owner.call("GET", "/chain/transactions?kind=energy_generated")["items"]) == len(done)


def test_energy_that_was_bought_and_used_is_burnt_once(installation: Installation, chain: Chain, quiet: None) -> None:
    """Bought on the market, delivered on the chain by a settlement, and used: what there was of it, and no more."""
    owner = installation.person().register(THB="100")
    seller = installation.person().register(energy_Z1="5")
    meter = Meter(owner, f"USED-{uuid.uuid4().hex[:12]}", "prosumer")
    seller.place("sell", "3.000", "2.000")
    assert owner.place("buy", "3.600", "2.000")["status"] == "filled"
    until(lambda: owner.call("GET", "/energy/balance")["available"].get("Z1"), lambda held: held == "2.000")
    first = time.time_ns() // 1_000 // WINDOW_US * WINDOW_US - 5 * WINDOW_US
    readings = [meter.says(place, first + place * WINDOW_US, 0, 600) for place in range(5)]
    assert owner.call("POST", "/readings", readings)["accepted"] == 5

    until(lambda: len(of_kind(owner, "energy_retired")), lambda count: count == 4)  # 0.6, 0.6, 0.6 and what is left

    assert Decimal(owner.call("GET", "/energy/balance")["available"].get("Z1", "0")) == 0
    until(lambda: Decimal(owner.call("GET", "/chain/tokens")["energy"]), lambda held: held == 0)
    items = owner.call("GET", "/chain/transactions?kind=energy_retired")["items"]
    burnt = [event for one in {item["signature"] for item in items} for event in chain.events(one, "EnergyRetired")]
    assert sorted(event["amount"] for event in burnt) == [200, 600, 600, 600]
    assert all(chain.has(item["signature"]) for item in items)
    assert owner.call("POST", "/readings", readings)["duplicates"] == 5  # and nothing is burnt twice
    assert len(owner.call("GET", "/chain/transactions?kind=energy_retired")["items"]) == 4


def test_a_pause_stops_mints_and_withdrawals_and_no_trading(installation: Installation, quiet: None) -> None:
    admin, seller, buyer = installation.admin(), installation.person().register(energy_Z1="5"), installation.person()
    buyer.register(THB="100")
    wallet = linked(buyer, Keypair())
    until(lambda: buyer.call("GET", "/chain/tokens")["currency"], lambda held: held == "100.00")
    assert buyer.refused("POST", "/chain/governance/pause") == "FORBIDDEN"

    asked = admin.call("POST", "/chain/governance/pause")
    try:
        until(lambda: admin.call("GET", "/chain/status")["state"], lambda state: state == "paused")
        withdrawal = {"asset": "THB", "amount": "1", "address": wallet}
        assert buyer.refused("POST", "/withdrawals", withdrawal) == "WITHDRAWAL_SUSPENDED"
        late = installation.person().register(THB="7")
        time.sleep(2)
        waiting = late.call("GET", "/chain/transactions")["items"]
        assert {one["status"] for one in waiting} == {"queued"}
        seller.place("sell", "3.000", "1.000")
        fill = buyer.place("buy", "3.600", "1.000")["fills"][0]  # whoever else sells here, too
        path = f"/trades/{fill['trade_id']}/settlement"
        until(lambda: buyer.call("GET", path)["status"], lambda status: status == "batched")

        number = waiting[0]["id"]
        assert seller.refused("GET", f"/chain/transactions/{number}") == "NOT_FOUND"
        parked = admin.call("POST", f"/chain/transactions/{number}/park", {"reason": "a test"})
        assert (parked["status"], parked["reason"]) == ("parked", "a test")
        assert admin.refused("POST", f"/chain/transactions/{asked['id']}/retry") == "CONFLICT"
        assert admin.call("POST", f"/chain/transactions/{number}/retry")["status"] == "queued"
        assert buyer.call("GET", path)["status"] == "batched"
    finally:
        admin.call("POST", "/chain/governance/unpause")
    until(lambda: late.call("GET", "/chain/tokens")["currency"], lambda held: held == "7.00")
    until(lambda: buyer.call("GET", path)["status"], lambda status: status == "finalized")
    actions = {row["action"] for row in admin.call("GET", "/admin/audit?limit=50")["items"]}
    assert {"chain.pause_asked", "chain.unpause_asked", "chain.parked", "chain.retried"} <= actions


def test_tokens_out_of_nothing_are_found_and_stop_withdrawals_and_no_trading(
    installation: Installation, chain: Chain, quiet: None
) -> None:
    """Somebody has the minter's key, and gives himself what nobody has paid for."""
    admin, thief = installation.admin(), installation.person().register(THB="100", energy_Z1="2")
    wallet = Keypair()
    withdrawal = {"asset": "THB", "amount": "1", "address": linked(thief, wallet)}
    tokens = until(lambda: thief.call("GET", "/chain/tokens"), lambda held: held["currency"] == "100.00")
    until(lambda: compared(admin), lambda found: found is not None and not found["differences"])
    _, currency_mint = chain.mints()
    holding = chain.holding(tokens["address"], "currency")
    keys = Authorities(installation.data_dir / "keys" / "chain", MasterSealer(installation.master_keys()))
    minter, settler = keys.signer(Role.MINTER), keys.signer(Role.SETTLER)

    chain.land(minter, mint_to(MintToParams(TOKEN_PROGRAM_ID, currency_mint, holding, minter.address, 77)))

    found = until(lambda: compared(admin), lambda found: found["withdrawals_suspended"])
    assert [(one["what"], one["asset"]) for one in found["details"]] == [
        (f"user:{thief.user_id}", "currency"),
        ("supply", "currency"),
    ]
    assert found["details"][0]["found"] - found["details"][0]["expected"] == 77
    assert compared(thief)["details"] == []
    assert thief.refused("POST", "/withdrawals", withdrawal) == "WITHDRAWAL_SUSPENDED"
    health = until(  # which is looked at twice a second at most
        lambda: httpx.get(installation.url + "/health", timeout=HUNG_SECONDS).json(),
        lambda seen: seen["dependencies"]["books"]["state"] == "down",
    )
    assert health["status"] == "ok"
    pages = f"http://127.0.0.1:{installation.metrics_port}/metrics"
    until(lambda: httpx.get(pages, timeout=HUNG_SECONDS).text, lambda page: "wattbook_chain_differences 2.0" in page)
    thief.place("sell", "3.000", "1.000")
    assert installation.person().register(THB="10").place("buy", "3.600", "1.000")["status"] == "filled"

    back = get_associated_token_address(settler.address, currency_mint)
    given = {
        "holding": holding,
        "destination": back,
        "participant": Pubkey.from_string(tokens["address"]),
        "settler": settler.address,
    }
    taking = PROGRAMS.trading.instruction("withdraw", {"id": os.urandom(16), "amount": 77, "asset": 1}, given)
    making = create_idempotent_associated_token_account(settler.address, settler.address, currency_mint)
    burning = burn(BurnParams(TOKEN_PROGRAM_ID, back, currency_mint, settler.address, 77))
    chain.land(settler, making, taking, burning)

    until(lambda: compared(admin), lambda found: not found["withdrawals_suspended"])
    thief.call("POST", "/withdrawals", withdrawal)
    until(lambda: thief.call("GET", "/withdrawals")["items"][0]["status"], lambda status: status == "finalized")
    actions = [row["action"] for row in admin.call("GET", "/admin/audit?limit=50")["items"]]
    assert {"books.differ", "books.agree"} <= set(actions)


def compared(person: Person) -> Any:
    return person.call("GET", "/chain/status")["reconciliation"]


def test_the_authority_is_handed_over_and_taken_back(installation: Installation, chain: Chain) -> None:
    """To a key that is nowhere near the exchange, which then stops the chain without asking it."""
    admin, heir = installation.admin(), Signer(Role.GOVERNANCE, Keypair())
    person = installation.person().register(THB="10")
    until(lambda: person.call("GET", "/chain/tokens")["currency"], lambda held: held == "10.00")
    own = governance(admin)["authority"]
    assert governance(admin)["ours"]
    assert person.refused("POST", "/chain/governance/propose", {"address": str(heir.address)}) == "FORBIDDEN"
    chain.call("requestAirdrop", str(heir.address), 10**9)

    admin.call("POST", "/chain/governance/propose", {"address": str(heir.address)})
    until(lambda: governance(admin)["proposed"], lambda proposed: proposed == str(heir.address))
    assert governance(admin)["ours"]  # an offer is not enough
    chain.land(heir, PROGRAMS.governance.instruction("accept_authority", {}, {"proposed": heir.address}))
    until(lambda: governance(admin)["ours"], lambda ours: not ours)

    refused = admin.call("POST", "/chain/governance/pause")
    path = f"/chain/transactions/{refused['id']}"
    parked = until(lambda: admin.call("GET", path), lambda one: one["status"] == "parked")
    assert str(heir.address) in parked["reason"]
    try:
        chain.land(heir, PROGRAMS.governance.instruction("pause", {}, {"authority": heir.address}))
        until(lambda: admin.call("GET", "/chain/status")["state"], lambda state: state == "paused")
    finally:
        chain.land(heir, PROGRAMS.governance.instruction("unpause", {}, {"authority": heir.address}))
    until(lambda: admin.call("GET", "/chain/status")["state"], lambda state: state == "up")
    late = installation.person().register(THB="3")  # the operators are still ours
    until(lambda: late.call("GET", "/chain/tokens")["currency"], lambda held: held == "3.00")

    given = {"authority": heir.address}
    back = {"proposed": Pubkey.from_string(own)}
    chain.land(heir, PROGRAMS.governance.instruction("propose_authority", back, given))
    until(lambda: governance(admin)["proposed"], lambda proposed: proposed == own)
    admin.call("POST", "/chain/governance/accept")
    until(lambda: governance(admin)["ours"])
    actions = {row["action"] for row in admin.call("GET", "/admin/audit?limit=50")["items"]}
    assert {"chain.propose_asked", "chain.accept_asked"} <= actions


def governance(admin: Person) -> Any:
    return admin.call("GET", "/chain/status")["governance"]


def published_by(installation: Installation) -> tuple[str, bool]:
    """The address that signs rounds of the oracle, and whether another shall follow it."""
    told = installation.command("wattbook", "chain", "keys")
    assert told.returncode == 0, told.stdout + told.stderr
    (line,) = (line for line in told.stdout.splitlines() if line.startswith("publisher: "))
    return line.removeprefix("publisher: ").partition(",")[0], ", then " in line


@pytest.mark.skipif(not os.environ.get("LONG"), reason="half a minute, and tests/integration/chain shows the same")
def test_a_role_gets_a_new_key_while_the_exchange_runs(installation: Installation, chain: Chain) -> None:
    """Lanes stand still for a while, so this is the last of its file."""
    admin, person = installation.admin(), installation.person().register(THB="4")
    old, _ = published_by(installation)

    asked = installation.command("wattbook", "chain", "rotate", "publisher")

    assert asked.returncode == 0, asked.stdout + asked.stderr
    assert f"publisher: {old} is followed by " in asked.stdout
    new, following = until(lambda: published_by(installation), lambda found: found[0] != old)
    assert not following
    config = Pubkey.find_program_address([b"config"], PROGRAMS.governance.id)[0]
    assert str(chain.account("governance", "Config", config)["publisher"]) == new
    until(lambda: person.call("GET", "/chain/tokens")["currency"], lambda held: held == "4.00")
    actions = {row["action"] for row in admin.call("GET", "/admin/audit?limit=50")["items"]}
    assert {"chain.rotation_asked", "chain.key_rotated"} <= actions
