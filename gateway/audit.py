"""What admins read of the audit log: who changed what, from where. How rows come to be: persistence/audit_log.py."""

from typing import Annotated, Any

import msgspec
from litestar import Controller, get
from litestar.params import QueryParameter
from msgspec import Struct

from engine.audit import AuditRow
from engine.units import FOREVER_US
from gateway.instants import format_instant, parse_instant
from gateway.requests import LIMIT_DEFAULT, Cursor, GatewayRequest, Limit, Page, cursor_of, parse_cursor
from gateway.wire import Instant

Actor = Annotated[str | None, QueryParameter(description="such as user:1001, head-end:<key id>, anonymous, system")]
Action = Annotated[str | None, QueryParameter(description="such as user.changed, login.failed")]
Subject = Annotated[str | None, QueryParameter(description="what was changed, such as user:1001, market:CAMPUS")]
From = Annotated[str | None, QueryParameter(name="from", description="RFC 3339; counts")]
To = Annotated[str | None, QueryParameter(name="to", description="RFC 3339; does not count")]


class AuditEntry(Struct, frozen=True):
    """`via`: the session or API key; `before` and `after`: what differs; `hash`: of this and all rows before it."""

    number: str
    at: Instant
    actor: str
    via: str
    address: str
    request_id: str
    action: str
    subject: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    hash: str


class AuditController(Controller):
    path = "/admin/audit"
    tags = ["administration"]  # noqa: RUF012 - Litestar reads it so

    @get()
    async def find(
        self,
        request: GatewayRequest,
        actor: Actor = None,
        action: Action = None,
        subject: Subject = None,
        from_: From = None,
        to: To = None,
        limit: Limit = LIMIT_DEFAULT,
        cursor: Cursor = None,
    ) -> Page[AuditEntry]:
        """Changes that fit every filter, newest first."""
        before = parse_cursor(cursor, 1)
        if not all(text is None or text.isprintable() for text in (actor, action, subject)):
            return Page([])  # no row has such words
        rows = await request.gateway.audit.find(
            before[0] if before else FOREVER_US,
            limit,
            actor=actor,
            action=action,
            subject=subject,
            from_us=parse_instant(from_, "from") if from_ is not None else None,
            to_us=parse_instant(to, "to") if to is not None else None,
        )
        return Page([_show(row) for row in rows], cursor_of(rows[-1].number) if len(rows) == limit else None)


def _show(row: AuditRow) -> AuditEntry:
    return AuditEntry(
        number=str(row.number),
        at=format_instant(row.at_us),
        actor=row.actor,
        via=row.via,
        address=row.address,
        request_id=row.request_id,
        action=row.action,
        subject=row.subject,
        before=msgspec.json.decode(row.before) if row.before is not None else None,
        after=msgspec.json.decode(row.after) if row.after is not None else None,
        hash=row.hash.hex(),
    )
