"""The flow of zones on the channel `energy`: told to faculty of their own zone, and to admins of all.

When windows of a zone have closed its flow is read anew, once for all readers and at most once a second.
"""

import asyncio
from typing import Any, Final

import structlog

from engine.analytics.series import Flow
from engine.metering.records import PostedWindow
from engine.units import SECOND_US
from gateway.analytics_ports import Analytics
from gateway.analytics_views import show_now
from gateway.feed import ENERGY
from gateway.message import Message
from gateway.ports import Clock
from gateway.public_feed import Reader

FRESH_US: Final = 3_600 * SECOND_US  # a meter whose newest window is older flows no more
_PAUSE_SECONDS: Final = 1.0
_log = structlog.get_logger(__name__)


class ZoneFlows:
    def __init__(self, analytics: Analytics, clock: Clock, outages: tuple[type[Exception], ...]) -> None:
        self._analytics, self._clock = analytics, clock
        self._outages: tuple[type[Exception], ...] = (*outages, OSError, TimeoutError)
        self._readers: dict[Reader, str | None] = {}  # the zone of each; None: all, without restraint
        self._changed: set[str] = set()
        self._wake = asyncio.Event()

    def subscribe(self, reader: Reader, zone: str | None) -> None:
        """Tell of this zone from now on, and of none that was told before; None: of all zones, as to an admin."""
        self._readers[reader] = zone
        if zone is not None:
            self._changed.add(zone)
            self._wake.set()

    def unsubscribe(self, reader: Reader) -> None:
        self._readers.pop(reader, None)

    def windows_closed(self, windows: list[PostedWindow]) -> None:
        if self._readers:
            self._changed.update(window.zone for window in windows)
            self._wake.set()

    async def run(self) -> None:
        """Until cancelled by its owner."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            changed, self._changed = self._changed, set()
            for zone in sorted(changed):
                try:
                    await self._tell(zone)
                except self._outages as error:
                    _log.warning("flow not told", zone=zone, error=repr(error))
                    self._changed.add(zone)
                    self._wake.set()
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _tell(self, zone: str) -> None:
        readers = {reader: of is None for reader, of in self._readers.items() if of in (None, zone)}
        flow = await self._analytics.zone_now(zone, self._clock() - FRESH_US) if readers else None
        if flow is None:
            return
        messages = {sees_all: _message(zone, flow, sees_all) for sees_all in set(readers.values())}
        for reader, sees_all in readers.items():
            if self._readers.get(reader, "") in (None, zone):  # it may have gone meanwhile
                reader.push(messages[sees_all])


def _message(zone: str, flow: Flow, sees_all: bool) -> Message:
    body: dict[str, Any] = {"channel": ENERGY, "type": "flow", "zone": zone, "flow": show_now(flow, sees_all)}
    return Message(body)
