"""The dynamic band and what happens when trading would leave it: a halt, then a reopening at a moved reference price.

    open  --a trade would leave the band-->  halted until time_us + halt_seconds  --time-->  open, with a new reference

Limit orders outside the band are refused (ruling.py); but market orders, and orders that rest since the band was
elsewhere, can still meet outside of it. With `halt_seconds` such a trade is not made: the market halts, what may rest
rests, and by then everybody has had time to look. Source: docs/decisions/0041.
"""

from abc import ABC, abstractmethod

from engine.book.reference import ReferencePrice
from engine.book.side import Order
from engine.market import MarketSpec, Phase
from engine.messages import Event, HaltEnded, PhaseChanged, VolatilityHalted
from engine.units import BPS, SECOND_US, PriceMicro, TimeUs


class Volatility(ABC):
    """The part of OrderBook that halts it."""

    spec: MarketSpec
    phase: Phase
    time_us: TimeUs
    due_us: TimeUs
    reference: ReferencePrice
    halt_until_us: TimeUs  # 0: no halt, or one that only an admin ends
    reopening_micro: PriceMicro  # the reference price from then on

    blocked: dict[int, Order]

    @abstractmethod
    def _trade_blocked(self, events: list[Event]) -> None:
        """Let the blocked orders meet anew, if the market is open."""

    def _band(self) -> tuple[PriceMicro, PriceMicro] | None:
        """Lowest and highest price at which orders may trade; None: whatever their limits permit."""
        spec, reference = self.spec, self.reference.price_micro
        if not (spec.halt_seconds and spec.band_bps):
            return None
        return -(-reference * (BPS - spec.band_bps) // BPS), reference * (BPS + spec.band_bps) // BPS

    def _halt(self, price_micro: PriceMicro, band: tuple[PriceMicro, PriceMicro], events: list[Event]) -> None:
        """Trading would go on at this price, outside the band. The reference will follow it, to the band's edge."""
        tick, reference = self.spec.tick_micro, self.reference.price_micro
        low, high = band
        if price_micro > high:
            self.reopening_micro = min(price_micro, max(high - high % tick, reference + tick))
        else:
            self.reopening_micro = max(price_micro, min(low + -low % tick, reference - tick))
        self.halt_until_us = self.time_us + self.spec.halt_seconds * SECOND_US
        self.due_us = min(self.due_us, self.halt_until_us)
        self.phase = Phase.HALTED
        events += (VolatilityHalted(price_micro, self.halt_until_us), PhaseChanged(Phase.HALTED))

    def _end_halt(self, events: list[Event]) -> None:
        """The halt is over, whoever ends it, and whatever phase follows: the reference has moved."""
        if self.halt_until_us:
            self.halt_until_us = 0
            self.reference.restart(self.reopening_micro)
            self.reopening_micro = 0
            events.append(HaltEnded(self.reference.price_micro))

    def _reopen(self, events: list[Event]) -> None:
        """The seam for another way to reopen: here the market goes on where it stood; what rested since arrives."""
        self._end_halt(events)
        self.phase = Phase.OPEN
        events.append(PhaseChanged(Phase.OPEN))
        self._trade_blocked(events)
