"""Free and reserved: moved in pairs, never below zero."""

import pytest

from engine.accounts import Account, FeeRates, fee_micro, reservation_micro
from engine.messages import CURRENCY

ALICE = 1


def account() -> Account:
    return Account(ALICE, FeeRates(0, 0))


def test_reserving_moves_money_from_free_to_reserved() -> None:
    alice = account()
    alice.add_free(CURRENCY, 10)

    alice.reserve_cash(7)

    assert (alice.free(CURRENCY), alice.reserved(CURRENCY)) == (3, 7)


def test_reserving_moves_energy_of_one_zone_only() -> None:
    alice = account()
    alice.add_free("A", 10)
    alice.add_free("B", 5)

    alice.reserve_energy("A", 4)

    assert [(alice.free(zone), alice.reserved(zone)) for zone in ("A", "B", "C")] == [(6, 4), (5, 0), (0, 0)]


def test_a_negative_reservation_gives_back() -> None:
    alice = account()
    alice.add_free(CURRENCY, 10)
    alice.add_free("A", 10)
    alice.reserve_cash(10)
    alice.reserve_energy("A", 10)

    alice.reserve_cash(-4)
    alice.reserve_energy("A", -10)

    assert (alice.free(CURRENCY), alice.reserved(CURRENCY)) == (4, 6)
    assert (alice.free("A"), alice.reserved("A")) == (10, 0)
    assert "A" not in alice.energy_reserved  # nothing is kept about nothing: equal states are equal bytes


def test_no_amount_falls_below_zero() -> None:
    with pytest.raises(AssertionError):
        account().add_free(CURRENCY, -1)
    with pytest.raises(AssertionError):
        account().add_free("A", -1)
    with pytest.raises(AssertionError):
        account().add_reserved_energy("A", -1)
    with pytest.raises(AssertionError):
        account().reserve_cash(1)
    with pytest.raises(AssertionError):
        account().reserve_cash(-1)


def test_assets_are_listed_money_first_then_zones_by_name() -> None:
    alice = account()
    for asset in ("C", "A", CURRENCY):
        alice.add_free(asset, 1)
    alice.reserve_energy("A", 1)

    assert alice.assets() == [CURRENCY, "A", "C"]
    alice.add_free(CURRENCY, -1)
    assert alice.assets() == ["A", "C"]


def test_an_account_with_anything_in_it_is_not_empty() -> None:
    assert account().is_empty()
    for attribute, value in (
        ("cash_free", 1),
        ("cash_reserved", 1),
        ("energy_free", {"A": 1}),
        ("energy_reserved", {"A": 1}),
        ("orders", {1: None}),
        ("client_ids", {"x": None}),
        ("has_own_fees", True),
        ("dead_man_us", 1),
    ):
        alice = account()
        setattr(alice, attribute, value)
        assert not alice.is_empty(), attribute


def test_a_buy_of_one_and_a_half_kwh_at_four_reserves_six_and_the_fee() -> None:
    assert reservation_micro(6_000_000, 0, 25) == 6_015_000  # 25 bps of 6.000000 are 0.015000


def test_a_fee_is_rounded_up_once_for_the_order_not_for_each_fill() -> None:
    assert fee_micro(0, 30 * 15) == 1  # 30 bps of 15 micro are 0.045
    assert fee_micro(30 * 15, 30 * 15) == 0  # and of 30 micro 0.09: still one micro in all
    assert fee_micro(9_999, 2) == 1


def test_the_worst_rate_is_the_larger_one_and_never_a_rebate() -> None:
    assert [FeeRates(10, 20).worst_bps, FeeRates(20, 10).worst_bps, FeeRates(-10, 0).worst_bps] == [20, 20, 0]
