"""Readings come in: one, a list, lines, a batch that a head-end signed once, or OCMF records; each gets its verdict.

A reading that is acknowledged is durable. What is not well formed is refused by itself and takes no other along.
"""

import base64
import binascii
import struct
import uuid
from collections.abc import Callable, Sequence
from typing import Annotated, Final, NamedTuple

import msgspec
from litestar import Controller, post
from litestar.params import QueryParameter
from msgspec import UNSET, Meta, Struct, UnsetType

from engine.messages import RejectCode
from engine.metering import ocmf
from engine.metering.messages import ACCEPTED, DUPLICATE, SUBMIT_READINGS_MAX, Judged, Signed
from engine.metering.readings import (
    METER_ID_BYTES,
    Interval,
    Reading,
    ReadingCode,
    Register,
    batch_message,
    canonical_serial,
    signed_bytes,
)
from engine.units import TimeUs
from engine.views import Failed
from gateway.edge import request_headers
from gateway.errors import GatewayCode, Problem, invalid
from gateway.head_ends import HeadEnd, check_batch
from gateway.instants import parse_instant
from gateway.permissions import AMI
from gateway.requests import GatewayRequest, broken
from gateway.signed_batches import Plain, plain_batch

_I64: Final = 2**63
_SHOWN_CODES: Final = {code.value: code.name for code in ReadingCode} | {
    ReadingCode.MALFORMED.value: RejectCode.VALIDATION_FAILED.name
}
Quiet = Annotated[int, QueryParameter(ge=0, le=1, description="1: tell only of those that were not accepted")]
Instant = int | str  # microseconds since 1970, or RFC 3339


class ReadingRequest(Struct, frozen=True):
    """An interval, with `start`, `duration_s`, `import_wh`, `export_wh`; or a register, with `at` and the two totals.

    Instants are microseconds since 1970, or RFC 3339. `signature`: base64 of Ed25519 over what docs/metering.md says.
    """

    meter_id: uuid.UUID
    counter: Annotated[int, Meta(ge=0)]
    start: Instant | UnsetType = UNSET
    duration_s: int | UnsetType = UNSET
    import_wh: int | UnsetType = UNSET
    export_wh: int | UnsetType = UNSET
    at: Instant | UnsetType = UNSET
    import_register_wh: int | UnsetType = UNSET
    export_register_wh: int | UnsetType = UNSET
    corrects: Annotated[int, Meta(ge=0)] | None = None
    signature: str = ""


class BatchRequest(Struct, frozen=True):
    """A head-end's batch, signed once with its own key."""

    key_id: str
    batch_id: uuid.UUID
    readings: msgspec.Raw
    signature: str


class Verdict(Struct, frozen=True, omit_defaults=True):
    """`status`: accepted, duplicate or rejected. `suspect`: accepted, though far above all of the last 30 days."""

    index: int
    status: str
    code: str | None = None
    detail: str | None = None
    suspect: bool = False


class Verdicts(Struct, frozen=True):
    accepted: int
    duplicates: int
    rejected: int
    results: list[Verdict]


class Malformed(NamedTuple):
    """A reading that nobody can be asked about."""

    code: ReadingCode
    detail: str


class Codec(NamedTuple):
    """How one encoding is read: the body's parts, and one reading."""

    array: Callable[[bytes], list[msgspec.Raw]]
    object: Callable[[bytes], dict[str, msgspec.Raw]]
    batch: Callable[[bytes], BatchRequest]
    plain: Callable[[bytes], list[Plain]]
    readings: Callable[[bytes], list[ReadingRequest]]
    reading: Callable[[bytes], ReadingRequest]


