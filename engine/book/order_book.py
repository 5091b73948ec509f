"""The order book of one market, as a state machine.

    apply(entry) -> events      the only way in; deterministic; never raises on a bad command

The same entries in the same order always give the same events and the same book. That is what lets an actor die at any
moment and come back by replaying its journal. Each entry first lets time pass (what expired is gone before anything can
trade with it), then does its command: every check before any change.
"""

from collections import deque
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import islice
from typing import Any, Final

from engine.accounts import Account, fees_of, reservation_micro
from engine.auction.certificate import Published
from engine.book.call import Call, Calling
from engine.book.lanes import Lane, lanes_of
from engine.book.reference import ReferencePrice
from engine.book.side import BookSide, Order
from engine.book.stops import STOP_KINDS, Stops
from engine.market import MarketSpec, Mechanism, Phase
from engine.messages import (
    CURRENCY,
    AmendOrder,
    CancelAll,
    CancelAllAt,
    CancelOrder,
    ClearEpoch,
    Command,
    DeadManSet,
    Defund,
    Defunded,
    EndReason,
    Entry,
    EpochOpened,
    Event,
    FireStop,
    Fund,
    Funded,
    OrderAccepted,
    OrderAmended,
    OrderEnded,
    OrderKind,
    OrderRepeated,
    ParticipantId,
    PlaceOrder,
    Refused,
    RejectCode,
    SetFees,
    SetPhase,
    SetRisk,
    SetSpec,
    Side,
    StopMoved,
    Tick,
    TimeInForce,
)
from engine.units import (
    FOREVER_US,
    FUND_MAX,
    SECOND_US,
    EnergyWh,
    MoneyMicro,
    PriceMicro,
    TimeUs,
    energy_text,
    epoch_start_us,
    money_text,
    value_micro,
)

# Agenda items that came to nothing may pile up to this before it is made anew. Not Final: tests want it small, and
# machine code has what is Final built in.
_AGENDA_SLACK = 1_024

# Looking up an enum's member takes as long as a small function's call; these are asked for by every order.
_OPEN: Final = Phase.OPEN
_SELL: Final = Side.SELL
_LIMIT: Final = OrderKind.LIMIT
_FOK: Final = TimeInForce.FOK
_CALL: Final = Phase.AUCTION_CALL
_FILLED: Final = EndReason.FILLED
_RESTING: Final = frozenset({OrderKind.LIMIT, OrderKind.STOP_LIMIT})
_WITHOUT_LIMIT: Final = frozenset({OrderKind.MARKET, OrderKind.STOP})


