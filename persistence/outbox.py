"""What the chain must be told, written in the transaction of its cause: migrations/0015_outbox.sql.

(kind, key) names an effect for ever. Who writes one that is there already has a bug, and its transaction fails.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from engine.units import TimeUs
from persistence.postgres import AnyConnection

ADD = """
    /* outbox.add */
    INSERT INTO outbox (kind, key, payload, created_us)
    SELECT kind, key, payload::jsonb, $4
    FROM unnest($1::text[], $2::text[], $3::text[]) AS o (kind, key, payload)
    RETURNING number
"""


class Order(NamedTuple):
    kind: str
    key: str
    payload: Mapping[str, Any]


async def add(connection: AnyConnection, orders: Sequence[Order], now_us: TimeUs) -> list[int]:
    """Their numbers, in the order of the orders."""
    payloads = [msgspec.json.encode(one.payload).decode() for one in orders]
    rows = await connection.fetch(ADD, [one.kind for one in orders], [one.key for one in orders], payloads, now_us)
    return [number for (number,) in rows]
