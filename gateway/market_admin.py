"""What an admin does to markets and to the grid between their zones.

A change of rules goes to the market first, where it is journaled; the catalogue, from which markets are started, is
second. When the second step fails, repeating the request cures it. What a market is asked to do is in the audit log
before it is asked: its journal knows what was done, not who wanted it.
"""

from typing import Annotated, Final, Literal, assert_never

from litestar import Controller, get, patch, post, put
from litestar.params import FromPath, JSONBody
from msgspec import Meta, Struct, to_builtins
from msgspec.structs import replace

from engine.market import UNLIMITED_WH, MarketSpec, Mechanism, Phase
from engine.messages import CancelAll, EndReason, RejectCode, SetPhase, SetSpec
from engine.records import CapacityRecord, CostRecord, ZoneRecord
from engine.views import Applied, Failed, GetMarket, Refusal
from gateway.context import Gateway
from gateway.decimals import format_energy, format_price, parse_charge, parse_energy, parse_energy_amount, parse_price
from gateway.errors import Problem, invalid, refused
from gateway.instants import format_instant, parse_instant
from gateway.markets import Market, show_market
from gateway.orders import Cancelled
from gateway.requests import GatewayRequest, Page
from gateway.risk_limits import Limits, parse_limits
from gateway.wire import Energy, Instant, Price

ITEMS_MAX: Final = 10_000
_ZONE = r"^[A-Za-z0-9_\-]{1,32}$(?!\n)"
_SYMBOL = r"^[A-Za-z0-9._\-]{1,32}$(?!\n)"
ZoneId = Annotated[str, Meta(pattern=_ZONE)]


