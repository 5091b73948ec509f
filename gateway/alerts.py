"""Price alerts: told once, when a market trades at a price or beyond. They live as long as the connection they came on.

Kept in the order in which a moving price reaches them, so that a commit's trades look at those alone that they reach.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Sequence
from itertools import count
from typing import Final, NamedTuple, Protocol

from engine.market import MarketSpec
from engine.messages import ParticipantId, RejectCode
from engine.units import PriceMicro
from engine.views import TradeView
from gateway.decimals import format_price
from gateway.errors import Problem
from gateway.message import Message
from gateway.wire import show_trade

ALERTS: Final = "alerts"
OF_ONE_MAX: Final = 100  # of one participant, on all his connections to this gateway
IN_ALL_MAX: Final = 50_000


class Reader(Protocol):
    def push(self, message: Message) -> None: ...


class Alert(NamedTuple):
    """rises: told at this price or above; else at it or below."""

    alert_id: int
    market_id: int
    participant_id: ParticipantId
    price_micro: PriceMicro
    rises: bool
    reader: Reader

    @property
    def key(self) -> tuple[int, int]:
        return (self.price_micro if self.rises else -self.price_micro, self.alert_id)


class Alerts:
    def __init__(self) -> None:
        self._ids = count(1)
        self._alerts: dict[int, Alert] = {}
        self._keys: dict[tuple[int, bool], list[tuple[int, int]]] = {}  # by market and direction, soonest first
        self._of_one: Counter[ParticipantId] = Counter()

    def set(
        self, spec: MarketSpec, participant_id: ParticipantId, price_micro: PriceMicro, rises: bool, reader: Reader
    ) -> int:
        """The new alert's id. Raises CONFLICT when there are too many."""
        if self._of_one[participant_id] >= OF_ONE_MAX:
            raise Problem(RejectCode.CONFLICT, f"a participant has at most {OF_ONE_MAX} alerts")
        if len(self._alerts) >= IN_ALL_MAX:
            raise Problem(RejectCode.CONFLICT, "this gateway keeps no more alerts")
        alert = Alert(next(self._ids), spec.market_id, participant_id, price_micro, rises, reader)
        self._alerts[alert.alert_id] = alert
        insort(self._keys.setdefault((alert.market_id, rises), []), alert.key)
        self._of_one[participant_id] += 1
        return alert.alert_id

    def drop(self, participant_id: ParticipantId, alert_id: int) -> bool:
        """Whether the participant had such an alert."""
        alert = self._alerts.get(alert_id)
        if alert is None or alert.participant_id != participant_id:
            return False
        self._remove(alert)
        return True

    def forget(self, reader: Reader) -> None:
        """The connection is gone."""
        for alert in [one for one in self._alerts.values() if one.reader is reader]:
            self._remove(alert)

    def traded(self, spec: MarketSpec, trades: Sequence[TradeView]) -> None:
        """Tell of each alert that one of a commit's trades has reached."""
        for rises in (True, False):
            keys = self._keys.get((spec.market_id, rises), [])
            for trade in trades if keys else ():
                reached = bisect_left(keys, (trade.price_micro if rises else -trade.price_micro, 2**63))
                for _, alert_id in keys[:reached]:
                    alert = self._alerts[alert_id]
                    self._remove(alert)
                    alert.reader.push(_told(spec, alert, trade))

    def _remove(self, alert: Alert) -> None:
        del self._alerts[alert.alert_id]
        keys = self._keys[alert.market_id, alert.rises]
        del keys[bisect_left(keys, alert.key)]
        self._of_one[alert.participant_id] -= 1
        if not self._of_one[alert.participant_id]:
            del self._of_one[alert.participant_id]


def _told(spec: MarketSpec, alert: Alert, trade: TradeView) -> Message:
    return Message(
        {
            "channel": ALERTS,
            "type": "alert",
            "alert_id": str(alert.alert_id),
            "market": spec.symbol,
            "when": "at_or_above" if alert.rises else "at_or_below",
            "price": format_price(alert.price_micro),
            "trade": show_trade(spec, trade),
        }
    )
