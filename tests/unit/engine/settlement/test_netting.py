"""Netting, and which trades a settlement takes, by examples; the laws are in tests/property/test_settlement_laws.py."""

import pytest

from engine.settlement.netting import Delta, Part, Rule, choose, deltas, net, settle, split
from tests.support.settlement import SALT, trade

RULE = Rule(every_us=900, trades_max=5, part_accounts=6)


def test_what_was_bought_and_sold_on_cancels_out() -> None:
    chain = [trade(1, buyer=1, seller=2), trade(2, buyer=3, seller=1)]

    assert deltas(net(chain)) == [Delta("user:2", -1_000, 3_000_000), Delta("user:3", 1_000, -3_000_000)]


def test_fees_and_charges_have_accounts_of_their_own() -> None:
    one = trade(1, charges_micro=500_000, buyer_fee=3_500, seller_fee=-1_000)

    assert deltas(net([one])) == [
        Delta("fees", 0, 2_500),
        Delta("grid", 0, 500_000),
        Delta("user:1", 1_000, -3_503_500),
        Delta("user:2", -1_000, 3_001_000),
    ]


def test_the_grid_lends_energy_between_zones_in_the_books_and_not_on_the_chain() -> None:
    gains = net([trade(1, zones=("B", "A"))])

    assert (gains["grid:A", "A"], gains["grid:B", "B"]) == (1_000, -1_000)
    assert [one.energy_wh for one in deltas(gains) if one.account == "grid"] == []


def test_trades_of_the_interval_that_goes_on_wait() -> None:
    waiting = [trade(1, time_us=899), trade(2, time_us=900), trade(3, time_us=901)]

    assert choose(waiting, 899, RULE) == []
    assert choose(waiting, 900, RULE) == waiting[:1]
    assert choose(waiting, 1_800, RULE) == waiting


def test_as_many_as_a_settlement_may_have_do_not_wait() -> None:
    waiting = [trade(number, time_us=1) for number in range(1, 8)]

    assert choose(waiting[:4], 2, RULE) == []
    assert choose(waiting, 2, RULE) == waiting[:5]


def test_few_accounts_go_at_once_and_many_pay_in_first() -> None:
    changes = deltas(net([trade(1, charges_micro=5), trade(2, buyer=3, charges_micro=5)]))

    assert split(changes, 4) == [Part(0, tuple(changes))]
    assert split(changes, 3) == [
        Part(0, (Delta("user:1", 0, -3_000_005), Delta("user:2", -2_000, 0), Delta("user:3", 0, -3_000_005))),
        Part(1, (Delta("grid", 0, 10), Delta("user:1", 1_000, 0), Delta("user:2", 0, 6_000_000))),
        Part(1, (Delta("user:3", 1_000, 0),)),
    ]


def test_a_settlement_in_which_all_cancels_out_is_told_all_the_same() -> None:
    settlement = settle([trade(1), trade(2, buyer=2, seller=1)], 1, SALT, 6)

    assert settlement.parts == [Part(0, (Delta("fees"),))]
    assert (len(settlement.leaves), settlement.energy_wh) == (2, 2_000)


def test_the_same_trades_have_another_root_and_id_with_another_salt_and_number() -> None:
    first, second = settle([trade(1)], 1, SALT, 6), settle([trade(1)], 1, SALT[::-1], 6)

    assert first.root != second.root
    assert len({first.settlement_id, second.settlement_id, settle([trade(1)], 2, SALT, 6).settlement_id}) == 3


def test_a_short_salt_is_a_bug() -> None:
    with pytest.raises(AssertionError):
        settle([trade(1)], 1, b"salt", 6)
