"""People: registration, login, own profile and sessions; for admins, everyone's role, status and zone.

A role is never read from a body of the person it applies to. Whether an account exists cannot be told from a login's
answer, nor from how long it takes.
"""

from typing import Annotated, Literal, TypeAlias

from litestar import Controller, delete, get, patch, post
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from msgspec import Meta, Struct

from engine.messages import RejectCode
from engine.records import UserRecord
from gateway.auth.addresses import normal_email
from gateway.auth.entrance import LOCAL
from gateway.auth.passwords import check_acceptable
from gateway.auth.sessions import TokenPair
from gateway.errors import GatewayCode, Problem, invalid, not_found
from gateway.instants import format_instant
from gateway.requests import LIMIT_DEFAULT, Cursor, GatewayRequest, Limit, Page, cursor_of, parse_cursor
from gateway.wire import Instant

_ID_MAX = 2**63
Name = Annotated[str, Meta(min_length=1, max_length=100)]
Secret = Annotated[str, Meta(max_length=1_024)]


class RegisterRequest(Struct, frozen=True, forbid_unknown_fields=True):
    email: Annotated[str, Meta(max_length=254)]
    password: Secret
    name: Name

    def __repr__(self) -> str:
        return "RegisterRequest(...)"


class LoginRequest(Struct, frozen=True, forbid_unknown_fields=True):
    email: Annotated[str, Meta(max_length=254)]
    password: Secret

    def __repr__(self) -> str:
        return "LoginRequest(...)"


class RefreshRequest(Struct, frozen=True, forbid_unknown_fields=True):
    refresh_token: Secret

    def __repr__(self) -> str:
        return "RefreshRequest(...)"


class ProfileChange(Struct, frozen=True, forbid_unknown_fields=True):
    name: Name


class PasswordChange(Struct, frozen=True, forbid_unknown_fields=True):
    current_password: Secret
    new_password: Secret

    def __repr__(self) -> str:
        return "PasswordChange(...)"


Role: TypeAlias = Literal["student", "faculty", "admin", "ami"]
Status: TypeAlias = Literal["active", "suspended"]


class UserChange(Struct, frozen=True, forbid_unknown_fields=True):
    role: Role | None = None
    status: Status | None = None
    zone: str | None = None


class User(Struct, frozen=True):
    id: str
    email: str
    name: str
    role: str
    zone: str
    status: str
    source: Literal["local", "directory"]  # who keeps name, role and password
    created_at: Instant


class SessionShown(Struct, frozen=True):
    session_id: str
    created_at: Instant
    used_at: Instant
    expires_at: Instant
    current: bool


class SessionsEnded(Struct, frozen=True):
    ended: int


class AuthController(Controller):
    path = "/auth"
    tags = ["people"]  # noqa: RUF012 - Litestar reads it so

    @post("/register")
    async def register(self, request: GatewayRequest, data: JSONBody[RegisterRequest]) -> User:
        """A new account: a student, in the default zone."""
        gateway = request.gateway
        email, name = _email(data.email), data.name.strip()
        if not name or not name.isprintable():
            raise invalid("name", "must be readable")
        check_acceptable(data.password, email, name)
        password_hash = await gateway.passwords.hash(data.password)
        zone, now_us = gateway.settings.default_zone, gateway.clock()
        user = await gateway.people.create(email, name, password_hash, "student", zone, now_us, request.origin)
        return _show(user)

    @post("/login", status_code=200)
    async def login(self, request: GatewayRequest, data: JSONBody[LoginRequest]) -> TokenPair:
        """An access token and a refresh token. Five failures lock the account for a while.

        People of the directory use its address or name and its password.
        """
        gateway, origin = request.gateway, request.origin
        return await gateway.sessions.open(await gateway.entrance.enter(data.email, data.password, origin), origin)

    @post("/refresh", status_code=200)
    async def refresh(self, request: GatewayRequest, data: JSONBody[RefreshRequest]) -> TokenPair:
        """A new pair; the old refresh token is used up, and using it again ends the whole family."""
        gateway = request.gateway
        return await gateway.sessions.refresh(data.refresh_token, request.origin, gateway.entrance.stay)

    @post("/logout", status_code=204)
    async def logout(self, request: GatewayRequest, data: JSONBody[RefreshRequest | None] = None) -> None:
        """End the session of the access token, or of the refresh token in the body."""
        visitor = request.visitor
        if visitor is not None and visitor.session_id:
            await request.gateway.sessions.end(visitor.session_id, visitor.user_id, request.origin)
        elif data is not None:
            await request.gateway.sessions.end_by_refresh_token(data.refresh_token, request.origin)
        else:
            raise Problem(GatewayCode.UNAUTHENTICATED, "this needs an access token or a refresh token")


