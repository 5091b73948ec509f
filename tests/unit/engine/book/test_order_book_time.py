"""Time in the book: expiry by instant, dead-man switches, epochs; what is due happens before any command."""

import pytest

from engine.book import order_book
from engine.market import Phase
from engine.messages import (
    CancelAllAt,
    DeadManSet,
    EndReason,
    EpochOpened,
    RejectCode,
    SetPhase,
    Tick,
    TimeInForce,
)
from tests.support.builders import (
    ALICE,
    BOB,
    CAROL,
    START_US,
    A,
    B,
    Desk,
    ends,
    funded_desk,
    linked,
    market,
    refusal,
    trades,
)

PRICE = 4_000_000


def test_an_order_can_trade_one_microsecond_before_its_expiry() -> None:
    desk = funded_desk()
    desk.sell(ALICE, PRICE, 1, time_in_force=TimeInForce.GTD, expires_us=START_US + 1_000)
    desk.time_us = START_US + 999

    assert trades(desk.buy(BOB, PRICE, 1))


def test_an_order_cannot_trade_at_its_expiry_though_nothing_has_reaped_it() -> None:
    desk = funded_desk()
    desk.sell(ALICE, PRICE, 1, time_in_force=TimeInForce.GTD, expires_us=START_US + 1_000)
    order_id = desk.last_id
    desk.time_us = START_US + 1_000

    events = desk.buy(BOB, PRICE, 1)

    assert not trades(events)
    assert ends(events) == [(order_id, EndReason.EXPIRED, 1)]
    assert desk.free(ALICE, A) == 10**15


def test_gtc_orders_live_as_long_as_the_market_allows() -> None:
    desk = funded_desk(market(order_life_seconds_max=60))
    desk.buy(ALICE, PRICE, 1)
    order_id = desk.last_id

    desk.wait(59.999999)
    assert not ends(desk.tick())
    desk.time_us += 1
    assert ends(desk.tick()) == [(order_id, EndReason.EXPIRED, 1)]


def test_amending_does_not_prolong_an_orders_life() -> None:
    desk = funded_desk(market(order_life_seconds_max=60))
    desk.buy(ALICE, PRICE, 1)
    order_id = desk.last_id
    desk.wait(59)
    desk.amend(ALICE, order_id, PRICE + 1_000, 2)

    desk.wait(1)

    assert refusal(desk.amend(ALICE, order_id, PRICE)) == RejectCode.ORDER_CLOSED


def test_what_expired_is_gone_in_the_order_of_its_instants() -> None:
    desk = funded_desk()
    for seconds in (30, 10, 20):
        desk.buy(ALICE, PRICE, 1, expires_us=START_US + seconds * 1_000_000)
    last = desk.last_id
    desk.wait(60)

    assert [order_id for order_id, _, _ in ends(desk.tick())] == [last - 1, last, last - 2]


def test_an_expired_orders_funds_back_the_very_next_order() -> None:
    desk = Desk()
    desk.fund(ALICE, "", 4_000)
    desk.buy(ALICE, PRICE, 1, expires_us=START_US + 1)
    desk.time_us += 1

    assert refusal(desk.buy(ALICE, PRICE, 1)) is None


# --- dead-man -------------------------------------------------------------------------------------------------------


def test_a_dead_man_switch_cancels_everything_of_one_participant_at_its_instant() -> None:
    desk = funded_desk()
    desk.buy(ALICE, PRICE, 1)
    desk.sell(ALICE, PRICE + 1_000, 1)
    desk.buy(BOB, PRICE, 1)
    first = desk.last_id - 2

    assert desk.do(CancelAllAt(ALICE, START_US + 1_000)) == [DeadManSet(ALICE, START_US + 1_000)]
    desk.time_us += 999
    assert desk.tick() == []
    desk.time_us += 1
    assert ends(desk.tick()) == [(first, EndReason.DEAD_MAN, 1), (first + 1, EndReason.DEAD_MAN, 1)]


def test_a_fired_switch_is_off() -> None:
    desk = funded_desk()
    desk.do(CancelAllAt(ALICE, START_US + 1_000))
    desk.time_us += 1_000
    desk.tick()
    desk.buy(ALICE, PRICE, 1)
    desk.time_us += 1_000

    assert desk.tick() == []


def test_a_heartbeat_moves_the_switch_and_zero_switches_it_off() -> None:
    desk = funded_desk()
    desk.buy(ALICE, PRICE, 1)
    desk.do(CancelAllAt(ALICE, START_US + 1_000))
    desk.do(CancelAllAt(ALICE, START_US + 5_000))
    desk.time_us += 1_000
    assert desk.tick() == []

    assert desk.do(CancelAllAt(ALICE, 0)) == [DeadManSet(ALICE, 0)]
    desk.time_us += 10_000
    assert desk.tick() == []


