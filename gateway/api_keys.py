"""Keys for programs: everyone's own, with fewer rights than he has; and those of head-end systems, which admins issue.

A secret is shown once, when it is made. A key never leads to another: these routes take a login.
"""

import base64
import binascii
import re
from typing import Annotated, Any, Final, Literal

from litestar import Controller, delete, get, post
from litestar.params import FromPath, JSONBody
from msgspec import Meta, Struct

from engine.records import ApiKeyRecord
from engine.units import SECOND_US, TimeUs
from gateway.context import Gateway
from gateway.errors import invalid, not_found
from gateway.instants import format_instant, parse_instant
from gateway.requests import GatewayRequest, Page
from gateway.wire import Instant

_KEY_ID: Final = re.compile(r"[a-z2-7]{16}", re.ASCII)
_DAY_US: Final = 86_400 * SECOND_US
_PUBLIC_KEY_BYTES: Final = 32
METERS_MAX: Final = 10_000
Name = Annotated[str, Meta(min_length=1, max_length=100)]
Scope = Literal["read", "trade", "meter"]
MeterId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._:\-]{1,64}$(?!\n)")]


class NewApiKey(Struct, frozen=True, forbid_unknown_fields=True):
    """`expires_at` null: after the days that the exchange has set."""

    name: Name
    scopes: Annotated[list[Scope], Meta(min_length=1, max_length=3)]
    expires_at: Instant | None = None


class NewHeadEndKey(Struct, frozen=True, forbid_unknown_fields=True):
    """`public_key`: base64 of the 32 bytes of an Ed25519 key with which the head-end signs its readings."""

    name: Name
    meter_ids: Annotated[list[MeterId], Meta(max_length=METERS_MAX)] = []
    public_key: str | None = None
    expires_at: Instant | None = None


class ApiKey(Struct, frozen=True, kw_only=True):
    """`last_used_at` is true to the minute."""

    id: str
    name: str
    scopes: list[str]
    created_at: Instant
    expires_at: Instant
    last_used_at: Instant | None


class MadeApiKey(ApiKey, frozen=True, kw_only=True):
    """`secret`, for the header `X-API-Key`, is never shown again."""

    secret: str

    def __repr__(self) -> str:
        return f"MadeApiKey(id={self.id!r})"


class HeadEndKey(ApiKey, frozen=True, kw_only=True):
    role: Literal["ami"] = "ami"
    meter_ids: list[str]
    public_key: str | None


class MadeHeadEndKey(HeadEndKey, frozen=True, kw_only=True):
    """`secret`, for the header `X-API-Key`, is never shown again."""

    secret: str

    def __repr__(self) -> str:
        return f"MadeHeadEndKey(id={self.id!r})"


class ApiKeyController(Controller):
    path = "/users/me/api-keys"
    tags = ["people"]  # noqa: RUF012 - Litestar reads it so

    @get()
    async def keys(self, request: GatewayRequest) -> Page[ApiKey]:
        """One's own keys, newest first."""
        rows = await request.gateway.api_keys.of_user(request.caller.user_id)
        return Page([ApiKey(**_shown(row)) for row in rows])

    @post()
    async def make(self, request: GatewayRequest, data: JSONBody[NewApiKey]) -> MadeApiKey:
        """A key that may do what one's role may, as far as its scopes go. The secret is shown once."""
        caller, scopes = request.caller, tuple(sorted(set(data.scopes)))
        row, secret = await _make(request, data.name, data.expires_at, user_id=caller.user_id, scopes=scopes)
        return MadeApiKey(secret=secret, **_shown(row))

    @delete("/{key_id:str}", status_code=204)
    async def revoke(self, request: GatewayRequest, key_id: FromPath[str]) -> None:
        """Revoke one of one's keys, here at once, and everywhere within seconds."""
        await _revoke(request, key_id, request.caller.user_id)


