"""OpenAPI 3.1 and the page that shows it, which loads nothing from any other host.

The page is one file beside this one; its script and style are inline, and the content security policy permits exactly
them, by their hashes.
"""

import base64
import hashlib
import re
from pathlib import Path
from typing import Any, Final

import msgspec
from litestar import Request
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, OpenAPIRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme

from engine.metering.messages import SUBMIT_READINGS_MAX
from gateway.edge import READS, open_document
from gateway.errors import MEANING, error_table
from gateway.permissions import permission_of
from gateway.readings import BatchRequest, ReadingRequest
from gateway.repeats import SECRET

_PAGE: Final = Path(__file__).with_name("documentation.html")
_INLINE: Final = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)
_DESCRIPTION: Final = """A peer-to-peer energy exchange. Decimals and ids are strings, instants RFC 3339 UTC.

Lists answer `{"items": [...], "next": cursor or null}` and take `limit` and `cursor`. Bodies are JSON, or msgpack with
`Content-Type: application/msgpack`; answers are msgpack with `Accept: application/msgpack`.

A write can be repeated. With an `Idempotency-Key`, the same request of the same caller within a day gets its first
answer again, marked `Idempotent-Replayed: true`; another request with that key is a CONFLICT, and so is a repeat while
the first one runs, with `Retry-After`. A first request that found no end is OUTCOME_UNKNOWN: look, then use another
key. Answers that say `retryable` leave the key free. An order is kept by its market under `client_order_id`, or the
key in its place, for good: its repeat shows the order as it is now. Where passwords, tokens or keys are asked or
answered the header means nothing. A read waits until it shows one's own writes; when it could not, it says so with
`X-Projection-Lag: 1`.

The checksum of a book is the CRC32 (IEEE) of its ten best levels as shown, best first, bid and ask in turn, each as
`price:quantity`, joined by `|`; a side that is shorter is left out from where it ends.

Log in for an access token (`Authorization: Bearer ...`), or make an API key for a program (`X-API-Key: ...`); a route's
`x-scope` is what a key needs for it, and without one a key will not do.

WebSocket `/ws`: text frames are JSON, binary frames msgpack. `{"op": "auth", "token": ...}` (or `"api_key"`) first, for
own channels and orders. Requests carry `id`, answers are `{"id", "ok": true, ...}` or `{"id", "ok": false, "error":
problem}`. Operations: `place` (`order`), `place_batch` (`orders`, `cancels`), `amend` (`order_id`, `price`,
`quantity`), `cancel` (`order_id`), `cancel_all` (`market`), `cancel_all_after` (`seconds`), `subscribe` and
`unsubscribe` (`channel` or `channels`, `market` or `markets`), `alert` (`market`, `price`, `when`: at_or_above or
at_or_below) and `drop_alert` (`alert_id`), `ping`. Channels: `book`, `trades`, `ticker`, `epochs`
of a market, and one's own `orders`, `fills`, `balances`, `energy`. A book begins with a `snapshot`; each `delta` goes
from `previous_sequence` to `sequence`, and the quantity `0.000` means that the level is gone. After `gap` read again
what it names. A connection that reads too slowly is told `lagged` and closed with 4008; one whose login is over, with
4001.

Compact orders, binary only: `["o", id, market, side 0|1, price_micro, quantity_wh, client_order_id, flags]` with the
flags 1 post_only, 2 ioc, 4 fok; the answer is `["a", id, order_id, status, sequence, filled_wh]` or
`["e", id, code, detail]`.

Errors are problem details (RFC 9457). Decide by `code`:

"""
_PROBLEM: Final[dict[str, Any]] = {
    "type": "object",
    "description": "RFC 9457 problem details",
    "required": ["type", "title", "status", "code", "detail", "retryable"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "enum": sorted(code.name for code in MEANING)},
        "detail": {"type": "string"},
        "retryable": {"type": "boolean", "description": "whether the same request may succeed later"},
        "fields": {"type": "object", "additionalProperties": {"type": "string"}},
        "retry_after_seconds": {"type": "integer"},
        "request_id": {"type": "string"},
    },
}
_PROBLEM_ANSWER: Final = {
    "description": "A refusal",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}


_INSTANT: Final = {"format": "date-time", "examples": ["2026-11-21T10:15:00Z"]}
_FORMS: Final[dict[str, dict[str, Any]]] = {  # of parameters, by their names
    "from": _INSTANT,
    "to": _INSTANT,
    "known_at": _INSTANT,
    "start": _INSTANT,
    "cursor": {"pattern": "^[A-Za-z0-9_-]+$"},
    "order_id": {"pattern": "^[0-9]{1,9}-[0-9]{1,18}$", "examples": ["1-42"]},
}
_CSV: Final = ("/api/v1/reports/daily", "/api/v1/reports/monthly")  # for who accepts text/csv
_IDEMPOTENCY_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Within a day, the same request with the same key gets its first answer again",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,64}$"},
}