_JSON: Final = Codec(
    msgspec.json.Decoder(list[msgspec.Raw]).decode,
    msgspec.json.Decoder(dict[str, msgspec.Raw]).decode,
    msgspec.json.Decoder(BatchRequest).decode,
    msgspec.json.Decoder(list[Plain]).decode,
    msgspec.json.Decoder(list[ReadingRequest]).decode,
    msgspec.json.Decoder(ReadingRequest).decode,
)
_MSGPACK: Final = Codec(
    msgspec.msgpack.Decoder(list[msgspec.Raw]).decode,
    msgspec.msgpack.Decoder(dict[str, msgspec.Raw]).decode,
    msgspec.msgpack.Decoder(BatchRequest).decode,
    msgspec.msgpack.Decoder(list[Plain]).decode,
    msgspec.msgpack.Decoder(list[ReadingRequest]).decode,
    msgspec.msgpack.Decoder(ReadingRequest).decode,
)
_CODECS: Final = {
    "": _JSON,
    "application/json": _JSON,
    "application/msgpack": _MSGPACK,
    "application/x-msgpack": _MSGPACK,
}
_NOT_SIGNABLE: Final = "nothing of this form can have been signed"
_LINES: Final = ("application/x-ndjson", "application/ndjson", "application/jsonl")


class ReadingController(Controller):
    path = "/readings"
    tags = ["meters"]  # noqa: RUF012 - Litestar reads it so

    @post(status_code=200)
    async def submit(self, request: GatewayRequest, quiet: Quiet = 0) -> Verdicts:
        """One reading, a list of at most 10,000 (JSON or msgpack), one per line (NDJSON), or a head-end's signed batch.

        Each has its own verdict; good ones survive bad ones, and what is sent again counts once.
        """
        body, media_type = await request.body(), _media_type(request)
        try:
            if media_type in _LINES:
                return await _judge(request, _each(_lines(body), _JSON), None, quiet)
            codec = _CODECS.get(media_type)
            if codec is None:
                raise Problem(GatewayCode.UNSUPPORTED_MEDIA_TYPE, "bodies are JSON, NDJSON or msgpack")
            if _is_object(body, codec):
                parts = codec.object(body)
                if "readings" in parts:
                    return await _judge_batch(request, codec.batch(body), codec, quiet)
                return await _judge(request, [_signed(codec.reading(body))], None, quiet)
            return await _judge(request, _list(body, codec), None, quiet)
        except msgspec.ValidationError as error:
            raise broken(error) from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise Problem(RejectCode.VALIDATION_FAILED, "the body is not well formed") from None

    @post("/ocmf", status_code=200)
    async def submit_ocmf(self, request: GatewayRequest, quiet: Quiet = 0) -> Verdicts:
        """OCMF records as they are: a JSON list of texts, or one per line. They are verified on their raw bytes."""
        body = await request.body()
        if _media_type(request) == "application/json" or body.lstrip()[:1] == b"[":
            try:
                records = [one.encode() for one in msgspec.json.decode(body, type=list[str])]
            except (msgspec.DecodeError, UnicodeDecodeError):
                raise Problem(RejectCode.VALIDATION_FAILED, "the body is not well formed") from None
        else:
            records = _lines(body)
        _check_count(len(records))
        parsed = [_record(raw) for raw in records]
        serials = {canonical_serial(one.serial) for one in parsed if isinstance(one, ocmf.Record)}
        found = await request.gateway.metering.meters.by_serials(serials)
        ids = {meter.serial: meter.meter_id for meter in found}
        return await _judge(request, [_ocmf(one, ids) for one in parsed], None, quiet)


def _media_type(request: GatewayRequest) -> str:
    given = request_headers(request.scope).get(b"content-type", b"").decode("latin-1")
    return given.partition(";")[0].strip().lower()


def _is_object(body: bytes, codec: Codec) -> bool:
    if codec is _JSON:
        return body.lstrip()[:1] == b"{"
    return bool(body) and (body[0] & 0xF0 == 0x80 or body[0] in (0xDE, 0xDF))  # msgpack's three kinds of map


def _lines(body: bytes) -> list[bytes]:
    lines = [line for line in body.splitlines() if line.strip()]
    _check_count(len(lines))
    return lines


