"""What a participant asks of the markets, for HTTP and for sockets alike: requests to commands, answers or Problems.

One order costs one `submit`. When a market is short while another holds free funds of the participant, those are
fetched back and the command is repeated once (docs/glossary.md, "allowance").
"""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Final, Literal, NamedTuple, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

from engine.market import MarketSpec
from engine.messages import (
    AmendOrder,
    CancelAll,
    CancelAllAt,
    CancelOrder,
    Command,
    Defund,
    OrderKind,
    PlaceOrder,
    RejectCode,
    TimeInForce,
)
from engine.units import SECOND_US
from engine.views import Answer, Applied, Failed, OrderAnswer, Refusal
from gateway.auth.callers import Caller
from gateway.barrier import Barrier
from gateway.decimals import parse_energy, parse_price
from gateway.errors import Problem, invalid, not_found, refused
from gateway.instants import parse_instant
from gateway.message_rates import MessageRates
from gateway.ports import Clock, History, Ledger, Markets
from gateway.wire import KINDS, SELF_TRADES, SIDES, TIMES_IN_FORCE, parse_order_id

DEAD_MAN_SECONDS_MAX: Final = 86_400
BATCH_MAX: Final = 1_000

# `$` alone would let a line end pass in Python; the rest of the world reads this pattern too
CLIENT_ID_PATTERN: Final = r"^[A-Za-z0-9._:\-]{1,64}$(?!\n)"

ClientOrderId = Annotated[str, Meta(pattern=CLIENT_ID_PATTERN, description="1 to 64 characters")]
PriceText = Annotated[str, Meta(description="decimal string: currency per kWh", examples=["3.500"])]
EnergyText = Annotated[str, Meta(description="decimal string: kWh", examples=["12.250"])]


class OrderRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A new order. `max_price` bounds a market or stop buy; `zone` is the participant's own, and so the default.

    A `stop` waits for a trade at its `stop_price` and is then a market order, a `stop_limit` is then a limit order.
    """

    market: str
    side: Literal["buy", "sell"]
    type: Literal["limit", "market", "stop", "stop_limit"]
    quantity: EnergyText
    price: PriceText | None = None
    time_in_force: Literal["gtc", "gtd", "ioc", "fok"] | None = None
    expires_at: str | None = None
    post_only: bool = False
    self_trade_prevention: Literal["cancel_newest", "cancel_oldest", "cancel_both", "decrement"] = "cancel_newest"
    client_order_id: ClientOrderId | None = None
    zone: str | None = None
    max_price: PriceText | None = None
    stop_price: PriceText | None = None


class AmendRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """`quantity` is the new total, with what has been filled; `stop_price`, of an order that still waits for it."""

    price: PriceText | UnsetType = UNSET
    quantity: EnergyText | UnsetType = UNSET
    stop_price: PriceText | UnsetType = UNSET


class Placement(NamedTuple):
    spec: MarketSpec
    command: PlaceOrder


Ended: TypeAlias = tuple[MarketSpec, OrderAnswer]


class Trading:
    def __init__(
        self,
        markets: Markets,
        history: History,
        ledger: Ledger,
        barrier: Barrier,
        rates: MessageRates,
        clock: Clock,
        currency: str,
    ) -> None:
        self._markets, self._history, self._ledger, self._rates = markets, history, ledger, rates
        self._barrier, self._clock, self._currency = barrier, clock, currency

    # --- what there is -------------------------------------------------------------------------------------------

    def spec(self, symbol: str) -> MarketSpec:
        """Raises NOT_FOUND."""
        spec = self._markets.markets().get(symbol)
        if spec is None:
            raise not_found(f"market {symbol[:64]}")
        return spec

    def specs(self) -> dict[int, MarketSpec]:
        return {spec.market_id: spec for spec in self._markets.markets().values()}

    def locate(self, order_id: str) -> tuple[MarketSpec, int]:
        """The market of an order and the order's id there. NOT_FOUND for a market that does not exist."""
        market_id, number = parse_order_id(order_id)
        for spec in self._markets.markets().values():
            if spec.market_id == market_id:
                return spec, number
        raise not_found("order")

    # --- orders --------------------------------------------------------------------------------------------------

    def placement(self, request: OrderRequest, caller: Caller, client_order_id: str = "") -> Placement:
        """The command for a request. Raises VALIDATION_FAILED or NOT_FOUND; the market checks the rest."""
        kind = KINDS[request.type]
        time_in_force = _time_in_force(request, kind)
        command = PlaceOrder(
            caller.user_id,
            SIDES[request.side],
            _price(request, kind),
            parse_energy(request.quantity, "quantity"),
            _zone(request.zone, caller),
            request.client_order_id or client_order_id,
            kind,
            time_in_force,
            self._expires_us(request, time_in_force),
            request.post_only,
            SELF_TRADES[request.self_trade_prevention],
            _stop_price(request, kind),
        )
        at_once = time_in_force in (TimeInForce.IOC, TimeInForce.FOK)
        if request.post_only and (at_once or kind is OrderKind.STOP):
            raise invalid("post_only", "goes only with what can rest: limits, gtc or gtd")
        return Placement(self.spec(request.market), command)

    async def place(self, placement: Placement) -> OrderAnswer:
        self._rates.take(placement.spec, placement.command.participant_id)
        return await self._order(placement.spec.market_id, placement.command)

    async def place_many(self, placements: Sequence[Placement]) -> list[OrderAnswer | Problem]:
        """Place all, per market in their order and in one write; each has its own outcome."""
        late: dict[int, Problem] = {}  # by their place: those beyond the market's rate of messages
        for place, (spec, command) in enumerate(placements):
            try:
                self._rates.take(spec, command.participant_id)
            except Problem as problem:
                late[place] = problem
        commands = [(spec.market_id, command) for n, (spec, command) in enumerate(placements) if n not in late]
        if not late:
            return await self._many(commands)
        outcomes = iter(await self._many(commands))
        return [late[place] if place in late else next(outcomes) for place in range(len(placements))]

    async def amend(self, caller: Caller, order_id: str, request: AmendRequest) -> tuple[MarketSpec, OrderAnswer]:
        spec, number = self.locate(order_id)
        if request.price is UNSET and request.quantity is UNSET and request.stop_price is UNSET:
            raise invalid("price", "give a price, a quantity, or a stop_price")
        command = AmendOrder(
            caller.user_id,
            number,
            parse_price(request.price, "price") if request.price is not UNSET else 0,
            parse_energy(request.quantity, "quantity") if request.quantity is not UNSET else 0,
            parse_price(request.stop_price, "stop_price") if request.stop_price is not UNSET else 0,
        )
        self._rates.take(spec, caller.user_id)
        return spec, await self._known_order(spec, command)

    async def cancel(self, caller: Caller, order_id: str) -> tuple[MarketSpec, OrderAnswer]:
        spec, number = self.locate(order_id)
        return spec, await self._known_order(spec, CancelOrder(caller.user_id, number))

    async def cancel_many(self, caller: Caller, order_ids: Sequence[str]) -> list[Ended | Problem]:
        """Cancel all, per market in one write; each has its own outcome."""
        located: list[tuple[MarketSpec, int] | Problem] = []
        for order_id in order_ids:
            try:
                located.append(self.locate(order_id))
            except Problem as problem:
                located.append(problem)
        found = [(spec, number) for spec, number in (one for one in located if not isinstance(one, Problem))]
        outcomes = iter(await self._many([(spec.market_id, CancelOrder(caller.user_id, n)) for spec, n in found]))
        results: list[Ended | Problem] = []
        for place in located:
            if isinstance(place, Problem):
                results.append(place)
                continue
            outcome = next(outcomes)
            if isinstance(outcome, Problem):
                results.append(await self._ended_long_ago(place[0], place[1], caller.user_id, outcome))
            else:
                results.append((place[0], outcome))
        return results

    async def cancel_all(self, caller: Caller, symbol: str | None) -> int:
        """How many orders ended. Raises the first market's refusal, after all have been asked."""
        specs = [self.spec(symbol)] if symbol is not None else list(self._markets.markets().values())
        return sum(await self.everywhere(specs, CancelAll(caller.user_id)))

    async def cancel_all_after(self, caller: Caller, seconds: int) -> int:
        """The instant at which the dead-man switch will act in every market; 0 for never."""
        at_us = self._clock() + seconds * SECOND_US if seconds else 0
        await self.everywhere(list(self._markets.markets().values()), CancelAllAt(caller.user_id, at_us))
        return at_us

    async def everywhere(self, specs: Sequence[MarketSpec], command: Command) -> list[int]:
        """Send one command to several markets; the counts of their answers."""
        answers = await asyncio.gather(*(self._markets.submit(spec.market_id, command) for spec in specs))
        counts = []
        for spec, answer in zip(specs, answers, strict=True):
            self._barrier.note_answer(spec.market_id, answer)
            if isinstance(answer, (Refusal, Failed)):
                raise refused(answer)
            counts.append(answer.count if isinstance(answer, Applied) else 0)
        return counts

    # --- how ---------------------------------------------------------------------------------------------------------

    async def _order(self, market_id: int, command: PlaceOrder | AmendOrder | CancelOrder) -> OrderAnswer:
        answer = await self._markets.submit(market_id, command)
        if isinstance(answer, Refusal) and await self._fetched_back(market_id, command, answer):
            answer = await self._markets.submit(market_id, command)
        return self._order_answer(market_id, answer)

    async def _known_order(self, spec: MarketSpec, command: AmendOrder | CancelOrder) -> OrderAnswer:
        try:
            return await self._order(spec.market_id, command)
        except Problem as problem:
            raise await self._ended_long_ago(spec, command.order_id, command.participant_id, problem) from None

    async def _ended_long_ago(self, spec: MarketSpec, number: int, participant_id: int, problem: Problem) -> Problem:
        """The market forgets orders that ended long ago; history still knows whether the order was one's own."""
        if problem.code is not RejectCode.NOT_FOUND:
            return problem
        stored = await self._history.order(spec.market_id, number, participant_id)
        return problem if stored is None else Problem(RejectCode.ORDER_CLOSED, "the order has ended")

    async def _many(self, commands: Sequence[tuple[int, PlaceOrder | CancelOrder]]) -> list[OrderAnswer | Problem]:
        if not commands:
            return []
        by_market: dict[int, list[int]] = {}
        for place, (market_id, _) in enumerate(commands):
            by_market.setdefault(market_id, []).append(place)
        if len(by_market) == 1:  # the usual case; sent in this turn of the loop, before whatever is asked for later
            return await self._together(commands[0][0], [command for _, command in commands])
        answered = await asyncio.gather(
            *(self._together(m, [commands[place][1] for place in places]) for m, places in by_market.items())
        )
        results = {
            place: outcome
            for places, outcomes in zip(by_market.values(), answered, strict=True)
            for place, outcome in zip(places, outcomes, strict=True)
        }
        return [results[place] for place in range(len(commands))]

    async def _together(
        self, market_id: int, commands: Sequence[PlaceOrder | CancelOrder]
    ) -> list[OrderAnswer | Problem]:
        outcomes: list[OrderAnswer | Problem] = []
        for command, answer in zip(commands, await self._markets.submit_many(market_id, commands), strict=True):
            if isinstance(answer, OrderAnswer):
                self._barrier.note(market_id, answer.order.sequence)
                outcomes.append(answer)
                continue
            try:
                outcomes.append(await self._retried(market_id, command, answer))
            except Problem as problem:
                outcomes.append(problem)
        return outcomes

    async def _retried(self, market_id: int, command: PlaceOrder | CancelOrder, answer: Answer) -> OrderAnswer:
        if isinstance(answer, Refusal) and await self._fetched_back(market_id, command, answer):
            answer = await self._markets.submit(market_id, command)
        return self._order_answer(market_id, answer)

    def _order_answer(self, market_id: int, answer: Answer) -> OrderAnswer:
        if isinstance(answer, OrderAnswer):
            self._barrier.note(market_id, answer.order.sequence)
            return answer
        assert isinstance(answer, (Refusal, Failed)), f"an order command got {type(answer).__name__}"
        raise refused(answer)

    async def _fetched_back(
        self, market_id: int, command: PlaceOrder | AmendOrder | CancelOrder, refusal: Refusal
    ) -> bool:
        """Whether other markets have given back free funds of the asset that this market is short of."""
        if refusal.code not in (RejectCode.INSUFFICIENT_FUNDS, RejectCode.INSUFFICIENT_ENERGY):
            return False
        if len(self._markets.markets()) < 2:
            return False
        participant_id = command.participant_id
        elsewhere = sorted(
            {
                holding.market_id
                for holding in await self._ledger.holdings(participant_id)
                if holding.market_id != market_id
                and holding.balance > 0
                and (holding.asset == self._currency) is (refusal.code is RejectCode.INSUFFICIENT_FUNDS)
            }
        )
        if not elsewhere:
            return False
        answers = await asyncio.gather(*(self._markets.submit(one, Defund(participant_id)) for one in elsewhere))
        gave = False
        for one, answer in zip(elsewhere, answers, strict=True):
            self._barrier.note_answer(one, answer)
            gave = gave or (isinstance(answer, Applied) and answer.count > 0)
        return gave and await self._barrier.wait(elsewhere)

    def _expires_us(self, request: OrderRequest, time_in_force: TimeInForce) -> int:
        if time_in_force is not TimeInForce.GTD:
            if request.expires_at is not None:
                raise invalid("expires_at", "goes only with time_in_force gtd")
            return 0
        if request.expires_at is None:
            raise invalid("expires_at", "time_in_force gtd needs it")
        expires_us = parse_instant(request.expires_at, "expires_at")
        if expires_us <= self._clock():
            raise invalid("expires_at", "must be in the future")
        return expires_us


