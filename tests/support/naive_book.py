"""A naive twin of the order book: too simple to be wrong, and slow.

It keeps a list of orders and a list of trades and works everything else out again each time: who is best by comparing
all candidates, landed prices by fractions and by search, what is reserved by summing over open orders, what a link
still carries by summing over the epoch's trades. When an epoch opens, when rules change and when trading resumes, it
takes all orders off the book and lets each arrive again, oldest first.
"""

import copy
import math
from collections import defaultdict
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache

from msgspec.structs import astuple

from engine.market import MarketSpec, Path, Phase, RiskLimits
from engine.messages import (
    CURRENCY,
    AmendOrder,
    CancelAll,
    CancelAllAt,
    CancelOrder,
    DeadManSet,
    Defund,
    Defunded,
    EndReason,
    Entry,
    EpochOpened,
    Event,
    FeesSet,
    FireStop,
    Fund,
    Funded,
    HaltEnded,
    OrderAccepted,
    OrderAmended,
    OrderEnded,
    OrderKind,
    OrderReduced,
    OrderRepeated,
    PhaseChanged,
    PlaceOrder,
    Refused,
    RejectCode,
    RiskSet,
    SelfTrade,
    SetFees,
    SetPhase,
    SetRisk,
    SetSpec,
    Side,
    SpecChanged,
    StopMoved,
    StopTriggered,
    Tick,
    TimeInForce,
    Traded,
    VolatilityHalted,
)

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
QUANTITY_WH_MAX = 1_000_000_000
STOPS = (OrderKind.STOP, OrderKind.STOP_LIMIT)


@cache
def landed(ask_micro: int, path: Path, tick_micro: int) -> int:
    """Ask + wheeling + loss, the loss rounded up to a tick."""
    ticks_of_loss = math.ceil(Fraction(ask_micro * path.loss_bps, 10_000) / tick_micro)
    return ask_micro + path.wheeling_micro + ticks_of_loss * tick_micro


@cache
def ask_equivalent(bid_micro: int, path: Path, tick_micro: int) -> int:
    """The largest ask that lands at the bid or below, found by trying; 0 if there is none."""
    ask = bid_micro // tick_micro * tick_micro
    while ask > 0 and landed(ask, path, tick_micro) > bid_micro:
        ask -= tick_micro
    return ask


@dataclass(eq=False)
class NaiveOrder:
    order_id: int
    placed: PlaceOrder
    price: int
    quantity: int
    expires_us: int
    maker_bps: int
    taker_bps: int
    priority: int
    filled: int = 0
    fee_exact: Fraction = Fraction(0)  # before rounding up
    stop: int = 0  # 0: none, or triggered
    reason: EndReason | None = None

    @property
    def remaining(self) -> int:
        return self.quantity - self.filled

    @property
    def owner(self) -> int:
        return self.placed.participant_id

    @property
    def asset(self) -> str:
        return CURRENCY if self.placed.side is Side.BUY else self.placed.zone

    def worst_cost(self) -> int:
        """What the rest can still cost in its asset."""
        if self.placed.side is Side.SELL:
            return self.remaining
        value = self.price * self.remaining // 1_000
        worst_fee = self.fee_exact + Fraction(max(self.maker_bps, self.taker_bps, 0) * value, 10_000)
        return value + math.ceil(worst_fee) - math.ceil(self.fee_exact)

    def charge(self, bps: int, value: int) -> int:
        """The fee of a fill: what the order's rounded-up fee grows by."""
        before = math.ceil(self.fee_exact)
        self.fee_exact += Fraction(bps * value, 10_000)
        return math.ceil(self.fee_exact) - before


@dataclass
class NaiveTrade:
    time_us: int
    epoch_us: int
    price: int
    energy: int
    zone_from: str
    zone_to: str
    buyer: int
    seller: int


