"""Every error of every program, by the attack or mistake that it is there for, and what refused calls leave behind.

Seen to fail for: a part that is settled again, a payout above what was paid in, a meter's mint to a stranger, a pause
that is not read, a foreign mint, an overflow that wraps, a root that differs between parts.
"""

from collections.abc import Callable
from typing import Final

import pytest
from solders.pubkey import Pubkey

from chain.programs.interface import NAMES, load_idl
from tests.support.chain import NOW, Outcome, TestChain
from tests.unit.chain.programs import calls
from tests.unit.chain.programs.calls import CALLS, Call

MAX: Final = 2**64 - 1
OPERATED = {  # instructions that an operator signs, and the account in which
    "registry.register_user": "registrar",
    "registry.update_user": "registrar",
    "registry.register_meter": "registrar",
    "registry.set_meter_status": "registrar",
    "registry.transfer_meter": "signer",
    "energy_token.mint_generation": "minter",
    "trading.withdraw": "settler",
    "trading.settle_batch": "settler",
    "trading.cancel_settlement": "settler",
    "oracle.publish": "publisher",
}
GOVERNED = [  # those that the authority signs
    f"{name}.{each['name']}"
    for name in NAMES
    for each in load_idl(name)["instructions"]
    if any(account["name"] == "authority" and account.get("signer") for account in each["accounts"])
]


def twice(call: Call) -> Outcome:
    assert call.send().error == ""
    return call.send()


def paused(call: Call) -> Call:
    call.chain.must("governance", "pause", {}, "authority", authority="authority")
    return call


def suspended_meter(call: Call) -> Call:
    meter = call.accounts["meter"]
    call.chain.must("registry", "set_meter_status", {"status": 2}, "registrar", registrar="registrar", meter=meter)
    return call


def suspended_user(call: Call, name: str) -> Call:
    call.chain.must("registry", "update_user", {"status": 2}, "registrar", registrar="registrar", authority=name)
    return call


def of_foreign_mint(call: Call, account: str, decimals: int) -> Call:
    mint = call.chain.mint("foreign", decimals)
    return call.with_accounts(**{account: call.chain.token_account("foreign", mint, "alice", 10**9)})


def of_a_stranger(call: Call) -> Call:
    return call.with_accounts(destination=call.chain.token_account("theirs", call.chain.energy_mint, "mallory"))


def limited() -> Call:
    call = CALLS["energy_token.mint_generation"]()
    arguments = {"index": 0, "value": 1_499}
    call.chain.must("governance", "set_parameter", arguments, "authority", authority="authority")
    return call


def minted_up_to_the_end() -> Outcome:
    call = CALLS["energy_token.mint_generation"]()
    assert call.with_arguments(amount=MAX).send().error == ""
    return call.with_arguments(window=NOW + 900, amount=1).send()


def without_proposal() -> Outcome:
    call = calls.governance("accept_authority", {}, "AuthorityChanged")
    return call.chain.call("governance", "accept_authority", {}, "mallory", proposed="mallory")


def settlement(*deltas: tuple[int, int], part: int = 0, parts: int = 1) -> Call:
    """Alice has 1,000 Wh, Bob 5.000000; deltas go to them in turn."""
    call = CALLS["trading.settle_batch"]()
    vaults = [call.following[:3], call.following[3:6]]
    made = [{"energy": energy, "currency": currency} for energy, currency in deltas]
    following = tuple(meta for place in range(len(deltas)) for meta in vaults[place % 2])
    arguments = {**call.arguments, "deltas": made, "part": part, "parts": parts, "count": 3}
    return Call(
        call.chain, "trading", "settle_batch", arguments, "settler", {"settler": "settler"}, ("Settled",), following
    )


def second_part(*, root: bytes = calls.ROOT, part: int = 1) -> Outcome:
    call = settlement((-1_000, 0), parts=2)
    assert call.send().error == ""
    following = call.chain.vault("carol").metas()
    pays_out = [{"energy": 1_000, "currency": 0}]
    later = call.with_arguments(deltas=pays_out, part=part, root=root)
    return Call(
        call.chain, "trading", "settle_batch", later.arguments, "settler", {"settler": "settler"}, (), tuple(following)
    ).send()


