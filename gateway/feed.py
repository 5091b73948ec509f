"""From the market actors to everyone who subscribed here: each market's public news, and what happens to own orders.

One watch per market feeds one public feed; each message is made once and encoded at most once per encoding, however
many read it. Rule: nothing here waits for a reader; a reader that cannot keep up is its connection's problem.
"""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Final

from engine.market import MarketSpec
from engine.metering.records import PostedWindow
from engine.units import epoch_start_us
from engine.views import BookView, Feed, OrderUpdate
from gateway.alerts import Alerts
from gateway.barrier import Barrier
from gateway.message import Message
from gateway.ports import Clock, Markets
from gateway.public_feed import PublicFeed, Reader
from gateway.wire import show_order, show_own_fill, show_posted

_LOOK_SECONDS: Final = 0.25  # how often new markets and new epochs are looked for
_WATCH_DELAY_SECONDS: Final = 0.02  # many who subscribe at once cost one watch

ORDERS, FILLS, BALANCES, ENERGY = "orders", "fills", "balances", "energy"


class MarketFeed:
    """What this gateway knows of one market, and whose orders it is told of."""

    def __init__(self, spec: MarketSpec) -> None:
        self.public = PublicFeed(spec)
        self.sequence = 0  # of the newest commit that was told
        self.watched: frozenset[int] = frozenset()  # whose orders the market tells us of
        self.asked: frozenset[int] | None = None  # and whose it was last asked for; None: not yet
        self.asking = False
        self.confirmed: list[asyncio.Future[None]] = []  # resolved by the next snapshot

    @property
    def spec(self) -> MarketSpec:
        return self.public.spec


