"""Analytics of one's own energy and trades, and of the flow through a zone. The sums are engine/analytics's.

Answers are kept for a while (answers.py). Faculty see the flow of their own zone, where no single owner stands out.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any, Final, Literal, TypeVar

from litestar import Controller, get
from litestar.params import FromQuery, QueryParameter

from engine.analytics import peers as of_peers
from engine.analytics.earnings import earnings
from engine.analytics.flows import self_consumption
from engine.analytics.performance import performance
from engine.analytics.rates import FEED_IN, RETAIL, Rates
from engine.analytics.recommendations import HOURS, Week, recommendations
from engine.analytics.report import avoided_mg
from engine.analytics.trend import trend
from engine.metering.records import EnergySums
from engine.metering.windows import GRACE_US, SILENCE_US
from engine.units import FOREVER_US, TimeUs
from gateway.analytics_views import (
    CarbonView,
    EarningsView,
    FlowView,
    PeersView,
    PerformanceView,
    RecommendationView,
    SelfConsumptionView,
    TrendView,
    show_carbon,
    show_earnings,
    show_flow,
    show_now,
    show_peers,
    show_performance,
    show_recommendation,
    show_self_consumption,
    show_trend,
)
from gateway.answers import of_participant, of_zone
from gateway.context import Gateway
from gateway.errors import GatewayCode, Problem, not_found
from gateway.periods import DAY_US, HOUR_US, From, To, day_of, span
from gateway.permissions import ADMIN
from gateway.requests import GatewayRequest, Page
from gateway.zone_flow import FRESH_US

_T = TypeVar("_T")
_DUE_US: Final = GRACE_US + SILENCE_US  # after a window's end, when it has closed at the latest
_STEP_SECONDS: Final = {"15m": 900, "1h": 3_600, "1d": 86_400}
_FLOW_DAYS: Final = {"15m": (1, 2), "1h": (7, 31), "1d": (30, 400)}  # when nothing is said, and at most
_PERIOD_DAYS: Final = {"day": 1, "week": 7, "month": 30}
_DAYS, _DAYS_MAX = 30, 92

Step = Literal["15m", "1h", "1d"]
Period = Literal["day", "week", "month"]
Zone = Annotated[str | None, QueryParameter(description="one's own, if left out", max_length=32)]


class AnalyticsController(Controller):
    path = "/analytics"
    tags = ["analytics"]  # noqa: RUF012 - Litestar reads it so

    @get("/flow")
    async def flow(
        self,
        request: GatewayRequest,
        zone: Zone = None,
        from_: From = None,
        to: To = None,
        step: FromQuery[Step] = "1h",
    ) -> FlowView:
        """What a zone's meters take and give now, and by steps of a period. Faculty see their own zone."""
        gateway, caller = request.gateway, request.caller
        zone = zone if zone is not None else caller.zone
        if caller.role != ADMIN and zone != caller.zone:
            raise Problem(GatewayCode.FORBIDDEN, "faculty see the flow of their own zone")
        if zone not in {one.zone_id for one in await gateway.catalogue.zones()}:
            raise not_found("zone")
        days, days_max = _FLOW_DAYS[step]
        from_us, to_us = span(from_, to, gateway.clock(), days=days, days_max=days_max)
        sees_all = caller.role == ADMIN

        async def compute() -> FlowView:
            now = await gateway.metering.analytics.zone_now(zone, gateway.clock() - FRESH_US)
            steps = await gateway.metering.analytics.zone_flow(zone, from_us, to_us, _STEP_SECONDS[step])
            return FlowView(
                zone,
                show_now(now, sees_all) if now is not None else None,
                [show_flow(one, _STEP_SECONDS[step], sees_all) for one in steps],
            )

        asked = from_ is not None or to is not None
        question = ("flow", sees_all, step, (from_us, to_us) if asked else day_of(to_us))
        return await gateway.answers.of(of_zone(zone), question, FlowView, compute)

    @get("/self-consumption")
    async def self_consumption(self, request: GatewayRequest, from_: From = None, to: To = None) -> SelfConsumptionView:
        """How much of what one generates one uses in the same quarter of an hour, of all one's meters together."""

        async def compute(gateway: Gateway, user_id: int, from_us: TimeUs, to_us: TimeUs) -> SelfConsumptionView:
            windows = await gateway.metering.analytics.own_windows(user_id, from_us, to_us)
            return show_self_consumption(from_us, to_us, self_consumption(windows))

        return await _own(request, "self-consumption", SelfConsumptionView, compute, from_, to)

    @get("/trend")
    async def trend(self, request: GatewayRequest, period: FromQuery[Period] = "week") -> TrendView:
        """The last 24 hours, 7 days or 30 days against those before, and against the same a week ago.

        The period ends with the last full hour of which every window has closed.
        """
        gateway, user_id = request.gateway, request.caller.user_id
        to_us = (gateway.clock() - _DUE_US) // HOUR_US * HOUR_US
        length_us = _PERIOD_DAYS[period] * DAY_US

        async def sums(back_us: int) -> EnergySums:
            until_us = max(0, to_us - back_us)
            return await gateway.metering.energy.sums(user_id, max(0, until_us - length_us), until_us, FOREVER_US)

        async def compute() -> TrendView:
            now, last, week_ago = await sums(0), await sums(length_us), await sums(7 * DAY_US)
            trends = {
                name: trend(getattr(now, field), getattr(last, field), getattr(week_ago, field))
                for name, field in (
                    ("generated", "generated_wh"),
                    ("consumed", "consumed_wh"),
                    ("retired", "retired_wh"),
                    ("sold", "sold_wh"),
                    ("bought", "bought_wh"),
                )
            }
            return show_trend(to_us - length_us, to_us, trends)

        return await gateway.answers.of(of_participant(user_id), ("trend", period, to_us), TrendView, compute)

    @get("/carbon")
    async def carbon(self, request: GatewayRequest, from_: From = None, to: To = None) -> CarbonView:
        """CO2e that local energy spared the grid: what one retired, at the grid's emission factor of its hour."""

        async def compute(gateway: Gateway, user_id: int, from_us: TimeUs, to_us: TimeUs) -> CarbonView:
            rates, cuts = await rates_and_cuts(gateway, [from_us, to_us])
            parts = await gateway.metering.analytics.energy_parts(user_id, cuts)
            return show_carbon(from_us, to_us, sum(part.retired_wh for part in parts), avoided_mg(parts, rates))

        return await _own(request, "carbon", CarbonView, compute, from_, to)

    @get("/peers")
    async def peers(self, request: GatewayRequest, period: FromQuery[Period] = "month") -> PeersView:
        """Oneself beside the others of one's zone: yesterday, or the last 7 or 30 whole days.

        Others are at least five, none with more than half of their total, or nothing is told of them. Of generation,
        others are those who generate.
        """
        gateway, caller = request.gateway, request.caller
        to_us = day_of(gateway.clock())
        from_us = to_us - _PERIOD_DAYS[period] * DAY_US

        async def compute() -> PeersView:
            owners = dict(await gateway.metering.analytics.zone_owners(caller.zone, from_us, to_us))
            consumed, generated = owners.pop(caller.user_id, (0, 0))
            others = owners.values()
            return show_peers(
                caller.zone,
                from_us,
                to_us,
                of_peers.peers(consumed, [one for one, _ in others]),
                of_peers.peers(generated, [one for _, one in others if one > 0]),
            )

        question = ("peers", caller.zone, period, to_us)
        return await gateway.answers.of(of_participant(caller.user_id), question, PeersView, compute)

    @get("/earnings")
    async def earnings(self, request: GatewayRequest, from_: From = None, to: To = None) -> EarningsView:
        """What trading was worth against the grid's feed-in and retail prices, at those of each trade's epoch."""

        async def compute(gateway: Gateway, user_id: int, from_us: TimeUs, to_us: TimeUs) -> EarningsView:
            rates, cuts = await rates_and_cuts(gateway, [from_us, to_us])
            parts = await gateway.metering.analytics.trade_parts(user_id, cuts)
            return show_earnings(from_us, to_us, earnings(parts, rates))

        return await _own(request, "earnings", EarningsView, compute, from_, to)

    @get("/performance")
    async def performance(self, request: GatewayRequest, from_: From = None, to: To = None) -> PerformanceView:
        """One's prices beside the averages of the same epochs of one's markets, and how much of one's orders filled."""

        async def compute(gateway: Gateway, user_id: int, from_us: TimeUs, to_us: TimeUs) -> PerformanceView:
            analytics = gateway.metering.analytics
            positions = await analytics.positions(user_id, from_us, to_us)
            placed = await analytics.placed(user_id, from_us, to_us)
            return show_performance(from_us, to_us, performance(positions, placed))

        return await _own(request, "performance", PerformanceView, compute, from_, to)

    @get("/recommendations")
    async def recommendations(self, request: GatewayRequest) -> Page[RecommendationView]:
        """What one could do better, each with its reason and numbers of the last seven whole days. Hours are UTC."""
        gateway, caller = request.gateway, request.caller
        to_us = day_of(gateway.clock())

        async def compute() -> Page[RecommendationView]:
            week = await _week(gateway, caller.user_id, caller.zone, to_us)
            return Page([show_recommendation(one) for one in recommendations(week)])

        question = ("recommendations", caller.zone, to_us)
        scope = of_participant(caller.user_id)
        return await gateway.answers.of(scope, question, Page[RecommendationView], compute)