@dataclass
class NaiveBook:
    spec: MarketSpec
    phase: Phase = Phase.OPEN
    sequence: int = 0
    now: int = 0
    epoch: int = 0
    open: list[NaiveOrder] = field(default_factory=list)  # accepted and not ended, by id
    book: list[NaiveOrder] = field(default_factory=list)  # those of them that rest
    closed: list[NaiveOrder] = field(default_factory=list)  # in the order in which they ended
    trades: list[NaiveTrade] = field(default_factory=list)
    owned: defaultdict[tuple[int, str], int] = field(default_factory=lambda: defaultdict(int))
    own_fees: dict[int, tuple[int, int]] = field(default_factory=dict)
    dead_man: dict[int, int] = field(default_factory=dict)
    own_limits: dict[int, RiskLimits] = field(default_factory=dict)
    kept_out: set[int] = field(default_factory=set)
    fund_number: int = 0
    defund_number: int = 0
    fees: int = 0
    grid: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    reference: int = 0
    reference_since: int = 0  # trades before this one do not count
    halted_until: int = 0  # because of the band; 0: not
    reopens_at: int = 0
    triggered: list[NaiveOrder] = field(default_factory=list)
    told: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._set_first_reference()

    def apply(self, entry: Entry) -> list[Event]:
        """What the real book must answer, refusals without their wording."""
        self.told = []
        self.sequence, self.now = entry.sequence, entry.time_us
        del self.closed[: max(0, len(self.closed) - self.spec.closed_orders_kept)]
        self._let_time_pass()
        match entry.command:
            case PlaceOrder() as command:
                self._place(command)
            case AmendOrder() as command:
                self._amend(command)
            case CancelOrder() as command:
                found = self._find(command.order_id, command.participant_id)
                if isinstance(found, NaiveOrder):
                    self._end(found, EndReason.CANCELLED_BY_OWNER)
                else:
                    self._refuse(found)
            case CancelAll() as command:
                for order in list(self.open):
                    if command.participant_id in (0, order.owner):
                        self._end(order, command.reason)
            case CancelAllAt() as command:
                self.dead_man.pop(command.participant_id, None)
                if command.at_us:
                    self.dead_man[command.participant_id] = command.at_us
                self.told.append(DeadManSet(command.participant_id, command.at_us))
            case Fund() as command:
                self._fund(command)
            case Defund() as command:
                self._defund(command)
            case SetPhase() as command:
                self._set_phase(command.phase)
            case SetSpec() as command:
                self._set_spec(command.spec)
            case SetFees() as command:
                self._set_fees(command)
            case SetRisk() as command:
                self._set_risk(command)
            case FireStop():
                if self.triggered:
                    order = self.triggered.pop(0)
                    order.priority = self.sequence
                    self._enter(order)
            case Tick():
                pass
        return self.told

    # --- what follows from the lists ----------------------------------------------------------------------------

    def reserved(self, participant_id: int, asset: str) -> int:
        return sum(o.worst_cost() for o in self.open if (o.owner, o.asset) == (participant_id, asset))

    def free(self, participant_id: int, asset: str) -> int:
        return self.owned[participant_id, asset] - self.reserved(participant_id, asset)

    def left(self, path: Path) -> int:
        """What the path still carries in this epoch, in whole lots; a very large number without a limit."""
        if path.capacity_wh < 0 or path.zone_from == path.zone_to:
            return 10**18
        used = sum(
            t.energy
            for t in self.trades
            if (t.epoch_us, t.zone_from, t.zone_to) == (self.epoch, path.zone_from, path.zone_to)
        )
        left = max(0, path.capacity_wh - used)
        return left - left % self.spec.lot_wh

    def _fees_of(self, participant_id: int) -> tuple[int, int]:
        return self.own_fees.get(participant_id, (self.spec.maker_fee_bps, self.spec.taker_fee_bps))

    def _find(self, order_id: int, participant_id: int) -> NaiveOrder | RejectCode:
        for order in self.open:
            if (order.order_id, order.owner) == (order_id, participant_id):
                return order
        mine = [o for o in self.closed if (o.order_id, o.owner) == (order_id, participant_id)]
        return RejectCode.ORDER_CLOSED if mine else RejectCode.NOT_FOUND

    # --- time ---------------------------------------------------------------------------------------------------

    def _let_time_pass(self) -> None:
        while True:
            due: list[tuple[int, int]] = [(o.expires_us, o.order_id) for o in self.open]
            due += [(at_us, -participant_id) for participant_id, at_us in self.dead_man.items()]
            if not due or min(due)[0] > self.now:
                break
            _, what = min(due)
            if what < 0:
                del self.dead_man[-what]
            for order in list(self.open):
                if order.order_id == what:
                    self._end(order, EndReason.EXPIRED)
                elif order.owner == -what:
                    self._end(order, EndReason.DEAD_MAN)
        epoch_us = self.spec.epoch_seconds * SECOND_US
        epoch = self.now - self.now % epoch_us
        if epoch != self.epoch:
            self.epoch = epoch
            self.told.append(EpochOpened(epoch))
            self._arrive_again()
        if 0 < self.halted_until <= self.now:
            self._set_phase(Phase.OPEN)

    def _arrive_again(self) -> None:
        if self.phase is not Phase.OPEN:
            return
        waiting, self.book = sorted(self.book, key=lambda o: o.priority), []
        for order in waiting:
            if self.phase is not Phase.OPEN:  # one before it met somebody outside the band
                self.book.append(order)
                continue
            if order.placed.post_only and self._next_maker(order) is not None:
                self._end(order, EndReason.POST_ONLY_WOULD_TRADE)
                continue
            self._trade(order)
            if order.reason is None:
                self.book.append(order)

    # --- placing and amending -----------------------------------------------------------------------------------

    def _place(self, command: PlaceOrder) -> None:
        if command.client_order_id:
            for order in self.open + self.closed:
                if (order.owner, order.placed.client_order_id) == (command.participant_id, command.client_order_id):
                    if order.placed == command:
                        self.told.append(OrderRepeated(order.order_id))
                    else:
                        self._refuse(RejectCode.CLIENT_ORDER_ID_REUSED)
                    return None
        price = command.price_micro
        if command.kind in (OrderKind.MARKET, OrderKind.STOP) and price == 0:
            price = self.spec.price_micro_max if command.side is Side.BUY else self.spec.price_micro_min
        life_us = self.spec.order_life_seconds_max * SECOND_US
        bad_expiry = command.expires_us and not self.now < command.expires_us <= self.now + life_us
        order = NaiveOrder(
            self.sequence,
            command,
            price,
            command.quantity_wh,
            command.expires_us or self.now + life_us,
            *self._fees_of(command.participant_id),
            priority=self.sequence,
        )
        for broken, code in (
            (self.phase is not Phase.OPEN, RejectCode.MARKET_NOT_OPEN),
            (command.zone not in self.spec.zones or bad_expiry, RejectCode.VALIDATION_FAILED),
            *self._broken_terms(price, command.quantity_wh, banded=command.kind is OrderKind.LIMIT),
            *(self._broken_stop(order, command.stop_price_micro) if command.kind in STOPS else ()),
            (self._is_too_risky(order), RejectCode.RISK_LIMIT),
        ):
            if broken:
                return self._refuse(code)
        if order.worst_cost() > self.free(order.owner, order.asset):
            return self._refuse_poor(order)
        if command.kind in STOPS:
            if sum(o.stop > 0 for o in self.open if o.owner == order.owner) >= 100:
                return self._refuse(RejectCode.CONFLICT)
            order.stop = command.stop_price_micro
        self.told.append(OrderAccepted(order.order_id))
        self.open.append(order)
        return self._enter(order) if command.kind not in STOPS else None

    def _enter(self, order: NaiveOrder) -> None:
        command = order.placed
        if command.post_only and self._next_maker(order) is not None:
            return self._end(order, EndReason.POST_ONLY_WOULD_TRADE)
        if command.time_in_force is TimeInForce.FOK and not self._would_fill(order):
            return self._end(order, EndReason.FOK_UNFILLABLE)
        if self.phase is Phase.OPEN:
            self._trade(order)
        if order.reason is None:
            may_rest = command.kind in (OrderKind.LIMIT, OrderKind.STOP_LIMIT)
            if may_rest and command.time_in_force in (TimeInForce.GTC, TimeInForce.GTD):
                self.book.append(order)
            else:
                self._end(order, EndReason.IOC_REMAINDER if self.phase is Phase.OPEN else EndReason.HALTED)
        return None

    def _broken_terms(self, price: int, quantity: int, banded: bool) -> list[tuple[bool, RejectCode]]:
        spec = self.spec
        band = Fraction(self.reference * spec.band_bps, 10_000)
        return [
            (price % spec.tick_micro != 0, RejectCode.PRICE_OFF_TICK),
            (
                quantity % spec.lot_wh != 0 or quantity < spec.quantity_wh_min or quantity > QUANTITY_WH_MAX,
                RejectCode.QUANTITY_OFF_LOT,
            ),
            (price < spec.price_micro_min or price > spec.price_micro_max, RejectCode.PRICE_OUTSIDE_CORRIDOR),
            (banded and spec.band_bps > 0 and abs(price - self.reference) > band, RejectCode.PRICE_OUTSIDE_BAND),
        ]

    def _broken_stop(self, order: NaiveOrder, stop: int) -> list[tuple[bool, RejectCode]]:
        spec, buys = self.spec, order.placed.side is Side.BUY
        last = self.trades[-1].price if self.trades else stop + (1 if not buys else -1)
        return [
            (stop <= 0, RejectCode.VALIDATION_FAILED),
            (stop % spec.tick_micro != 0, RejectCode.PRICE_OFF_TICK),
            (stop < spec.price_micro_min or stop > spec.price_micro_max, RejectCode.PRICE_OUTSIDE_CORRIDOR),
            (last >= stop if buys else last <= stop, RejectCode.CONFLICT),
        ]

    def _is_too_risky(self, order: NaiveOrder, before: NaiveOrder | None = None) -> bool:
        """`before`: the same order as it is now. What new terms do not raise they do not break."""
        owner, placed = order.owner, order.placed
        if owner in self.kept_out:
            return True
        limits = self.own_limits.get(owner, self.spec.limits)
        others = [o for o in self.open if o.owner == owner and o is not before]
        may_rest = placed.kind is OrderKind.LIMIT and placed.time_in_force in (TimeInForce.GTC, TimeInForce.GTD)
        may_rest |= placed.kind in STOPS
        worth, worth_before = (one.price * one.remaining // 1_000 if one else 0 for one in (order, before))
        open_worth = sum(o.price * o.remaining // 1_000 for o in others)
        sign = 1 if placed.side is Side.BUY else -1
        held = sum(
            sign * t.energy * ((t.buyer == owner) - (t.seller == owner))
            for t in self.trades
            if t.epoch_us == self.epoch
        )
        held += sum(o.remaining for o in others if o.placed.side is placed.side)
        raised = order.quantity > before.quantity if before else True
        return any(
            limit and is_over
            for limit, is_over in (
                (limits.quantity_wh_max, raised and order.quantity > limits.quantity_wh_max),
                (limits.orders_max, before is None and may_rest and len(others) + 1 > limits.orders_max),
                (limits.value_micro_max, worth > worth_before and open_worth + worth > limits.value_micro_max),
                (limits.position_wh_max, raised and held + order.remaining > limits.position_wh_max),
            )
        )

    def _amend(self, command: AmendOrder) -> None:
        found = self._find(command.order_id, command.participant_id)
        if self.phase is not Phase.OPEN:
            return self._refuse(RejectCode.MARKET_NOT_OPEN)
        if not isinstance(found, NaiveOrder):
            return self._refuse(found)
        price, quantity = command.price_micro or found.price, command.quantity_wh or found.quantity
        if quantity <= found.filled:
            return self._refuse(RejectCode.VALIDATION_FAILED)
        stop = command.stop_price_micro
        if stop and not found.stop:
            return self._refuse(RejectCode.VALIDATION_FAILED)
        banded = price != found.price and found.placed.kind is OrderKind.LIMIT
        broken_stop = self._broken_stop(found, stop) if stop not in (0, found.stop) else []
        for broken, code in self._broken_terms(price, quantity, banded) + broken_stop:
            if broken:
                return self._refuse(code)
        changed = copy.copy(found)
        changed.price, changed.quantity = price, quantity
        if self._is_too_risky(changed, found):
            return self._refuse(RejectCode.RISK_LIMIT)
        if changed.worst_cost() - found.worst_cost() > self.free(found.owner, found.asset):
            return self._refuse_poor(found)
        rests = found in self.book
        if rests and found.placed.post_only and price != found.price and self._next_maker(changed) is not None:
            return self._refuse(RejectCode.CONFLICT)
        self.told.append(OrderAmended(found.order_id, price, quantity))
        keeps_place = price == found.price and quantity <= found.quantity
        found.price, found.quantity = price, quantity
        if not rests:
            moved = stop not in (0, found.stop)
            if found.stop and (moved or not keeps_place):
                found.stop, found.priority = stop or found.stop, self.sequence
            if moved:
                self.told.append(StopMoved(found.order_id, stop))
        elif not keeps_place:
            found.priority = self.sequence
            self.book.remove(found)
            self._trade(found)
            if found.reason is None:
                self.book.append(found)
        return None

    def _refuse(self, code: RejectCode) -> None:
        self.told.append(Refused(code, ""))

    def _refuse_poor(self, order: NaiveOrder) -> None:
        sells = order.placed.side is Side.SELL
        self._refuse(RejectCode.INSUFFICIENT_ENERGY if sells else RejectCode.INSUFFICIENT_FUNDS)

    def _end(self, order: NaiveOrder, reason: EndReason) -> None:
        order.reason = reason
        self.open.remove(order)
        if order in self.triggered:
            self.triggered.remove(order)
        if order in self.book:
            self.book.remove(order)
        self.closed.append(order)
        self.told.append(OrderEnded(order.order_id, reason, order.remaining))

    # --- trading ------------------------------------------------------------------------------------------------

    def _next_maker(self, taker: NaiveOrder) -> tuple[NaiveOrder, Path, int] | None:
        """Of all orders that the taker may meet, the one with the best price for him, then the oldest."""
        candidates = []
        for maker in self.book:
            if maker.placed.side is taker.placed.side:
                continue
            buyer, seller = (taker, maker) if taker.placed.side is Side.BUY else (maker, taker)
            for path in self.spec.paths:
                if (path.zone_from, path.zone_to) != (seller.placed.zone, buyer.placed.zone) or not self.left(path):
                    continue
                if landed(seller.price, path, self.spec.tick_micro) > buyer.price:
                    continue
                if taker is buyer:
                    price = landed(seller.price, path, self.spec.tick_micro)
                    candidates.append((price, maker.priority, maker, path, price))
                else:
                    price = ask_equivalent(buyer.price, path, self.spec.tick_micro)
                    candidates.append((-price, maker.priority, maker, path, price))
        if not candidates:
            return None
        _, _, maker, path, price = min(candidates, key=lambda c: c[:2])
        return maker, path, price

    def _would_fill(self, taker: NaiveOrder) -> bool:
        """Try it on a copy of the world."""
        world = copy.deepcopy(self)
        (twin,) = (order for order in world.open if order.order_id == taker.order_id)
        world._trade(twin)
        return twin.filled == taker.quantity

    def _trade(self, taker: NaiveOrder) -> None:
        reference = self.reference
        width = Fraction(reference * self.spec.band_bps, 10_000)
        while taker.remaining:
            found = self._next_maker(taker)
            if found is None:
                return None
            maker, path, price = found
            if maker.owner == taker.owner:
                self._meet_oneself(taker, maker)
                if taker.reason is not None:
                    return None
            elif self.spec.halt_seconds and self.spec.band_bps and abs(maker.price - reference) > width:
                return self._halt(maker.price, reference, width)
            else:
                self._exchange(taker, maker, path, price)
        return self._end(taker, EndReason.FILLED)

    def _halt(self, price: int, reference: int, width: Fraction) -> None:
        """Until then; afterwards the price that is nearest to the one that was not made, one band away or one tick."""
        tick = self.spec.tick_micro
        step = max(tick, math.floor(reference + width) // tick * tick - reference)
        if price < reference:
            step = max(tick, reference - math.ceil((reference - width) / tick) * tick)
        sign = 1 if price > reference else -1
        self.halted_until = self.now + self.spec.halt_seconds * SECOND_US
        self.reopens_at = reference + sign * min(step, abs(price - reference))
        self.phase = Phase.HALTED
        self.told += [VolatilityHalted(price, self.halted_until), PhaseChanged(Phase.HALTED)]

    def _end_halt(self) -> None:
        if self.halted_until:
            self.halted_until, self.reference = 0, self.reopens_at
            self.reference_since = len(self.trades)
            self.told.append(HaltEnded(self.reference))

    def _exchange(self, taker: NaiveOrder, maker: NaiveOrder, path: Path, taker_price: int) -> None:
        energy = min(taker.remaining, maker.remaining, self.left(path))
        taker_value, maker_value = taker_price * energy // 1_000, maker.price * energy // 1_000
        taker_fee = taker.charge(taker.taker_bps, taker_value)
        if maker.maker_bps >= 0:
            maker_fee = maker.charge(maker.maker_bps, maker_value)
        else:
            maker_fee = -min(math.floor(Fraction(-maker.maker_bps * maker_value, 10_000)), taker_fee)
        taker.filled += energy
        maker.filled += energy
        taker_side = (taker, taker_price, taker_value, taker_fee)
        maker_side = (maker, maker.price, maker_value, maker_fee)
        buying, selling = (taker_side, maker_side) if taker.placed.side is Side.BUY else (maker_side, taker_side)
        buyer, buyer_price, buyer_value, buyer_fee = buying
        seller, seller_price, seller_value, seller_fee = selling
        self.owned[buyer.owner, CURRENCY] -= buyer_value + buyer_fee
        self.owned[seller.owner, CURRENCY] += seller_value - seller_fee
        self.owned[buyer.owner, buyer.placed.zone] += energy
        self.owned[seller.owner, seller.placed.zone] -= energy
        self.fees += buyer_fee + seller_fee
        self.grid[buyer.placed.zone] += buyer_value - seller_value
        zones = seller.placed.zone, buyer.placed.zone
        self.trades.append(NaiveTrade(self.now, self.epoch, maker.price, energy, *zones, buyer.owner, seller.owner))
        self._set_reference()
        self.told.append(
            Traded(
                number=len(self.trades),
                maker_order_id=maker.order_id,
                taker_order_id=taker.order_id,
                buyer_id=buyer.owner,
                seller_id=seller.owner,
                taker_side=taker.placed.side,
                energy_wh=energy,
                price_micro=maker.price,
                buyer_price_micro=buyer_price,
                seller_price_micro=seller_price,
                buyer_value_micro=buyer_value,
                seller_value_micro=seller_value,
                buyer_fee_micro=buyer_fee,
                seller_fee_micro=seller_fee,
                buyer_zone=buyer.placed.zone,
                seller_zone=seller.placed.zone,
            )
        )
        self._trigger(maker.price)
        if not maker.remaining:
            self._end(maker, EndReason.FILLED)

    def _trigger(self, price: int) -> None:
        """Whichever waits and is reached: first those whose stop price is furthest from this one, then the oldest."""
        for side, sign in ((Side.SELL, -1), (Side.BUY, 1)):
            waiting = [o for o in self.open if o.stop and o.placed.side is side and sign * (price - o.stop) >= 0]
            for order in sorted(waiting, key=lambda o: (sign * o.stop, o.priority)):
                order.stop = 0
                self.triggered.append(order)
                self.told.append(StopTriggered(order.order_id))

    def _meet_oneself(self, taker: NaiveOrder, maker: NaiveOrder) -> None:
        rule = taker.placed.self_trade
        if rule is SelfTrade.DECREMENT:
            energy = min(taker.remaining, maker.remaining)
            for order in (maker, taker):
                order.quantity -= energy
                self.told.append(OrderReduced(order.order_id, energy))
        for order, doomed in (
            (maker, rule in (SelfTrade.CANCEL_OLDEST, SelfTrade.CANCEL_BOTH)),
            (taker, rule in (SelfTrade.CANCEL_NEWEST, SelfTrade.CANCEL_BOTH)),
        ):
            if doomed or not order.remaining:
                self._end(order, EndReason.SELF_TRADE)

    def _set_first_reference(self) -> None:
        spec = self.spec
        middle = (spec.price_micro_min + spec.price_micro_max) // 2
        self.reference = spec.reference_price_micro or middle - middle % spec.tick_micro

    def _set_reference(self) -> None:
        """Volume-weighted over the sixty minutes that end with the last trade's."""
        last_minute = self.trades[-1].time_us // MINUTE_US
        hour = [t for t in self.trades[self.reference_since :] if t.time_us // MINUTE_US > last_minute - 60]
        average = Fraction(sum(t.price * t.energy for t in hour), sum(t.energy for t in hour))
        self.reference = math.floor(average / self.spec.tick_micro) * self.spec.tick_micro

    # --- funds and rules ----------------------------------------------------------------------------------------

    def _fund(self, command: Fund) -> None:
        if command.number <= self.fund_number:
            return self._refuse(RejectCode.CONFLICT)
        self.fund_number = command.number
        self.owned[command.participant_id, command.asset] += command.amount
        self.told.append(Funded(command.number, command.participant_id, command.asset, command.amount))
        return None

    def _defund(self, command: Defund) -> None:
        who = command.participant_id
        if command.idle_only and any(order.owner == who for order in self.open):
            return
        for asset in sorted(asset for owner, asset in self.owned if owner == who):
            amount = self.free(who, asset)
            if amount:
                self.owned[who, asset] -= amount
                self.defund_number += 1
                self.told.append(Defunded(self.defund_number, who, asset, amount))

    def _set_phase(self, phase: Phase) -> None:
        if phase is self.phase and not self.halted_until:
            return None
        if self.phase is Phase.CLOSED:
            return self._refuse(RejectCode.CONFLICT)
        self._end_halt()
        self.phase = phase
        self.told.append(PhaseChanged(phase))
        if phase is Phase.CLOSED:
            for order in list(self.open):
                self._end(order, EndReason.MARKET_CLOSED)
        self._arrive_again()
        return None

    def _set_spec(self, new: MarketSpec) -> None:
        old = self.spec
        same = (new.market_id, new.symbol, new.epoch_seconds) == (old.market_id, old.symbol, old.epoch_seconds)
        same_steps = (new.tick_micro, new.lot_wh) == (old.tick_micro, old.lot_wh)
        fine = same and not new.problems() and set(old.zones) <= set(new.zones) and (same_steps or not self.open)
        if not fine:
            return self._refuse(RejectCode.CONFLICT)
        self.spec = new
        if not self.trades:
            self._set_first_reference()
        self.told.append(SpecChanged(new))
        self._arrive_again()
        return None

    def _set_fees(self, command: SetFees) -> None:
        maker, taker = command.maker_fee_bps, command.taker_fee_bps
        if command.remove:
            self.own_fees.pop(command.participant_id, None)
            maker, taker = self.spec.maker_fee_bps, self.spec.taker_fee_bps
        elif not (0 <= taker <= 9_999 and -9_999 <= maker <= 9_999):
            return self._refuse(RejectCode.VALIDATION_FAILED)
        else:
            self.own_fees[command.participant_id] = (maker, taker)
        self.told.append(FeesSet(command.participant_id, maker, taker))
        return None

    def _set_risk(self, command: SetRisk) -> None:
        who, limits = command.participant_id, command.limits
        if limits is not None and min(astuple(limits)) < 0:
            return self._refuse(RejectCode.VALIDATION_FAILED)
        self.own_limits.pop(who, None)
        if limits is not None:
            self.own_limits[who] = limits
        self.kept_out.discard(who)
        self.told.append(RiskSet(who, limits, command.is_blocked))
        if command.is_blocked:
            self.kept_out.add(who)
            for order in list(self.open):
                if order.owner == who:
                    self._end(order, EndReason.RISK)
        return None