def _check_count(count: int) -> None:
    if not 1 <= count <= SUBMIT_READINGS_MAX:
        raise invalid("body", f"must have 1 to {SUBMIT_READINGS_MAX} readings")


def _list(body: bytes, codec: Codec) -> list[Signed | Malformed]:
    """All at once; only if one of them is not well formed, one by one."""
    try:
        readings = codec.readings(body)
    except msgspec.ValidationError:
        parts = [bytes(part) for part in codec.array(body)]
        _check_count(len(parts))
        return _each(parts, codec)
    _check_count(len(readings))
    return [_signed(reading) for reading in readings]


def _each(parts: Sequence[bytes], codec: Codec) -> list[Signed | Malformed]:
    found: list[Signed | Malformed] = []
    for part in parts:
        try:
            found.append(_signed(codec.reading(part)))
        except msgspec.DecodeError as error:  # a validation error is one of these
            found.append(Malformed(ReadingCode.MALFORMED, str(error)))
    return found


def _signed(request: ReadingRequest) -> Signed | Malformed:
    try:
        return Signed(_reading(request), base64.b64decode(request.signature, validate=True))
    except Problem as problem:
        return Malformed(ReadingCode.MALFORMED, problem.detail)
    except (binascii.Error, ValueError):
        return Malformed(ReadingCode.MALFORMED, "signature: must be base64")


def _reading(request: ReadingRequest) -> Reading:
    meter_id, counter, corrects = request.meter_id.bytes, _u64(request.counter, "counter"), request.corrects
    if corrects is not None:
        _u64(corrects, "corrects")
    if request.at is not UNSET:
        return Register(
            meter_id,
            counter,
            _instant(request.at, "at"),
            _integer(request.import_register_wh, "import_register_wh"),
            _integer(request.export_register_wh, "export_register_wh"),
            corrects,
        )
    return Interval(
        meter_id,
        counter,
        _instant(request.start, "start"),
        _integer(request.duration_s, "duration_s"),
        _integer(request.import_wh, "import_wh"),
        _integer(request.export_wh, "export_wh"),
        corrects,
    )


def _integer(value: int | UnsetType, field: str) -> int:
    if value is UNSET:
        raise invalid(field, "is missing")
    if not -_I64 <= value < _I64:
        raise invalid(field, "must fit 64 bits")
    return value


def _u64(value: int, field: str) -> int:
    if not 0 <= value < 2 * _I64:
        raise invalid(field, "must fit 64 bits")
    return value


def _instant(value: Instant | UnsetType, field: str) -> TimeUs:
    return parse_instant(value, field) if isinstance(value, str) else _integer(value, field)


def _record(raw: bytes) -> ocmf.Record | Malformed:
    try:
        return ocmf.parse(raw)
    except ocmf.Unreadable as error:
        return Malformed(error.code, error.detail)


def _ocmf(record: ocmf.Record | Malformed, ids: dict[str, bytes]) -> Signed | Malformed:
    if isinstance(record, Malformed):
        return record
    meter_id = ids.get(canonical_serial(record.serial))
    try:  # first, so that what is said about a record does not tell whether there is such a meter
        reading = ocmf.reading_of(record, meter_id or bytes(METER_ID_BYTES))
    except ocmf.Unreadable as error:
        return Malformed(error.code, error.detail)
    if meter_id is None:
        return Malformed(ReadingCode.UNKNOWN_METER, "no such meter of yours")
    return Signed(reading, record.signature, record.signed, record.algorithm)


