"""Meters: registering one's own, its keys and its device, and whom an admin gives it to.

Claiming a serial proves nothing: a meter is verified by the first reading that its key has signed.
"""

import base64
import binascii
import uuid
from typing import Annotated, Any, Final, Literal

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key
from litestar import Controller, get, patch, post
from litestar.params import FromPath, JSONBody
from msgspec import Meta, Struct

from engine.metering.readings import canonical_serial
from engine.metering.records import MeterChange, MeterRecord, NewMeter
from gateway.errors import invalid, not_found
from gateway.instants import format_instant, parse_instant
from gateway.permissions import ADMIN, AMI
from gateway.requests import LIMIT_DEFAULT, Cursor, GatewayRequest, Limit, Page, cursor_of, parse_cursor
from gateway.wire import Instant

_KEY_BYTES: Final = 32
_POWER_MAX: Final = 10_000_000
REGISTER_WH_MAX: Final = 999_999_999  # what a register of six digits of kWh and three decimals shows at most
Serial = Annotated[str, Meta(min_length=1, max_length=80)]
PublicKey = Annotated[str, Meta(max_length=60, description="base64 of the 32 bytes of an Ed25519 key")]
EcdsaKey = Annotated[str, Meta(max_length=700, description="base64 of the DER of the key that signs OCMF records")]
ZoneName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_\-]{1,32}$(?!\n)")]


class MeterRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """`zone`: one's own, if left out. `register_wh_max`: the highest total before the register is at 0 again."""

    serial: Serial
    kind: Literal["consumer", "producer", "prosumer"]
    rated_power_w: Annotated[int, Meta(ge=1, le=_POWER_MAX)]
    public_key: PublicKey
    zone: ZoneName | None = None
    ocmf_public_key: EcdsaKey | None = None
    register_wh_max: Annotated[int, Meta(ge=999, le=10**15)] = REGISTER_WH_MAX


class MeterPatch(Struct, frozen=True, forbid_unknown_fields=True):
    """A new `public_key` counts at once. `exchange`: it is that of another device, which counts from the beginning.

    `retires`: whether what the meter imports uses up the owner's energy. A retired meter stays so.
    """

    public_key: PublicKey | None = None
    ocmf_public_key: EcdsaKey | None = None
    exchange: bool = False
    retires: bool | None = None
    status: Literal["retired"] | None = None


class AssignmentRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """`valid_from`: now, when it is left out, and never in the past."""

    owner_id: str
    zone: ZoneName
    valid_from: Instant | None = None


class MeterView(Struct, frozen=True):
    id: str
    serial: str
    kind: str
    zone: str
    owner_id: str
    rated_power_w: int
    register_wh_max: int
    status: str
    retires: bool
    device: int
    public_key: str
    ocmf_public_key: str | None
    created_at: Instant