class HeadEndController(Controller):
    path = "/admin/ami-keys"
    tags = ["administration"]  # noqa: RUF012 - Litestar reads it so

    @get()
    async def keys(self, request: GatewayRequest) -> Page[HeadEndKey]:
        """The keys of all head-end systems, newest first."""
        rows = await request.gateway.api_keys.of_head_ends()
        return Page([HeadEndKey(**_shown(row), **_shown_head_end(row)) for row in rows])

    @post()
    async def issue(self, request: GatewayRequest, data: JSONBody[NewHeadEndKey]) -> MadeHeadEndKey:
        """A key for a head-end system: it may submit and read the readings of its meters, and nothing else."""
        row, secret = await _make(
            request,
            data.name,
            data.expires_at,
            scopes=("meter",),
            meter_ids=tuple(dict.fromkeys(data.meter_ids)),
            public_key=_public_key(data.public_key) if data.public_key is not None else None,
        )
        return MadeHeadEndKey(secret=secret, **_shown(row), **_shown_head_end(row))

    @delete("/{key_id:str}", status_code=204)
    async def revoke(self, request: GatewayRequest, key_id: FromPath[str]) -> None:
        """Revoke a head-end's key, here at once, and everywhere within seconds."""
        await _revoke(request, key_id, None)


async def _make(
    request: GatewayRequest,
    name: str,
    expires_at: str | None,
    *,
    user_id: int | None = None,
    scopes: tuple[str, ...],
    meter_ids: tuple[str, ...] = (),
    public_key: bytes | None = None,
) -> tuple[ApiKeyRecord, str]:
    """The stored key, and the secret that is not."""
    gateway, name = request.gateway, name.strip()
    if not name or not name.isprintable():
        raise invalid("name", "must be readable")
    key_id, secret, secret_hash = gateway.secrets.make()
    now_us, settings = gateway.clock(), gateway.settings
    key = ApiKeyRecord(
        key_id=key_id,
        number=0,  # the store gives it one
        user_id=user_id,
        name=name,
        scopes=scopes,
        secret_hash=secret_hash,
        meter_ids=meter_ids,
        public_key=public_key,
        created_us=now_us,
        expires_us=_expiry(gateway, now_us, expires_at, head_end=user_id is None),
        used_us=None,
    )
    keys_max = settings.api_keys_max if user_id is not None else settings.head_end_keys_max
    return await gateway.api_keys.create(key, keys_max, request.origin), secret


async def _revoke(request: GatewayRequest, key_id: str, user_id: int | None) -> None:
    gateway = request.gateway
    if not _KEY_ID.fullmatch(key_id) or not await gateway.api_keys.remove(key_id, user_id, request.origin):
        raise not_found("API key")
    gateway.callers.forget_key(key_id)


def _expiry(gateway: Gateway, now_us: TimeUs, text: str | None, *, head_end: bool) -> TimeUs:
    settings = gateway.settings
    if text is None:
        # nobody is there to renew a head-end's key in time
        return now_us + _DAY_US * (settings.api_key_days_max if head_end else settings.api_key_days)
    expires_us = parse_instant(text, "expires_at")
    if not now_us < expires_us <= now_us + _DAY_US * settings.api_key_days_max:
        raise invalid("expires_at", f"must lie in the future, at most {settings.api_key_days_max} days from now")
    return expires_us


def _public_key(text: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != _PUBLIC_KEY_BYTES:
        raise invalid("public_key", f"must be base64 of {_PUBLIC_KEY_BYTES} bytes")
    return key


def _shown(row: ApiKeyRecord) -> dict[str, Any]:
    return {
        "id": row.key_id,
        "name": row.name,
        "scopes": list(row.scopes),
        "created_at": format_instant(row.created_us),
        "expires_at": format_instant(row.expires_us),
        "last_used_at": format_instant(row.used_us) if row.used_us is not None else None,
    }


def _shown_head_end(row: ApiKeyRecord) -> dict[str, Any]:
    public_key = base64.b64encode(row.public_key).decode() if row.public_key is not None else None
    return {"meter_ids": list(row.meter_ids), "public_key": public_key}
