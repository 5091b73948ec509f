"""The few LDAP messages that finding somebody and trying his password take, as bytes (RFC 4511).

Filters are values, never text: there is nothing to escape and nothing to inject. The shapes are those of
pyasn1-modules, which says rfc2251; what changed in RFC 4511 does not touch them.
"""

from typing import Any, Final

from msgspec import Struct
from pyasn1.codec.ber import decoder, encoder
from pyasn1.error import PyAsn1Error
from pyasn1_modules import rfc2251

SUCCESS: Final = 0
NO_SUCH_OBJECT: Final = 32
START_TLS: Final = b"1.3.6.1.4.1.1466.20037"
NO_ATTRIBUTES: Final = "1.1"
BASE_OBJECT: Final = 0
WHOLE_SUBTREE: Final = 2
_NEVER_DEREFERENCE: Final = 0


class Garbled(Exception):
    """What came is no LDAP message."""


class Equals(Struct, frozen=True):
    attribute: str
    value: bytes


class AnyOf(Struct, frozen=True):
    parts: tuple[Equals, ...]


class Entry(Struct, frozen=True):
    """attributes: values by lower-case name, without options (`cn;lang-de` is not `cn`)."""

    dn: str
    attributes: dict[str, list[bytes]]


class Done(Struct, frozen=True):
    """The end of an operation, with its result code."""

    code: int


class Aside(Struct, frozen=True):
    """A message that we follow no further, such as a reference to another server."""


class Received(Struct, frozen=True):
    number: int
    content: Entry | Done | Aside


def bind(number: int, dn: str, password: bytes) -> bytes:
    """A simple bind. An empty name or password would be an anonymous bind, which succeeds for everybody."""
    assert dn, "a bind needs a name"
    assert password, "a bind needs a password"
    request = rfc2251.BindRequest()
    request["version"], request["name"] = 3, dn.encode()
    request["authentication"]["simple"] = password
    return _message(number, "bindRequest", request)


def start_tls(number: int) -> bytes:
    request = rfc2251.ExtendedRequest()
    request["requestName"] = START_TLS
    return _message(number, "extendedReq", request)


def search(
    number: int, base: str, scope: int, condition: Equals | AnyOf, attributes: tuple[str, ...], limits: tuple[int, int]
) -> bytes:
    """limits: how many entries, how many seconds, at most."""
    request = rfc2251.SearchRequest()
    request["baseObject"], request["scope"], request["derefAliases"] = base.encode(), scope, _NEVER_DEREFERENCE
    request["sizeLimit"], request["timeLimit"], request["typesOnly"] = *limits, False
    _fill(request["filter"], condition)
    for place, name in enumerate(attributes):
        request["attributes"][place] = name.encode()
    return _message(number, "searchRequest", request)


def decode(frame: bytes) -> Received:
    """One whole message. Raises Garbled."""
    try:
        message, rest = decoder.decode(frame, asn1Spec=rfc2251.LDAPMessage())
        operation = message["protocolOp"]
        kind, body = operation.getName(), operation.getComponent()
        if rest:
            raise Garbled("more than one message in a frame")
        return Received(int(message["messageID"]), _content(kind, body))
    except (PyAsn1Error, ValueError, RecursionError) as error:
        raise Garbled(type(error).__name__) from None


def _content(kind: str, body: Any) -> Entry | Done | Aside:
    match kind:
        case "searchResEntry":
            attributes: dict[str, list[bytes]] = {}
            for part in body["attributes"]:
                attributes[bytes(part["type"]).decode().lower()] = [bytes(value) for value in part["vals"]]
            return Entry(bytes(body["objectName"]).decode(), attributes)
        case "bindResponse" | "searchResDone" | "extendedResp":
            return Done(int(body["resultCode"]))
        case _:
            return Aside()


def _fill(target: Any, condition: Equals | AnyOf) -> None:
    if isinstance(condition, AnyOf):
        for place, part in enumerate(condition.parts):
            _fill(target["or"][place], part)
    else:
        target["equalityMatch"]["attributeDesc"] = condition.attribute.encode()
        target["equalityMatch"]["assertionValue"] = condition.value


def _message(number: int, kind: str, request: Any) -> bytes:
    message = rfc2251.LDAPMessage()
    message["messageID"] = number
    message["protocolOp"][kind] = request
    encoded: bytes = encoder.encode(message)
    return encoded
