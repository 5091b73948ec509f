"""Whom a window credits, computed by hand."""

from engine.metering.crediting import Due, Posting, Purse, post

HOLDER = (7, "Z1")


def due(export_wh: int = 0, import_wh: int = 0, *, verified: bool = True, retires: bool = True) -> Due:
    return Due(1, 0, HOLDER, import_wh, export_wh, verified, retires, "cause")


def moved(posting: Posting) -> tuple[int, int, int]:
    return posting.credited_wh, posting.retired_wh, posting.debt_wh


def test_export_is_credited_and_import_is_retired_from_what_is_there() -> None:
    purses = {HOLDER: Purse(available_wh=50)}

    postings = post([due(export_wh=100, import_wh=30), due(import_wh=200)], purses)

    assert list(map(moved, postings)) == [(100, 30, 0), (0, 120, 0)]
    assert purses[HOLDER] == Purse(0, 0)


def test_an_unverified_meter_earns_nothing() -> None:
    assert list(map(moved, post([due(export_wh=100, verified=False)], {HOLDER: Purse()}))) == [(0, 0, 0)]


def test_who_does_not_want_to_retire_keeps_his_energy() -> None:
    assert moved(post([due(import_wh=10, retires=False)], {HOLDER: Purse(available_wh=50)})[0]) == (0, 0, 0)


def test_what_was_sold_and_is_taken_back_is_a_debt_that_the_next_credits_pay() -> None:
    purses = {HOLDER: Purse(available_wh=20)}

    postings = post([due(export_wh=-50), due(export_wh=10), due(export_wh=100)], purses)

    assert list(map(moved, postings)) == [(-20, 0, 30), (0, 0, -10), (80, 0, -20)]
    assert purses[HOLDER] == Purse(80, 0)
