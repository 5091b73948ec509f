"""Steps of an auction and the commits of others take turns.

Seen to fail for: a step asked for while others wait, a last step after which nobody is told.
"""

import asyncio
from collections.abc import Callable

from actors.clearing import Clearing
from engine.auction.epoch import Outcome
from engine.market import Mechanism
from engine.messages import ClearEpoch
from tests.support.builders import ALICE, BOB, COIN, A, Desk, market

PRICE = 4_000_000


async def at_once(work: Callable[[], Outcome]) -> Outcome:
    return work()


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_waits_is_committed_before_the_next_step() -> None:
    desk = Desk(market(mechanism=Mechanism.CALL_AUCTION, epoch_seconds=60))
    desk.fund(ALICE, "", 100_000 * COIN)
    desk.fund(BOB, A, 10**9)
    for _ in range(600):  # more trades than one step makes
        desk.sell(BOB, PRICE, 1)
        desk.buy(ALICE, PRICE, 1)
    desk.wait(61)
    desk.tick()
    book, steps, points = desk.book, list[ClearEpoch](), list[str]()
    assert book.call is not None
    assert len(book.call.orders) == 1_200
    clearing = Clearing("M", steps.append, points.append, at_once)
    running = asyncio.create_task(clearing.run(book))

    clearing.start_over(book)
    await turns()
    assert len(steps) == 1
    desk.do(steps[0])
    clearing.committed(book, steps[0].start_us, others_wait=True)
    await turns()
    assert len(steps) == 1, "the others' commit is under way"
    clearing.committed(book, 0)
    await turns()
    assert len(steps) == 2
    desk.do(steps[1])
    assert book.call is None
    clearing.committed(book, steps[1].start_us, others_wait=True)
    await turns()

    assert (len(steps), points) == (2, ["closed", "clearing", "cleared"])
    running.cancel()