class Feeds:
    def __init__(self, markets: Markets, clock: Clock, barrier: Barrier) -> None:
        self._markets, self._clock, self._barrier = markets, clock, barrier
        self._feeds: dict[int, MarketFeed] = {}
        self._own: dict[tuple[str, int], dict[Reader, None]] = {}  # (channel, participant) -> who reads it
        self.alerts = Alerts()
        self._rewatch: asyncio.TimerHandle | None = None
        self._closed = False

    async def run(self) -> None:
        """Runs until cancelled by its owner: begins to watch new markets, tells of new epochs."""
        while True:
            self.look()
            await asyncio.sleep(_LOOK_SECONDS)

    async def close(self) -> None:
        self._closed = True
        if self._rewatch is not None:
            self._rewatch.cancel()
        for feed in self._feeds.values():
            feed.public.close()

    def look(self) -> None:
        for spec in self._markets.markets().values():
            feed = self._feeds.get(spec.market_id)
            if feed is None:
                feed = self._feeds[spec.market_id] = MarketFeed(spec)
                self._watch(feed)
            feed.public.spec = spec
            feed.public.epoch(self._epoch_us(feed))

    def of(self, spec: MarketSpec) -> MarketFeed:
        if spec.market_id not in self._feeds:
            self.look()
        return self._feeds[spec.market_id]

    # --- readers ---------------------------------------------------------------------------------------------------

    def subscribe(self, channel: str, spec: MarketSpec, reader: Reader) -> None:
        """From now on the reader gets the channel; where there is a present state, that comes first."""
        feed = self.of(spec)
        feed.public.subscribe(channel, reader, self._epoch_us(feed))

    def unsubscribe(self, channel: str, spec: MarketSpec, reader: Reader) -> None:
        self.of(spec).public.unsubscribe(channel, reader)

    async def subscribe_own(self, channel: str, participant_id: int, reader: Reader, wait_seconds: float) -> None:
        """Returns when every market that answers tells us of this participant."""
        self._own.setdefault((channel, participant_id), {})[reader] = None
        if channel == ENERGY:
            return  # no market is asked: windows of everybody come anyway
        missing = [feed for feed in self._feeds.values() if participant_id not in feed.watched]
        if not missing:
            return
        if self._rewatch is None and not self._closed:
            self._rewatch = asyncio.get_running_loop().call_later(_WATCH_DELAY_SECONDS, self._watch_all)
        with suppress(TimeoutError):  # a market that is away confirms when it is back
            async with asyncio.timeout(wait_seconds):
                await asyncio.gather(*(self._until_watched(feed, participant_id) for feed in missing))

    def unsubscribe_own(self, channel: str, participant_id: int, reader: Reader) -> None:
        readers = self._own.get((channel, participant_id), {})
        readers.pop(reader, None)
        if not readers:
            self._own.pop((channel, participant_id), None)

    def forget(self, reader: Reader, participant_id: int | None) -> None:
        """The connection is gone."""
        self.alerts.forget(reader)
        for feed in self._feeds.values():
            feed.public.forget(reader)
        if participant_id is not None:
            for channel in (ORDERS, FILLS, BALANCES, ENERGY):
                self.unsubscribe_own(channel, participant_id, reader)

    # --- watching ----------------------------------------------------------------------------------------------------

    def _watch_all(self) -> None:
        self._rewatch = None
        for feed in self._feeds.values():
            self._watch(feed)

    def _watch(self, feed: MarketFeed) -> None:
        """Ask for all who are subscribed now. One question at a time, so that each snapshot confirms a known set."""
        wanted = frozenset(participant_id for channel, participant_id in self._own if channel != ENERGY)
        if self._closed or feed.asking or feed.asked == wanted:
            return
        feed.asking, feed.asked = True, wanted
        self._markets.watch(feed.spec.market_id, wanted, True, partial(self._news, feed))

    async def _until_watched(self, feed: MarketFeed, participant_id: int) -> None:
        while participant_id not in feed.watched:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            feed.confirmed.append(future)
            await future

    def _news(self, feed: MarketFeed, news: BookView | Feed | None) -> None:
        if self._closed:
            return
        if isinstance(news, Feed):
            self._barrier.note(news.market_id, news.sequence)
            self._tell(feed, news)
        elif isinstance(news, BookView):
            self._barrier.note(feed.spec.market_id, news.sequence)
            self._snapshot_came(feed, news)
        else:
            feed.asking = True  # whatever was asked is asked again when the connection is back

    def _snapshot_came(self, feed: MarketFeed, view: BookView) -> None:
        is_gap, feed.sequence = feed.public.known and view.sequence > feed.sequence, view.sequence
        feed.public.snapshot(view)
        if is_gap:
            self._tell_gap(feed, view.sequence)
        feed.asking, feed.watched = False, feed.asked or frozenset()
        confirmed, feed.confirmed = feed.confirmed, []
        for future in confirmed:
            if not future.done():
                future.set_result(None)
        self._watch(feed)  # someone may have subscribed meanwhile

    # --- telling -----------------------------------------------------------------------------------------------------

    def _tell(self, feed: MarketFeed, news: Feed) -> None:
        feed.sequence = news.sequence
        feed.public.news(news, self._epoch_us(feed))
        if news.trades:
            self.alerts.traded(feed.spec, news.trades)
        for update in news.updates:
            self._tell_owner(feed, update)

    def _tell_owner(self, feed: MarketFeed, update: OrderUpdate) -> None:
        participant_id, market_id = update.order.participant_id, feed.spec.market_id
        if readers := self._own.get((ORDERS, participant_id)):
            order = show_order(feed.spec, update.order, update.fills)
            _push(
                readers,
                Message(
                    {
                        "channel": ORDERS,
                        "type": "update",
                        "market": feed.spec.symbol,
                        "sequence": update.order.sequence,
                        "order": order,
                    }
                ),
            )
        if update.fills and (readers := self._own.get((FILLS, participant_id))):
            fills = [show_own_fill(feed.spec, fill) for fill in update.fills]
            _push(readers, Message({"channel": FILLS, "type": "update", "market": feed.spec.symbol, "fills": fills}))
        for reader in self._own.get((BALANCES, participant_id), ()):
            reader.balances_changed(market_id)

    def windows_closed(self, windows: list[PostedWindow]) -> None:
        """Tell the owners of the time; what they may sell has changed, too."""
        by_owner: dict[int, list[PostedWindow]] = {}
        for window in windows:
            by_owner.setdefault(window.owner_id, []).append(window)
        for owner_id, own in by_owner.items():
            if readers := self._own.get((ENERGY, owner_id)):
                shown = [show_posted(window) for window in own]
                _push(readers, Message({"channel": ENERGY, "type": "update", "windows": shown}))
            for reader in self._own.get((BALANCES, owner_id), ()):
                for market_id in self._feeds:
                    reader.balances_changed(market_id)

    def _tell_gap(self, feed: MarketFeed, sequence: int) -> None:
        """The connection was lost: what happened to own orders must be read again by HTTP."""
        for (channel, _), readers in self._own.items():
            if channel == ENERGY:
                continue
            if channel in (ORDERS, FILLS):
                body = {"channel": channel, "type": "gap", "market": feed.spec.symbol, "sequence": sequence}
                _push(readers, Message(body))
            else:
                for reader in readers:
                    reader.balances_changed(feed.spec.market_id)

    def _epoch_us(self, feed: MarketFeed) -> int:
        return epoch_start_us(self._clock(), feed.spec.epoch_us)


def _push(readers: Iterable[Reader], message: Message) -> None:
    for reader in list(readers):  # a reader that lags takes itself off
        reader.push(message)