class MeterController(Controller):
    path = "/meters"
    tags = ["meters"]  # noqa: RUF012 - Litestar reads it so

    @post()
    async def register(self, request: GatewayRequest, data: JSONBody[MeterRequest]) -> MeterView:
        """A new meter of one's own. Its serial is unique, however it is spelled."""
        gateway, caller = request.gateway, request.caller
        serial = canonical_serial(data.serial)
        if not serial or not all(one.isascii() and (one.isalnum() or one in "._:/") for one in serial):
            raise invalid("serial", "has letters, digits, dots, colons, slashes, spaces and dashes")
        if len(serial) > 64:
            raise invalid("serial", "has at most 64 characters besides spaces and dashes")
        new = NewMeter(
            uuid.uuid4().bytes,
            serial,
            data.kind,
            data.rated_power_w,
            data.register_wh_max,
            data.zone or caller.zone,
            _ed25519(data.public_key),
            _ecdsa(data.ocmf_public_key) if data.ocmf_public_key is not None else None,
        )
        return show_meter(await gateway.metering.meters.register(new, caller.user_id, gateway.clock(), request.origin))

    @get()
    async def meters(
        self, request: GatewayRequest, limit: Limit = LIMIT_DEFAULT, cursor: Cursor = None
    ) -> Page[MeterView]:
        """One's own meters; of a head-end, those that it speaks for."""
        after = (parse_cursor(cursor, 1) or (0,))[0]
        gateway, caller = request.gateway, request.caller
        if caller.role == AMI:
            head_end = await gateway.head_ends.of(caller)
            found = await gateway.metering.meters.by_ids(head_end.meter_ids)
            rows = sorted((one for one in found if one.number > after), key=lambda one: one.number)[: limit + 1]
        else:
            rows = await gateway.metering.meters.of_owner(caller.user_id, after, limit + 1)
        shown = [show_meter(row) for row in rows[:limit]]
        return Page(shown, cursor_of(rows[limit - 1].number) if len(rows) > limit else None)

    @get("/{meter_id:str}")
    async def meter(self, request: GatewayRequest, meter_id: FromPath[str]) -> MeterView:
        return show_meter(await own_meter(request, meter_id))

    @patch("/{meter_id:str}")
    async def change(self, request: GatewayRequest, meter_id: FromPath[str], data: JSONBody[MeterPatch]) -> MeterView:
        """The owner's, or an admin's, to change."""
        if data.exchange and data.public_key is None:
            raise invalid("exchange", "another device has another public_key")
        meter = await own_meter(request, meter_id)
        change = MeterChange(
            public_key=_ed25519(data.public_key) if data.public_key is not None else None,
            ecdsa_key=_ecdsa(data.ocmf_public_key) if data.ocmf_public_key is not None else None,
            exchange=data.exchange,
            retires=data.retires,
            retired=data.status == "retired",
        )
        gateway = request.gateway
        return show_meter(await gateway.metering.meters.change(meter.meter_id, change, gateway.clock(), request.origin))

    @post("/{meter_id:str}/assignments")
    async def assign(
        self, request: GatewayRequest, meter_id: FromPath[str], data: JSONBody[AssignmentRequest]
    ) -> MeterView:
        """Another owner or zone from an instant on; energy of the time before stays with who owned the meter then."""
        gateway, now_us = request.gateway, request.gateway.clock()
        meter = await own_meter(request, meter_id)
        from_us = now_us if data.valid_from is None else parse_instant(data.valid_from, "valid_from")
        return show_meter(
            await gateway.metering.meters.assign(
                meter.meter_id, _user_id(data.owner_id), data.zone, from_us, now_us, request.origin
            )
        )


async def own_meter(request: GatewayRequest, text: str) -> MeterRecord:
    """A meter that the caller owns, speaks for as a head-end, or administers. Raises NOT_FOUND for any other."""
    gateway, caller = request.gateway, request.caller
    try:
        meter_id = uuid.UUID(text).bytes
    except ValueError:
        raise not_found("meter") from None
    meter = await gateway.metering.meters.by_id(meter_id)
    if meter is None:
        raise not_found("meter")
    if caller.role == AMI:
        if meter_id not in (await gateway.head_ends.of(caller)).meter_ids:
            raise not_found("meter")
    elif caller.role != ADMIN and meter.owner_id != caller.user_id:
        raise not_found("meter")
    return meter


def show_meter(meter: MeterRecord) -> MeterView:
    return MeterView(
        id=str(uuid.UUID(bytes=meter.meter_id)),
        serial=meter.serial,
        kind=meter.kind,
        zone=meter.zone,
        owner_id=str(meter.owner_id),
        rated_power_w=meter.rated_power_w,
        register_wh_max=meter.register_wh_max,
        status=meter.status,
        retires=meter.retires,
        device=meter.device,
        public_key=base64.b64encode(meter.public_key).decode(),
        ocmf_public_key=base64.b64encode(meter.ecdsa_key).decode() if meter.ecdsa_key is not None else None,
        created_at=format_instant(meter.created_us),
    )


def _user_id(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise invalid("owner_id", "must be the id of a user")
    return int(text)


def _decoded(text: str, field: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise invalid(field, "must be base64") from None


def _ed25519(text: str) -> bytes:
    key = _decoded(text, "public_key")
    if len(key) != _KEY_BYTES:
        raise invalid("public_key", f"must be base64 of {_KEY_BYTES} bytes")
    return key


def _ecdsa(text: str) -> bytes:
    der = _decoded(text, "ocmf_public_key")
    try:
        key: Any = load_der_public_key(der)
    except ValueError:
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise invalid("ocmf_public_key", "must be base64 of the DER of a key on an elliptic curve")
    return der