async def _judge_batch(request: GatewayRequest, batch: BatchRequest, codec: Codec, quiet: int) -> Verdicts:
    """Signed once, so all or nothing is believed; what is believed is judged one by one."""
    if request.caller.role != AMI:
        raise Problem(GatewayCode.FORBIDDEN, "only a head-end signs batches")
    head_end = await request.gateway.head_ends.of(request.caller)
    body = bytes(batch.readings)
    plain = plain_batch(body, codec.plain)
    if plain is not None and plain.meter_ids <= head_end.meter_ids:
        await _check(batch, plain.readings, plain.signed, head_end)
        answer = await request.gateway.metering.readings.submit_batch(plain.signed)
        if isinstance(answer, Failed):
            raise Problem(answer.fault, answer.detail)
        return _verdicts(answer.codes, answer.details, answer.flags, quiet)
    found = _list(body, codec)
    readings = [one.reading for one in found if isinstance(one, Signed)]
    if len(readings) < len(found):
        raise invalid("readings", "the signature covers all of them, so each must be well formed")
    try:
        signed = b"".join([signed_bytes(reading) for reading in readings])
    except struct.error:
        raise Problem(GatewayCode.BAD_SIGNATURE, _NOT_SIGNABLE) from None
    await _check(batch, len(readings), signed, head_end)
    return await _judge(request, [Signed(reading) for reading in readings], head_end, quiet)


async def _check(batch: BatchRequest, count: int, signed: bytes, head_end: HeadEnd) -> None:
    """Raises BAD_SIGNATURE."""
    try:
        message = batch_message(batch.key_id.encode("ascii"), batch.batch_id.bytes, count, signed)
        signature = base64.b64decode(batch.signature, validate=True)
    except ValueError:  # binascii.Error and UnicodeEncodeError are such
        raise Problem(GatewayCode.BAD_SIGNATURE, _NOT_SIGNABLE) from None
    await check_batch(head_end, batch.key_id, message, signature)


async def _judge(
    request: GatewayRequest, found: Sequence[Signed | Malformed], vouching: HeadEnd | None, quiet: int
) -> Verdicts:
    """`vouching`: the head-end that has signed all of them together."""
    caller, gateway = request.caller, request.gateway
    _check_count(len(found))
    allowed: frozenset[bytes] | None = None
    if caller.role == AMI:
        allowed = (await gateway.head_ends.of(caller)).meter_ids
    codes, details, flags = [0] * len(found), dict[int, str](), dict[int, int]()
    places, sent = [], []
    for place, one in enumerate(found):
        if isinstance(one, Malformed):
            codes[place], details[place] = one.code.value, one.detail
        elif allowed is not None and one.reading.meter_id not in allowed:
            codes[place], details[place] = ReadingCode.UNKNOWN_METER.value, "no such meter of yours"
        else:
            places.append(place)
            sent.append(one)
    if sent:
        submitter = 0 if caller.role == AMI else caller.user_id
        answer = await gateway.metering.readings.submit(submitter, sent, vouching is not None)
        if isinstance(answer, Failed):
            raise Problem(answer.fault, answer.detail)
        _merge(answer, places, codes, details, flags)
    return _verdicts(codes, details, flags, quiet)


def _merge(answer: Judged, places: list[int], codes: list[int], details: dict[int, str], flags: dict[int, int]) -> None:
    for place, code in zip(places, answer.codes, strict=True):
        codes[place] = code
    details |= {places[place]: detail for place, detail in answer.details.items()}
    flags |= {places[place]: flag for place, flag in answer.flags.items()}


def _verdicts(codes: list[int], details: dict[int, str], flags: dict[int, int], quiet: int) -> Verdicts:
    accepted, duplicates = codes.count(ACCEPTED), codes.count(DUPLICATE)
    results = [
        _verdict(place, code, details.get(place), place in flags)
        for place, code in enumerate(codes)
        if code or not quiet
    ]
    return Verdicts(accepted, duplicates, len(codes) - accepted - duplicates, results)


def _verdict(index: int, code: int, detail: str | None, suspect: bool) -> Verdict:
    if code == ACCEPTED:
        return Verdict(index, "accepted", suspect=suspect)
    if code == DUPLICATE:
        return Verdict(index, "duplicate")
    return Verdict(index, "rejected", _SHOWN_CODES[code], detail)