async def rates_and_cuts(gateway: Gateway, edges_us: list[TimeUs]) -> tuple[Rates, list[TimeUs]]:
    """The rates of the period between the first and the last edge, and the edges with every change of a rate."""
    from_us, to_us = edges_us[0], edges_us[-1]
    rates = Rates(await gateway.metering.rates.rates(from_us, to_us))
    return rates, sorted({*edges_us, *rates.cuts(from_us, to_us)})


async def _own(
    request: GatewayRequest,
    name: str,
    kind: type[_T],
    compute: Callable[[Gateway, int, TimeUs, TimeUs], Awaitable[_T]],
    from_: str | None,
    to: str | None,
) -> _T:
    """An answer about the caller and a period. Without a period it is the same one all day, and kept as that."""
    gateway, user_id = request.gateway, request.caller.user_id
    from_us, to_us = span(from_, to, gateway.clock(), days=_DAYS, days_max=_DAYS_MAX)
    if to is None:
        to_us = day_of(to_us) + DAY_US
    question: tuple[Any, ...] = (name, from_us, to_us)
    return await gateway.answers.of(
        of_participant(user_id), question, kind, partial(compute, gateway, user_id, from_us, to_us)
    )


async def _week(gateway: Gateway, user_id: int, zone: str, to_us: TimeUs) -> Week:
    analytics, from_us = gateway.metering.analytics, to_us - 7 * DAY_US
    by_hour = await analytics.by_hour(user_id, from_us, to_us)
    sums = await gateway.metering.energy.sums(user_id, from_us, to_us, FOREVER_US)
    markets = [spec.market_id for spec in gateway.markets.markets().values() if zone in spec.zones]
    rates = Rates(await gateway.metering.rates.rates(from_us, to_us))
    return Week(
        import_wh=[by_hour.get(hour, (0, 0))[0] for hour in range(HOURS)],
        export_wh=[by_hour.get(hour, (0, 0))[1] for hour in range(HOURS)],
        credited_wh=sums.credited_wh,
        retired_wh=sums.retired_wh,
        sold_wh=sums.sold_wh,
        sales=await analytics.sales(user_id, from_us, to_us),
        asks=await analytics.asks(markets, from_us, to_us),
        retail_micro=rates.at(RETAIL, to_us),
        feed_in_micro=rates.at(FEED_IN, to_us),
    )
