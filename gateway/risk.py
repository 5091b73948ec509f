"""What a participant may do in each market, and the switch that ends all he does.

The store comes first: it is what markets compare themselves with. Then each market is told, and journals it; one that
does not answer is named as `pending`, and learns before it serves again, or within half a minute.
"""

import asyncio
from typing import Annotated

from litestar import Controller, delete, get, post, put
from litestar.params import FromPath, JSONBody
from msgspec import Meta, Struct
from msgspec.structs import asdict, replace

from engine.messages import SetRisk
from engine.records import OwnLimits, RiskRecord
from engine.views import Applied, Refusal
from gateway.context import Gateway
from gateway.errors import invalid, not_found, refused
from gateway.instants import format_instant
from gateway.requests import GatewayRequest
from gateway.risk_limits import Limits, parse_limits, show_limits
from gateway.users import user_number
from gateway.wire import Instant


class LimitsInMarket(Limits, frozen=True, forbid_unknown_fields=True, kw_only=True):
    market: str


class LimitsRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """All of the participant's own limits: in a market that is not named he has the market's."""

    items: Annotated[list[LimitsInMarket], Meta(max_length=1_000)]


class LimitsShown(LimitsInMarket, frozen=True, kw_only=True):
    """What holds in a market; `own`: for this participant, and not for everybody."""

    own: bool


class ShownRisk(Struct, frozen=True, kw_only=True):
    """After a change, `cancelled`: orders that ended; `pending`: markets that have not answered, and learn of it."""

    user_id: str
    blocked: bool
    blocked_at: Instant | None
    items: list[LimitsShown]
    cancelled: int = 0
    pending: list[str] = []


class KillRequest(Struct, frozen=True, forbid_unknown_fields=True):
    reason: Annotated[str, Meta(max_length=500)] = ""


class RiskController(Controller):
    path = "/risk/limits"
    tags = ["risk"]  # noqa: RUF012 - Litestar reads it so

    @get()
    async def own(self, request: GatewayRequest) -> ShownRisk:
        """One's own limits in each market."""
        gateway = request.gateway
        return _shown(gateway, await gateway.risk.of_user(request.caller.user_id))

    @get("/{user_id:str}")
    async def find(self, request: GatewayRequest, user_id: FromPath[str]) -> ShownRisk:
        """A participant's limits in each market."""
        gateway, number = request.gateway, user_number(user_id)
        if await gateway.people.by_id(number) is None:
            raise not_found("user")
        return _shown(gateway, await gateway.risk.of_user(number))

    @put("/{user_id:str}")
    async def change(self, request: GatewayRequest, user_id: FromPath[str], data: JSONBody[LimitsRequest]) -> ShownRisk:
        """A participant's own limits, in place of all that he has. Open orders beyond them stay."""
        gateway, limits = request.gateway, dict[int, OwnLimits]()
        for place, item in enumerate(data.items):
            spec = gateway.markets.markets().get(item.market)
            if spec is None:
                raise invalid(f"items.{place}.market", "is not known")
            if spec.market_id in limits:
                raise invalid(f"items.{place}.market", "stands here twice")
            limits[spec.market_id] = OwnLimits(parse_limits(item, f"items.{place}"), item.messages_per_second or 0)
        risk = await gateway.risk.put(user_number(user_id), limits, request.origin)
        if risk is None:
            raise not_found("user")
        await gateway.message_rates.read()
        return await _told(gateway, risk)


class KillController(Controller):
    path = "/admin/users/{user_id:str}/kill"
    tags = ["risk"]  # noqa: RUF012 - Litestar reads it so

    @post(status_code=200)
    async def kill(
        self, request: GatewayRequest, user_id: FromPath[str], data: JSONBody[KillRequest | None] = None
    ) -> ShownRisk:
        """Kill switch: all orders of the participant end, in all markets, and he places none until he is released."""
        gateway, reason = request.gateway, data.reason if data is not None else ""
        if not reason.isprintable():
            raise invalid("reason", "must be readable")
        risk = await gateway.risk.block(user_number(user_id), reason, gateway.clock(), request.origin)
        if risk is None:
            raise not_found("user")
        return await _told(gateway, risk)

    @delete(status_code=200)
    async def release(self, request: GatewayRequest, user_id: FromPath[str]) -> ShownRisk:
        """The participant may place orders again."""
        gateway = request.gateway
        risk = await gateway.risk.release(user_number(user_id), request.origin)
        if risk is None:
            raise not_found("user")
        return await _told(gateway, risk)


async def _told(gateway: Gateway, risk: RiskRecord) -> ShownRisk:
    """Tell every market what holds for the participant now."""
    specs = list(gateway.markets.markets().values())
    commands = [
        SetRisk(risk.user_id, own.limits if (own := risk.limits.get(spec.market_id)) else None, risk.blocked_us != 0)
        for spec in specs
    ]
    answers = await asyncio.gather(
        *(gateway.markets.submit(spec.market_id, command) for spec, command in zip(specs, commands, strict=True))
    )
    ended, pending = 0, []
    for spec, answer in zip(specs, answers, strict=True):
        if isinstance(answer, Refusal):
            raise refused(answer)
        gateway.barrier.note_answer(spec.market_id, answer)
        if isinstance(answer, Applied):
            ended += answer.count
        else:
            pending.append(spec.symbol)
    return replace(_shown(gateway, risk), cancelled=ended, pending=pending)


def _shown(gateway: Gateway, risk: RiskRecord) -> ShownRisk:
    items = []
    for spec in sorted(gateway.markets.markets().values(), key=lambda spec: spec.symbol):
        own = risk.limits.get(spec.market_id)
        holds = own or OwnLimits(spec.limits, spec.messages_per_second)
        shown = show_limits(holds.limits, holds.messages_per_second)
        items.append(LimitsShown(market=spec.symbol, own=own is not None, **asdict(shown)))
    return ShownRisk(
        user_id=str(risk.user_id),
        blocked=risk.blocked_us != 0,
        blocked_at=format_instant(risk.blocked_us) if risk.blocked_us else None,
        items=items,
    )
