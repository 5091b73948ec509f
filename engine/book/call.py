"""The auctions of a market: when orders collect, when an epoch closes, how its auction becomes trades.

    open ── gate ──> auction_call ── epoch's end ──> EpochClosed ── ClearEpoch, ClearEpoch, ... ──> EpochCleared

With the epoch's end the orders that rest take part in its auction; what comes later is the next epoch's. What trades is
a pure function of these orders, and is made in steps of TRADES_AT_ONCE so that nobody waits for all of them. Until the
last step the orders that are to trade stay as they are: amends and cancels of them are refused, other ends (expiry, a
block, a halted or closed market) come when it is done. Source: docs/decisions/0039.
"""

from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from engine.auction.certificate import Published
from engine.auction.epoch import Outcome, clear, outcome_of
from engine.auction.orders import BY_PRIORITY, AuctionOrder, Rules, rules_of
from engine.book.matching import charge
from engine.book.ruling import Ruling
from engine.book.side import Order
from engine.market import Mechanism, Phase
from engine.messages import (
    AuctionTraded,
    ClearEpoch,
    EndReason,
    EpochCleared,
    EpochClosed,
    Event,
    PhaseChanged,
    Refused,
    RejectCode,
    StopTriggered,
)
from engine.units import EnergyWh, PriceMicro, TimeUs, value_micro

# Part of the rules: another number is another ENGINE_VERSION. Not Final: tests want it small, and machine code has what
# is Final built in.
TRADES_AT_ONCE = 500
EPOCHS_MISSED_MAX: Final = 1_000  # that one entry lists after the exchange was away
_FILLED: Final = EndReason.FILLED
_OPEN: Final = Phase.OPEN
_CALL: Final = Phase.AUCTION_CALL


class Call:
    """An epoch that has closed, until its auction is done."""

    def __init__(self, start_us: TimeUs, rules: Rules, zones: Sequence[str], orders: dict[int, Order]) -> None:
        self.start_us = start_us
        self.rules = rules
        self.zones = tuple(zones)
        self.orders = orders  # that must stay as they are: first all, then those that are to trade
        self.deferred: dict[int, EndReason] = {}  # ends that came meanwhile
        self.foreseen: Outcome | None = None  # from somebody who had the time to work it out
        self.outcome: Outcome | None = None  # once the first trades are made
        self.done = 0  # how many of them are made

    def clear(self) -> Outcome:
        """Who trades at which prices. Changes nothing, and may run beside the book as long as the orders stay.

        The certificate is for everybody, so participants are numbered as they come in it, by priority.
        """
        names: dict[int, int] = {}
        published = clear(
            (
                AuctionOrder(
                    order.order_id,
                    names.setdefault(order.account.participant_id, len(names) + 1),
                    order.placed.side,
                    order.price_micro,
                    order.remaining_wh,
                    order.priority,
                    order.zone,
                )
                for order in sorted(self.orders.values(), key=BY_PRIORITY)
            ),
            self.zones,
            self.rules,
        )
        return outcome_of(published, self.start_us)

    def begin(self, outcome: Outcome) -> None:
        """From here on only those stay as they are that are to trade."""
        self.outcome, self.foreseen = outcome, None
        self.orders = {order_id: order for order_id, order in self.orders.items() if order_id in outcome.trading}


