"""The rates by which energy is valued in analytics: the grid's prices and its emission factor, from instants on."""

from typing import Annotated, Literal

from litestar import Controller, get, put
from litestar.params import FromQuery, JSONBody
from msgspec import Meta, Struct

from engine.analytics.rates import NAMES, Rate
from gateway.decimals import format_price, parse_charge
from gateway.errors import invalid
from gateway.instants import INSTANT_US_MAX, format_instant, parse_instant
from gateway.requests import LIMIT_DEFAULT, Cursor, GatewayRequest, Limit, Page, cursor_of, parse_cursor
from gateway.wire import Instant

RateName = Literal["retail_price", "feed_in_price", "emission_factor"]
Value = Annotated[str, Meta(description="currency per kWh, or kg of CO2e per kWh", examples=["4.500"])]
_ITEMS_MAX = 100


class RateRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """`valid_from`: now, when it is left out; in the past it changes reports of the past."""

    name: RateName
    value: Value
    valid_from: Instant | None = None


class RatesRequest(Struct, frozen=True, forbid_unknown_fields=True):
    items: Annotated[list[RateRequest], Meta(min_length=1, max_length=_ITEMS_MAX)]


class RateView(Struct, frozen=True):
    name: str
    value: Value
    valid_from: Instant


class RateController(Controller):
    tags = ["analytics"]  # noqa: RUF012 - Litestar reads it so

    @get("/rates")
    async def rates(
        self,
        request: GatewayRequest,
        name: FromQuery[RateName | None] = None,
        limit: Limit = LIMIT_DEFAULT,
        cursor: Cursor = None,
    ) -> Page[RateView]:
        """All values, newest first: each holds until the next one of its name."""
        key = parse_cursor(cursor, 2)
        if key is not None and key[1] >= len(NAMES):
            raise invalid("cursor", "is none of ours")
        before = (key[0], NAMES[key[1]]) if key is not None else (INSTANT_US_MAX + 1, "")
        rows = await request.gateway.metering.rates.page(name, before, limit + 1)
        last = rows[limit - 1] if len(rows) > limit else None
        following = cursor_of(last.valid_from_us, NAMES.index(last.name)) if last is not None else None
        return Page([_show(row) for row in rows[:limit]], following)

    @put("/admin/rates")
    async def put_rates(self, request: GatewayRequest, data: JSONBody[RatesRequest]) -> Page[RateView]:
        """New values, or other ones for the same instants."""
        gateway, now_us = request.gateway, request.gateway.clock()
        rates = [
            Rate(
                item.name,
                now_us if item.valid_from is None else parse_instant(item.valid_from, f"items.{place}.valid_from"),
                parse_charge(item.value, f"items.{place}.value"),
            )
            for place, item in enumerate(data.items)
        ]
        if len({(rate.name, rate.valid_from_us) for rate in rates}) < len(rates):
            raise invalid("items", "names the same rate and instant twice")
        await gateway.metering.rates.put(rates, request.origin)
        gateway.answers.all_stale()
        return Page([_show(rate) for rate in rates])


def _show(rate: Rate) -> RateView:
    return RateView(rate.name, format_price(rate.value), format_instant(rate.valid_from_us))
