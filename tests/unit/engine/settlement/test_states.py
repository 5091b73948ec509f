"""States of settlements, all of them. Seen to fail for: late news that undo a confirmation."""

from itertools import product

import pytest

from engine.settlement.states import News, Status, advance, overall


@pytest.mark.parametrize("news", News)
def test_what_is_finalized_stays(news: News) -> None:
    assert advance(Status.FINALIZED, news) is Status.FINALIZED


def test_late_news_undo_no_confirmation() -> None:
    assert advance(Status.CONFIRMED, News.SUBMITTED) is Status.CONFIRMED
    assert advance(Status.CONFIRMED, News.PARKED) is Status.CONFIRMED
    assert advance(Status.CONFIRMED, News.QUEUED) is Status.BATCHED  # a fork has dropped it


@pytest.mark.parametrize("status", [Status.BATCHED, Status.SUBMITTED, Status.PARKED])
def test_what_is_on_the_chain_is_there_whatever_was_said_before(status: Status) -> None:
    assert advance(status, News.CONFIRMED) is Status.CONFIRMED
    assert advance(status, News.FINALIZED) is Status.FINALIZED


def test_the_same_news_twice_are_no_news() -> None:
    for status, news in product(list(Status)[1:], News):
        once = advance(status, news)

        assert advance(once, news) is once


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ("BB", Status.BATCHED),
        ("BS", Status.SUBMITTED),
        ("BF", Status.SUBMITTED),
        ("CF", Status.CONFIRMED),
        ("CC", Status.CONFIRMED),
        ("FF", Status.FINALIZED),
        ("SF", Status.SUBMITTED),
        ("PF", Status.PARKED),
        ("P", Status.PARKED),
    ],
)
def test_a_settlement_is_as_far_as_its_slowest_part(parts: str, status: Status) -> None:
    names = {one.name[0]: one for one in list(Status)[1:]}

    assert overall(names[letter] for letter in parts) is status