def foreign_holding(call: Call) -> Outcome:
    """The vault of one, the token account of another."""
    following = (call.following[0], call.following[4], *call.following[2:])
    return Call(
        call.chain, "trading", "settle_batch", call.arguments, "settler", {"settler": "settler"}, (), following
    ).send()


def cancelled() -> Outcome:
    call = CALLS["trading.settle_batch"]()
    call.chain.must("trading", "cancel_settlement", {"id": calls.ID}, "settler", settler="settler")
    return call.send()


def settled_then_cancelled() -> Outcome:
    call = CALLS["trading.settle_batch"]()
    assert call.send().error == ""
    return call.chain.call("trading", "cancel_settlement", {"id": calls.ID}, "settler", settler="settler")


def held_overflows() -> Outcome:
    call = settlement((-(2**63), 0), (-(2**63), 0))
    for vault in (call.following[:3], call.following[3:6]):
        call.chain.give(vault[1].pubkey, 2**63)
    return call.send()


def market_of(energy: Pubkey | None, currency_decimals: int = 6) -> Outcome:
    call = CALLS["trading.initialize"]()
    currency = call.chain.mint("other", currency_decimals)
    return call.with_accounts(energy_mint=energy or call.chain.energy_mint, currency_mint=currency).send()


def same_mints() -> Outcome:
    call = CALLS["trading.initialize"]()
    return call.with_accounts(currency_mint=call.chain.energy_mint).send()


def published(**changed: int) -> Outcome:
    call = CALLS["oracle.publish"]()
    assert call.send().error == ""
    return call.with_arguments(**changed).send()


def inactive_provider() -> Outcome:
    call = CALLS["oracle.attest_readings"]()
    accounts = {"authority": "authority", "authority_of_provider": "alice"}
    call.chain.must("oracle", "set_provider", {"active": False}, "authority", **accounts)
    return call.send()


def of(name: str) -> Call:
    return CALLS[name]()