class ProfileController(Controller):
    path = "/users/me"
    tags = ["people"]  # noqa: RUF012 - Litestar reads it so

    @get()
    async def me(self, request: GatewayRequest) -> User:
        """One's own profile."""
        return _show(await _self(request))

    @patch()
    async def rename(self, request: GatewayRequest, data: JSONBody[ProfileChange]) -> User:
        """Change one's name; nothing else of the profile is one's own to change."""
        gateway, name = request.gateway, data.name.strip()
        if not name or not name.isprintable():
            raise invalid("name", "must be readable")
        _check_kept_here(await _self(request), "name")
        user = await gateway.people.update(
            request.caller.user_id, name=name, now_us=gateway.clock(), origin=request.origin
        )
        if user is None:
            raise not_found("user")
        gateway.callers.forget(user.user_id)
        return _show(user)

    @post("/password", status_code=204)
    async def change_password(self, request: GatewayRequest, data: JSONBody[PasswordChange]) -> None:
        """Needs the present password, whose failures count like those of a login; ends all other sessions."""
        gateway, user = request.gateway, await _self(request)
        _check_kept_here(user, "password")
        async with gateway.logins.attempt(user.email):
            if not await gateway.passwords.matches(data.current_password, user.password_hash):
                await gateway.logins.failed(user.email, user.user_id, request.origin)
                raise invalid("current_password", "is wrong")
        check_acceptable(data.new_password, user.email, user.name, "new_password")
        password_hash = await gateway.passwords.hash(data.new_password)
        kept, now_us = request.caller.session_id, gateway.clock()
        await gateway.people.set_password(user.user_id, password_hash, kept, now_us, request.origin)
        await gateway.revocations.read()

    @get("/sessions")
    async def sessions(self, request: GatewayRequest) -> Page[SessionShown]:
        """One's own open sessions."""
        gateway = request.gateway
        rows = await gateway.people.sessions(request.caller.user_id)
        return Page(
            [
                SessionShown(
                    session_id=row.session_id,
                    created_at=format_instant(row.created_us),
                    used_at=format_instant(row.used_us),
                    expires_at=format_instant(row.expires_us),
                    current=row.session_id == request.caller.session_id,
                )
                for row in rows[: gateway.settings.sessions_max]
            ]
        )

    @delete("/sessions", status_code=200)
    async def end_sessions(
        self,
        request: GatewayRequest,
        keep_current: Annotated[bool, QueryParameter(description="spare the session that asks")] = False,
    ) -> SessionsEnded:
        """End all of one's sessions, at once and everywhere."""
        caller = request.caller
        kept = caller.session_id if keep_current else ""
        return SessionsEnded(await request.gateway.sessions.end_all(caller.user_id, kept, request.origin))

    @delete("/sessions/{session_id:str}", status_code=204)
    async def end_session(self, request: GatewayRequest, session_id: FromPath[str]) -> None:
        """End one of one's sessions, at once and everywhere."""
        known = session_id.isprintable()
        if not known or not await request.gateway.sessions.end(session_id, request.caller.user_id, request.origin):
            raise not_found("session")


