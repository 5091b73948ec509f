"""What everybody may hear of one market: book, trades, ticker, epochs; kept by applying the market's news.

    news ──> replica and the unheard ──> round: 64 readers, a turn of the loop, 64 readers, ... ──> rest ──> round ...

Few readers hear of each commit at once. A round through many takes longer than a commit, and is followed by a rest as
long as itself, so that orders get their half of the loop; what is committed meanwhile waits for the next round, merged:
of a level its newest state, of the trades all. So a thousand readers see fewer deltas, never a gap, and what waits for
them is bounded by the book. Who subscribes in the middle gets the snapshot between two rounds. Each message is made
once and encoded at most once per encoding. Source: docs/decisions/0051.
"""

import asyncio
from collections.abc import Iterable, Iterator
from time import perf_counter
from typing import Any, Final, Protocol

from engine.market import MarketSpec, Phase
from engine.messages import Side
from engine.units import PriceMicro
from engine.views import BookView, Feed, Level, LevelChange, TradeView
from gateway.decimals import format_price
from gateway.instants import format_instant
from gateway.levels import BookReplica, show_changes
from gateway.message import Message
from gateway.wire import PHASE_NAMES, show_epoch_event, show_level, show_trade

READERS_AT_ONCE: Final = 64
REST_SECONDS_MAX: Final = 0.5
TRADES_WAITING_MAX: Final = 10_000  # more than that between two rounds is told as a gap
_SNAPSHOT_LEVELS: Final = 1_000

BOOK, TRADES, TICKER, EPOCHS = "book", "trades", "ticker", "epochs"
_IN_ROUNDS: Final = (BOOK, TRADES, TICKER)


class Reader(Protocol):
    """A connection. Neither call waits."""

    def push(self, message: Message) -> None: ...

    def balances_changed(self, market_id: int) -> None: ...


Readers = dict[Reader, None]


class _Unheard:
    """What the readers of a market have not heard: everything after `previous`."""

    def __init__(self, previous: int) -> None:
        self.previous = previous
        self.changes: dict[tuple[Side, PriceMicro], LevelChange] = {}
        self.trades: list[TradeView] = []
        self.gap = 0  # trades up to this sequence must be read by HTTP
        self.moves_ticker = False