# What handlers read by themselves, because its parts are refused one by one.
_REFERENCE: Final = "#/components/schemas/{name}"
_READING: Final = {"$ref": "#/components/schemas/ReadingRequest"}
_EACH: Final = {"anyOf": [_READING, {}], "description": "What is no reading is refused by itself; the others count"}
_READINGS: Final = {"type": "array", "items": _EACH, "minItems": 1, "maxItems": SUBMIT_READINGS_MAX}
_SUBMISSION: Final = {"schema": {"anyOf": [_READING, _READINGS, {"$ref": "#/components/schemas/BatchRequest"}]}}
_RECORDS: Final = {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": SUBMIT_READINGS_MAX}
_BODIES: Final[dict[tuple[str, str], dict[str, Any]]] = {
    ("POST", "/api/v1/readings"): {
        "description": "A reading, a list of them, or a batch; as NDJSON a reading in each line",
        "content": {
            "application/json": _SUBMISSION,
            "application/msgpack": _SUBMISSION,
            "application/x-ndjson": {"schema": {"type": "string"}},
        },
    },
    ("POST", "/api/v1/readings/ocmf"): {
        "description": "OCMF records in a list, or one in each line",
        "content": {"application/json": {"schema": _RECORDS}, "text/plain": {"schema": {"type": "string"}}},
    },
}


class Description(JsonRenderPlugin):
    """Litestar's description of the routes, with our problems in place of its errors, and who may call what."""

    def __init__(self) -> None:
        super().__init__(path="/openapi.json")
        self._rendered: bytes | None = None

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        if self._rendered is None:
            schema = msgspec.json.decode(self.render_json(request, openapi_schema))
            self._rendered = msgspec.json.encode(_completed(schema))
        return self._rendered


def _completed(schema: dict[str, Any]) -> dict[str, Any]:
    schemas = schema["components"]["schemas"]
    schemas["Problem"] = _PROBLEM
    schemas |= msgspec.json.schema_components((ReadingRequest, BatchRequest), ref_template=_REFERENCE)[1]
    schemas["BatchRequest"]["properties"]["readings"] = _READINGS
    schemas["BatchAnswer"]["properties"]["results"]["items"] = {
        "oneOf": [{"$ref": "#/components/schemas/Order"}, {"$ref": "#/components/schemas/Problem"}]
    }
    for path in _CSV:
        content = schema["paths"][path]["get"]["responses"]["200"]["content"]
        content["text/csv"] = {"schema": {"type": "string", "description": "RFC 4180: the fields of items, in order"}}
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            _complete_operation(method.upper(), path, operation)
    return schema


def _complete_operation(method: str, path: str, operation: dict[str, Any]) -> None:
    permission = permission_of(method, path)
    if permission.roles:
        operation["security"] = [{"bearer": []}]
        if permission.scope:
            operation["security"].append({"key": []})
            operation["x-scope"] = permission.scope
        operation["x-roles"] = sorted(permission.roles)
    parameters = operation.setdefault("parameters", [])
    for parameter in parameters:
        parameter["schema"] = {**_without_null(parameter["schema"]), **_FORMS.get(parameter["name"], {})}
    if method not in READS and (method, path) not in SECRET:
        parameters.append(_IDEMPOTENCY_KEY)
    if (method, path) in _BODIES:
        operation["requestBody"] = {"required": True, **_BODIES[method, path]}
    body = operation.get("requestBody")
    if body is not None and {"type": "null"} in body["content"]["application/json"]["schema"].get("oneOf", ()):
        body["required"] = False
    answers = operation["responses"]
    answers.pop("400", None)
    for answer in answers.values():
        answer["description"] = "Done"
    answers["default"] = _PROBLEM_ANSWER


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter is there or it is not; `null` cannot be said in a query."""
    kinds = [kind for kind in schema.get("oneOf", ()) if kind != {"type": "null"}]
    rest = {name: value for name, value in schema.items() if name != "oneOf"}
    if len(kinds) == 1:
        return {**kinds[0], **rest}
    if "enum" in schema:
        return {**schema, "type": "string", "enum": [one for one in schema["enum"] if one is not None]}
    return schema


class DocumentationPage(OpenAPIRenderPlugin):
    def __init__(self) -> None:
        super().__init__(path="/")
        self._page = _PAGE.read_bytes()
        self._policy = policy_of(self._page)

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:  # noqa: ARG002
        open_document(request.scope, self._policy)
        return self._page


def policy_of(page: bytes) -> bytes:
    """The content security policy of a page of ours: its own inline scripts and styles, questions to its own host."""
    sources = {"script": "", "style": ""}
    for kind, text in _INLINE.findall(page.decode()):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        sources[kind] += f" 'sha256-{digest}'"
    return (
        f"default-src 'none'; script-src{sources['script']}; style-src{sources['style']}; "
        "connect-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ).encode()


def openapi_config(version: str) -> OpenAPIConfig:
    return OpenAPIConfig(
        title="Wattbook",
        version=version,
        description=_DESCRIPTION + error_table(),
        path="/schema",
        render_plugins=[DocumentationPage(), Description()],
        use_handler_docstrings=True,
        components=Components(
            security_schemes={
                "bearer": SecurityScheme(type="http", scheme="bearer", bearer_format="JWT"),
                "key": SecurityScheme(type="apiKey", name="X-API-Key", security_scheme_in="header"),
            }
        ),
    )