class MarketRules(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What can change while a market runs; what is not given stays as it is."""

    tick: Price | None = None
    lot: Energy | None = None
    min_quantity: Energy | None = None
    price_min: Price | None = None
    price_max: Price | None = None
    band_bps: int | None = None
    maker_fee_bps: int | None = None
    taker_fee_bps: int | None = None
    auction_fee_bps: int | None = None
    call_seconds: int | None = None
    max_order_life_seconds: int | None = None
    halt_seconds: int | None = None
    limits: Limits | None = None
    reference_price: Price | None = None
    zones: list[ZoneId] | None = None
    phase: Literal["scheduled", "open", "halted", "closed"] | None = None


class NewMarket(MarketRules, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`shared_process`: with other markets that have little to do; it can be moved out of there while it trades."""

    symbol: Annotated[str, Meta(pattern=_SYMBOL)]
    zones: Annotated[list[ZoneId], Meta(min_length=1, max_length=100)]
    mechanism: Literal["continuous", "call_auction", "continuous_then_auction"] = "continuous"
    epoch_seconds: int = 900
    halt_seconds: int | None = 60
    shared_process: bool = False


class Zone(Struct, frozen=True, forbid_unknown_fields=True):
    id: ZoneId
    name: Annotated[str, Meta(min_length=1, max_length=100)]


class Cost(Struct, frozen=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    """Of moving energy: wheeling in currency per kWh, loss in basis points of the seller's price."""

    from_: ZoneId
    to: ZoneId
    wheeling: Price
    loss_bps: Annotated[int, Meta(ge=0, le=9_999)]
    valid_from: Instant | None = None


class Capacity(Struct, frozen=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    """`energy_per_epoch` null: no limit."""

    from_: ZoneId
    to: ZoneId
    energy_per_epoch: Energy | None


class Zones(Struct, frozen=True, forbid_unknown_fields=True):
    items: Annotated[list[Zone], Meta(max_length=ITEMS_MAX)]


class Costs(Struct, frozen=True, forbid_unknown_fields=True):
    items: Annotated[list[Cost], Meta(max_length=ITEMS_MAX)]


class Capacities(Struct, frozen=True, forbid_unknown_fields=True):
    items: Annotated[list[Capacity], Meta(max_length=ITEMS_MAX)]


class MarketAdminController(Controller):
    path = "/markets"
    tags = ["administration"]  # noqa: RUF012 - Litestar reads it so

    @post()
    async def create(self, request: GatewayRequest, data: JSONBody[NewMarket]) -> Market:
        """A new market; it trades within ten seconds."""
        gateway = request.gateway
        zones = tuple(data.zones)
        draft = MarketSpec(
            market_id=0,
            symbol=data.symbol,
            zones=zones,
            paths=await gateway.catalogue.paths(zones, gateway.clock()),
            mechanism=Mechanism[data.mechanism.upper()],
            epoch_seconds=data.epoch_seconds,
        )
        spec = _checked(_changed(draft, data))
        phase = _PHASES[data.phase] if data.phase is not None else Phase.OPEN
        made = await gateway.catalogue.create_market(
            spec, phase, gateway.clock(), request.origin, shared=data.shared_process
        )
        return show_market(made, None)

    @patch("/{symbol:str}")
    async def change(self, request: GatewayRequest, symbol: FromPath[str], data: JSONBody[MarketRules]) -> Market:
        """New rules, from the next order on; resting orders keep their place. Zones can be gained, not lost."""
        gateway = request.gateway
        spec = gateway.trading.spec(symbol)
        changed = _changed(spec, data)
        if data.zones is not None:
            zones = tuple(data.zones)
            changed = replace(changed, zones=zones, paths=await gateway.catalogue.paths(zones, gateway.clock()))
        if changed != spec:
            await _put_spec(request, _checked(changed))
        if data.phase is not None:
            await _submit(request, spec, SetPhase(_PHASES[data.phase]))
        return show_market(changed, await gateway.markets.ask(spec.market_id, GetMarket()))

    @post("/{symbol:str}/halt", status_code=200)
    async def halt(self, request: GatewayRequest, symbol: FromPath[str]) -> Market:
        """Stop trading; orders stay, and can be cancelled."""
        return await self._set_phase(request, symbol, Phase.HALTED)

    @post("/{symbol:str}/resume", status_code=200)
    async def resume(self, request: GatewayRequest, symbol: FromPath[str]) -> Market:
        """Trade again."""
        return await self._set_phase(request, symbol, Phase.OPEN)

    @post("/{symbol:str}/cancel-all", status_code=200)
    async def cancel_all(self, request: GatewayRequest, symbol: FromPath[str]) -> Cancelled:
        """Cancel everybody's orders."""
        spec = request.gateway.trading.spec(symbol)
        return Cancelled((await _submit(request, spec, CancelAll(0, EndReason.CANCELLED_BY_ADMIN))).count)

    async def _set_phase(self, request: GatewayRequest, symbol: str, phase: Phase) -> Market:
        gateway = request.gateway
        spec = gateway.trading.spec(symbol)
        await _submit(request, spec, SetPhase(phase))
        return show_market(spec, await gateway.markets.ask(spec.market_id, GetMarket()))


class ZoneController(Controller):
    path = "/zones"
    tags = ["administration"]  # noqa: RUF012 - Litestar reads it so

    @get()
    async def zones(self, request: GatewayRequest) -> Page[Zone]:
        """All zones."""
        return Page([Zone(zone.zone_id, zone.name) for zone in await request.gateway.catalogue.zones()])

    @put()
    async def put_zones(self, request: GatewayRequest, data: JSONBody[Zones]) -> Page[Zone]:
        """Add zones or rename them; a zone is never removed."""
        zones = [ZoneRecord(zone.id, zone.name) for zone in data.items]
        await request.gateway.catalogue.put_zones(zones, request.origin)
        return Page([Zone(zone.zone_id, zone.name) for zone in await request.gateway.catalogue.zones()])

    @get("/costs")
    async def costs(self, request: GatewayRequest) -> Page[Cost]:
        """What each path costs now."""
        return Page([_show_cost(cost) for cost in await request.gateway.catalogue.costs()])

    @put("/costs")
    async def put_costs(self, request: GatewayRequest, data: JSONBody[Costs]) -> Page[Cost]:
        """New costs from `valid_from` on, or from now; markets follow at once, resting orders included."""
        gateway = request.gateway
        now_us = gateway.clock()
        await _check_zones(gateway, [(cost.from_, cost.to) for cost in data.items])
        costs = [
            CostRecord(
                cost.from_,
                cost.to,
                parse_charge(cost.wheeling, f"items.{place}.wheeling"),
                cost.loss_bps,
                parse_instant(cost.valid_from, f"items.{place}.valid_from") if cost.valid_from is not None else now_us,
            )
            for place, cost in enumerate(data.items)
        ]
        await gateway.catalogue.put_costs(costs, now_us, request.origin)
        await _follow_paths(request)
        return Page([_show_cost(cost) for cost in await gateway.catalogue.costs()])

    @get("/capacities")
    async def capacities(self, request: GatewayRequest) -> Page[Capacity]:
        """What each path carries in one epoch."""
        return Page([_show_capacity(capacity) for capacity in await request.gateway.catalogue.capacities()])

    @put("/capacities")
    async def put_capacities(self, request: GatewayRequest, data: JSONBody[Capacities]) -> Page[Capacity]:
        """New capacities; markets follow at once."""
        gateway = request.gateway
        await _check_zones(gateway, [(one.from_, one.to) for one in data.items])
        capacities = [
            CapacityRecord(one.from_, one.to, _capacity_wh(one.energy_per_epoch, f"items.{place}.energy_per_epoch"))
            for place, one in enumerate(data.items)
        ]
        await gateway.catalogue.put_capacities(capacities, request.origin)
        await _follow_paths(request)
        return Page([_show_capacity(capacity) for capacity in await gateway.catalogue.capacities()])


_PHASES: Final = {"scheduled": Phase.SCHEDULED, "open": Phase.OPEN, "halted": Phase.HALTED, "closed": Phase.CLOSED}


def _changed(spec: MarketSpec, rules: MarketRules) -> MarketSpec:
    """The spec with what the rules name. Raises VALIDATION_FAILED for what is no number."""
    prices = {
        "tick_micro": ("tick", rules.tick),
        "price_micro_min": ("price_min", rules.price_min),
        "price_micro_max": ("price_max", rules.price_max),
        "reference_price_micro": ("reference_price", rules.reference_price),
    }
    energies = {"lot_wh": ("lot", rules.lot), "quantity_wh_min": ("min_quantity", rules.min_quantity)}
    numbers = {
        "band_bps": rules.band_bps,
        "maker_fee_bps": rules.maker_fee_bps,
        "taker_fee_bps": rules.taker_fee_bps,
        "auction_fee_bps": rules.auction_fee_bps,
        "call_seconds": rules.call_seconds,
        "order_life_seconds_max": rules.max_order_life_seconds,
        "halt_seconds": rules.halt_seconds,
        "messages_per_second": (rules.limits.messages_per_second or 0) if rules.limits is not None else None,
    }
    changes: dict[str, int] = {name: parse_price(text, f) for name, (f, text) in prices.items() if text is not None}
    changes |= {name: parse_energy(text, f) for name, (f, text) in energies.items() if text is not None}
    changes |= {name: number for name, number in numbers.items() if number is not None}
    if "lot_wh" in changes and "quantity_wh_min" not in changes:
        changes["quantity_wh_min"] = max(spec.quantity_wh_min, changes["lot_wh"])
    limits = parse_limits(rules.limits, "limits") if rules.limits is not None else spec.limits
    return replace(spec, limits=limits, **changes)


def _checked(spec: MarketSpec) -> MarketSpec:
    """Raises VALIDATION_FAILED with every rule that the spec breaks."""
    problems = spec.problems()
    if problems:
        fields = {field: message for field, _, message in (problem.partition(": ") for problem in problems)}
        raise Problem(RejectCode.VALIDATION_FAILED, "; ".join(problems), fields=fields)
    return spec


async def _put_spec(request: GatewayRequest, spec: MarketSpec) -> None:
    await _submit(request, spec, SetSpec(spec))
    await request.gateway.catalogue.update_market(spec, request.origin)


async def _submit(request: GatewayRequest, spec: MarketSpec, command: SetSpec | SetPhase | CancelAll) -> Applied:
    gateway = request.gateway
    action, details = _asked(command)
    await gateway.audit.append(request.origin, action, f"market:{spec.symbol}", None, details)
    answer = await gateway.markets.submit(spec.market_id, command)
    if isinstance(answer, (Refusal, Failed)):
        raise refused(answer)
    assert isinstance(answer, Applied), f"{type(command).__name__} got {type(answer).__name__}"
    gateway.barrier.note(spec.market_id, answer.sequence)
    return answer


def _asked(command: SetSpec | SetPhase | CancelAll) -> tuple[str, dict[str, object] | None]:
    """A command in the audit log."""
    match command:
        case SetSpec(spec=spec):
            return "market.rules_asked", to_builtins(spec)
        case SetPhase(phase=phase):
            return "market.phase_asked", {"phase": phase.name.lower()}
        case CancelAll():
            return "market.cancel_all_asked", None
        case _:
            assert_never(command)


async def _follow_paths(request: GatewayRequest) -> None:
    """Give every market the paths that are valid now, where they differ from what it has."""
    gateway = request.gateway
    for spec in list(gateway.markets.markets().values()):
        paths = await gateway.catalogue.paths(spec.zones, gateway.clock())
        if paths != spec.paths:
            await _put_spec(request, _checked(replace(spec, paths=paths)))


async def _check_zones(gateway: Gateway, pairs: list[tuple[str, str]]) -> None:
    known = {zone.zone_id for zone in await gateway.catalogue.zones()}
    for place, (zone_from, zone_to) in enumerate(pairs):
        if zone_from not in known:
            raise invalid(f"items.{place}.from", "is not a known zone")
        if zone_to not in known:
            raise invalid(f"items.{place}.to", "is not a known zone")


def _capacity_wh(text: str | None, field: str) -> int:
    return UNLIMITED_WH if text is None else parse_energy_amount(text, field, zero=True)


def _show_cost(cost: CostRecord) -> Cost:
    return Cost(
        cost.zone_from,
        cost.zone_to,
        format_price(cost.wheeling_micro),
        cost.loss_bps,
        format_instant(cost.valid_from_us),
    )


def _show_capacity(capacity: CapacityRecord) -> Capacity:
    limit = None if capacity.capacity_wh == UNLIMITED_WH else format_energy(capacity.capacity_wh)
    return Capacity(capacity.zone_from, capacity.zone_to, limit)