REFUSALS: Final[list[tuple[str, str, Callable[[], Outcome]]]] = [
    (
        "governance.Unauthorized",
        "a stranger accepts",
        lambda: of("governance.accept_authority").signed_by("proposed", "bob").send(),
    ),
    ("governance.AlreadyInitialized", "again", lambda: twice(of("governance.initialize"))),
    ("governance.AlreadyPaused", "again", lambda: twice(of("governance.pause"))),
    ("governance.NotPaused", "again", lambda: twice(of("governance.unpause"))),
    ("governance.UnknownParameter", "8", lambda: of("governance.set_parameter").with_arguments(index=8).send()),
    ("governance.UnknownParameter", "255", lambda: of("governance.set_parameter").with_arguments(index=255).send()),
    ("governance.UnknownRole", "4", lambda: of("governance.set_operator").with_arguments(role=4).send()),
    ("governance.NothingProposed", "before", without_proposal),
    ("governance.NothingProposed", "again", lambda: twice(of("governance.accept_authority"))),
    (
        "governance.ZeroKey",
        "zeros",
        lambda: of("governance.propose_authority").with_arguments(proposed=Pubkey.default()).send(),
    ),
    ("registry.AlreadyInitialized", "again", lambda: twice(of("registry.initialize"))),
    ("registry.UserExists", "again", lambda: twice(of("registry.register_user"))),
    ("registry.MeterExists", "again", lambda: twice(of("registry.register_meter"))),
    ("registry.UserInactive", "owner", lambda: suspended_user(of("registry.register_meter"), "alice").send()),
    ("registry.UserInactive", "receiver", lambda: suspended_user(of("registry.transfer_meter"), "bob").send()),
    ("registry.MeterInactive", "transfer", lambda: suspended_meter(of("registry.transfer_meter")).send()),
    ("registry.UnknownStatus", "0", lambda: of("registry.update_user").with_arguments(status=0).send()),
    ("registry.UnknownStatus", "3", lambda: of("registry.set_meter_status").with_arguments(status=3).send()),
    (
        "registry.SameOwner",
        "to himself",
        lambda: of("registry.transfer_meter").with_accounts(receiver_authority="alice").send(),
    ),
    (
        "registry.Unauthorized",
        "the receiver takes it",
        lambda: of("registry.transfer_meter").signed_by("signer", "bob").send(),
    ),
    ("energy_token.AlreadyInitialized", "again", lambda: twice(of("energy_token.initialize"))),
    ("energy_token.AlreadyMinted", "replay", lambda: twice(of("energy_token.mint_generation"))),
    ("energy_token.ZeroAmount", "mint", lambda: of("energy_token.mint_generation").with_arguments(amount=0).send()),
    ("energy_token.ZeroAmount", "retire", lambda: of("energy_token.retire").with_arguments(amount=0).send()),
    ("energy_token.AboveLimit", "by one", lambda: limited().send()),
    ("energy_token.MeterInactive", "suspended", lambda: suspended_meter(of("energy_token.mint_generation")).send()),
    (
        "energy_token.WrongMint",
        "foreign",
        lambda: of_foreign_mint(of("energy_token.mint_generation"), "destination", 3).send(),
    ),
    (
        "energy_token.WrongMint",
        "retire foreign",
        lambda: of_foreign_mint(of("energy_token.retire"), "source", 3).send(),
    ),
    (
        "energy_token.WrongMint",
        "no token account",
        lambda: of("energy_token.mint_generation").with_accounts(destination="bob").send(),
    ),
    ("energy_token.WrongDestination", "stranger", lambda: of_a_stranger(of("energy_token.mint_generation")).send()),
    ("energy_token.Overflow", "by one", minted_up_to_the_end),
    ("energy_token.NotPaused", "again", lambda: twice(of("energy_token.thaw"))),
    ("energy_token.Paused", "again", lambda: twice(of("energy_token.pause"))),
    ("trading.AlreadyInitialized", "again", lambda: twice(of("trading.initialize"))),
    ("trading.SameMint", "both energy", same_mints),
    ("trading.WrongDecimals", "currency of 9", lambda: market_of(None, 9)),
    ("trading.WrongDecimals", "energy of 6", lambda: market_of(calls.ready().currency_mint)),
    ("trading.WrongMint", "no mint", lambda: market_of(Pubkey.default())),
    (
        "trading.WrongMint",
        "vault of foreign",
        lambda: (c := of("trading.create_vault")).with_accounts(energy_mint=c.chain.mint("foreign", 3)).send(),
    ),
    ("trading.WrongMint", "deposit", lambda: of_foreign_mint(of("trading.deposit"), "source", 6).send()),
    ("trading.WrongMint", "withdraw", lambda: of_foreign_mint(of("trading.withdraw"), "destination", 3).send()),
    ("trading.VaultExists", "again", lambda: twice(of("trading.create_vault"))),
    ("trading.ZeroAmount", "deposit", lambda: of("trading.deposit").with_arguments(amount=0).send()),
    ("trading.ZeroAmount", "withdraw", lambda: of("trading.withdraw").with_arguments(amount=0).send()),
    ("trading.UnknownAsset", "deposit", lambda: of("trading.deposit").with_arguments(asset=2).send()),
    ("trading.UnknownAsset", "withdraw", lambda: of("trading.withdraw").with_arguments(asset=255).send()),
    (
        "trading.WrongHolding",
        "deposit",
        lambda: (c := of("trading.deposit")).with_accounts(holding=c.chain.vault("bob").currency).send(),
    ),
    (
        "trading.WrongHolding",
        "to itself",
        lambda: (c := of("trading.withdraw")).with_accounts(destination=c.accounts["holding"]).send(),
    ),
    ("trading.WrongHolding", "settle", lambda: foreign_holding(of("trading.settle_batch"))),
    ("trading.AlreadyWithdrawn", "replay", lambda: twice(of("trading.withdraw"))),
    (
        "trading.AlreadyWithdrawn",
        "another amount",
        lambda: (c := of("trading.withdraw")).send() and c.with_arguments(amount=1).send(),
    ),
    ("trading.AlreadySettled", "replay", lambda: twice(of("trading.settle_batch"))),
    ("trading.AlreadySettled", "part again", lambda: second_part(part=0)),
    ("trading.AlreadySettled", "cancel", settled_then_cancelled),
    ("trading.AlreadySettled", "cancel again", lambda: twice(of("trading.cancel_settlement"))),
    ("trading.Cancelled", "settle", cancelled),
    ("trading.OtherSettlement", "root", lambda: second_part(root=bytes(32))),
    ("trading.BadPart", "beyond", lambda: settlement((0, 0), part=1).send()),
    ("trading.BadPart", "of none", lambda: settlement((0, 0), parts=0).send()),
    ("trading.NoDeltas", "none", lambda: settlement().send()),
    (
        "trading.WrongAccounts",
        "one too many",
        lambda: of("trading.settle_batch").with_arguments(deltas=[{"energy": 0, "currency": 0}]).send(),
    ),
    ("trading.NotPaidIn", "energy", lambda: settlement((-1_000, 0), (1_001, 0)).send()),
    ("trading.NotPaidIn", "currency from nothing", lambda: settlement((0, 1)).send()),
    ("trading.Unbalanced", "energy", lambda: settlement((-1_000, 0), (999, 0)).send()),
    ("trading.Unbalanced", "currency", lambda: settlement((0, 0), (0, -1)).send()),
    ("trading.Overflow", "held", held_overflows),
    ("oracle.AlreadyInitialized", "again", lambda: twice(of("oracle.initialize"))),
    ("oracle.RoundExists", "replay", lambda: twice(of("oracle.publish"))),
    ("oracle.OldRound", "earlier", lambda: published(number=6)),
    ("oracle.OldInstant", "earlier", lambda: published(number=8, at=NOW - 1)),
    ("oracle.FutureInstant", "61 s", lambda: of("oracle.publish").with_arguments(at=NOW + 61).send()),
    ("oracle.NoProviders", "none", lambda: of("oracle.publish").with_arguments(providers=0).send()),
    ("oracle.ProviderInactive", "attests", inactive_provider),
    ("oracle.AlreadyAttested", "replay", lambda: twice(of("oracle.attest_readings"))),
    ("oracle.NothingToSet", "again", lambda: twice(of("oracle.set_provider"))),
]
PAUSED = [*OPERATED, "oracle.attest_readings"]