class Calling(Ruling):
    """The part of OrderBook that holds auctions."""

    epoch_start_us: TimeUs
    call: Call | None  # the epoch that has closed and is not cleared
    certificate: Published | None  # of the last epoch that was cleared; not part of the state

    def _is_kept(self, order: Order) -> bool:
        """Whether the order must stay as it is until its auction is cleared."""
        return self.call is not None and order.order_id in self.call.orders

    # --- phases -------------------------------------------------------------------------------------------------

    def _open_phase(self) -> Phase:
        """What an open market does at this instant: trade, or collect orders for an auction."""
        spec = self.spec
        if not spec.has_auctions:
            return _OPEN
        is_call = self.call is not None or self.time_us - self.epoch_start_us >= spec.gate_us
        return _CALL if is_call else _OPEN

    def _follow_gate(self, events: list[Event]) -> None:
        """Collect from the gate on; trade again when the epoch before is cleared."""
        if not self.spec.has_auctions or (self.phase is not _OPEN and self.phase is not _CALL):
            return
        phase = self._open_phase()
        if phase is not self.phase:
            self.phase = phase
            events.append(PhaseChanged(phase))
            self._trade_blocked(events)

    # --- an epoch's end -----------------------------------------------------------------------------------------

    def _close_epoch(self, start_us: TimeUs, events: list[Event]) -> None:
        """The epoch that began at `start_us` is over; what rests takes part in its auction, if the market is open.

        Comes before the lanes are made fresh: the auction has what the epoch's trades have left of them.
        """
        is_open = self.phase is _OPEN or self.phase is _CALL
        orders = {number: order for number, order in self.orders.items() if order.level is not None} if is_open else {}
        events.append(EpochClosed(start_us, len(orders)))
        if not orders:
            self._settle_epoch(EpochCleared(start_us), None, events)
            return
        rules = rules_of(self.spec)
        paths = tuple(
            replace(path, capacity_wh=lane.left_wh) if lane.limited else path
            for path in self.spec.paths
            for lane in (self.lanes[path.zone_from, path.zone_to],)
        )
        self.call = Call(start_us, replace(rules, paths=paths), self.spec.zones, orders)
        if not self._has_limits:
            self.blocked = {}  # the auction leaves nobody who could trade with another, but for the lanes
        if self.phase is _OPEN:
            self.phase = _CALL
            events.append(PhaseChanged(_CALL))

    def _settle_epoch(self, cleared: EpochCleared, certificate: Published | None, events: list[Event]) -> None:
        """The epoch is done, and those in which the exchange was away, in which nobody could place an order."""
        self.certificate = certificate
        events.append(cleared)
        epoch_us = self.spec.epoch_us
        first = max(cleared.start_us + epoch_us, self.epoch_start_us - EPOCHS_MISSED_MAX * epoch_us)
        for start_us in range(first, self.epoch_start_us, epoch_us):
            events += (EpochClosed(start_us, 0), EpochCleared(start_us))

    # --- its auction --------------------------------------------------------------------------------------------

    def foresee(self, outcome: Outcome) -> None:
        """Take somebody's word for what `call.clear()` gives, so that the next ClearEpoch need not work it out."""
        if self.call is not None and self.call.start_us == outcome.cleared.start_us:
            self.call.foreseen = outcome

    def _clear_epoch(self, command: ClearEpoch, events: list[Event]) -> None:
        call = self.call
        if call is None or call.start_us != command.start_us:
            events.append(Refused(RejectCode.CONFLICT, "no such epoch waits to be cleared"))
            return
        if call.outcome is None:
            call.begin(call.foreseen or call.clear())
            self._end_deferred(call, events)
        outcome = call.outcome
        assert outcome is not None
        last = min(call.done + TRADES_AT_ONCE, len(outcome.trades))
        for bid_id, ask_id, energy_wh in outcome.trades[call.done : last]:
            buyer, seller = self.orders[bid_id], self.orders[ask_id]
            buyer_price, seller_price = outcome.prices[buyer.zone][0], outcome.prices[seller.zone][1]
            self._trade_at(call, buyer, seller, energy_wh, buyer_price, seller_price, events)
        call.done = last
        if last == len(outcome.trades):
            self.call = None
            self._end_deferred(call, events)
            self._finish(outcome, events)

    def _trade_at(
        self,
        call: Call,
        buyer: Order,
        seller: Order,
        energy_wh: EnergyWh,
        buyer_price: PriceMicro,
        seller_price: PriceMicro,
        events: list[Event],
    ) -> None:
        """Both orders move on by one fill at their zones' prices; both pay the auction's fee."""
        assert seller.price_micro <= seller_price, (seller.order_id, seller_price)
        assert buyer_price <= buyer.price_micro, (buyer.order_id, buyer_price)
        buyer_value, seller_value = value_micro(buyer_price, energy_wh), value_micro(seller_price, energy_wh)
        buyer_fee = charge(buyer, buyer.fees.auction_bps * buyer_value)
        seller_fee = charge(seller, seller.fees.auction_bps * seller_value)
        for order, value in ((buyer, buyer_value), (seller, seller_value)):
            order.home.reduce(order, energy_wh)
            order.filled_wh += energy_wh
            order.value_micro += value
            order.updated_us, order.updated_sequence = self.time_us, self.sequence
        self._exchange(buyer, seller, energy_wh, buyer_value, seller_value, buyer_fee, seller_fee)
        self.trades += 1
        maker, taker = (buyer, seller) if buyer.priority < seller.priority else (seller, buyer)
        events.append(
            AuctionTraded(
                self.trades,
                maker.order_id,
                taker.order_id,
                buyer.account.participant_id,
                seller.account.participant_id,
                taker.placed.side,
                energy_wh,
                seller_price,
                buyer_price,
                seller_price,
                buyer_value,
                seller_value,
                buyer_fee,
                seller_fee,
                buyer.zone,
                seller.zone,
                call.start_us,
            )
        )
        for order in (buyer, seller):
            if order.remaining_wh == 0:
                del call.orders[order.order_id]
                self._end(order, _FILLED, events)

    def _end_deferred(self, call: Call, events: list[Event]) -> None:
        """Ends that had to wait come now, if their orders need not wait any more."""
        for order_id, reason in list(call.deferred.items()):
            order = self.orders.get(order_id)
            if order is not None and self._is_kept(order):
                continue
            del call.deferred[order_id]
            if order is not None:
                self._end(order, reason, events)

    def _finish(self, outcome: Outcome, events: list[Event]) -> None:
        """All trades are made, and the market goes on."""
        cleared = outcome.cleared
        if cleared.volume_wh:
            self.reference.clear(cleared.volume_wh, cleared.value_micro, self.time_us)
        self._settle_epoch(cleared, outcome.published, events)
        for price in sorted({zone.seller_price_micro for zone in cleared.zones if zone.sold_wh}):
            for order in self.stops.trigger(price):
                order.updated_us, order.updated_sequence = self.time_us, self.sequence
                events.append(StopTriggered(order.order_id))
        if self.spec.mechanism is Mechanism.CONTINUOUS_THEN_AUCTION:
            # what charges fixed for the auction, or the ban on trading with oneself, kept apart may meet again
            network = outcome.published.network
            apart = self.orders if network is not None and network.fixed_charges else outcome.left_out
            self.blocked |= {order_id: self.orders[order_id] for order_id in apart if order_id in self.orders}
        self._follow_gate(events)
        self._set_due()
