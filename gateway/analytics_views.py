"""The JSON shapes of analytics. What is null could not be said: a share of nothing, no rate, too few others."""

from typing import Annotated, assert_never

from msgspec import Meta, Struct

from engine.analytics.earnings import Earnings
from engine.analytics.flows import SelfConsumption, power_w
from engine.analytics.peers import Peers, may_be_told
from engine.analytics.performance import Performance
from engine.analytics.recommendations import AskHigher, Recommendation, SellMore, ShiftUse
from engine.analytics.series import Flow
from engine.analytics.trend import Trend
from engine.metering.windows import WINDOW_US
from engine.units import SECOND_US
from gateway.decimals import format_energy, format_mass, format_money, format_price, format_share
from gateway.instants import format_instant
from gateway.wire import Energy, Instant, Money, Price

Share = Annotated[str, Meta(description="1 is all of it", examples=["0.4213"])]
Change = Annotated[str, Meta(description="kWh, below zero for less", examples=["-1.250"])]
Mass = Annotated[str, Meta(description="kg of CO2e", examples=["12.250"])]
_WINDOW_SECONDS = WINDOW_US // SECOND_US


class NowView(Struct, frozen=True):
    """Average power of each meter's newest window; `as_of`: when the newest of these ended."""

    as_of: Instant
    meters: int
    import_power_w: int | None
    export_power_w: int | None


class FlowStepView(Struct, frozen=True):
    """Energies and powers are null where a single owner would stand out to who does not administer."""

    start: Instant
    meters: int
    imported: Energy | None
    exported: Energy | None
    import_power_w: int | None
    export_power_w: int | None


class FlowView(Struct, frozen=True):
    """`now` is null when no meter of the zone has closed a window within the last hour."""

    zone: str
    now: NowView | None
    items: list[FlowStepView]


class SelfConsumptionView(Struct, frozen=True):
    start: Instant
    end: Instant
    generated: Energy
    consumed: Energy
    self_consumed: Energy
    self_consumption: Share | None
    self_sufficiency: Share | None


class TrendFigure(Struct, frozen=True):
    """`change_share` is null where there was nothing to compare with."""

    now: Energy
    last: Energy
    week_ago: Energy
    change: Change
    change_share: Share | None
    week_change: Change
    week_change_share: Share | None


class TrendView(Struct, frozen=True):
    start: Instant
    end: Instant
    generated: TrendFigure
    consumed: TrendFigure
    retired: TrendFigure
    sold: TrendFigure
    bought: TrendFigure


class CarbonView(Struct, frozen=True):
    """`avoided_co2_kg` is null where no emission factor is known."""

    start: Instant
    end: Instant
    retired: Energy
    avoided_co2_kg: Mass | None


class PeerFigure(Struct, frozen=True):
    """`quarter`: 1 is the quarter of all with the least. Null with too few others: `enough` is false."""

    own: Energy
    enough: bool
    others_average: Energy | None
    quarter: int | None


class PeersView(Struct, frozen=True):
    zone: str
    start: Instant
    end: Instant
    consumed: PeerFigure
    generated: PeerFigure


class EarningsView(Struct, frozen=True):
    """`earned_more` than the feed-in price, `saved` against the retail price; `benefit` is both, less fees."""

    start: Instant
    end: Instant
    sold: Energy
    bought: Energy
    received: Money
    paid: Money
    fees: Money
    earned_more: Money | None
    saved: Money | None
    benefit: Money | None


class PerformanceView(Struct, frozen=True):
    """Advantages are money won against averages of the same epochs; `fill_share`: of the energy that was ordered."""

    start: Instant
    end: Instant
    trades: int
    bought: Energy
    sold: Energy
    average_buy_price: Price | None
    average_sell_price: Price | None
    buy_advantage: Money
    sell_advantage: Money
    fees: Money
    orders: int
    filled_orders: int
    fill_share: Share | None


class RecommendationView(Struct, frozen=True):
    """`text` is for people, `numbers` are its figures."""

    kind: str
    text: str
    numbers: dict[str, str]


def show_now(flow: Flow, sees_all: bool) -> NowView:
    told = sees_all or may_be_told(flow)
    return NowView(
        format_instant(flow.start_us + WINDOW_US),
        flow.meters,
        power_w(flow.import_wh, _WINDOW_SECONDS) if told else None,
        power_w(flow.export_wh, _WINDOW_SECONDS) if told else None,
    )


def show_flow(flow: Flow, seconds: int, sees_all: bool) -> FlowStepView:
    if not (sees_all or may_be_told(flow)):
        return FlowStepView(format_instant(flow.start_us), flow.meters, None, None, None, None)
    return FlowStepView(
        format_instant(flow.start_us),
        flow.meters,
        format_energy(flow.import_wh),
        format_energy(flow.export_wh),
        power_w(flow.import_wh, seconds),
        power_w(flow.export_wh, seconds),
    )


def show_self_consumption(from_us: int, to_us: int, found: SelfConsumption) -> SelfConsumptionView:
    return SelfConsumptionView(
        format_instant(from_us),
        format_instant(to_us),
        format_energy(found.generated_wh),
        format_energy(found.consumed_wh),
        format_energy(found.self_consumed_wh),
        _share(found.self_consumption_bps),
        _share(found.self_sufficiency_bps),
    )


