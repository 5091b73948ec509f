"""Small ports for people, API keys and the audit log: everything in memory, with the rules that the gateway sees."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
from msgspec.structs import replace

from engine.audit import HASH_FIRST, SYSTEM, AuditRow, Origin
from engine.records import (
    ApiKeyRecord,
    DirectoryPerson,
    EmailTaken,
    LastAdmin,
    RotateOutcome,
    SessionRecord,
    TooManyKeys,
    UserRecord,
)


@dataclass
class Session:
    session_id: str
    user_id: int
    hash: bytes
    created_us: int
    expires_us: int
    used: set[bytes] = field(default_factory=set)
    ended_us: int = 0


class MemoryPeople:
    def __init__(self) -> None:
        self.users: dict[int, UserRecord] = {}
        self.open: dict[str, Session] = {}
        self.failures: dict[str, tuple[int, int]] = {}

    async def create(
        self,
        email: str,
        name: str,
        password_hash: bytes,
        role: str,
        zone: str,
        now_us: int,
        origin: Origin = SYSTEM,
    ) -> UserRecord:
        if any(user.email == email for user in self.users.values()):
            raise EmailTaken
        user = UserRecord(1_001 + len(self.users), email, name, role, "active", zone, password_hash, now_us)
        self.users[user.user_id] = user
        return user

    async def by_email(self, email: str) -> UserRecord | None:
        return next((user for user in self.users.values() if user.email == email), None)

    async def by_id(self, user_id: int) -> UserRecord | None:
        return self.users.get(user_id)

    async def update(
        self,
        user_id: int,
        *,
        name: str | None = None,
        role: str | None = None,
        status: str | None = None,
        zone: str | None = None,
        now_us: int = 1,
        origin: Origin = SYSTEM,
    ) -> UserRecord | None:
        if user_id not in self.users:
            return None
        before = self.users[user_id]
        given = {"name": name, "role": role, "status": status, "zone": zone}
        changes = {key: value for key, value in given.items() if value is not None}
        after = self.users[user_id] = replace(before, **changes)
        if (before.role, before.status) != (after.role, after.status):
            await self.end_sessions(user_id, now_us, "")
        return after

    async def admit(self, person: DirectoryPerson, zone: str, now_us: int, origin: Origin = SYSTEM) -> UserRecord:
        known = next((user for user in self.users.values() if user.directory_id == person.directory_id), None)
        holder = await self.by_email(person.email)
        if known is None:
            made = await self.create(person.email, person.name, b"", person.role, zone, now_us)
            known = holder = replace(made, source="directory", directory_id=person.directory_id)
        elif known.role == "admin" != person.role and sum(u.role == "admin" for u in self.users.values()) == 1:
            raise LastAdmin
        email = person.email if holder in (None, known) else known.email
        known = replace(known, email=email, name=person.name, role=person.role, confirmed_us=now_us)
        self.users[known.user_id] = known
        return known

    async def set_password(
        self, user_id: int, password_hash: bytes, keep_session_id: str, now_us: int, origin: Origin = SYSTEM
    ) -> None:
        self.users[user_id] = replace(self.users[user_id], password_hash=password_hash)
        await self.end_sessions(user_id, now_us, keep_session_id)

    async def search(
        self, text: str, after_id: int, limit: int, role: str | None, status: str | None
    ) -> list[UserRecord]:
        found = [u for u in self.users.values() if u.user_id > after_id and (text in u.email or text in u.name)]
        return [u for u in found if role in (None, u.role) and status in (None, u.status)][:limit]

    async def open_session(
        self,
        session_id: str,
        user: UserRecord,
        refresh_hash: bytes,
        now_us: int,
        expires_us: int,
        origin: Origin = SYSTEM,
    ) -> bool:
        self.open[session_id] = Session(session_id, user.user_id, refresh_hash, now_us, expires_us)
        return self.users[user.user_id] == user

    async def rotate_session(
        self,
        session_id: str,
        old_hash: bytes,
        new_hash: bytes,
        now_us: int,
        expires_us: int,
        origin: Origin = SYSTEM,
    ) -> RotateOutcome:
        session = self.open.get(session_id)
        if session is None or session.ended_us:
            return RotateOutcome.UNKNOWN
        if old_hash in session.used:
            session.ended_us = now_us
            return RotateOutcome.REUSED
        if old_hash != session.hash or session.expires_us <= now_us:
            return RotateOutcome.UNKNOWN
        session.used.add(old_hash)
        session.hash, session.expires_us = new_hash, expires_us
        return RotateOutcome.OK

    async def end_session(
        self, session_id: str, now_us: int, user_id: int | None = None, origin: Origin = SYSTEM
    ) -> bool:
        session = self.open.get(session_id)
        if session is None or session.ended_us or user_id not in (None, session.user_id):
            return False
        session.ended_us = now_us
        return True

    async def end_sessions(self, user_id: int, now_us: int, except_id: str = "", origin: Origin = SYSTEM) -> list[str]:
        mine = [s for s in self.open.values() if s.user_id == user_id and not s.ended_us and s.session_id != except_id]
        for session in mine:
            session.ended_us = now_us
        return [session.session_id for session in mine]

    async def sessions(self, user_id: int) -> list[SessionRecord]:
        return [
            SessionRecord(s.session_id, s.user_id, s.created_us, s.created_us, s.expires_us)
            for s in self.open.values()
            if s.user_id == user_id and not s.ended_us
        ]

    async def ended_sessions(self, since_us: int) -> list[str]:
        return [s.session_id for s in self.open.values() if s.ended_us >= since_us and s.ended_us]

    async def add_login_failure(
        self,
        key: str,
        user_id: int | None,
        now_us: int,
        window_us: int,
        failures_max: int,
        origin: Origin = SYSTEM,
    ) -> int:
        count = (await self.login_failures(key, now_us))[0] + 1
        self.failures[key] = (count, now_us + window_us)
        return count

    async def login_failures(self, key: str, now_us: int) -> tuple[int, int]:
        count, until_us = self.failures.get(key, (0, 0))
        return (count, until_us) if until_us > now_us else (0, 0)

    async def forget_login_failures(self, key: str) -> None:
        self.failures.pop(key, None)

    async def unlock(self, user_id: int, key: str, origin: Origin = SYSTEM) -> None:
        self.failures.pop(key, None)


class MemoryApiKeys:
    def __init__(self) -> None:
        self.keys: dict[str, ApiKeyRecord] = {}

    async def create(self, key: ApiKeyRecord, keys_max: int, origin: Origin = SYSTEM) -> ApiKeyRecord:
        if sum(one.user_id == key.user_id for one in self.keys.values()) >= keys_max:
            raise TooManyKeys
        made = self.keys[key.key_id] = replace(key, number=len(self.keys) + 1)
        return made

    async def by_id(self, key_id: str) -> ApiKeyRecord | None:
        return self.keys.get(key_id)

    async def of_user(self, user_id: int) -> list[ApiKeyRecord]:
        return [key for key in self.keys.values() if key.user_id == user_id]

    async def of_head_ends(self) -> list[ApiKeyRecord]:
        return [key for key in self.keys.values() if key.user_id is None]

    async def remove(self, key_id: str, user_id: int | None, origin: Origin = SYSTEM) -> bool:
        if key_id not in self.keys or self.keys[key_id].user_id != user_id:
            return False
        del self.keys[key_id]
        return True

    async def note_uses(self, uses: dict[str, int]) -> None:
        for key_id, used_us in uses.items():
            self.keys[key_id] = replace(self.keys[key_id], used_us=used_us)


class MemoryAuditLog:
    """What was appended by itself; the rows of changes are the business of the real ones."""

    def __init__(self) -> None:
        self.rows: list[AuditRow] = []

    async def append(
        self,
        origin: Origin,
        action: str,
        subject: str,
        before: Mapping[str, object] | None = None,
        after: Mapping[str, object] | None = None,
    ) -> None:
        row = AuditRow(
            number=len(self.rows) + 1,
            at_us=1,
            actor=origin.actor,
            via=origin.via,
            address=origin.address,
            request_id=origin.request_id,
            action=action,
            subject=subject,
            before=msgspec.json.encode(before).decode() if before is not None else None,
            after=msgspec.json.encode(after).decode() if after is not None else None,
            previous_hash=HASH_FIRST,
            hash=HASH_FIRST,
        )
        self.rows.append(row)

    async def find(
        self,
        before_number: int,
        limit: int,
        *,
        actor: str | None,
        action: str | None,
        subject: str | None,
        from_us: int | None,
        to_us: int | None,
    ) -> list[AuditRow]:
        found = [row for row in self.rows if row.number < before_number and action in (None, row.action)]
        return found[::-1][:limit]
