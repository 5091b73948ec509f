"""Reports by day and by month in UTC, as JSON, or as CSV for who accepts `text/csv`."""

from collections.abc import Sequence
from typing import Annotated, Any

from litestar import Controller, get
from msgspec import Meta, Struct
from msgspec.structs import astuple

from engine.analytics.report import ReportRow, report
from engine.units import TimeUs
from gateway.analytics import rates_and_cuts
from gateway.analytics_views import Mass, show_money
from gateway.answers import of_participant
from gateway.csv_answers import csv_response, wants_csv
from gateway.decimals import format_energy, format_mass, format_money
from gateway.instants import format_instant
from gateway.periods import From, To, days_between, months_between, span
from gateway.requests import GatewayRequest, Page
from gateway.wire import Energy, Instant, Money, show_change

_DAYS, _DAYS_MAX = 30, 400
_MONTHS_DAYS, _MONTHS_DAYS_MAX = 365, 5 * 366


class ReportView(Struct, frozen=True):
    """kWh and currency. `imported_from_grid` is consumed and not retired; money is null where no rate is known."""

    start: Instant
    end: Instant
    generated: Energy
    consumed: Energy
    estimated_import: Energy
    estimated_export: Energy
    credited: str
    retired: Energy
    imported_from_grid: Energy
    sold: Energy
    bought: Energy
    received: Money
    paid: Money
    fees: Money
    earned_more: Money | None
    saved: Money | None
    benefit: Money | None
    avoided_co2_kg: Annotated[Mass | None, Meta(description="kg of CO2e")]


class ReportController(Controller):
    path = "/reports"
    tags = ["analytics"]  # noqa: RUF012 - Litestar reads it so

    @get("/daily")
    async def daily(self, request: GatewayRequest, from_: From = None, to: To = None) -> Page[ReportView]:
        """Energy and money of each day that the period touches; the last 30 days when nothing is said."""
        from_us, to_us = span(from_, to, request.gateway.clock(), days=_DAYS, days_max=_DAYS_MAX)
        page: Page[ReportView] = await _report(request, "daily", days_between(from_us, to_us))
        return page

    @get("/monthly")
    async def monthly(self, request: GatewayRequest, from_: From = None, to: To = None) -> Page[ReportView]:
        """The same of each calendar month; those of the last 365 days when nothing is said."""
        from_us, to_us = span(from_, to, request.gateway.clock(), days=_MONTHS_DAYS, days_max=_MONTHS_DAYS_MAX)
        page: Page[ReportView] = await _report(request, "monthly", months_between(from_us, to_us))
        return page


async def _report(request: GatewayRequest, name: str, edges_us: list[TimeUs]) -> Any:
    gateway, user_id = request.gateway, request.caller.user_id

    async def compute() -> Page[ReportView]:
        rates, cuts = await rates_and_cuts(gateway, edges_us)
        energy = await gateway.metering.analytics.energy_parts(user_id, cuts)
        trades = await gateway.metering.analytics.trade_parts(user_id, cuts)
        return Page([_show(row) for row in report(edges_us, energy, trades, rates)])

    question = (name, edges_us[0], edges_us[-1])
    page = await gateway.answers.of(of_participant(user_id), question, Page[ReportView], compute)
    if not wants_csv(request):
        return page
    rows: Sequence[Sequence[str | None]] = [astuple(one) for one in page.items]
    return csv_response(request, f"{name}-{edges_us[0] // 1_000_000}", ReportView.__struct_fields__, rows)


def _show(row: ReportRow) -> ReportView:
    trading = row.trading
    return ReportView(
        start=format_instant(row.start_us),
        end=format_instant(row.end_us),
        generated=format_energy(row.generated_wh),
        consumed=format_energy(row.consumed_wh),
        estimated_import=format_energy(row.estimated_import_wh),
        estimated_export=format_energy(row.estimated_export_wh),
        credited=show_change(row.credited_wh),
        retired=format_energy(row.retired_wh),
        imported_from_grid=format_energy(max(0, row.consumed_wh - row.retired_wh)),
        sold=format_energy(trading.sold_wh),
        bought=format_energy(trading.bought_wh),
        received=format_money(trading.received_micro),
        paid=format_money(trading.paid_micro),
        fees=format_money(trading.fees_micro),
        earned_more=show_money(trading.earned_more_micro),
        saved=show_money(trading.saved_micro),
        benefit=show_money(trading.benefit_micro),
        avoided_co2_kg=format_mass(row.avoided_mg) if row.avoided_mg is not None else None,
    )