class UserAdminController(Controller):
    path = "/admin/users"
    tags = ["administration"]  # noqa: RUF012 - Litestar reads it so

    @get()
    async def search(
        self,
        request: GatewayRequest,
        q: FromQuery[str] = "",
        role: FromQuery[Role | None] = None,
        status: FromQuery[Status | None] = None,
        limit: Limit = LIMIT_DEFAULT,
        cursor: Cursor = None,
    ) -> Page[User]:
        """Users whose address or name contains `q`, with this role and status, by id."""
        after = parse_cursor(cursor, 1)
        if not q.isprintable():
            return Page([])
        rows = await request.gateway.people.search(q[:100], after[0] if after else 0, limit, role, status)
        return Page([_show(row) for row in rows], cursor_of(rows[-1].user_id) if len(rows) == limit else None)

    @get("/{user_id:str}")
    async def find(self, request: GatewayRequest, user_id: FromPath[str]) -> User:
        """One user."""
        user = await request.gateway.people.by_id(user_number(user_id))
        if user is None:
            raise not_found("user")
        return _show(user)

    @patch("/{user_id:str}")
    async def change(self, request: GatewayRequest, user_id: FromPath[str], data: JSONBody[UserChange]) -> User:
        """Change role, status or zone. New role or status: the user's sessions end. Not one's own role or status.

        The last admin stays one, whoever asks.
        """
        gateway, number = request.gateway, user_number(user_id)
        if number == request.caller.user_id and (data.role is not None or data.status is not None):
            raise Problem(GatewayCode.FORBIDDEN, "an admin cannot change his own role or status")
        if data.role is not None and (known := await gateway.people.by_id(number)) is not None:
            _check_kept_here(known, "role")
        if data.zone is not None and data.zone not in {zone.zone_id for zone in await gateway.catalogue.zones()}:
            raise invalid("zone", "is not known")
        user = await gateway.people.update(
            number,
            role=data.role,
            status=data.status,
            zone=data.zone,
            now_us=gateway.clock(),
            origin=request.origin,
        )
        if user is None:
            raise not_found("user")
        gateway.callers.forget(number)
        await gateway.revocations.read()
        return _show(user)

    @post("/{user_id:str}/unlock", status_code=200)
    async def unlock(self, request: GatewayRequest, user_id: FromPath[str]) -> User:
        """Forget the failed logins of a user, so that he can try again at once."""
        user = await request.gateway.people.by_id(user_number(user_id))
        if user is None:
            raise not_found("user")
        await request.gateway.logins.unlock(user.user_id, user.email, request.origin)
        return _show(user)


async def _self(request: GatewayRequest) -> UserRecord:
    user = await request.gateway.people.by_id(request.caller.user_id)
    if user is None:
        raise not_found("user")
    return user


def _email(text: str) -> str:
    """The address in the one form that is stored. Raises VALIDATION_FAILED."""
    email = normal_email(text)
    if email is None:
        raise invalid("email", "is no e-mail address")
    return email


def _check_kept_here(user: UserRecord, what: str) -> None:
    """Raises CONFLICT for what the directory says of its people: it would say it again at the next login."""
    if user.source != LOCAL:
        raise Problem(RejectCode.CONFLICT, f"the directory keeps this account's {what}")


def user_number(text: str) -> int:
    """Raises NOT_FOUND for what is no user's id."""
    if not (text.isascii() and text.isdigit() and int(text) < _ID_MAX):
        raise not_found("user")
    return int(text)


def _show(user: UserRecord) -> User:
    return User(
        id=str(user.user_id),
        email=user.email,
        name=user.name,
        role=user.role,
        zone=user.zone,
        status=user.status,
        source="local" if user.source == LOCAL else "directory",
        created_at=format_instant(user.created_us),
    )