def test_switching_on_twice_for_the_same_instant_fires_once() -> None:
    desk = funded_desk()
    desk.buy(ALICE, PRICE, 1)
    for _ in range(2):
        desk.do(CancelAllAt(ALICE, START_US + 1_000))
    desk.time_us += 1_000

    assert len(ends(desk.tick())) == 1


def test_a_switch_that_is_off_keeps_no_account() -> None:
    desk = Desk()
    desk.tick()

    assert desk.do(CancelAllAt(ALICE, 0)) == [DeadManSet(ALICE, 0)]
    assert not desk.book.accounts
    desk.do(CancelAllAt(ALICE, START_US + 1_000))
    assert desk.book.accounts
    desk.do(CancelAllAt(ALICE, 0))
    assert not desk.book.accounts
    desk.do(CancelAllAt(ALICE, START_US + 1_000))
    desk.time_us += 1_000
    desk.tick()
    assert not desk.book.accounts


# --- epochs ---------------------------------------------------------------------------------------------------------


def test_the_first_entry_opens_its_epoch() -> None:
    desk = Desk()
    desk.time_us = START_US + 5_000_000

    assert desk.tick() == [EpochOpened(START_US)]
    assert desk.tick() == []


def test_epochs_that_nobody_saw_are_skipped() -> None:
    desk = Desk()
    desk.tick()
    desk.wait(5 * 900)

    assert desk.tick() == [EpochOpened(START_US + 5 * 900_000_000)]


def test_the_epoch_opens_before_the_command_that_comes_with_it() -> None:
    desk = funded_desk(linked(capacity_wh=1))
    desk.sell(ALICE, PRICE, 3, zone=A)
    desk.buy(BOB, PRICE, 2, zone=B)
    desk.wait(900)

    events = desk.buy(CAROL, PRICE + 1_000, 1, zone=B)

    assert isinstance(events[0], EpochOpened)
    assert [trade.buyer_id for trade in trades(events)] == [BOB]  # who waited goes first; the link is full again


def test_an_epoch_that_opens_while_halted_lets_orders_arrive_on_resumption() -> None:
    desk = funded_desk(linked(capacity_wh=1))
    desk.sell(ALICE, PRICE, 3, zone=A)
    desk.buy(BOB, PRICE, 2, zone=B)
    desk.do(SetPhase(Phase.HALTED))
    desk.wait(900)
    assert not trades(desk.tick())

    assert [trade.energy_wh for trade in trades(desk.do(SetPhase(Phase.OPEN)))] == [1]


def test_orders_expire_while_the_market_is_halted() -> None:
    desk = funded_desk()
    desk.buy(ALICE, PRICE, 1, expires_us=START_US + 1_000)
    desk.do(SetPhase(Phase.HALTED))
    desk.time_us += 1_000

    assert [reason for _, reason, _ in ends(desk.tick())] == [EndReason.EXPIRED]


# --- agenda ---------------------------------------------------------------------------------------------------------


def test_the_agenda_is_swept_before_ended_orders_outnumber_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_book, "_AGENDA_SLACK", 8)
    desk = funded_desk()
    desk.buy(ALICE, PRICE, 1)
    keeper = desk.last_id
    desk.do(CancelAllAt(CAROL, START_US + 3_000_000))
    for _ in range(100):
        desk.buy(BOB, PRICE, 1)
        desk.cancel(BOB, desk.last_id)
        assert len(desk.book._agenda) <= 2 * (1 + 1 + 3) + 8

    desk.buy(CAROL, PRICE, 1)
    desk.wait(3)
    assert [reason for _, reason, _ in ends(desk.tick())] == [EndReason.DEAD_MAN]
    desk.wait(7 * 86_400)
    assert [order_id for order_id, _, _ in ends(desk.tick())] == [keeper]


def test_many_dead_man_switches_do_not_make_every_heartbeat_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_book, "_AGENDA_SLACK", 8)
    desk = Desk()
    remade, agenda = 0, desk.book._agenda
    for _ in range(3):
        for who in range(1, 101):
            desk.do(CancelAllAt(who, START_US + 1_000_000))
            remade += desk.book._agenda is not agenda
            agenda = desk.book._agenda

    assert 1 <= remade <= 3


def test_nothing_is_due_before_the_next_epoch_or_expiry() -> None:
    desk = funded_desk()
    assert desk.book.due_us == START_US + 900_000_000

    desk.buy(ALICE, PRICE, 1, expires_us=START_US + 1_000)

    assert desk.book.due_us == START_US + 1_000


def test_entries_come_in_sequence_and_time_never_runs_back() -> None:
    desk = Desk()
    desk.tick()
    entry = desk.entries[0]

    with pytest.raises(AssertionError):
        desk.book.apply(entry)
    desk.time_us -= 1
    with pytest.raises(AssertionError):
        desk.do(Tick())
