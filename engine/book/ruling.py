"""The rules of a market and who changes them: phases, specs, fees, limits, and the first rule that a command breaks."""

from abc import abstractmethod
from collections.abc import Iterable
from typing import Final

from engine.accounts import Account, FeeRates
from engine.book.lanes import lanes_of
from engine.book.matching import Matching
from engine.book.risk import blocked_refusal, risk_refusal
from engine.book.side import BookSide, Order
from engine.book.stops import STOP_KINDS, is_reached
from engine.market import NO_LIMITS, MarketSpec, Phase
from engine.messages import (
    EndReason,
    Event,
    FeesSet,
    OrderKind,
    ParticipantId,
    PhaseChanged,
    PlaceOrder,
    Refused,
    RejectCode,
    RiskSet,
    SetFees,
    SetPhase,
    SetRisk,
    SetSpec,
    Side,
    SpecChanged,
    TimeInForce,
)
from engine.units import BPS, ENERGY_WH_MAX, SECOND_US, EnergyWh, PriceMicro, TimeUs, energy_text, money_text

# Looking up an enum's member takes as long as a small function's call; these are asked for by every order.
_OPEN: Final = Phase.OPEN
_LIMIT: Final = OrderKind.LIMIT


class Ruling(Matching):
    """The part of OrderBook that says no."""

    spec: MarketSpec
    fees: FeeRates
    accounts: dict[ParticipantId, Account]
    orders: dict[int, Order]
    pathless_wh: dict[tuple[str, str], EnergyWh]
    _has_risk: bool  # whether anybody has limits or is blocked: most markets need not look further

    @abstractmethod
    def _forget_if_empty(self, account: Account) -> None:
        """Let go of an account that holds nothing."""

    # --- what a command breaks ------------------------------------------------------------------------------------

    def _place_refusal(self, command: PlaceOrder, price_micro: PriceMicro, time_us: TimeUs) -> Refused | None:
        """The first rule the command breaks, in the order of RejectCode; funds come after."""
        spec = self.spec
        if self.phase is not _OPEN:
            return self._not_open()
        if (command.side, command.zone) not in self.sides:
            return Refused(RejectCode.VALIDATION_FAILED, f"zone: {spec.symbol} has no zone {command.zone}")
        if command.expires_us:
            if command.expires_us <= time_us:
                return Refused(RejectCode.VALIDATION_FAILED, "expires_at: is not in the future")
            if command.expires_us > time_us + spec.order_life_seconds_max * SECOND_US:
                return Refused(
                    RejectCode.VALIDATION_FAILED,
                    f"expires_at: an order lives at most {spec.order_life_seconds_max} s in {spec.symbol}",
                )
        refusal = self._terms_refusal(price_micro, command.quantity_wh, command.kind is _LIMIT)
        if refusal is None and command.kind in STOP_KINDS:
            refusal = self._stop_refusal(command.side is Side.BUY, command.stop_price_micro)
        if refusal is None and self._has_risk:
            return self._risk_refusal(command, price_micro)
        return refusal

    def _terms_refusal(self, price_micro: PriceMicro, quantity_wh: EnergyWh, in_band: bool) -> Refused | None:
        """The first rule that this price or this quantity breaks."""
        spec = self.spec
        if price_micro % spec.tick_micro:
            return Refused(RejectCode.PRICE_OFF_TICK, f"price must be a multiple of {money_text(spec.tick_micro)}")
        if quantity_wh % spec.lot_wh or not spec.quantity_wh_min <= quantity_wh <= ENERGY_WH_MAX:
            return Refused(
                RejectCode.QUANTITY_OFF_LOT,
                f"quantity must be a multiple of {energy_text(spec.lot_wh)}, "
                f"from {energy_text(spec.quantity_wh_min)} to {energy_text(ENERGY_WH_MAX)}",
            )
        if not spec.price_micro_min <= price_micro <= spec.price_micro_max:
            return Refused(
                RejectCode.PRICE_OUTSIDE_CORRIDOR,
                f"price must be from {money_text(spec.price_micro_min)} to {money_text(spec.price_micro_max)}",
            )
        if in_band and spec.band_bps:
            reference = self.reference.price_micro
            if abs(price_micro - reference) * BPS > reference * spec.band_bps:
                return Refused(
                    RejectCode.PRICE_OUTSIDE_BAND,
                    f"price must be within {spec.band_bps} bps of the reference price {money_text(reference)}",
                )
        return None

    def _stop_refusal(self, is_buy: bool, stop_micro: PriceMicro) -> Refused | None:
        """The first rule that this stop price breaks."""
        spec, last_micro = self.spec, self.reference.last_price_micro
        if stop_micro <= 0:
            return Refused(RejectCode.VALIDATION_FAILED, "stop_price: a stop order needs one")
        if stop_micro % spec.tick_micro:
            return Refused(RejectCode.PRICE_OFF_TICK, f"stop_price must be a multiple of {money_text(spec.tick_micro)}")
        if not spec.price_micro_min <= stop_micro <= spec.price_micro_max:
            low, high = money_text(spec.price_micro_min), money_text(spec.price_micro_max)
            return Refused(RejectCode.PRICE_OUTSIDE_CORRIDOR, f"stop_price must be from {low} to {high}")
        if is_reached(is_buy, stop_micro, last_micro):
            return Refused(
                RejectCode.CONFLICT, f"the last trade, at {money_text(last_micro)}, is at the stop price already"
            )
        return None

    def _not_open(self) -> Refused:
        return Refused(RejectCode.MARKET_NOT_OPEN, f"{self.spec.symbol} is {self.phase.name.lower()}")

    def _amend_refusal(
        self, order: Order, price_micro: PriceMicro, quantity_wh: EnergyWh, stop_micro: PriceMicro
    ) -> Refused | None:
        """The first rule that the new terms break, in the order of RejectCode; funds come after."""
        if quantity_wh <= order.filled_wh:
            return Refused(
                RejectCode.VALIDATION_FAILED,
                f"quantity: must be above the {energy_text(order.filled_wh)} that are filled",
            )
        if stop_micro and not order.is_waiting:
            return Refused(RejectCode.VALIDATION_FAILED, "stop_price: is that of a stop order which waits")
        in_band = price_micro != order.price_micro and order.placed.kind is _LIMIT
        refusal = self._terms_refusal(price_micro, quantity_wh, in_band)
        if refusal is None and stop_micro and stop_micro != order.stop_micro:
            refusal = self._stop_refusal(order.is_buy, stop_micro)
        if refusal is None and self._has_risk:
            limits = self.spec.limits if order.account.limits is None else order.account.limits
            return risk_refusal(limits, order.account, order.placed.side, price_micro, quantity_wh, amended=order)
        return refusal

    def _risk_refusal(self, command: PlaceOrder, price_micro: PriceMicro) -> Refused | None:
        account = self.accounts.get(command.participant_id)
        if account is not None and account.is_blocked:
            return blocked_refusal()
        limits = self.spec.limits if account is None or account.limits is None else account.limits
        at_once = command.time_in_force in (TimeInForce.IOC, TimeInForce.FOK)
        rests = command.kind in STOP_KINDS or (command.kind is _LIMIT and not at_once)
        return risk_refusal(limits, account, command.side, price_micro, command.quantity_wh, rests=rests)

    # --- who changes them -----------------------------------------------------------------------------------

    def _set_phase(self, command: SetPhase, events: list[Event]) -> None:
        if self.phase is Phase.CLOSED and command.phase is not Phase.CLOSED:
            events.append(Refused(RejectCode.CONFLICT, "a closed market stays closed"))
            return
        if command.phase is self.phase and not self.halt_until_us:
            return
        self._end_halt(events)
        self.phase = command.phase
        events.append(PhaseChanged(command.phase))
        if command.phase is Phase.CLOSED:
            self._end_all(self.orders.values(), EndReason.MARKET_CLOSED, events)
        elif command.phase is Phase.OPEN:
            self._trade_blocked(events)

    def _set_spec(self, command: SetSpec, events: list[Event]) -> None:
        new, old = command.spec, self.spec
        problems = new.problems()
        if (new.market_id, new.symbol, new.epoch_seconds) != (old.market_id, old.symbol, old.epoch_seconds):
            problems.append("id, symbol and epoch_seconds of a market cannot change")
        if self.orders and (new.tick_micro != old.tick_micro or new.lot_wh != old.lot_wh):
            problems.append("tick and lot cannot change while orders are open; cancel them first")
        if not set(old.zones) <= set(new.zones):
            problems.append("zones: a market can gain zones, not lose them")
        if problems:
            events.append(Refused(RejectCode.CONFLICT, "; ".join(problems)))
            return
        self.spec = new
        self.fees = FeeRates(new.maker_fee_bps, new.taker_fee_bps)
        self.reference.set_spec(new)
        for side in Side:
            for zone in new.zones:
                self.sides.setdefault((side, zone), BookSide(side))
        used = self.lanes_used()
        self.lanes = lanes_of(new, self.sides)
        self.set_lanes_used(used)
        self._bind_lanes()
        for account in self.accounts.values():
            if not account.has_own_fees:
                account.fees = self.fees
        self._look_for_risk()
        events.append(SpecChanged(new))
        # cheaper paths can make any two of them meet
        self.blocked = {number: order for number, order in self.orders.items() if order.level is not None}
        self._trade_blocked(events)

    def lanes_used(self) -> dict[tuple[str, str], EnergyWh]:
        """What has passed between zones in this epoch, by (seller's zone, buyer's zone)."""
        return self.pathless_wh | {pair: lane.used_wh for pair, lane in self.lanes.items() if lane.used_wh}

    def set_lanes_used(self, used: dict[tuple[str, str], EnergyWh]) -> None:
        for pair, lane in self.lanes.items():
            lane.set_used(used.get(pair, 0))
        self.pathless_wh = {pair: energy_wh for pair, energy_wh in used.items() if pair not in self.lanes}

    def _set_fees(self, command: SetFees, events: list[Event]) -> None:
        fees = self.fees if command.remove else FeeRates(command.maker_fee_bps, command.taker_fee_bps)
        if not (0 <= fees.taker_bps < BPS and -BPS < fees.maker_bps < BPS):
            events.append(Refused(RejectCode.VALIDATION_FAILED, "fees: taker 0 to 9999 bps, maker -9999 to 9999 bps"))
            return
        account = self.accounts.get(command.participant_id)
        if account is None:
            account = Account(command.participant_id, fees)
            self.accounts[command.participant_id] = account
        account.fees = fees
        account.has_own_fees = not command.remove
        events.append(FeesSet(command.participant_id, fees.maker_bps, fees.taker_bps))
        self._forget_if_empty(account)

    def _set_risk(self, command: SetRisk, events: list[Event]) -> None:
        problems = command.limits.problems() if command.limits is not None else []
        if problems:
            events.append(Refused(RejectCode.VALIDATION_FAILED, "; ".join(problems)))
            return
        account = self.accounts.get(command.participant_id)
        if account is None:
            account = Account(command.participant_id, self.fees)
            self.accounts[command.participant_id] = account
        account.limits, account.is_blocked = command.limits, command.is_blocked
        self._look_for_risk()
        events.append(RiskSet(command.participant_id, command.limits, command.is_blocked))
        if command.is_blocked:
            self._end_all(account.orders.values(), EndReason.RISK, events)
        self._forget_if_empty(account)

    def _look_for_risk(self) -> None:
        self._has_risk = self.spec.limits != NO_LIMITS or any(
            account.limits is not None or account.is_blocked for account in self.accounts.values()
        )

    def _end_all(self, orders: Iterable[Order], reason: EndReason, events: list[Event]) -> None:
        for order in list(orders):
            self._end(order, reason, events)
