"""Where an order's trades have got to after its answer: committed, settled, on the chain."""

from typing import Final

from msgspec import Struct

from persistence.postgres import Pool

TRADES_MAX: Final = 100

COMMITTED = """
    /* order_traces.committed */
    SELECT first_sequence, last_sequence, committed_us
    FROM journal
    WHERE market_id = $1
        AND first_sequence <= $2
    ORDER BY first_sequence DESC
    LIMIT 1
"""
TRADES = """
    /* order_traces.trades */
    SELECT t.number, t.time_us, t.energy_wh, t.price_micro, st.settlement, s.created_us AS settled_us
    FROM trades t
    LEFT JOIN settlement_trades st ON st.market_id = t.market_id AND st.number = t.number
    LEFT JOIN settlements s ON s.number = st.settlement
    WHERE t.market_id = $1
        AND (t.maker_order_id = $2 OR t.taker_order_id = $2)
    ORDER BY t.number
    LIMIT $3
"""
PARTS = """
    /* order_traces.parts */
    SELECT p.settlement, p.part, c.state, c.signature, c.slot, c.changed_us
    FROM settlement_parts p
    JOIN chain_submissions c ON c.kind = 'settle' AND c.key = p.key
    WHERE p.settlement = ANY ($1::bigint[])
    ORDER BY p.settlement, p.part
"""


class Commit(Struct, frozen=True):
    """The journal's row, by the database's clock."""

    first_sequence: int
    last_sequence: int
    committed_us: int


class TracedTrade(Struct, frozen=True):
    """settlement and settled_us: None until it is in one."""

    number: int
    time_us: int
    energy_wh: int
    price_micro: int
    settlement: int | None
    settled_us: int | None


class TracedPart(Struct, frozen=True):
    """A transaction of a settlement: its state since changed_us."""

    settlement: int
    part: int
    state: str
    signature: str
    slot: int
    changed_us: int


class PostgresOrderTraces:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def commit(self, market_id: int, sequence: int) -> Commit | None:
        """None when the row has moved into a file."""
        row = await self._pool.fetchrow(COMMITTED, market_id, sequence)
        return Commit(*row) if row is not None and row["last_sequence"] >= sequence else None

    async def trades(self, market_id: int, order_id: int) -> list[TracedTrade]:
        """The order's first TRADES_MAX."""
        return [TracedTrade(*row) for row in await self._pool.fetch(TRADES, market_id, order_id, TRADES_MAX)]

    async def parts(self, settlements: list[int]) -> list[TracedPart]:
        return [TracedPart(*row) for row in await self._pool.fetch(PARTS, settlements)]
