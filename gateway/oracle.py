"""The oracle: feeds and rounds for everybody, submissions that prove themselves, feeds and providers for admins."""

import base64
import binascii
import uuid
from typing import Annotated, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from litestar import Controller, get, patch, post
from litestar.params import FromPath, JSONBody
from msgspec import Meta, Struct

from engine.oracle.records import FeedRecord, NewFeed, NewProvider, ProviderChange, ProviderRecord, RoundRecord
from engine.oracle.rounds import quorum_of
from engine.oracle.submissions import AHEAD_US, FRESH_US, VALUE_MAX, signed_bytes
from engine.units import FOREVER_US, SECOND_US
from gateway.decimals import format_scaled, parse_scaled
from gateway.errors import GatewayCode, Problem, invalid, not_found
from gateway.instants import format_instant, parse_instant
from gateway.requests import LIMIT_DEFAULT, Cursor, GatewayRequest, Limit, Page, cursor_of, parse_cursor
from gateway.wire import Instant

KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
FeedName = Annotated[str, Meta(pattern="^[a-z][a-z0-9_]{0,15}$", description="also its id on the chain")]
Name = Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")]
Unit = Annotated[str, Meta(min_length=1, max_length=30, pattern=r"^[^\x00-\x1f\x7f]*$")]
Value = Annotated[str, Meta(description="in the feed's unit, with at most its decimals", examples=["4.500000"])]
Feeds = Annotated[list[FeedName], Meta(max_length=100)]
PublicKey = Annotated[str, Meta(description="base64 of 32 bytes", min_length=44, max_length=44)]


class SubmissionRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """`signature`: base64 of the Ed25519 signature over the bytes that docs/oracle.md describes."""

    feed: FeedName
    value: Annotated[str, Meta(max_length=32)]
    observed_at: str
    provider_id: str
    signature: Annotated[str, Meta(max_length=88)]


class Submission(Struct, frozen=True):
    """`repeated`: the same had been said before."""

    feed: str
    value: Value
    observed_at: Instant
    provider_id: str
    repeated: bool


class FeedRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """`single_provider`: one provider is enough."""

    feed: FeedName
    name: Name
    unit: Unit
    decimals: Annotated[int, Meta(ge=0, le=9)]
    single_provider: bool = False
    round_seconds: Annotated[int, Meta(ge=10, le=86_400)] = 300


class FeedPatch(Struct, frozen=True, forbid_unknown_fields=True):
    name: Name | None = None
    single_provider: bool | None = None


class FeedView(Struct, frozen=True):
    """What was published last, and how old it is; `stale`: a later round came to nothing, or there was none."""

    feed: str
    name: str
    unit: str
    decimals: int
    source: str
    single_provider: bool
    round_seconds: int
    providers: int
    quorum: int
    value: Value | None
    spread: Value | None
    round: int | None
    at: Instant | None
    age_seconds: int | None
    stale: bool


class RoundPart(Struct, frozen=True):
    """What one provider said, with which anybody can check the round."""

    provider_id: str
    value: Value
    observed_at: Instant
    signature: str
    outlier: bool


class RoundView(Struct, frozen=True):
    """`status`: `published`, or `below_quorum` without a value. `chain_status`: of its transaction, see
    `/chain/transactions`.
    """

    round: int
    at: Instant
    status: str
    value: Value | None
    spread: Value | None
    quorum: int
    submissions: list[RoundPart]
    chain_status: str | None
    transaction_signature: str | None


class ProviderRequest(Struct, frozen=True, forbid_unknown_fields=True):
    name: Name
    public_key: PublicKey
    feeds: Feeds


class ProviderPatch(Struct, frozen=True, forbid_unknown_fields=True):
    """`active: false`: what it says does not count any more."""

    name: Name | None = None
    feeds: Feeds | None = None
    active: bool | None = None


class ProviderView(Struct, frozen=True):
    """`flagged`: feeds for which it has been an outlier too often of late."""

    id: str
    name: str
    public_key: str
    feeds: list[str]
    active: bool
    flagged: list[str]
    created_at: Instant


