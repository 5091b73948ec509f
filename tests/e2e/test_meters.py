"""A meter of the running exchange: signed readings, kWh that can be sold once, an aggregator that dies in between."""

import asyncio
import base64
import time
import uuid
from decimal import Decimal
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from engine.metering.readings import Interval, signed_bytes
from tests.support import faults
from tests.support.installation import Installation, Person
from tests.support.patience import HUNG_SECONDS

WINDOW_US = 900_000_000


class Meter:
    """A device that signs what it measures."""

    def __init__(self, owner: Person, serial: str, kind: str = "producer") -> None:
        self.owner, self.key = owner, Ed25519PrivateKey.generate()
        public_key = base64.b64encode(self.key.public_key().public_bytes_raw()).decode()
        body = {"serial": serial, "kind": kind, "rated_power_w": 10_000, "public_key": public_key, "zone": "Z1"}
        self.meter_id = str(owner.call("POST", "/meters", body)["id"])

    def says(self, counter: int, start_us: int, export_wh: int, import_wh: int = 0) -> dict[str, Any]:
        reading = Interval(uuid.UUID(self.meter_id).bytes, counter, start_us, 900, import_wh, export_wh)
        return {
            "meter_id": self.meter_id,
            "counter": counter,
            "start": start_us,
            "duration_s": 900,
            "import_wh": import_wh,
            "export_wh": export_wh,
            "signature": base64.b64encode(self.key.sign(signed_bytes(reading))).decode(),
        }


def available(person: Person, kwh: str) -> Decimal:
    """What the person may sell, once it is as much as this, or after half a minute."""
    deadline = time.monotonic() + HUNG_SECONDS
    while True:
        held = person.call("GET", "/energy/balance")["available"].get("Z1", "0")
        if Decimal(held) >= Decimal(kwh) or time.monotonic() > deadline:
            return Decimal(held)
        time.sleep(0.1)


def test_what_a_meter_has_proved_is_sold_and_no_kwh_twice(installation: Installation, quiet: None) -> None:
    owner = installation.person().register()
    meter = Meter(owner, f"E2E-{uuid.uuid4().hex[:12]}")
    first = time.time_ns() // 1_000 // WINDOW_US * WINDOW_US - 6 * WINDOW_US
    readings = [meter.says(place, first + place * WINDOW_US, 250) for place in range(6)]

    assert owner.call("POST", "/readings", readings[:3])["accepted"] == 3
    asyncio.run(faults.kill_actor(installation, kind="MeterAggregatorActor"))
    deadline = time.monotonic() + HUNG_SECONDS
    while (answer := owner.ask("POST", "/readings", readings)).status_code == 503 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert (answer.json()["duplicates"], answer.json()["accepted"]) == (3, 3)

    # the window that ends last waits for 120 s of the meter's own time
    assert available(owner, "1.25") == Decimal("1.25")
    order = {"market": "CAMPUS", "side": "sell", "type": "limit", "price": "3.000", "quantity": "1.251"}
    assert owner.refused("POST", "/orders", order) == "INSUFFICIENT_ENERGY"
    assert owner.call("POST", "/orders", {**order, "quantity": "1.250"})["status"] == "open"
    assert owner.refused("POST", "/orders", {**order, "quantity": "0.001"}) == "INSUFFICIENT_ENERGY"
    windows = owner.call("GET", "/energy/windows")["items"]
    assert [one["credited"] for one in windows] == ["0.250"] * 5
