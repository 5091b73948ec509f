"""Limits and blocks that a market's book should have and has not: what it missed while it was away.

The tables say what holds; a change is told to each market at once (gateway/risk.py), and what was not heard is found
here by comparing, at the start and every half minute.
"""

from collections.abc import Collection, Mapping
from typing import Final

from engine.book.order_book import OrderBook
from engine.messages import ParticipantId, SetRisk
from engine.records import ParticipantRisk

AT_ONCE_MAX: Final = 1_000  # commands; the rest is found the next time
_NOTHING: Final = ParticipantRisk(None, is_blocked=False)


def amiss(
    book: OrderBook, wanted: Mapping[ParticipantId, ParticipantRisk], spared: Collection[ParticipantId] = ()
) -> list[SetRisk]:
    """The commands that give the book what is wanted, by participant, blocks before the rest; `spared` are left alone.

    Those who should not be blocked any more, or have no limits any more, are among them.
    """
    has = {
        account.participant_id: ParticipantRisk(account.limits, account.is_blocked)
        for account in book.accounts.values()
        if account.limits is not None or account.is_blocked
    }
    differing = [
        SetRisk(participant_id, risk.limits, risk.is_blocked)
        for participant_id in sorted(has.keys() | wanted.keys())
        if participant_id not in spared
        and (risk := wanted.get(participant_id, _NOTHING)) != has.get(participant_id, _NOTHING)
    ]
    differing.sort(key=lambda command: not command.is_blocked)
    return differing[:AT_ONCE_MAX]
