"""The audit of meters: acknowledged readings, closed windows, and the energy that the ledger has for them.

What a client was told is in the table, once. The readings in force, split anew into windows, are what was closed and
adjusted. Every Wh that was credited, taken back or retired is in the ledger, and in what the chain will be told. It
only reads, and all of it as of one instant, so meters may go on meanwhile.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

from actors.audit import FINDINGS_MAX, Report
from engine.metering.books import AcknowledgedReading, MeterBooks, differences

ACKNOWLEDGED_AT_ONCE: Final = 5_000


class MeteringView(Protocol):
    """The tables at one instant. What does not fit is named, up to a limit; of acknowledged readings by their place."""

    def books(self) -> AsyncIterator[MeterBooks]: ...
    async def missing(self, acknowledged: Sequence[AcknowledgedReading]) -> list[int]: ...
    async def doubled(self, limit: int) -> list[str]: ...
    async def holders_off(self, limit: int) -> list[str]: ...
    async def transfers_off(self, limit: int) -> list[str]: ...
    async def outbox_off(self, limit: int) -> list[str]: ...


class MeteringTables(Protocol):
    def view(self) -> AbstractAsyncContextManager[MeteringView]: ...


async def audit_metering(
    tables: MeteringTables, report: Report, acknowledged: Sequence[AcknowledgedReading] = ()
) -> None:
    """Add what was looked at, and what does not fit, to the report."""
    async with tables.view() as view:
        for first in range(0, len(acknowledged), ACKNOWLEDGED_AT_ONCE):
            some = acknowledged[first : first + ACKNOWLEDGED_AT_ONCE]
            for place in await view.missing(some):
                one = some[place]
                report.found(
                    f"meter {one.meter_id.hex()}",
                    f"acknowledged reading {one.counter} is not there once, as it was sent",
                )
        report.acknowledged_readings += len(acknowledged)
        async for books in view.books():
            report.meters += 1
            report.readings += len(books.measured)
            report.windows += sum(one.is_closed for one in books.booked.values())
            for difference in differences(books):
                report.found(f"meter {books.meter}", difference)
        for where, lines in (
            ("readings", await view.doubled(FINDINGS_MAX)),
            ("energy", await view.holders_off(FINDINGS_MAX)),
            ("energy", await view.transfers_off(FINDINGS_MAX)),
            ("outbox", await view.outbox_off(FINDINGS_MAX)),
        ):
            for line in lines:
                report.found(where, line)