def show_trend(from_us: int, to_us: int, trends: dict[str, Trend]) -> TrendView:
    figures = {name: _figure(one) for name, one in trends.items()}
    return TrendView(format_instant(from_us), format_instant(to_us), **figures)


def _figure(found: Trend) -> TrendFigure:
    return TrendFigure(
        format_energy(found.now),
        format_energy(found.last),
        format_energy(found.week_ago),
        format_energy(found.change),
        _share(found.change_bps),
        format_energy(found.week_change),
        _share(found.week_change_bps),
    )


def show_carbon(from_us: int, to_us: int, retired_wh: int, avoided_mg: int | None) -> CarbonView:
    avoided = format_mass(avoided_mg) if avoided_mg is not None else None
    return CarbonView(format_instant(from_us), format_instant(to_us), format_energy(retired_wh), avoided)


def show_peers(zone: str, from_us: int, to_us: int, consumed: Peers, generated: Peers) -> PeersView:
    return PeersView(zone, format_instant(from_us), format_instant(to_us), _peer(consumed), _peer(generated))


def _peer(found: Peers) -> PeerFigure:
    average = format_energy(found.others_average_wh) if found.others_average_wh is not None else None
    return PeerFigure(format_energy(found.own_wh), found.enough, average, found.quarter)


def show_earnings(from_us: int, to_us: int, found: Earnings) -> EarningsView:
    return EarningsView(
        format_instant(from_us),
        format_instant(to_us),
        format_energy(found.sold_wh),
        format_energy(found.bought_wh),
        format_money(found.received_micro),
        format_money(found.paid_micro),
        format_money(found.fees_micro),
        show_money(found.earned_more_micro),
        show_money(found.saved_micro),
        show_money(found.benefit_micro),
    )


def show_performance(from_us: int, to_us: int, found: Performance) -> PerformanceView:
    buy, sell = found.average_buy_micro, found.average_sell_micro
    return PerformanceView(
        format_instant(from_us),
        format_instant(to_us),
        found.trades,
        format_energy(found.bought_wh),
        format_energy(found.sold_wh),
        format_price(buy) if buy is not None else None,
        format_price(sell) if sell is not None else None,
        format_money(found.buy_advantage_micro),
        format_money(found.sell_advantage_micro),
        format_money(found.fees_micro),
        found.orders,
        found.filled_orders,
        _share(found.fill_bps),
    )


def show_recommendation(found: Recommendation) -> RecommendationView:
    match found:
        case AskHigher():
            return _ask_higher(found)
        case ShiftUse():
            return _shift_use(found)
        case SellMore():
            return _sell_more(found)
        case _:
            assert_never(found)


def _ask_higher(found: AskHigher) -> RecommendationView:
    numbers = {
        "from_hour": _hour(found.from_hour),
        "to_hour": _hour(found.to_hour),
        "exported": format_energy(found.export_wh),
        "own_price": format_price(found.own_micro),
        "ask_price": format_price(found.ask_micro),
        "filled_share": format_share(found.filled_bps),
        "orders": str(found.orders),
    }
    own = "sell at a median of" if found.own_sales else "would get the feed-in price of"
    text = (
        f"Between {numbers['from_hour']} and {numbers['to_hour']} UTC you exported {numbers['exported']} kWh this week "
        f"and {own} {numbers['own_price']}; {numbers['orders']} asks from {numbers['ask_price']} on "
        f"were filled by {_percent(found.filled_bps)}."
    )
    return RecommendationView("ask_higher", text, numbers)


def _shift_use(found: ShiftUse) -> RecommendationView:
    numbers = {
        "from_hour": _hour(found.from_hour),
        "to_hour": _hour(found.to_hour),
        "imported": format_energy(found.import_wh),
        "shift_from_hour": _hour(found.to_from_hour),
        "shift_to_hour": _hour(found.to_to_hour),
        "exported": format_energy(found.export_wh),
        "saves": format_money(found.saves_micro),
    }
    text = (
        f"Between {numbers['from_hour']} and {numbers['to_hour']} UTC you took {numbers['imported']} kWh this week, "
        f"and between {numbers['shift_from_hour']} and {numbers['shift_to_hour']} you gave {numbers['exported']} kWh: "
        f"what you use then instead saves up to {numbers['saves']} a week between retail and feed-in price."
    )
    return RecommendationView("shift_use", text, numbers)


def _sell_more(found: SellMore) -> RecommendationView:
    numbers = {
        "credited": format_energy(found.credited_wh),
        "retired": format_energy(found.used_wh),
        "sold": format_energy(found.sold_wh),
        "left": format_energy(found.left_wh),
    }
    text = (
        f"You were credited {numbers['credited']} kWh this week, used {numbers['retired']} and sold {numbers['sold']}: "
        f"{numbers['left']} kWh wait to be sold."
    )
    return RecommendationView("sell_more", text, numbers)


def show_money(amount_micro: int | None) -> str | None:
    return format_money(amount_micro) if amount_micro is not None else None


def _share(bps: int | None) -> str | None:
    return format_share(bps) if bps is not None else None


def _percent(bps: int) -> str:
    return f"{bps // 100}.{bps % 100:02d} %"


def _hour(hour: int) -> str:
    return f"{hour:02d}:00"
