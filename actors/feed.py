"""What a market's watchers hear of a commit: gathered entry by entry, composed before it, told once it has returned."""

import asyncio
from typing import Final

import msgspec

from actors.dataplane import Connection
from engine.book.answers import level_changes, trade_views, updates
from engine.book.order_book import OrderBook
from engine.market import Phase
from engine.messages import Event, ParticipantId
from engine.views import Failed, Fault, Feed, LevelChange, OrderUpdate, TradeView, Watch

_encode = msgspec.msgpack.Encoder().encode
NOTICE_SECONDS: Final = 0.01
_WATCH_AGAIN: Final = _encode((0, Failed(Fault.UNAVAILABLE, "the book was replayed: watch again"), 0))


class _Watcher:
    __slots__ = ("book", "from_sequence", "is_quiet", "participants")

    def __init__(self, watch: Watch, from_sequence: int) -> None:
        self.book = watch.book
        self.participants = frozenset(watch.participants)
        self.from_sequence = from_sequence
        self.is_quiet = not watch.book and not watch.participants  # wants to know how far the journal is, no more


class News:
    """Of one commit: who hears what, and how far the journal is then, for those who want to know no more."""

    __slots__ = ("letters", "reached")

    def __init__(self, reached: Feed) -> None:
        self.letters: list[tuple[Connection, bytes]] = []
        self.reached = reached


class Newsroom:
    """Who watches what. Costs nothing per entry while nobody does."""

    def __init__(self, market_id: int) -> None:
        self._market_id = market_id
        self._watchers: dict[Connection, _Watcher] = {}
        self._participants: frozenset[ParticipantId] = frozenset()
        self._wants_book = False
        self._trades: list[TradeView] = []
        self._updates: list[OrderUpdate] = []
        self._reached: Feed | None = None
        self._notice: asyncio.TimerHandle | None = None

    def watch(self, connection: Connection, watch: Watch, book: OrderBook) -> None:
        """From the book's present sequence on; what the connection watched before is replaced."""
        if not self._wants_book:
            level_changes(book)  # what changed while nobody looked is in the view that the watcher gets
        self._watchers[connection] = _Watcher(watch, book.sequence)
        self._recount()

    def forget(self, connection: Connection) -> None:
        if self._watchers.pop(connection, None) is not None:
            self._recount()

    def gather(self, book: OrderBook, events: list[Event]) -> None:
        """Keep the news of the entry that was just applied."""
        if self._wants_book:
            self._trades.extend(trade_views(book, events))
        if self._participants:
            self._updates.extend(updates(book, events, self._participants))

    def compose(self, book: OrderBook) -> News:
        """What every watcher wanted to hear of what was gathered, and that the journal comes to the book's sequence."""
        changes: tuple[LevelChange, ...] = level_changes(book) if self._wants_book else ()
        news = News(Feed(self._market_id, book.sequence, (), (), (), book.phase, book.halt_until_us))
        for connection, watcher in self._watchers.items():
            if watcher.is_quiet:
                continue
            start, everyone = watcher.from_sequence, watcher.participants >= self._participants
            feed = Feed(
                self._market_id,
                book.sequence,
                changes if watcher.book else (),
                tuple(t for t in self._trades if t.sequence > start) if watcher.book else (),
                tuple(
                    u
                    for u in self._updates
                    if u.order.sequence > start and (everyone or u.order.participant_id in watcher.participants)
                ),
                book.phase,
                book.halt_until_us,
            )
            news.letters.append((connection, _encode((0, feed, 0))))
        self._trades, self._updates = [], []
        return news

    def tell(self, news: News) -> None:
        """Now it is durable. Who began to watch meanwhile has a view of what came later."""
        for connection, letter in news.letters:
            if connection.is_open:
                connection.send(letter)
        self._reached = news.reached
        if self._notice is None and any(watcher.is_quiet for watcher in self._watchers.values()):
            self._notice = asyncio.get_running_loop().call_later(NOTICE_SECONDS, self._tell_quiet)

    def _tell_quiet(self) -> None:
        """A follower that woke up for each commit would cost the order path more than it gains by it."""
        self._notice = None
        letter = _encode((0, self._reached, 0))
        for connection, watcher in self._watchers.items():
            if watcher.is_quiet and connection.is_open:
                connection.send(letter)

    def hurry(self, sequence: int, phase: Phase) -> None:
        """Somebody waits for what those follow who want to know no more than how far the journal is."""
        letter = _encode((0, Feed(self._market_id, sequence, (), (), (), phase, is_awaited=True), 0))
        for connection, watcher in self._watchers.items():
            if watcher.is_quiet and connection.is_open:
                connection.send(letter)

    def start_over(self) -> None:
        """The book was replayed, and what changed meanwhile was not told: everyone must look at it anew."""
        self._trades, self._updates = [], []
        for connection in self._watchers:
            if connection.is_open:
                connection.send(_WATCH_AGAIN)
        self._watchers.clear()
        self._recount()

    def _recount(self) -> None:
        self._wants_book = any(watcher.book for watcher in self._watchers.values())
        self._participants = frozenset().union(*(w.participants for w in self._watchers.values()))
