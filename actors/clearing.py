"""The auctions of one market, seen from its shell: worked out beside the orders that come meanwhile, booked in steps.

    an epoch closes -> its auction is worked out in a thread -> ClearEpoch, commit, ClearEpoch, commit ... -> cleared

One step is under way at a time, so that each commit has a few of an auction's trades and all the orders that came;
those that came meanwhile have a commit of their own before the next. If the process dies anywhere, the next one goes on
where the journal ends. Source: docs/decisions/0039.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from time import perf_counter
from typing import Final

from actors import metrics
from actors.crash_points import Reached
from engine.auction.epoch import Outcome
from engine.book.call import Call
from engine.book.order_book import OrderBook
from engine.book.state import digest_ahead
from engine.messages import ClearEpoch
from engine.units import TimeUs

TURN_SECONDS: Final = 0.000_5  # how long the thread may keep the interpreter from the loop
Aside = Callable[[Callable[[], Outcome]], Awaitable[Outcome]]  # does it without keeping the loop from its work


class Clearing:
    """Owned by a market: `committed` tells it of each commit, `submit` is how it asks for the next step."""

    def __init__(
        self, symbol: str, submit: Callable[[ClearEpoch], None], crash: Reached | None, aside: Aside = asyncio.to_thread
    ) -> None:
        self._submit, self._crash, self._aside = submit, crash, aside
        self._seconds = metrics.CLEARING_SECONDS.labels(symbol)
        self._wake = asyncio.Event()
        self._asked = 0  # the epoch of the step that is under way

    def start_over(self, book: OrderBook) -> None:
        """The book was replayed: whatever was under way is done or will be asked for again."""
        self._asked = 0
        self._wake.clear()
        self.committed(book, 0)

    def committed(self, book: OrderBook, step_of_us: TimeUs, *, others_wait: bool = False) -> None:
        """A commit has returned; `step_of_us`: the epoch of which it had a step, or 0.

        `others_wait`: there are entries for the next commit. They go first, or they would wait for two steps.
        """
        if step_of_us:
            self._asked = 0
            if others_wait and book.call is not None:
                return
        if step_of_us or (book.call is not None and not self._asked):
            self._wake.set()

    async def run(self, book: OrderBook) -> None:
        """Until cancelled by the market."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            call = book.call
            if call is None:
                self._reach("cleared")
                continue
            self._asked = call.start_us
            if call.outcome is not None:
                self._reach("clearing")
            else:
                self._reach("closed")
                began = perf_counter()
                with _short_turns():
                    book.foresee(await self._aside(partial(_worked_out, call)))
                self._seconds.observe(perf_counter() - began)
            self._submit(ClearEpoch(call.start_us))

    def _reach(self, point: str) -> None:
        if self._crash is not None:
            self._crash(point)


def _worked_out(call: Call) -> Outcome:
    """What the auction comes to; and the digests of its orders, which the book's has a use for then."""
    digest_ahead(call.orders.values())
    return call.clear()


@contextmanager
def _short_turns() -> Iterator[None]:
    """Threads take shorter turns than Python's 5 ms, of which an order would wait for several on its way."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(TURN_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
