"""One valid call of every instruction, from a chain on which everything is ready; tests send it, or spoil it first."""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from msgspec import Struct, structs
from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey

from tests.support.chain import NOW, Outcome, TestChain

ID: Final = bytes(range(16))
ROOT: Final = bytes(range(32))
FEED: Final = b"retail".ljust(16, b"\0")
NEW: Final = "mallory"  # somebody who is nobody yet


Accounts: TypeAlias = dict[str, str | Pubkey]


class Call(Struct, frozen=True):
    """events: names of those that a success emits."""

    chain: TestChain
    program: str
    name: str
    arguments: Mapping[str, Any]
    signer: str
    accounts: Accounts
    events: tuple[str, ...]
    following: tuple[AccountMeta, ...] = ()

    def with_arguments(self, **changed: Any) -> "Call":
        return structs.replace(self, arguments={**self.arguments, **changed})

    def with_accounts(self, **changed: str | Pubkey) -> "Call":
        return structs.replace(self, accounts={**self.accounts, **changed})

    def signed_by(self, account: str, who: str) -> "Call":
        return structs.replace(self, signer=who, accounts={**self.accounts, account: who})

    def instruction(self) -> Instruction:
        return self.chain.build(self.program, self.name, self.arguments, self.following, **self.accounts)

    def send(self) -> Outcome:
        return self.chain.send(self.instruction(), self.signer)


def ready() -> TestChain:
    return TestChain().ready()


def governance(name: str, arguments: Mapping[str, Any], event: str, chain: TestChain | None = None) -> Call:
    return Call(chain or ready(), "governance", name, arguments, "authority", {"authority": "authority"}, (event,))


def initialize_governance() -> Call:
    operators = {role: TestChain().public(role) for role in ("minter", "settler", "publisher", "registrar")}
    return governance("initialize", operators, "AuthorityChanged", TestChain())


def initialize(program: str) -> Callable[[], Call]:
    def made() -> Call:
        first = initialize_governance()
        assert first.send().error == ""
        chain = first.chain
        accounts: Accounts = {"authority": "authority"}
        if program == "trading":
            chain.must("energy_token", "initialize", {}, "authority", authority="authority")
            accounts |= {"energy_mint": chain.energy_mint, "currency_mint": chain.currency_mint}
        return Call(chain, program, "initialize", {}, "authority", accounts, ())

    return made


def unpause() -> Call:
    chain = ready()
    chain.must("governance", "pause", {}, "authority", authority="authority")
    return governance("unpause", {}, "Unpaused", chain)


def accept_authority() -> Call:
    chain = ready()
    proposed = {"proposed": chain.public(NEW)}
    chain.must("governance", "propose_authority", proposed, "authority", authority="authority")
    return Call(chain, "governance", "accept_authority", {}, NEW, {"proposed": NEW}, ("AuthorityChanged",))


def registry(name: str, arguments: Mapping[str, Any], event: str, chain: TestChain, **accounts: str | Pubkey) -> Call:
    return Call(chain, "registry", name, arguments, "registrar", {"registrar": "registrar", **accounts}, (event,))


def register_user() -> Call:
    return registry("register_user", {"user_id": ID}, "UserRegistered", ready(), authority="alice")


def update_user() -> Call:
    chain = ready()
    chain.user("alice")
    return registry("update_user", {"status": 2}, "UserUpdated", chain, authority="alice")


def register_meter() -> Call:
    chain = ready()
    chain.user("alice")
    return registry("register_meter", {"serial_hash": ROOT}, "MeterRegistered", chain, authority="alice")


def set_meter_status() -> Call:
    chain = ready()
    chain.user("alice")
    return registry("set_meter_status", {"status": 2}, "MeterStatusSet", chain, meter=chain.meter("m1", "alice"))


def transfer_meter() -> Call:
    chain = ready()
    chain.user("alice")
    chain.user("bob")
    accounts: Accounts = {"meter": chain.meter("m1", "alice"), "receiver_authority": "bob", "signer": "alice"}
    return Call(chain, "registry", "transfer_meter", {}, "alice", accounts, ("MeterTransferred",))


def mint_generation() -> Call:
    chain = ready()
    chain.user("alice")
    vault = chain.vault("alice")
    accounts: Accounts = {"minter": "minter", "meter": chain.meter("m1", "alice"), "destination": vault.energy}
    arguments = {"window": NOW, "amount": 1_500}
    return Call(chain, "energy_token", "mint_generation", arguments, "minter", accounts, ("GenerationMinted",))


def retire() -> Call:
    chain = ready()
    chain.user("alice")
    source = chain.token_account("alice", chain.energy_mint, "alice")
    accounts: Accounts = {"minter": "minter", "meter": chain.meter("m1", "alice"), "destination": source}
    chain.must("energy_token", "mint_generation", {"window": NOW, "amount": 1_500}, "minter", **accounts)
    arguments = {"amount": 400, "reference": ROOT}
    return Call(
        chain, "energy_token", "retire", arguments, "alice", {"source": source, "owner": "alice"}, ("EnergyRetired",)
    )