@pytest.mark.parametrize(("error", "attack"), [pytest.param(e, a, id=f"{e}-{why}") for e, why, a in REFUSALS])
def test_it_is_refused_by_its_name(error: str, attack: Callable[[], Outcome]) -> None:
    assert attack().error == error.partition(".")[2]


@pytest.mark.parametrize("name", OPERATED)
def test_only_the_operator_may(name: str) -> None:
    call = of(name).signed_by(OPERATED[name], "mallory")

    assert call.send().error == "Unauthorized"


@pytest.mark.parametrize("name", GOVERNED)
def test_only_the_authority_may(name: str) -> None:
    call = of(name).signed_by("authority", "mallory")
    if name == "governance.initialize":  # whoever is first
        assert call.send().error == ""
        return

    assert call.send().error == "Unauthorized"


@pytest.mark.parametrize("name", PAUSED)
def test_a_pause_stops_it(name: str) -> None:
    assert paused(of(name)).send().error == "Paused"


@pytest.mark.parametrize("name", ["energy_token.retire", "trading.deposit", "trading.create_vault"])
def test_a_pause_does_not_stop_it(name: str) -> None:
    assert paused(of(name)).send().error == ""


def test_a_paused_mint_does_not_mint() -> None:
    call = of("energy_token.mint_generation")
    call.chain.must("energy_token", "pause", {}, "authority", authority="authority")

    assert call.send().error == "Paused"