class OrderBook(Calling):
    """Orders, funds and phase of one market."""

    def __init__(self, spec: MarketSpec, phase: Phase = Phase.OPEN) -> None:
        assert not spec.problems(), spec.problems()
        self.spec = spec
        collects = phase is _OPEN and spec.mechanism is Mechanism.CALL_AUCTION
        self.phase = _CALL if collects else phase
        self.sequence = 0  # of the last applied entry
        self.time_us: TimeUs = 0  # of the last applied entry
        self.epoch_start_us: TimeUs = 0
        self.fees = fees_of(spec)  # for those who have none of their own
        self.accounts: dict[ParticipantId, Account] = {}
        self.orders: dict[int, Order] = {}  # the open ones
        self.closed: dict[int, Order] = {}  # the newest ended ones
        self.closed_in_order: deque[int] = deque()
        self.closed_digest = 0  # of those that state.digest knows already: all but
        self.undigested: deque[Order] = deque()  # the newest
        self.reference = ReferencePrice(spec)
        self.trades = 0  # how many there have been; numbers the next one
        self.fund_number = 0  # of the last Fund
        self.defund_number = 0  # of the last Defunded
        self.fees_micro: MoneyMicro = 0  # collected so far, rebates taken off
        self.grid_micro: dict[str, MoneyMicro] = {}  # collected so far, by the buyer's zone
        self.sides: dict[tuple[Side, str], BookSide] = {
            (side, zone): BookSide(side) for side in Side for zone in spec.zones
        }
        self.lanes: dict[tuple[str, str], Lane] = lanes_of(spec, self.sides)
        self._bind_lanes()
        self.pathless_wh: dict[tuple[str, str], EnergyWh] = {}  # passed in this epoch where the spec has no path now
        self.blocked: dict[int, Order] = {}  # resting orders that a full lane may have kept from trading
        self.call: Call | None = None
        self.certificate: Published | None = None
        self.stops = Stops()
        self.halt_until_us: TimeUs = 0
        self.reopening_micro: PriceMicro = 0
        self._agenda: list[tuple[TimeUs, int]] = []  # (instant, order id), or minus the participant id for dead-man
        self.due_us: TimeUs = 0  # when time alone next changes something
        self._look_for_risk()
        self._handlers: dict[type, Callable[[Any, list[Event]], None]] = {
            PlaceOrder: self._place,
            AmendOrder: self._amend,
            CancelOrder: self._cancel,
            CancelAll: self._cancel_all,
            CancelAllAt: self._cancel_all_at,
            Fund: self._fund,
            Defund: self._defund,
            SetPhase: self._set_phase,
            SetSpec: self._set_spec,
            SetFees: self._set_fees,
            SetRisk: self._set_risk,
            Tick: self._tick,
            ClearEpoch: self._clear_epoch,
            FireStop: self._fire_stop,
        }

    def apply(self, entry: Entry) -> list[Event]:
        """Apply the next journal entry; return what happened, in order."""
        assert entry.sequence == self.sequence + 1, (entry.sequence, self.sequence)
        assert entry.time_us >= self.time_us, (entry.time_us, self.time_us)
        self.sequence = entry.sequence
        self.time_us = entry.time_us
        events: list[Event] = []
        if len(self.closed_in_order) > self.spec.closed_orders_kept:
            self._forget_oldest()
        if entry.time_us >= self.due_us:
            self._pass_time(events)
        command = entry.command
        self._handlers[type(command)](command, events)
        return events

    def shortfall(self, command: Command, time_us: TimeUs) -> tuple[str, int] | None:
        """Asset and amount that the command lacks and that the ledger might lend; None if it needs nothing.

        A command that would be refused for another reason needs nothing. Changes nothing: the shell asks before it
        gives the command a sequence. `time_us` is the instant the command would get.
        """
        if self.phase is not _OPEN and self.phase is not _CALL:
            return None
        if type(command) is PlaceOrder:
            account = self.accounts.get(command.participant_id)
            known = account.client_ids.get(command.client_order_id) if account is not None else None
            if known is not None and not self._about_to_be_forgotten(known):
                return None
            price = self._limit_micro(command)
            asset, need = self.reservation(command)
            missing = need - (0 if account is None else account.free(asset))
            if missing <= 0 or self._place_refusal(command, price, time_us) is not None:
                return None
            return asset, missing
        if type(command) is AmendOrder:
            order = self.orders.get(command.order_id)
            if order is None or order.account.participant_id != command.participant_id or self._is_kept(order):
                return None
            price = command.price_micro or order.price_micro
            quantity = command.quantity_wh or order.quantity_wh
            missing = _amend_extra(order, price, quantity) - order.account.free(order.asset)
            if missing <= 0 or self._amend_refusal(order, price, quantity, command.stop_price_micro) is not None:
                return None
            return order.asset, missing
        return None

    def reservation(self, command: PlaceOrder) -> tuple[str, int]:
        """Asset and amount that the order would reserve: the most that it can cost, fee included. Checks nothing."""
        if command.side is _SELL:
            return command.zone, command.quantity_wh
        account = self.accounts.get(command.participant_id)
        fees = self.fees if account is None else account.fees
        value = value_micro(self._limit_micro(command), command.quantity_wh)
        return CURRENCY, reservation_micro(value, 0, fees.worst_bps)

    # --- time ---------------------------------------------------------------------------------------------------

    def _pass_time(self, events: list[Event]) -> None:
        """Do what is due: ends of orders' lives, dead-man switches, a new epoch with fresh lanes, the gate.

        The next epoch does not begin before the one before it is cleared.
        """
        agenda, now_us = self._agenda, self.time_us
        while agenda and agenda[0][0] <= now_us:
            due_us, what = heappop(agenda)
            if what > 0:
                order = self.orders.get(what)
                if order is not None and order.expires_us == due_us:
                    self._end(order, EndReason.EXPIRED, events)
            else:
                account = self.accounts.get(-what)
                if account is not None and account.dead_man_us == due_us:
                    account.dead_man_us = 0
                    for order in list(account.orders.values()):
                        self._end(order, EndReason.DEAD_MAN, events)
                    self._forget_if_empty(account)
        start_us = epoch_start_us(now_us, self.spec.epoch_us)
        if start_us != self.epoch_start_us and self.call is None:
            closed_us, self.epoch_start_us = self.epoch_start_us, start_us
            if closed_us and self.spec.has_auctions:
                self._close_epoch(closed_us, events)
            events.append(EpochOpened(start_us))
            for lane in self.lanes.values():
                lane.set_used(0)
            self.pathless_wh = {}
            for account in list(self.accounts.values()):
                if account.net_wh:
                    account.net_wh = 0
                    self._forget_if_empty(account)
            self._trade_blocked(events)
        self._follow_gate(events)
        if 0 < self.halt_until_us <= now_us:
            self._reopen(events)
        self._set_due()

    def _set_due(self) -> None:
        due_us = FOREVER_US if self.call is not None else self.epoch_start_us + self.spec.epoch_us
        if self.phase is _OPEN:
            due_us = min(due_us, self.epoch_start_us + self.spec.gate_us)
        if self._agenda:
            due_us = min(due_us, self._agenda[0][0])
        if self.halt_until_us:
            due_us = min(due_us, self.halt_until_us)
        self.due_us = due_us

    def _remind(self, at_us: TimeUs, what: int) -> None:
        """Put an instant on the agenda; items that came to nothing are swept out before they outnumber the rest."""
        heappush(self._agenda, (at_us, what))
        if len(self._agenda) > 2 * (len(self.orders) + len(self.accounts)) + _AGENDA_SLACK:
            self._agenda = self._agenda_now()
        if at_us < self.due_us:
            self.due_us = at_us

    def _agenda_now(self) -> list[tuple[TimeUs, int]]:
        agenda = [(order.expires_us, order.order_id) for order in self.orders.values()]
        agenda += [(a.dead_man_us, -a.participant_id) for a in self.accounts.values() if a.dead_man_us]
        heapify(agenda)
        return agenda

    def _tick(self, command: Tick, events: list[Event]) -> None:
        """Nothing more to do: time has passed already."""

    # --- placing ------------------------------------------------------------------------------------------------

    def _place(self, command: PlaceOrder, events: list[Event]) -> None:
        account = self.accounts.get(command.participant_id)
        if account is not None and command.client_order_id:
            known = account.client_ids.get(command.client_order_id)
            if known is not None:
                events.append(
                    OrderRepeated(known.order_id)
                    if known.placed == command
                    else Refused(
                        RejectCode.CLIENT_ORDER_ID_REUSED, "client_order_id was used for an order with other contents"
                    )
                )
                return
        price = self._limit_micro(command)
        refusal = self._place_refusal(command, price, self.time_us)
        if refusal is not None:
            events.append(refusal)
            return
        if account is None:
            account = Account(command.participant_id, self.fees)
        home = self.sides[command.side, command.zone]
        order = Order(self.sequence, command, account, home, price, self.time_us)
        if order.is_buy:
            need = reservation_micro(value_micro(price, command.quantity_wh), 0, order.fees.worst_bps)
            order.reserved_micro = need
        else:
            need = command.quantity_wh
        free = account.free(order.asset)
        if need > free:
            events.append(_insufficient(need - free, order.asset))
            return
        is_stop = command.kind in STOP_KINDS
        if is_stop and (refusal := self.stops.refusal(order)) is not None:
            events.append(refusal)
            return
        events.append(OrderAccepted(order.order_id))
        self._admit(order)
        if is_stop:
            self.stops.add(order)
        else:
            self._enter(order, events)
        if order.end_reason == 0:
            self._remind(order.expires_us, order.order_id)

    def _enter(self, order: Order, events: list[Event]) -> None:
        """The order arrives in the book: it trades, and then rests or ends."""
        command = order.placed
        if command.post_only and self._best_at(order, order.price_micro) is not None:
            self._end(order, EndReason.POST_ONLY_WOULD_TRADE, events)
        elif command.time_in_force is _FOK and not self._fillable(order):
            self._end(order, EndReason.FOK_UNFILLABLE, events)
        else:
            if self.phase is _OPEN:
                self._match(order, events)
            if order.end_reason == 0:
                if command.kind in _RESTING and order.may_rest:
                    self._rest(order)
                else:
                    self._end(order, EndReason.IOC_REMAINDER if self.phase is _OPEN else EndReason.HALTED, events)

    def _fire_stop(self, _: FireStop, events: list[Event]) -> None:
        """The triggered order gets its place in time here. In a halted market it rests if it may, or ends."""
        if self.stops.triggered:
            order = self.orders[self.stops.triggered.popleft()]
            order.priority = self.sequence
            order.updated_us, order.updated_sequence = self.time_us, self.sequence
            self._enter(order, events)

    def _admit(self, order: Order) -> None:
        """The order becomes open: known by its ids, its funds reserved, its life limited."""
        command, account = order.placed, order.account
        if order.is_buy:
            account.reserve_cash(order.reserved_micro)
        else:
            account.reserve_energy(order.zone, order.quantity_wh)
        order.expires_us = command.expires_us or self.time_us + self.spec.order_life_seconds_max * SECOND_US
        self.accounts[account.participant_id] = account
        self.orders[order.order_id] = order
        account.orders[order.order_id] = order
        if command.client_order_id:
            account.client_ids[command.client_order_id] = order

    def _rest(self, order: Order) -> None:
        """The order waits in the book for takers, or for the auction."""
        order.home.add(order)
        if self.phase is _OPEN:
            arrives_again = self._has_limits and self._meets_full_lane(order)
        else:
            arrives_again = self.spec.mechanism is not Mechanism.CALL_AUCTION
        if arrives_again:
            self.blocked[order.order_id] = order

    def _limit_micro(self, command: PlaceOrder) -> PriceMicro:
        """The worst price the order may take; a market or stop order that names none takes the corridor's end."""
        if command.price_micro == 0 and command.kind in _WITHOUT_LIMIT:
            return self.spec.price_micro_max if command.side is Side.BUY else self.spec.price_micro_min
        return command.price_micro

    # --- amending and cancelling ----------------------------------------------------------------------------------

    def _amend(self, command: AmendOrder, events: list[Event]) -> None:
        if self.phase is not _OPEN and self.phase is not _CALL:
            events.append(self._not_open())
            return
        order = self.orders.get(command.order_id)
        if order is None or order.account.participant_id != command.participant_id:
            events.append(self._unknown(command.order_id, command.participant_id))
            return
        if self._is_kept(order):
            events.append(_being_cleared())
            return
        price = command.price_micro or order.price_micro
        quantity = command.quantity_wh or order.quantity_wh
        refusal = self._amend_refusal(order, price, quantity, command.stop_price_micro)
        if refusal is not None:
            events.append(refusal)
            return
        account, extra = order.account, _amend_extra(order, price, quantity)
        if extra > 0 and extra > account.free(order.asset):
            events.append(_insufficient(extra - account.free(order.asset), order.asset))
            return
        in_book, trades = order.level is not None, self.phase is _OPEN
        if (
            in_book
            and trades
            and order.placed.post_only
            and price != order.price_micro
            and self._best_at(order, price) is not None
        ):
            events.append(Refused(RejectCode.CONFLICT, "a post-only order would trade at this price"))
            return
        keeps_place = price == order.price_micro and quantity <= order.quantity_wh
        if not in_book:
            self._amend_stop(order, command.stop_price_micro or order.stop_micro, keeps_place, events)
            order.price_micro = price
            order.remaining_wh += quantity - order.quantity_wh
        elif keeps_place:
            order.home.reduce(order, order.quantity_wh - quantity)
        else:
            order.home.remove(order)
            order.price_micro = price
            order.remaining_wh += quantity - order.quantity_wh
            order.priority = self.sequence
        order.quantity_wh = quantity
        if order.is_buy:
            account.reserve_cash(extra)
            order.reserved_micro += extra
        elif extra:
            account.reserve_energy(order.zone, extra)
        order.updated_us, order.updated_sequence = self.time_us, self.sequence
        events.append(OrderAmended(order.order_id, price, quantity))
        if in_book and not keeps_place:
            self.blocked.pop(order.order_id, None)
            if trades:
                self._match(order, events)
            if order.end_reason == 0:
                self._rest(order)

    def _amend_stop(self, order: Order, stop_micro: PriceMicro, keeps_place: bool, events: list[Event]) -> None:
        """Another stop price, or worse terms for the others, take a new place among those that wait."""
        moved = stop_micro != order.stop_micro
        if order.is_waiting and (moved or not keeps_place):
            self.stops.remove(order)
            order.stop_micro, order.priority = stop_micro, self.sequence
            self.stops.add(order)
        if moved:
            events.append(StopMoved(order.order_id, stop_micro))

    def _cancel(self, command: CancelOrder, events: list[Event]) -> None:
        order = self.orders.get(command.order_id)
        if order is None or order.account.participant_id != command.participant_id:
            events.append(self._unknown(command.order_id, command.participant_id))
        elif self._is_kept(order):
            events.append(_being_cleared())
        else:
            self._end(order, EndReason.CANCELLED_BY_OWNER, events)

    def _cancel_all(self, command: CancelAll, events: list[Event]) -> None:
        if command.participant_id == 0:
            self._end_all(self.orders.values(), command.reason, events)
            return
        account = self.accounts.get(command.participant_id)
        if account is not None:
            self._end_all(account.orders.values(), command.reason, events)

    def _cancel_all_at(self, command: CancelAllAt, events: list[Event]) -> None:
        account = self.accounts.get(command.participant_id)
        if account is None:
            if command.at_us:
                account = Account(command.participant_id, self.fees)
                self.accounts[command.participant_id] = account
            else:
                events.append(DeadManSet(command.participant_id, 0))
                return
        account.dead_man_us = command.at_us
        events.append(DeadManSet(command.participant_id, command.at_us))
        if command.at_us:
            self._remind(command.at_us, -command.participant_id)
        else:
            self._forget_if_empty(account)

    def _unknown(self, order_id: int, participant_id: ParticipantId) -> Refused:
        """Other people's orders are as unknown as those that never were."""
        order = self.closed.get(order_id)
        if order is not None and order.account.participant_id == participant_id:
            return Refused(RejectCode.ORDER_CLOSED, f"the order has ended: {EndReason(order.end_reason).name.lower()}")
        return Refused(RejectCode.NOT_FOUND, "no such order")

    def _end(self, order: Order, reason: EndReason, events: list[Event]) -> None:
        """The one way in which an open order closes: out of the book, its reservation released, remembered a while.

        An order whose auction is being cleared trades first.
        """
        if reason is not _FILLED and self._is_kept(order):
            assert self.call is not None
            self.call.deferred.setdefault(order.order_id, reason)
            return
        if order.level is not None:
            order.home.remove(order)
        elif order.stop_micro:
            self.stops.remove(order)
        account = order.account
        if order.is_buy:
            if order.reserved_micro:
                account.reserve_cash(-order.reserved_micro)
                order.reserved_micro = 0
        elif order.remaining_wh:
            account.reserve_energy(order.zone, -order.remaining_wh)
        order.end_reason = reason
        order.updated_us, order.updated_sequence = self.time_us, self.sequence
        del self.orders[order.order_id]
        del account.orders[order.order_id]
        self.blocked.pop(order.order_id, None)
        self.closed[order.order_id] = order
        self.closed_in_order.append(order.order_id)
        self.undigested.append(order)
        events.append(OrderEnded(order.order_id, reason, order.remaining_wh))

    def _about_to_be_forgotten(self, order: Order) -> bool:
        """Whether the next entry begins with letting go of this order."""
        excess = len(self.closed_in_order) - self.spec.closed_orders_kept
        return excess > 0 and order.order_id in islice(self.closed_in_order, excess)

    def _forget_oldest(self) -> None:
        """Let go of the ended orders beyond the newest that are kept; not earlier, so that answers can name them."""
        while len(self.closed_in_order) > self.spec.closed_orders_kept:
            order = self.closed.pop(self.closed_in_order.popleft())
            if len(self.undigested) > len(self.closed_in_order):
                self.undigested.popleft()
            else:
                self.closed_digest -= order.digest
            account = self.accounts.get(order.placed.participant_id)
            if account is not None:
                if account.client_ids.get(order.placed.client_order_id) is order:
                    del account.client_ids[order.placed.client_order_id]
                self._forget_if_empty(account)

    def _forget_if_empty(self, account: Account) -> None:
        if account.is_empty():
            self.accounts.pop(account.participant_id, None)

    # --- funds --------------------------------------------------------------------------------------------------

    def _fund(self, command: Fund, events: list[Event]) -> None:
        if command.number <= self.fund_number:
            events.append(Refused(RejectCode.CONFLICT, f"transfer {command.number} has been applied before"))
            return
        assert command.number == self.fund_number + 1, (command.number, self.fund_number)
        assert 0 < command.amount <= FUND_MAX, command.amount
        account = self.accounts.get(command.participant_id)
        if account is None:
            account = Account(command.participant_id, self.fees)
            self.accounts[command.participant_id] = account
        account.add_free(command.asset, command.amount)
        self.fund_number = command.number
        events.append(Funded(command.number, command.participant_id, command.asset, command.amount))

    def _defund(self, command: Defund, events: list[Event]) -> None:
        account = self.accounts.get(command.participant_id)
        if account is None or (command.idle_only and account.orders):
            return
        for asset in account.assets():
            amount = account.free(asset)
            if amount:
                account.add_free(asset, -amount)
                self.defund_number += 1
                events.append(Defunded(self.defund_number, command.participant_id, asset, amount))
        self._forget_if_empty(account)

    # --- a decoded book ---------------------------------------------------------------------------------------------

    def restore(self) -> None:
        """Make anew what follows from orders and accounts; for a book that was decoded from its state."""
        self._look_for_risk()
        self._agenda = self._agenda_now()
        if self.sequence:
            self._set_due()
        assert self.due_us < FOREVER_US or self.call is not None


def _amend_extra(order: Order, price_micro: PriceMicro, quantity_wh: EnergyWh) -> int:
    """How much more must be reserved for the new terms; negative when some comes free."""
    if order.is_buy:
        value = value_micro(price_micro, quantity_wh - order.filled_wh)
        return reservation_micro(value, order.fee_numerator, order.fees.worst_bps) - order.reserved_micro
    return quantity_wh - order.quantity_wh


def _being_cleared() -> Refused:
    return Refused(RejectCode.BEING_CLEARED, "the order's auction is being cleared; it takes a moment")


def _insufficient(missing: int, asset: str) -> Refused:
    if asset == CURRENCY:
        return Refused(RejectCode.INSUFFICIENT_FUNDS, f"{money_text(missing)} are missing")
    return Refused(RejectCode.INSUFFICIENT_ENERGY, f"{energy_text(missing)} kWh are missing in {asset}")
