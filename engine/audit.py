"""The audit log as a chain: what a row holds, and what its hash covers.

Each hash covers the row's content and the hash of the row before, every field with its length before it. The database
computes it when it appends (migrations/0009_audit_log.sql); here is the second opinion.
"""

import hashlib
from typing import Final

from msgspec import Struct

from engine.units import TimeUs

HASH_FIRST: Final = bytes(32)  # what the first row has for the hash of the row before


class Origin(Struct, frozen=True):
    """Who asks for a change, and from where: every method that makes an audited change takes one.

    actor: `user:<id>`, `head-end:<key id>`, `anonymous`, `operator` for a command on the machine, or `system` for what
    the daemon does by itself.
    via: `session:<id>` or `key:<id>`, with which the actor proved who he is; empty when he did not need to.
    """

    actor: str
    via: str = ""
    address: str = ""
    request_id: str = ""


SYSTEM: Final = Origin("system")


class AuditRow(Struct, frozen=True):
    """before, after: JSON exactly as it was written, because the hash is of the text; None where there was nothing."""

    number: int
    at_us: TimeUs
    actor: str
    via: str
    address: str
    request_id: str
    action: str
    subject: str
    before: str | None
    after: str | None
    previous_hash: bytes
    hash: bytes


def row_hash(row: AuditRow) -> bytes:
    """What the row's hash must be, given the hash of the row before that it names."""
    fields = (
        str(row.number),
        str(row.at_us),
        row.actor,
        row.via,
        row.address,
        row.request_id,
        row.action,
        row.subject,
        row.before,
        row.after,
    )
    return hashlib.sha256(row.previous_hash + b"".join(map(_field, fields))).digest()


class Chain:
    """Follows the rows from the first one on, in order, and knows the first that does not fit."""

    def __init__(self) -> None:
        self.number = 0
        self.at_us = 0
        self.hash = HASH_FIRST

    def take(self, row: AuditRow) -> str:
        """The next row: why it breaks the chain, or the empty string. After a break the chain stands where it was."""
        expected = self.number + 1
        if row.number != expected:
            return f"row {expected}: " + ("is there twice" if row.number < expected else "is missing")
        if row.previous_hash != self.hash:
            return f"row {expected}: does not continue the row before it"
        if row.hash != row_hash(row):
            return f"row {expected}: its contents are not those that were written"
        if row.at_us < self.at_us:
            return f"row {expected}: is older than the row before it"
        self.number, self.at_us, self.hash = row.number, row.at_us, row.hash
        return ""

    def end(self, number: int, hash_: bytes) -> str:
        """Why the log does not end here, as the database says that it does; or the empty string."""
        if self.number < number:
            return f"row {self.number + 1}: is missing, and {number - self.number} rows with it at the end"
        if (self.number, self.hash) != (number, hash_):
            return f"row {self.number}: is not what the database says the log ends with"
        return ""


def _field(value: str | None) -> bytes:
    if value is None:
        return b"-,"
    data = value.encode()
    return b"%d:%b," % (len(data), data)
