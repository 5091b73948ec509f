"""How far a settlement is: what a part's news make of its state, and what the parts' states make of the whole.

    batched -> submitted -> confirmed -> finalized
       ^___________|____________|           a fork, an expiry or a retry puts a part back into the queue
    batched, submitted -> parked -> batched, or further when it has landed all the same

News may come late, twice and out of order. Nothing undoes what is finalized; only QUEUED undoes what is confirmed.
"""

from collections.abc import Iterable
from enum import IntEnum
from typing import Final


class Status(IntEnum):
    """Of a part, a settlement, and of each of its trades. A number is never reused."""

    EXECUTED = 0  # a trade that no settlement has taken yet
    BATCHED = 1
    SUBMITTED = 2
    CONFIRMED = 3
    FINALIZED = 4
    PARKED = 5  # it needs somebody who looks at it


class News(IntEnum):
    """What the chain's side says of a part."""

    QUEUED = 1  # to be sent, again after a fork, an expiry, or by an admin
    SUBMITTED = 2
    CONFIRMED = 3
    FINALIZED = 4
    PARKED = 5


_NEXT: Final = {
    Status.BATCHED: (Status.BATCHED, Status.SUBMITTED, Status.CONFIRMED, Status.FINALIZED, Status.PARKED),
    Status.SUBMITTED: (Status.BATCHED, Status.SUBMITTED, Status.CONFIRMED, Status.FINALIZED, Status.PARKED),
    Status.CONFIRMED: (Status.BATCHED, Status.CONFIRMED, Status.CONFIRMED, Status.FINALIZED, Status.CONFIRMED),
    Status.FINALIZED: (Status.FINALIZED,) * len(News),
    Status.PARKED: (Status.BATCHED, Status.SUBMITTED, Status.CONFIRMED, Status.FINALIZED, Status.PARKED),
}


def advance(status: Status, news: News) -> Status:
    """The state of a part after the news."""
    return _NEXT[status][news - 1]


def overall(parts: Iterable[Status]) -> Status:
    """The state of a settlement that has these parts."""
    states = set(parts)
    if Status.PARKED in states:
        return Status.PARKED
    if len(states) == 1:
        return states.pop()
    return Status.SUBMITTED if states & {Status.BATCHED, Status.SUBMITTED} else Status.CONFIRMED