def _time_in_force(request: OrderRequest, kind: OrderKind) -> TimeInForce:
    if request.time_in_force is None:
        if kind is OrderKind.MARKET:
            return TimeInForce.IOC
        return TimeInForce.GTC if request.expires_at is None else TimeInForce.GTD
    time_in_force = TIMES_IN_FORCE[request.time_in_force]
    at_once = time_in_force in (TimeInForce.IOC, TimeInForce.FOK)
    if kind is OrderKind.MARKET and not at_once:
        raise invalid("time_in_force", "a market order never rests: ioc or fok")
    if kind is OrderKind.STOP and at_once:
        raise invalid("time_in_force", "says how long a stop order waits: gtc or gtd")
    return time_in_force


def _price(request: OrderRequest, kind: OrderKind) -> int:
    if kind is OrderKind.LIMIT or kind is OrderKind.STOP_LIMIT:
        if request.price is None:
            raise invalid("price", "an order with a limit needs one")
        if request.max_price is not None:
            raise invalid("max_price", "goes only with a market or stop buy")
        return parse_price(request.price, "price")
    if request.price is not None:
        raise invalid("price", "a market or stop order has none")
    if request.max_price is None:
        return 0
    if request.side != "buy":
        raise invalid("max_price", "goes only with a market or stop buy")
    return parse_price(request.max_price, "max_price")


def _stop_price(request: OrderRequest, kind: OrderKind) -> int:
    if kind is OrderKind.STOP or kind is OrderKind.STOP_LIMIT:
        if request.stop_price is None:
            raise invalid("stop_price", "a stop order needs one")
        return parse_price(request.stop_price, "stop_price")
    if request.stop_price is not None:
        raise invalid("stop_price", "goes only with stop and stop_limit")
    return 0


def _zone(asked: str | None, caller: Caller) -> str:
    if asked is not None and asked != caller.zone:
        raise invalid("zone", "is not the participant's own")
    return caller.zone
