"""Every refusal that leaves the gateway, as RFC 9457 problem details: the one table of codes, statuses and meanings.

The engine's RejectCode and Fault map one to one; the gateway adds its own in the band 9xxx. docs/errors.md shows this
table, and a test proves that it does. A refusal is never a 500; a 500 is a bug, and says nothing but its request id.
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import Any, Final, NamedTuple

from engine.messages import RejectCode
from engine.metering.records import MeterRetired, NotInForce, SerialTaken, UnknownOwner, UnknownZone
from engine.oracle.records import FeedTaken, KeyTaken, NotNewer, OracleFull, UnknownFeed
from engine.records import (
    AddressTaken,
    EmailTaken,
    LastAdmin,
    PlatformWalletKept,
    ReferenceReused,
    SymbolTaken,
    TooManyKeys,
    TooManyRecurring,
    WalletsFull,
)
from engine.views import Failed, Fault, Refusal


class GatewayCode(IntEnum):
    """Refusals that the gateway makes itself. A number is never reused."""

    UNAUTHENTICATED = 9001
    FORBIDDEN = 9002
    METHOD_NOT_ALLOWED = 9003
    PAYLOAD_TOO_LARGE = 9004
    UNSUPPORTED_MEDIA_TYPE = 9005
    ACCOUNT_LOCKED = 9006
    RATE_LIMITED = 9007
    BAD_SIGNATURE = 9008
    WITHDRAWAL_SUSPENDED = 9009
    INTERNAL = 9010
    REQUEST_TIMEOUT = 9011
    HEAD_TOO_LARGE = 9012


Code = RejectCode | Fault | GatewayCode


class Meaning(NamedTuple):
    status: int
    retryable: bool  # whether repeating the same request, unchanged, may succeed
    title: str


MEANING: Final[Mapping[Code, Meaning]] = {
    RejectCode.VALIDATION_FAILED: Meaning(400, False, "The request is not well formed; `fields` says where"),
    GatewayCode.UNAUTHENTICATED: Meaning(401, False, "No valid access token or API key, or wrong credentials"),
    GatewayCode.FORBIDDEN: Meaning(403, False, "This role, or an API key with these scopes, may not do this"),
    GatewayCode.BAD_SIGNATURE: Meaning(403, False, "A signature does not fit what it signs"),
    RejectCode.NOT_FOUND: Meaning(404, False, "There is no such thing, or it is somebody else's"),
    GatewayCode.METHOD_NOT_ALLOWED: Meaning(405, False, "The resource does not know this method"),
    GatewayCode.REQUEST_TIMEOUT: Meaning(408, True, "The request did not arrive in time; nothing happened"),
    RejectCode.CLIENT_ORDER_ID_REUSED: Meaning(409, False, "The client_order_id belongs to another order"),
    RejectCode.MARKET_NOT_OPEN: Meaning(409, True, "The market takes no such order in its present phase"),
    RejectCode.ORDER_CLOSED: Meaning(409, False, "The order has ended"),
    RejectCode.CONFLICT: Meaning(409, False, "The request contradicts what is there"),
    RejectCode.BEING_CLEARED: Meaning(409, True, "The order's auction is being cleared; it takes a moment"),
    GatewayCode.WITHDRAWAL_SUSPENDED: Meaning(409, True, "Withdrawals stop until books and chain agree"),
    GatewayCode.PAYLOAD_TOO_LARGE: Meaning(413, False, "The body or frame is larger than allowed"),
    GatewayCode.UNSUPPORTED_MEDIA_TYPE: Meaning(415, False, "Bodies are JSON or msgpack"),
    RejectCode.PRICE_OFF_TICK: Meaning(422, False, "The price is no multiple of the market's tick"),
    RejectCode.QUANTITY_OFF_LOT: Meaning(422, False, "The quantity is no multiple of the market's lot"),
    RejectCode.PRICE_OUTSIDE_CORRIDOR: Meaning(422, False, "The price is below price_min or above price_max"),
    RejectCode.PRICE_OUTSIDE_BAND: Meaning(422, True, "The price is too far from the reference price"),
    RejectCode.RISK_LIMIT: Meaning(422, False, "A risk limit of the participant would be exceeded"),
    RejectCode.NOT_IN_AUCTION: Meaning(422, True, "While orders collect for an auction, only plain limit orders"),
    RejectCode.INSUFFICIENT_FUNDS: Meaning(422, True, "Not enough money is free to back the order"),
    RejectCode.INSUFFICIENT_ENERGY: Meaning(422, True, "Not enough energy is free to back the order"),
    GatewayCode.ACCOUNT_LOCKED: Meaning(423, True, "Too many failed logins; `Retry-After` says when to try again"),
    GatewayCode.RATE_LIMITED: Meaning(429, True, "Too many requests; `Retry-After` says when to try again"),
    GatewayCode.HEAD_TOO_LARGE: Meaning(431, False, "Address and headers are larger than allowed"),
    GatewayCode.INTERNAL: Meaning(500, False, "A bug of ours; report the request_id"),
    Fault.OUTCOME_UNKNOWN: Meaning(503, True, "It may have happened: repeat with the same client_order_id"),
    Fault.OVERLOADED: Meaning(503, True, "A queue is full; nothing happened"),
    Fault.UNAVAILABLE: Meaning(503, True, "A part of the exchange does not answer; nothing happened"),
}


class Problem(Exception):
    """A refusal on its way out. `fields` maps the name of a request field to what is wrong with it."""

    def __init__(
        self,
        code: Code,
        detail: str = "",
        *,
        fields: Mapping[str, str] | None = None,
        retry_after_seconds: float = 0.0,
    ) -> None:
        super().__init__(code.name, detail)
        self.code = code
        self.detail = detail or MEANING[code].title
        self.fields = fields
        self.retry_after_seconds = retry_after_seconds

    @property
    def status(self) -> int:
        return MEANING[self.code].status

    def body(self, request_id: str = "") -> dict[str, Any]:
        """The problem details; request_id is left out where there is none, as in a batch or on a socket."""
        meaning = MEANING[self.code]
        body: dict[str, Any] = {
            "type": f"urn:wattbook:problem:{self.code.name.lower()}",
            "title": meaning.title,
            "status": meaning.status,
            "code": self.code.name,
            "detail": self.detail,
            "retryable": meaning.retryable,
        }
        if self.fields:
            body["fields"] = dict(self.fields)
        if self.retry_after_seconds > 0:
            body["retry_after_seconds"] = self.retry_after_whole_seconds
        if request_id:
            body["request_id"] = request_id
        return body

    @property
    def retry_after_whole_seconds(self) -> int:
        """Rounded up, so that who waits this long has waited long enough."""
        return max(1, -int(-self.retry_after_seconds // 1))


def invalid(field: str, message: str) -> Problem:
    """VALIDATION_FAILED that names one field."""
    return Problem(RejectCode.VALIDATION_FAILED, f"{field}: {message}", fields={field: message})


def not_found(what: str) -> Problem:
    return Problem(RejectCode.NOT_FOUND, f"{what}: not found")


def not_shown(what: str, complete: bool) -> Problem:
    """What history does not have: nobody can say that it does not exist while history is behind."""
    if complete:
        return not_found(what)
    return Problem(Fault.UNAVAILABLE, f"{what}: history is behind and does not show it, or not yet; ask again")


def refused(answer: Refusal | Failed) -> Problem:
    """What a market's refusal, or its silence, is to the client."""
    if isinstance(answer, Failed):
        return Problem(answer.fault, answer.detail)
    if answer.code is RejectCode.VALIDATION_FAILED and ": " in answer.detail:
        field, message = answer.detail.split(": ", 1)
        if field.replace("_", "").isalnum():
            return Problem(answer.code, answer.detail, fields={field: message})
    return Problem(answer.code, answer.detail)