def energy_pause() -> Call:
    return Call(ready(), "energy_token", "pause", {}, "authority", {"authority": "authority"}, ("MintingPaused",))


def energy_thaw() -> Call:
    call = energy_pause()
    assert call.send().error == ""
    return structs.replace(call, name="thaw", events=("MintingThawed",))


def create_vault() -> Call:
    chain = ready()
    accounts: Accounts = {"participant": "alice", "payer": "bob"}
    accounts |= {"energy_mint": chain.energy_mint, "currency_mint": chain.currency_mint}
    return Call(chain, "trading", "create_vault", {}, "bob", accounts, ("VaultCreated",))


def deposit() -> Call:
    chain = ready()
    vault = chain.vault("alice")
    source = chain.token_account("alice", chain.currency_mint, "alice", 9_000_000)
    accounts: Accounts = {"participant": "alice", "owner": "alice", "holding": vault.currency, "source": source}
    return Call(chain, "trading", "deposit", {"amount": 2_000_000, "asset": 1}, "alice", accounts, ("Deposited",))


def withdraw() -> Call:
    chain = ready()
    vault = chain.vault("alice", energy=900)
    destination = chain.token_account("alice", chain.energy_mint, "alice")
    accounts: Accounts = {
        "participant": "alice",
        "settler": "settler",
        "holding": vault.energy,
        "destination": destination,
    }
    arguments = {"id": ID, "amount": 600, "asset": 0}
    return Call(chain, "trading", "withdraw", arguments, "settler", accounts, ("Withdrawn",))


def settle_batch() -> Call:
    chain = ready()
    seller, buyer = chain.vault("alice", energy=1_000), chain.vault("bob", currency=5_000_000)
    deltas = [{"energy": -1_000, "currency": 4_000_000}, {"energy": 1_000, "currency": -4_000_000}]
    arguments = {"id": ID, "root": ROOT, "count": 3, "part": 0, "parts": 1, "deltas": deltas}
    following = (*seller.metas(), *buyer.metas())
    return Call(chain, "trading", "settle_batch", arguments, "settler", {"settler": "settler"}, ("Settled",), following)


def cancel_settlement() -> Call:
    accounts: Accounts = {"settler": "settler"}
    return Call(ready(), "trading", "cancel_settlement", {"id": ID}, "settler", accounts, ("SettlementCancelled",))


def set_provider() -> Call:
    accounts: Accounts = {"authority": "authority", "authority_of_provider": "alice"}
    return Call(ready(), "oracle", "set_provider", {"active": True}, "authority", accounts, ("ProviderSet",))


def publish() -> Call:
    arguments = {"feed_id": FEED, "number": 7, "value": -3, "spread": 2, "at": NOW, "providers": 3}
    return Call(ready(), "oracle", "publish", arguments, "publisher", {"publisher": "publisher"}, ("PricePublished",))


def attest_readings() -> Call:
    call = set_provider()
    assert call.send().error == ""
    arguments = {"window": NOW, "root": ROOT, "count": 12}
    return Call(call.chain, "oracle", "attest_readings", arguments, "alice", {"signer": "alice"}, ("ReadingsAttested",))


CALLS: Final[dict[str, Callable[[], Call]]] = {
    "governance.initialize": initialize_governance,
    "governance.set_parameter": lambda: governance("set_parameter", {"index": 3, "value": 9}, "ParameterSet"),
    "governance.set_operator": lambda: governance(
        "set_operator", {"operator": TestChain().public(NEW), "role": 1}, "OperatorSet"
    ),
    "governance.pause": lambda: governance("pause", {}, "Paused"),
    "governance.unpause": unpause,
    "governance.propose_authority": lambda: governance(
        "propose_authority", {"proposed": TestChain().public(NEW)}, "AuthorityProposed"
    ),
    "governance.accept_authority": accept_authority,
    "registry.initialize": initialize("registry"),
    "registry.register_user": register_user,
    "registry.update_user": update_user,
    "registry.register_meter": register_meter,
    "registry.set_meter_status": set_meter_status,
    "registry.transfer_meter": transfer_meter,
    "energy_token.initialize": initialize("energy_token"),
    "energy_token.mint_generation": mint_generation,
    "energy_token.retire": retire,
    "energy_token.pause": energy_pause,
    "energy_token.thaw": energy_thaw,
    "trading.initialize": initialize("trading"),
    "trading.create_vault": create_vault,
    "trading.deposit": deposit,
    "trading.withdraw": withdraw,
    "trading.settle_batch": settle_batch,
    "trading.cancel_settlement": cancel_settlement,
    "oracle.initialize": initialize("oracle"),
    "oracle.set_provider": set_provider,
    "oracle.publish": publish,
    "oracle.attest_readings": attest_readings,
}
