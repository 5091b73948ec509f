"""The chain of the running exchange, through the API alone: people, meters, energy, money in and out, a pause.

Whoever is outside of the exchange has a key of his own and speaks to the local chain by its address.
"""

import base64
import re
import time
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import httpx
import pytest
from solders.hash import Hash
from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.transaction import Transaction
from spl.token.instructions import get_associated_token_address

from chain.client.programs import reference_programs
from tests.e2e.test_meters import WINDOW_US, Meter
from tests.support.installation import Installation, Person

SECONDS_MAX = 90.0
PROGRAMS = reference_programs()


class Chain:
    """The local chain, as a stranger reaches it."""

    def __init__(self, installation: Installation) -> None:
        found = re.search(r"Local Solana\s+(http://\S+)", installation.output)
        assert found is not None, installation.output
        self.url = found[1]

    def call(self, method: str, *parameters: Any) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}
        answer = httpx.post(self.url, json=body, timeout=10).json()
        assert "error" not in answer, answer
        return answer["result"]

    def tokens(self, account: Pubkey) -> int:
        found = self.call("getAccountInfo", str(account), {"encoding": "jsonParsed"})["value"]
        return int(self.call("getTokenAccountBalance", str(account))["value"]["amount"]) if found else 0

    def account(self, program: str, kind: str, address: Pubkey) -> dict[str, Any]:
        data = self.call("getAccountInfo", str(address), {"encoding": "base64"})["value"]["data"][0]
        return dict(getattr(PROGRAMS, program).account(base64.b64decode(data), kind))

    def mints(self) -> tuple[Pubkey, Pubkey]:
        market = Pubkey.find_program_address([b"market"], PROGRAMS.trading.id)[0]
        state = self.account("trading", "Market", market)
        return state["energy_mint"], state["currency_mint"]


@pytest.fixture
def chain(installation: Installation) -> Chain:
    return Chain(installation)


def until(look: Callable[[], Any], holds: Callable[[Any], bool] = bool) -> Any:
    deadline = time.monotonic() + SECONDS_MAX
    while not holds(value := look()):
        assert time.monotonic() < deadline, f"not so in time; last seen: {value!r}"
        time.sleep(0.3)
    return value


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
    energy_mint, currency_mint = chain.mints()
    account = get_associated_token_address(key.pubkey(), currency_mint)
    assert chain.tokens(account) == 40_000_000

    tokens = person.call("GET", "/chain/tokens")
    participant = Pubkey.from_string(tokens["address"])
    given = {
        "participant": participant,
        "payer": participant,
        "energy_mint": energy_mint,
        "currency_mint": currency_mint,
    }
    holding = PROGRAMS.trading.address("create_vault", "currency", {}, given)
    accounts = {"holding": holding, "source": account, "participant": participant, "owner": key.pubkey()}
    paying = PROGRAMS.trading.instruction("deposit", {"amount": 15_000_000, "asset": 1}, accounts)
    chain.call("requestAirdrop", wallet, 10**9)
    blockhash = Hash.from_string(chain.call("getLatestBlockhash")["value"]["blockhash"])
    raw = bytes(Transaction([key], Message.new_with_blockhash([paying], key.pubkey(), blockhash), blockhash))
    chain.call("sendTransaction", base64.b64encode(raw).decode(), {"encoding": "base64"})

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


def test_a_pause_stops_mints_and_withdrawals_and_no_trading(installation: Installation) -> None:
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
        assert buyer.place("buy", "3.600", "1.000")["status"] == "filled"

        number = waiting[0]["id"]
        assert seller.refused("GET", f"/chain/transactions/{number}") == "NOT_FOUND"
        parked = admin.call("POST", f"/chain/transactions/{number}/park", {"reason": "a test"})
        assert (parked["status"], parked["reason"]) == ("parked", "a test")
        assert admin.refused("POST", f"/chain/transactions/{asked['id']}/retry") == "CONFLICT"
        assert admin.call("POST", f"/chain/transactions/{number}/retry")["status"] == "queued"
    finally:
        admin.call("POST", "/chain/governance/unpause")
    until(lambda: late.call("GET", "/chain/tokens")["currency"], lambda held: held == "7.00")
    actions = {row["action"] for row in admin.call("GET", "/admin/audit?limit=50")["items"]}
    assert {"chain.pause_asked", "chain.unpause_asked", "chain.parked", "chain.retried"} <= actions