def problem_of(error: Exception, outages: tuple[type[Exception], ...], *, read: bool) -> Problem:
    """What any exception is to the client. `outages` are those that mean: a dependency is down."""
    if isinstance(error, Problem):
        return error
    if type(error) in _CONFLICTS:
        return Problem(RejectCode.CONFLICT, _CONFLICTS[type(error)])
    if isinstance(error, (*outages, OSError, TimeoutError)):
        return Problem(Fault.UNAVAILABLE if read else Fault.OUTCOME_UNKNOWN)
    return Problem(GatewayCode.INTERNAL)


_CONFLICTS: Final[Mapping[type[Exception], str]] = {
    AddressTaken: "the address is a wallet already",
    FeedTaken: "there is a feed of this name",
    KeyTaken: "another provider has this public_key",
    NotNewer: "the provider has said something else about this instant, or something about a later one",
    OracleFull: "there are as many feeds, or providers, as there may be",
    UnknownFeed: "there is no such feed that takes submissions",
    EmailTaken: "another account has this address",
    MeterRetired: "a retired meter does not change any more",
    NotInForce: "valid_from must not be in the past, and after the assignment before it",
    SerialTaken: "another meter has this serial",
    UnknownOwner: "there is no such user",
    UnknownZone: "there is no such zone",
    LastAdmin: "somebody must be able to administer: this is the last admin",
    PlatformWalletKept: "there is one platform wallet per person, and it stays: it holds its only key",
    ReferenceReused: "the Idempotency-Key belongs to a request with other contents",
    SymbolTaken: "another market has this symbol",
    TooManyKeys: "there are as many API keys as there may be: revoke one first",
    TooManyRecurring: "there are as many recurring orders as there may be: stop one first",
    WalletsFull: "no more wallets, or open challenges, than you have",
}


def error_table() -> str:
    """The table of docs/errors.md, as Markdown, in the order of the statuses."""
    rows = ["| code | number | status | repeat? | meaning |", "| --- | --- | --- | --- | --- |"]
    rows += [
        f"| `{code.name}` | {_number(code)} | {status} | {'yes' if retryable else 'no'} | {title} |"
        for code, (status, retryable, title) in sorted(
            MEANING.items(), key=lambda item: (item[1].status, _number(item[0]))
        )
    ]
    return "\n".join(rows) + "\n"


def _number(code: Code) -> int:
    """Faults carry small numbers on the data plane; on paper they live in the gateway's band."""
    return 9_100 + code.value if isinstance(code, Fault) else code.value