class OracleController(Controller):
    path = "/oracle"
    tags = ["oracle"]  # noqa: RUF012 - Litestar reads it so

    @post("/submissions")
    async def submit(self, request: GatewayRequest, data: JSONBody[SubmissionRequest]) -> Submission:
        """A provider's word. The signature is all that it needs; the same again is answered the same."""
        gateway = request.gateway
        feed = await _feed(request, data.feed)
        value = parse_scaled(data.value, "value", feed.decimals, VALUE_MAX)
        observed_us, now_us = parse_instant(data.observed_at, "observed_at"), gateway.clock()
        signature = _decoded(data.signature, "signature", SIGNATURE_BYTES)
        provider_id = _parse_provider(data.provider_id)
        provider = await gateway.oracle.provider(provider_id)
        message = signed_bytes(provider_id, feed.feed, value, observed_us)
        if provider is None or not _has_signed(provider.public_key, signature, message):
            raise Problem(GatewayCode.BAD_SIGNATURE, "no provider of this id has signed this")
        if not provider.active or feed.feed not in provider.feeds:
            raise Problem(GatewayCode.FORBIDDEN, "this provider does not provide this feed")
        if now_us - observed_us > FRESH_US:
            raise invalid("observed_at", f"must be at most {FRESH_US // SECOND_US} s ago")
        if observed_us - now_us > AHEAD_US:
            raise invalid("observed_at", f"must be at most {AHEAD_US // SECOND_US} s ahead")
        new = await gateway.oracle.submit(provider_id, feed.feed, value, observed_us, signature, now_us)
        return Submission(
            feed.feed,
            format_scaled(value, feed.decimals),
            format_instant(observed_us),
            data.provider_id,
            repeated=not new,
        )

    @get("/feeds")
    async def feeds(self, request: GatewayRequest) -> Page[FeedView]:
        now_us = request.gateway.clock()
        return Page([_show_feed(row, now_us) for row in await request.gateway.oracle.feeds()])

    @get("/feeds/{feed:str}")
    async def feed(self, request: GatewayRequest, feed: FromPath[str]) -> FeedView:
        return _show_feed(await _feed(request, feed), request.gateway.clock())

    @get("/feeds/{feed:str}/rounds")
    async def rounds(
        self, request: GatewayRequest, feed: FromPath[str], limit: Limit = LIMIT_DEFAULT, cursor: Cursor = None
    ) -> Page[RoundView]:
        """Rounds in which somebody took part, newest first."""
        decimals = (await _feed(request, feed)).decimals
        before = parse_cursor(cursor, 1)
        rows = await request.gateway.oracle.rounds(feed, before[0] if before else FOREVER_US, limit + 1)
        following = cursor_of(rows[limit - 1].round) if len(rows) > limit else None
        return Page([_show_round(row, decimals) for row in rows[:limit]], following)

    @post("/feeds")
    async def add_feed(self, request: GatewayRequest, data: JSONBody[FeedRequest]) -> FeedView:
        gateway = request.gateway
        feed = NewFeed(data.feed, data.name, data.unit, data.decimals, data.single_provider, data.round_seconds)
        return _show_feed(await gateway.oracle.add_feed(feed, request.origin), gateway.clock())

    @patch("/feeds/{feed:str}")
    async def change_feed(self, request: GatewayRequest, feed: FromPath[str], data: JSONBody[FeedPatch]) -> FeedView:
        """Unit, decimals and length of rounds stay: values and numbers on the chain have their meaning from them."""
        gateway = request.gateway
        name = (await _feed(request, feed)).feed
        row = await gateway.oracle.change_feed(name, data.name, data.single_provider, request.origin)
        return _show_feed(row, gateway.clock())

    @get("/providers")
    async def providers(self, request: GatewayRequest) -> Page[ProviderView]:
        return Page([_show_provider(row) for row in await request.gateway.oracle.providers()])

    @post("/providers")
    async def add_provider(self, request: GatewayRequest, data: JSONBody[ProviderRequest]) -> ProviderView:
        """`wattbook oracle key` makes a key for it."""
        gateway = request.gateway
        public_key = _decoded(data.public_key, "public_key", KEY_BYTES)
        provider = NewProvider(uuid.uuid4().bytes, data.name, public_key, tuple(data.feeds))
        return _show_provider(await gateway.oracle.add_provider(provider, gateway.clock(), request.origin))

    @patch("/providers/{provider_id:str}")
    async def change_provider(
        self, request: GatewayRequest, provider_id: FromPath[str], data: JSONBody[ProviderPatch]
    ) -> ProviderView:
        change = ProviderChange(data.name, tuple(data.feeds) if data.feeds is not None else None, data.active)
        identity = _parse_provider(provider_id)
        row = await request.gateway.oracle.change_provider(identity, change, request.origin)
        if row is None:
            raise not_found("provider")
        return _show_provider(row)


async def _feed(request: GatewayRequest, name: str) -> FeedRecord:
    found = await request.gateway.oracle.feed(name) if name.isascii() and name.isprintable() else None
    if found is None:
        raise not_found("feed")
    return found


def _parse_provider(text: str) -> bytes:
    try:
        identity = uuid.UUID(text)
    except ValueError:
        raise invalid("provider_id", "must be a UUID") from None
    if str(identity) != text:
        raise invalid("provider_id", "must be a UUID in lower case, with dashes")
    return identity.bytes


def _decoded(text: str, field: str, length: int) -> bytes:
    try:
        found = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        found = b""
    if len(found) != length:
        raise invalid(field, f"must be base64 of {length} bytes")
    return found


def _has_signed(public_key: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _scaled(value: int | None, decimals: int) -> str | None:
    return format_scaled(value, decimals) if value is not None else None


def _show_feed(row: FeedRecord, now_us: int) -> FeedView:
    return FeedView(
        feed=row.feed,
        name=row.name,
        unit=row.unit,
        decimals=row.decimals,
        source=row.source,
        single_provider=row.single_provider,
        round_seconds=row.round_seconds,
        providers=row.active,
        quorum=quorum_of(row.active, row.single_provider),
        value=_scaled(row.value, row.decimals),
        spread=_scaled(row.spread, row.decimals),
        round=row.round,
        at=format_instant(row.at_us) if row.at_us is not None else None,
        age_seconds=max(0, now_us - row.at_us) // SECOND_US if row.at_us is not None else None,
        stale=row.is_stale(now_us),
    )


def _show_round(row: RoundRecord, decimals: int) -> RoundView:
    return RoundView(
        round=row.round,
        at=format_instant(row.at_us),
        status=row.status,
        value=_scaled(row.value, decimals),
        spread=_scaled(row.spread, decimals),
        quorum=row.quorum,
        submissions=[
            RoundPart(
                one.provider_id,
                format_scaled(one.value, decimals),
                format_instant(one.observed_us),
                one.signature,
                one.outlier,
            )
            for one in row.heard
        ],
        chain_status=row.chain_state,
        transaction_signature=row.signature or None,
    )


def _show_provider(row: ProviderRecord) -> ProviderView:
    return ProviderView(
        id=str(uuid.UUID(bytes=row.provider_id)),
        name=row.name,
        public_key=base64.b64encode(row.public_key).decode(),
        feeds=list(row.feeds),
        active=row.active,
        flagged=list(row.flagged),
        created_at=format_instant(row.created_us),
    )
