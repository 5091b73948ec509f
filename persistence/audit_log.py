"""The audit log: every change by a person or key outside of the order journals, in the transaction of the change.

How a module takes part:

1. The method that makes the change takes `origin: Origin` as its last argument; the gateway's ports require it and the
   handler passes `request.origin`. Where the daemon calls too, the method may default it to SYSTEM.
2. Inside the transaction, after everything else, `await append(connection, origin, action, subject, before, after)`.
   Last, because appends take turns until their transactions end: who appends and then waits for a lock stops everyone.
3. action is `<thing>.<past participle>`, such as `wallet.linked`; subject is what changed, such as `user:1001`.
4. before and after hold what differs, and nothing that is secret: no hash, token, key or password, not even a part.
5. Nothing changed (a repeat, a refusal): no row. A refusal that matters, as a failed login, is an action of its own.
6. A change that is made elsewhere, as by a market's actor, is appended as `..._asked` before it is asked for.
"""
# ruff: noqa: S608 - the SQL is joined from constants of this file, values are parameters

import hashlib
from collections.abc import Mapping
from typing import Final, TypeAlias

import msgspec

from engine.audit import AuditRow, Origin
from persistence.postgres import AnyConnection, Pool

Details: TypeAlias = Mapping[str, object] | None

DETAIL_BYTES_MAX: Final = 65_536  # of before, and of after; of what is longer the hash is kept

_ROW = "number, at_us, actor, via, address, request_id, action, subject, before, after, previous_hash, hash"
APPEND = "/* audit_log.append */ SELECT audit_append($1, $2, $3, $4, $5, $6, $7, $8)"
HEAD = "/* audit_log.head */ SELECT number, hash FROM audit_head"
AFTER = f"/* audit_log.after */ SELECT {_ROW} FROM audit_log WHERE number > $1 ORDER BY number LIMIT $2"
# Newest first. A filter that is not given is left out of the statement, so that the others can use their index.
FIND = f"/* audit_log.find */ SELECT {_ROW} FROM audit_log WHERE number < $1{{}} ORDER BY number DESC LIMIT $2"
FILTERS: Final = {
    "actor": "actor = ${}",
    "action": "action = ${}",
    "subject": "subject = ${}",
    "from_us": "at_us >= ${}",
    "to_us": "at_us < ${}",
}


async def append(
    connection: AnyConnection,
    origin: Origin,
    action: str,
    subject: str,
    before: Details = None,
    after: Details = None,
) -> None:
    """One row at the end of the log, if the transaction of this connection commits."""
    await connection.execute(
        APPEND,
        origin.actor,
        origin.via,
        origin.address,
        origin.request_id,
        action,
        subject,
        _written(before),
        _written(after),
    )


class PostgresAuditLog:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def append(
        self, origin: Origin, action: str, subject: str, before: Details = None, after: Details = None
    ) -> None:
        """A row by itself, for what changes elsewhere."""
        async with self._pool.acquire() as connection:
            await append(connection, origin, action, subject, before, after)

    async def find(
        self,
        before_number: int,
        limit: int,
        *,
        actor: str | None = None,
        action: str | None = None,
        subject: str | None = None,
        from_us: int | None = None,
        to_us: int | None = None,
    ) -> list[AuditRow]:
        """Rows that fit every filter, newest first; from_us counts, to_us does not."""
        given = {"actor": actor, "action": action, "subject": subject, "from_us": from_us, "to_us": to_us}
        used = {name: value for name, value in given.items() if value is not None}
        conditions = "".join(f" AND {FILTERS[name].format(place)}" for place, name in enumerate(used, 3))
        rows = await self._pool.fetch(FIND.format(conditions), before_number, limit, *used.values())
        return [AuditRow(*row) for row in rows]

    async def after(self, number: int, limit: int) -> list[AuditRow]:
        """The rows that follow this one, in their order."""
        return [AuditRow(*row) for row in await self._pool.fetch(AFTER, number, limit)]

    async def head(self) -> tuple[int, bytes]:
        """Number and hash of the last row; 0 and zeros before the first."""
        row = await self._pool.fetchrow(HEAD)
        assert row is not None, "the migration made it, and nobody can remove it"
        return row["number"], row["hash"]


def _written(details: Details) -> str | None:
    if details is None:
        return None
    text = msgspec.json.encode(details, order="deterministic")
    if len(text) > DETAIL_BYTES_MAX:
        text = msgspec.json.encode({"bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()})
    return text.decode()
