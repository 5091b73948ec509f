"""The duty that places recurring orders: once per period, whoever asks and however often.

The market refuses a client_order_id a second time, and takes the same order again as a repeat: so the order is placed
first and noted afterwards, and a note that got lost is made when it is asked again. What a market refuses is noted as
the period's outcome; a market that does not answer is asked again while the period lasts.
"""

import asyncio
from typing import Final, Protocol

from actors.ports import Recurring
from engine.messages import Command, OrderKind, PlaceOrder, TimeInForce
from engine.records import DueOrder
from engine.units import TimeUs
from engine.views import Answer, OrderAnswer, Refusal

AT_ONCE_MAX: Final = 100


class Markets(Protocol):
    async def submit(self, market_id: int, command: Command) -> Answer: ...


class RecurringOrders:
    def __init__(self, store: Recurring, markets: Markets) -> None:
        self._store, self._markets = store, markets

    async def place_due(self, now_us: TimeUs) -> int:
        """Place the present period's order of each rule that has none yet; how many were placed or refused."""
        await self._store.end_old(now_us)
        settled, last_id = 0, 0
        while due := await self._store.due(now_us, last_id, AT_ONCE_MAX):
            settled += sum(await asyncio.gather(*(self._place(one) for one in due)))
            last_id = due[-1].recurring_id
        return settled

    async def _place(self, due: DueOrder) -> bool:
        answer = await self._markets.submit(due.market_id, order_of(due))
        if isinstance(answer, OrderAnswer):
            await self._store.done(due.recurring_id, due.period, "")
        elif isinstance(answer, Refusal):
            await self._store.done(due.recurring_id, due.period, f"{answer.code.name}: {answer.detail}")
        else:
            return False
        return True


def order_of(due: DueOrder) -> PlaceOrder:
    """Good until the next period begins, so that orders of one rule do not pile up."""
    return PlaceOrder(
        due.user_id,
        due.side,
        due.price_micro,
        due.quantity_wh,
        due.zone,
        f"recurring:{due.recurring_id}:{due.period}",
        OrderKind.LIMIT,
        TimeInForce.GTD,
        due.until_us,
    )
