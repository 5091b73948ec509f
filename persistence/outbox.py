"""What the chain must be told, written in the transaction of its cause: migrations/0015_outbox.sql.

(kind, key) names an effect for ever. Who writes one that is there already has a bug, and its transaction fails.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from engine.units import TimeUs
from persistence.postgres import AnyConnection

ADD = """
    /* outbox.add */
    INSERT INTO outbox (kind, key, payload, created_us)
    SELECT $1, key, payload::jsonb, $4
    FROM unnest($2::text[], $3::text[]) AS o (key, payload)
"""


async def add(
    connection: AnyConnection, kind: str, effects: Sequence[tuple[str, Mapping[str, Any]]], now_us: TimeUs
) -> None:
    """effects: (key, payload)."""
    payloads = [msgspec.json.encode(payload).decode() for _, payload in effects]
    await connection.execute(ADD, kind, [key for key, _ in effects], payloads, now_us)