class PublicFeed:
    """Owned by a gateway's feeds, which hand in the market's news and close it at the end."""

    def __init__(self, spec: MarketSpec) -> None:
        self.spec = spec
        self.replica = BookReplica()
        self.known = False  # a first snapshot has come
        self.phase: Phase | None = None
        self.halted_until_us = 0
        self.last: TradeView | None = None
        self._readers: dict[str, Readers] = {channel: {} for channel in (*_IN_ROUNDS, EPOCHS)}
        self._newcomers: dict[str, Readers] = {channel: {} for channel in _IN_ROUNDS}
        self._unheard: _Unheard | None = None
        self._rounds: asyncio.Task[None] | None = None  # while there are readers who have not heard
        self._epoch_us = 0  # start of the epoch that readers were told of

    def close(self) -> None:
        if self._rounds is not None:
            self._rounds.cancel()

    # --- readers -------------------------------------------------------------------------------------------------

    def subscribe(self, channel: str, reader: Reader, epoch_us: int) -> None:
        """From now on the reader gets the channel; where there is a present state, that comes first."""
        if channel == EPOCHS:
            self._readers[EPOCHS][reader] = None
            self._epoch_us = epoch_us
            reader.push(self._epoch())
        elif self._rounds is not None:
            self._newcomers[channel][reader] = None
        else:
            self._join(channel, [reader])

    def unsubscribe(self, channel: str, reader: Reader) -> None:
        for readers in (self._readers, self._newcomers):
            readers.get(channel, {}).pop(reader, None)

    def forget(self, reader: Reader) -> None:
        for channel in self._readers:
            self.unsubscribe(channel, reader)

    def _join(self, channel: str, readers: Iterable[Reader]) -> None:
        """Nothing that was told to others is unheard by them: they begin with what the replica is now."""
        first = self._present(channel)
        for reader in readers:
            self._readers[channel][reader] = None
            if first is not None:
                reader.push(first)

    # --- news ----------------------------------------------------------------------------------------------------

    def snapshot(self, view: BookView) -> None:
        """The market was asked anew: what changed since the last that came of it is one delta."""
        changes, previous = self.replica.changes_to(view), self.replica.sequence
        self.replica.apply(view.sequence, changes)
        if not self.known:
            self.known = True
            for channel in (BOOK, TICKER):
                _push(self._readers[channel], self._present(channel))
        elif view.sequence > previous:
            unheard = self._merge(previous, changes)
            unheard.gap = view.sequence
            self._tell()

    def news(self, news: Feed, epoch_us: int) -> None:
        """What a commit has changed."""
        unheard = self._merge(self.replica.sequence, news.changes)
        self.replica.apply(news.sequence, news.changes)
        if news.trades:
            self.last = news.trades[-1]
            unheard.trades += news.trades
            if len(unheard.trades) > TRADES_WAITING_MAX:
                unheard.trades, unheard.gap = [], news.sequence
        unheard.moves_ticker |= bool(news.changes or news.trades)
        if (news.phase, news.halted_until_us) != (self.phase, self.halted_until_us):
            self.phase, self.halted_until_us = news.phase, news.halted_until_us
            self._tell_epoch(epoch_us)
        for event in news.epochs if self._readers[EPOCHS] else ():
            body = {"channel": EPOCHS, "type": "update", "market": self.spec.symbol, "sequence": news.sequence}
            _push(self._readers[EPOCHS], Message(body | show_epoch_event(self.spec, event)))
        self._tell()

    def epoch(self, epoch_us: int) -> None:
        """The clock says which epoch it is."""
        if self._readers[EPOCHS] and self._epoch_us != epoch_us:
            self._tell_epoch(epoch_us)

    def _tell_epoch(self, epoch_us: int) -> None:
        self._epoch_us = epoch_us
        _push(self._readers[EPOCHS], self._epoch())

    def _merge(self, previous: int, changes: Iterable[LevelChange]) -> _Unheard:
        if self._unheard is None:
            self._unheard = _Unheard(previous)
        for change in changes:
            self._unheard.changes[change.side, change.price_micro] = change
        return self._unheard

    # --- rounds --------------------------------------------------------------------------------------------------

    def _tell(self) -> None:
        """At once to a few, in rounds to many."""
        if self._rounds is not None:
            return
        if sum(len(self._readers[channel]) for channel in _IN_ROUNDS) <= READERS_AT_ONCE:
            for readers, message in self._messages():
                _push(readers, message)
        else:
            self._rounds = asyncio.create_task(self._go_round(), name=f"feed of {self.spec.symbol}")
            self._rounds.add_done_callback(self._rounds_ended)

    async def _go_round(self) -> None:
        while self._unheard is not None:
            began = perf_counter()
            tellings = [(readers, list(readers), message) for readers, message in self._messages()]
            self._let_in()
            for readers, told, message in tellings:
                for start in range(0, len(told), READERS_AT_ONCE):
                    _push((one for one in told[start : start + READERS_AT_ONCE] if one in readers), message)
                    await asyncio.sleep(0)  # they write, and orders have their turn
            await asyncio.sleep(min(perf_counter() - began, REST_SECONDS_MAX))

    def _rounds_ended(self, task: "asyncio.Task[None]") -> None:
        self._rounds = None
        if task.cancelled():
            return
        if self._unheard is not None:  # came when the last round was just over
            self._tell()
        if self._rounds is None:
            self._let_in()
        task.result()  # an error of ours is the loop's to report

    def _let_in(self) -> None:
        for channel, newcomers in self._newcomers.items():
            if newcomers:
                self._newcomers[channel] = {}
                self._join(channel, newcomers)

    def _messages(self) -> Iterator[tuple[Readers, Message]]:
        """What has not been heard, and by whom; heard from now on."""
        unheard, self._unheard = self._unheard, None
        assert unheard is not None
        book, trades, ticker = (self._readers[channel] for channel in _IN_ROUNDS)
        if book:
            yield book, self._delta(unheard)
        if trades and unheard.trades:
            yield trades, self._message(TRADES, "update", trades=[show_trade(self.spec, one) for one in unheard.trades])
        if trades and unheard.gap:
            yield trades, self._message(TRADES, "gap", sequence=unheard.gap)
        if ticker and unheard.moves_ticker:
            yield ticker, self._ticker()

    # --- messages ------------------------------------------------------------------------------------------------

    def _message(self, channel: str, kind: str, **fields: Any) -> Message:
        return Message({"channel": channel, "type": kind, "market": self.spec.symbol, **fields})

    def _present(self, channel: str) -> Message | None:
        """What a reader of this channel begins with."""
        if not self.known or channel == TRADES:
            return None
        return self._book() if channel == BOOK else self._ticker()

    def _book(self) -> Message:
        bids, asks = self.replica.shown(_SNAPSHOT_LEVELS)
        sequence, checksum = self.replica.sequence, self.replica.checksum()
        return self._message(BOOK, "snapshot", sequence=sequence, bids=bids, asks=asks, checksum=checksum)

    def _delta(self, unheard: _Unheard) -> Message:
        """From where readers are to where the replica is; the checksum is of the book after it."""
        bids, asks = show_changes(unheard.changes.values())
        return self._message(
            BOOK,
            "delta",
            previous_sequence=unheard.previous,
            sequence=self.replica.sequence,
            bids=bids,
            asks=asks,
            checksum=self.replica.checksum(),
        )

    def _ticker(self) -> Message:
        replica, last = self.replica, self.last
        return self._message(
            TICKER,
            "update",
            sequence=replica.sequence,
            best_bid=_best(replica.bids.best(1, highest=True)),
            best_ask=_best(replica.asks.best(1, highest=False)),
            last=format_price(last.price_micro) if last is not None else None,
            phase=self._phase_name(),
        )

    def _epoch(self) -> Message:
        halted_us = self.halted_until_us
        return self._message(
            EPOCHS,
            "epoch",
            start=format_instant(self._epoch_us),
            end=format_instant(self._epoch_us + self.spec.epoch_us),
            phase=self._phase_name(),
            halted_until=format_instant(halted_us) if halted_us else None,
        )

    def _phase_name(self) -> str | None:
        return PHASE_NAMES[self.phase] if self.phase is not None else None


def _push(readers: Iterable[Reader], message: Message | None) -> None:
    if message is not None:
        for reader in list(readers):  # a reader that lags takes itself off
            reader.push(message)


def _best(levels: list[Level]) -> Any:
    return show_level(levels[0]) if levels else None
