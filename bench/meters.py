"""Meters and head-ends as clients of the API: keys that sign, and readings sent until it is known what became of them.

`ReadingLog` is the judge of faults: what the exchange has acknowledged of readings, written down by who sent them.
"""

import asyncio
import base64
import secrets
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Struct

from bench.client import REPEAT_SECONDS_MAX, UNKNOWN_STATUSES, ApiError, Trader
from bench.http import ConnectionBroken, HttpPool
from engine.metering.readings import Interval, batch_bytes, signed_bytes

PAUSE_SECONDS: Final = 0.05  # before the same is sent again


class Said(Struct, frozen=True):
    """A reading as its meter signed it."""

    reading: Interval
    signature: bytes

    def shown(self, *, signed: bool = True) -> dict[str, Any]:
        """As the API takes it; without its own signature when a head-end signs for it."""
        one = self.reading
        fields: dict[str, Any] = {
            "meter_id": str(uuid.UUID(bytes=one.meter_id)),
            "counter": one.counter,
            "start": one.start_us,
            "duration_s": one.duration_s,
            "import_wh": one.import_wh,
            "export_wh": one.export_wh,
        }
        if one.corrects is not None:
            fields["corrects"] = one.corrects
        if signed:
            fields["signature"] = base64.b64encode(self.signature).decode()
        return fields


class Device:
    """A meter and the key in it; it counts what it says."""

    def __init__(self, meter_id: str, key: Ed25519PrivateKey) -> None:
        self.meter_id, self._key = meter_id, key
        self.public_key = key.public_key().public_bytes_raw()
        self._id, self._counter = uuid.UUID(meter_id).bytes, 0

    def says(
        self, start_us: int, import_wh: int, export_wh: int, seconds: int = 900, corrects: int | None = None
    ) -> Said:
        self._counter += 1
        reading = Interval(self._id, self._counter, start_us, seconds, import_wh, export_wh, corrects)
        return Said(reading, self._key.sign(signed_bytes(reading)))


class HeadEnd(Trader):
    """Speaks for meters with an API key, and signs for all of them at once."""

    def __init__(self, pool: HttpPool, host: str, key_id: str, secret: str, key: Ed25519PrivateKey) -> None:
        super().__init__(pool, host, "", "")
        self.token, self._key_id, self._key = secret, key_id, key

    def batch(self, readings: Sequence[Said]) -> dict[str, Any]:
        """A body that is signed once."""
        batch_id = uuid.uuid4()
        message = batch_bytes(self._key_id.encode(), batch_id.bytes, [one.reading for one in readings])
        return {
            "key_id": self._key_id,
            "batch_id": str(batch_id),
            "readings": [one.shown(signed=False) for one in readings],
            "signature": base64.b64encode(self._key.sign(message)).decode(),
        }


class Acknowledged(Struct, frozen=True, gc=False):
    """A reading of which the exchange has said that it has it."""

    meter_id: str
    counter: int
    start_us: int
    duration_s: int
    import_wh: int
    export_wh: int
    corrects: int | None
    duplicate: bool


class ReadingLog:
    """Every acknowledged reading, one JSON object a line, flushed as it comes; in memory only counted."""

    def __init__(self, path: Path | None = None) -> None:
        self.count = 0
        self._file: IO[bytes] | None = path.open("ab", buffering=0) if path is not None else None

    def add(self, readings: Sequence[Said], verdicts: Sequence[dict[str, Any]]) -> None:
        """Verdicts are those of all readings, in their order."""
        found = [
            Acknowledged(
                str(uuid.UUID(bytes=said.reading.meter_id)),
                said.reading.counter,
                said.reading.start_us,
                said.reading.duration_s,
                said.reading.import_wh,
                said.reading.export_wh,
                said.reading.corrects,
                verdict["status"] == "duplicate",
            )
            for said, verdict in zip(readings, verdicts, strict=True)
            if verdict["status"] in ("accepted", "duplicate")
        ]
        self.count += len(found)
        if self._file is not None and found:
            self._file.write(b"".join(msgspec.json.encode(one) + b"\n" for one in found))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


async def install(owner: Trader, zone: str, *, kind: str = "prosumer", rated_power_w: int = 20_000) -> Device:
    """A new meter of this owner, with a key of its own."""
    key = Ed25519PrivateKey.generate()
    body = {
        "serial": f"SIM-{secrets.token_hex(8)}",
        "kind": kind,
        "zone": zone,
        "rated_power_w": rated_power_w,
        "public_key": _public(key),
    }
    return Device((await owner.call("POST", "/meters", body))["id"], key)


async def found_head_end(admin: Trader, pool: HttpPool, host: str, devices: Sequence[Device]) -> HeadEnd:
    """A head-end for these meters; only an admin can make one."""
    key = Ed25519PrivateKey.generate()
    meter_ids = [device.meter_id for device in devices]
    body = {"name": "simulated head-end", "meter_ids": meter_ids, "public_key": _public(key)}
    made = await admin.call("POST", "/admin/ami-keys", body)
    return HeadEnd(pool, host, made["id"], made["secret"], key)


async def submit(
    sender: Trader, body: Any, readings: Sequence[Said], log: ReadingLog, seconds_max: float = REPEAT_SECONDS_MAX
) -> list[dict[str, Any]]:
    """The verdicts on these readings, sent as `body` until the outcome is known. Raises ApiError, TimeoutError."""
    async with asyncio.timeout(seconds_max):
        while True:
            try:
                answer = await sender.send("POST", "/readings", body)
            except (ConnectionBroken, ConnectionError, TimeoutError):  # the last: of one request, not of this block
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            if answer.status in UNKNOWN_STATUSES or answer.status == 429:
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            if answer.status != 200:
                raise ApiError(answer.status, answer.json())
            verdicts: list[dict[str, Any]] = answer.json()["results"]
            log.add(readings, verdicts)
            return verdicts


def _public(key: Ed25519PrivateKey) -> str:
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()
