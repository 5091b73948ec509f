"""Reading one's own writes: history is read only once it has caught up with what this gateway has answered.

The gateway notes the newest sequence that it saw of each market, in answers and in feeds, of whichever participant: a
trade changes the maker's history too. A read waits until the projection has reached it, and at most `seconds_max`.
One task polls for all who wait; who follows the journals is told, because it rests while nobody reads.
"""

import asyncio
from collections.abc import Iterable

from engine.views import Answer, Applied, Await, BookView, Failed, GetMarket, MarketView, OrderAnswer, Refusal
from gateway.ports import History, Markets


class Barrier:
    def __init__(self, history: History, markets: Markets, *, seconds_max: float, poll_seconds: float) -> None:
        self._history, self._markets = history, markets
        self._seconds_max, self._poll_seconds = seconds_max, poll_seconds
        self._newest: dict[int, int] = {}  # market -> newest sequence that was seen
        self._projected: dict[int, int] = {}
        self._hurried: dict[int, int] = {}  # market -> up to where its follower has been told that somebody waits
        self._waiting: dict[asyncio.Future[bool], dict[int, int]] = {}  # who waits -> for what
        self._poller: asyncio.Task[None] | None = None

    def note(self, market_id: int, sequence: int) -> None:
        if sequence > self._newest.get(market_id, -1):
            self._newest[market_id] = sequence

    def note_answer(self, market_id: int, answer: Answer) -> None:
        if isinstance(answer, OrderAnswer):
            self.note(market_id, answer.order.sequence)
        elif isinstance(answer, (Applied, MarketView, BookView)):
            self.note(market_id, answer.sequence)

    async def wait(self, market_ids: Iterable[int]) -> bool:
        """Whether history now shows everything these markets had answered. False: it lags, or a market is silent."""
        wanted, complete = await self._wanted(list(market_ids))
        if all(self._projected.get(market_id, 0) >= sequence for market_id, sequence in wanted.items()):
            return complete
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting[future] = wanted
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll(), name="barrier")
        try:
            async with asyncio.timeout(self._seconds_max):
                await self._hurry(wanted)
                return await future and complete
        except TimeoutError:
            return False
        finally:
            self._waiting.pop(future, None)

    async def close(self) -> None:
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.gather(self._poller, return_exceptions=True)

    async def _wanted(self, market_ids: list[int]) -> tuple[dict[int, int], bool]:
        """What to wait for. A market not heard of yet is asked; one that is silent is left out."""
        unknown = [market_id for market_id in market_ids if market_id not in self._newest]
        answers = await asyncio.gather(*(self._markets.ask(market_id, GetMarket()) for market_id in unknown))
        for market_id, answer in zip(unknown, answers, strict=True):
            self.note_answer(market_id, answer)
        wanted = {market_id: self._newest[market_id] for market_id in market_ids if market_id in self._newest}
        return wanted, not any(isinstance(answer, (Failed, Refusal)) for answer in answers)

    async def _hurry(self, wanted: dict[int, int]) -> None:
        """Once for all who wait for it; were it lost, the follower would rest for as long as it may."""
        behind = [
            (market_id, sequence)
            for market_id, sequence in wanted.items()
            if max(self._projected.get(market_id, 0), self._hurried.get(market_id, 0)) < sequence
        ]
        self._hurried.update(behind)
        await asyncio.gather(*(self._markets.ask(market_id, Await(sequence)) for market_id, sequence in behind))

    async def _poll(self) -> None:
        """Runs while somebody waits. An error of the store is the answer of all who wait."""
        while self._waiting:
            try:
                market_ids = sorted({market_id for wanted in self._waiting.values() for market_id in wanted})
                self._projected.update(await self._history.cursor(market_ids))
            except Exception as error:  # noqa: BLE001 - it is handed to every reader, none of which it leaves waiting
                for future in self._waiting:
                    if not future.done():
                        future.set_exception(error)
                return
            for future, wanted in self._waiting.items():
                if not future.done() and all(self._projected.get(m, 0) >= sequence for m, sequence in wanted.items()):
                    future.set_result(True)
            await asyncio.sleep(self._poll_seconds)
