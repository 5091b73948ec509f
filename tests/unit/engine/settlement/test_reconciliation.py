"""A planted difference is found wherever it is. Seen to fail for: pools or supply not looked at, pending ignored, gifts
that stop everybody, thefts taken for gifts, what moved between two readings taken for a difference.
"""

import msgspec
import pytest

from engine.settlement.reconciliation import NOTHING, Amounts, Books, Difference, OnChain, again, compare, steady

BOOKS = Books(
    ledger={"user:1": Amounts(500, 70), "user:2": Amounts(400, 20), "fees": Amounts(0, 10)},
    pending={"user:1": Amounts(100, -10), "user:2": Amounts(-100, 8), "fees": Amounts(0, 2)},
    energy_live_wh=900,
)
CHAIN = OnChain(
    vaults={"user:1": Amounts(400, 80), "user:2": Amounts(500, 12), "fees": Amounts(0, 8)},
    pools=NOTHING,
    held=NOTHING,
    supply=Amounts(900, 1_000),
)
replace = msgspec.structs.replace


def test_books_and_chain_that_agree_have_no_difference() -> None:
    assert compare(BOOKS, CHAIN) == []


@pytest.mark.parametrize("account", ["user:1", "user:2", "fees", "grid", "user:9"])
@pytest.mark.parametrize(("change", "asset"), [(Amounts(1, 0), "energy"), (Amounts(0, -1), "currency")])
def test_one_unit_in_a_vault_is_found(account: str, change: Amounts, asset: str) -> None:
    was = CHAIN.vaults.get(account, NOTHING)
    chain = replace(CHAIN, vaults={**CHAIN.vaults, account: was + change}, supply=CHAIN.supply + Amounts(1, 1))
    books = replace(BOOKS, energy_live_wh=901)

    expected = was.energy_wh if asset == "energy" else was.currency_micro
    found = expected + (change.energy_wh or change.currency_micro)
    assert compare(books, chain) == [Difference(account, asset, expected, found)]


def test_a_vault_that_is_missing_is_found() -> None:
    vaults = {account: amounts for account, amounts in CHAIN.vaults.items() if account != "fees"}

    assert compare(BOOKS, replace(CHAIN, vaults=vaults)) == [Difference("fees", "currency", 8, 0)]


def test_pools_hold_what_settlements_that_are_not_done_have_paid_in() -> None:
    under_way = replace(CHAIN, pools=Amounts(0, 7), held=Amounts(0, 7))

    assert compare(BOOKS, under_way) == []
    assert compare(BOOKS, replace(under_way, held=NOTHING)) == [Difference("pools", "currency", 0, 7)]


def test_energy_that_nobody_generated_is_found() -> None:
    assert compare(BOOKS, replace(CHAIN, supply=Amounts(901, 1_000))) == [Difference("supply", "energy", 900, 901)]
    assert compare(replace(BOOKS, energy_pending_wh=-1), replace(CHAIN, supply=Amounts(901, 1_000))) == []


def test_more_tokens_than_there_are_is_found() -> None:
    assert compare(BOOKS, replace(CHAIN, supply=Amounts(900, 99))) == [
        Difference("vaults and pools", "currency", 99, 100)
    ]


def test_who_is_in_a_transaction_under_way_is_left_for_the_next_time() -> None:
    chain = replace(CHAIN, vaults={**CHAIN.vaults, "user:1": NOTHING})

    assert compare(replace(BOOKS, under_way={"user:1"}), chain) == []
    assert [one.what for one in compare(replace(BOOKS, under_way={"user:2"}), chain)] == ["user:1", "user:1"]


def test_who_sends_what_he_has_withdrawn_to_a_vault_is_told_and_stops_nobody() -> None:
    books = replace(BOOKS, outside=Amounts(0, 5))
    gift = replace(CHAIN, vaults={**CHAIN.vaults, "user:1": Amounts(400, 85)})
    more = replace(CHAIN, vaults={**CHAIN.vaults, "user:1": Amounts(400, 86)})
    theft = replace(CHAIN, vaults={**CHAIN.vaults, "user:1": Amounts(400, 79)})

    assert [(one.what, one.stops) for one in compare(books, gift)] == [("user:1", False)]
    assert [(one.what, one.stops) for one in compare(books, more)] == [("user:1", True)]
    assert [(one.what, one.stops) for one in compare(books, theft)] == [("user:1", True)]


@pytest.mark.parametrize(("supply", "differs"), [(899, True), (900, False), (905, False), (906, True)])
def test_energy_that_was_withdrawn_is_its_owners_to_burn(supply: int, differs: bool) -> None:
    books = replace(BOOKS, outside=Amounts(5, 0), under_way=frozenset({"user:1"}))
    vaults = {**CHAIN.vaults, "user:1": Amounts(399, 80)}
    found = compare(books, replace(CHAIN, vaults=vaults, supply=Amounts(supply, 1_000)))

    assert [one.what for one in found] == (["supply"] if differs else [])


def test_what_moved_while_the_chain_was_read_is_left_for_the_next_time() -> None:
    later = replace(BOOKS, ledger={**BOOKS.ledger, "user:1": Amounts(510, 70)}, energy_live_wh=910)

    both = steady(BOOKS, later)

    assert (both.under_way, both.supply_moves) == (frozenset({"user:1"}), True)
    assert compare(both, CHAIN) == []
    assert steady(BOOKS, BOOKS) == BOOKS


def test_a_difference_counts_when_two_looks_see_the_same() -> None:
    first = [Difference("fees", "currency", 8, 7), Difference("user:1", "energy", 5, 6)]
    second = [Difference("fees", "currency", 9, 8), Difference("user:1", "energy", 5, 7)]

    assert again(first, second) == [second[0]]
    assert again([], second) == []


@pytest.mark.parametrize(("supply", "differs"), [(99, True), (100, False), (105, False), (106, True)])
def test_money_that_nobody_issued_is_found_where_it_is_ours_to_issue(supply: int, differs: bool) -> None:
    ours = replace(BOOKS, currency_live_micro=110, currency_pending_micro=10, outside=Amounts(0, 5))
    chain = replace(CHAIN, supply=Amounts(900, supply))

    assert [one.what for one in compare(ours, chain) if one.what == "supply"] == (["supply"] if differs else [])
    assert [one for one in compare(BOOKS, chain) if one.what == "supply"] == []