def test_every_error_is_raised_by_a_test() -> None:
    named = {f"{name}.{error['name']}" for name in NAMES for error in load_idl(name)["errors"]}
    tested = {error for error, _, _ in REFUSALS} | {f"{name.partition('.')[0]}.Paused" for name in PAUSED}
    tested |= {f"{name.partition('.')[0]}.Unauthorized" for name in (*OPERATED, *GOVERNED)}

    assert named == tested


@pytest.mark.parametrize("name", ["registry.update_user", "registry.set_meter_status", "trading.deposit"])
def test_an_account_of_another_owner_is_refused(name: str) -> None:
    call = of(name)
    account = {"registry.set_meter_status": "meter"}.get(name)
    address = call.instruction().accounts[0].pubkey
    found = call.chain.vm.get_account(address)
    assert found is not None
    call.chain.put(address, call.chain.public("mallory"), bytes(found.data))  # the same bytes, another program's
    assert account is None or call.accounts[account] == address

    assert call.send().error == "AccountOwnedByWrongProgram"


def test_an_account_of_another_type_is_refused() -> None:
    call = of("registry.set_meter_status")
    user = call.chain.program("registry").address(
        "register_user", "user", {}, {"authority": call.chain.public("alice")}
    )

    assert call.with_accounts(meter=user).send().error == "AccountDiscriminatorMismatch"


def test_energy_of_anothers_account_is_not_retired() -> None:
    call = of("energy_token.retire").signed_by("owner", "mallory")

    assert call.send().error == "custom 4"  # SPL Token: owner does not match


def test_more_than_a_vault_holds_is_not_withdrawn_and_may_be_tried_again() -> None:
    call = of("trading.withdraw")

    assert call.with_arguments(amount=901).send().error == "custom 1"  # SPL Token: insufficient funds
    assert call.with_arguments(amount=900).send().error == ""  # what failed left no record


def test_a_settlement_is_all_or_nothing() -> None:
    call = settlement((-1_000, 0), (1_000, -5_000_001))
    seller, buyer = (call.following[1].pubkey, call.following[5].pubkey)

    assert call.send().error == "custom 1"

    assert (call.chain.amount(seller), call.chain.amount(buyer)) == (1_000, 5_000_000)
    assert call.with_arguments(deltas=[{"energy": 0, "currency": 0}] * 2).send().error == ""


def test_everybody_pays_in_before_anybody_is_paid() -> None:
    call = CALLS["trading.settle_batch"]()  # the first is paid by the second

    assert call.send().error == ""

    amounts = [call.chain.amount(call.following[place].pubkey) for place in (1, 2, 4, 5)]
    assert amounts == [0, 4_000_000, 1_000, 1_000_000]


def test_parts_pay_in_and_out_of_one_settlement() -> None:
    assert second_part().error == ""


def test_one_settlement_cannot_spend_what_another_holds() -> None:
    held = settlement((-1_000, 0), parts=2)
    assert held.send().error == ""
    thief = held.with_arguments(id=b"another".ljust(16, b"\0"), deltas=[{"energy": 1, "currency": 0}])

    assert thief.send().error == "NotPaidIn"


def test_as_many_parts_fit_as_a_byte_counts() -> None:
    call = settlement((0, 0), part=0, parts=255)

    outcomes = {call.with_arguments(part=part).send().error for part in range(255)}

    assert outcomes == {""}
    assert call.with_arguments(part=200).send().error == "AlreadySettled"


def test_a_handed_over_authority_counts_and_the_old_one_does_not() -> None:
    call = of("governance.accept_authority")
    chain: TestChain = call.chain
    assert call.send().error == ""

    assert chain.call("governance", "pause", {}, "authority", authority="authority").error == "Unauthorized"
    assert chain.call("governance", "pause", {}, "mallory", authority="mallory").error == ""
