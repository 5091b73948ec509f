"""From a signed reading over HTTP to energy that can be sold: real gateway, aggregator and tables, in one process."""

import base64
import time
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import asyncpg
import httpx
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from actors.links import Links
from engine.metering.readings import Interval, Register, signed_bytes
from engine.metering.windows import WINDOW_US
from engine.units import SECOND_US
from gateway.app import create_app
from gateway.instants import format_instant
from gateway.ports import Metering as MeteringPorts
from gateway.settings import GatewaySettings
from persistence.analytics import PostgresAnalytics
from persistence.api_keys import PostgresApiKeys
from persistence.audit_log import PostgresAuditLog
from persistence.catalogue import PostgresCatalogue
from persistence.energy import PostgresEnergy
from persistence.first_answers import PostgresFirstAnswers
from persistence.history import PostgresHistory
from persistence.ledger import PostgresLedger
from persistence.makers import PostgresMakers
from persistence.meters import PostgresMeters
from persistence.oracle import PostgresOracle
from persistence.people import PostgresPeople
from persistence.rates import PostgresRates
from persistence.recurring import PostgresRecurring
from persistence.risk import PostgresRisk
from persistence.settlements import PostgresSettlements
from persistence.wallets import PostgresWallets
from tests.support.metering import NOW_US, SECRET, Metering, metering
from tests.support.no_chain import NoChain

PASSWORD = "sunny-roof-and-battery"


class Site:
    """A gateway on the meters of one process, and somebody who is logged in."""

    def __init__(self, meters: Metering, client: httpx.AsyncClient) -> None:
        self.meters, self.client = meters, client
        self.headers: dict[str, str] = {}

    async def login(self, email: str = "ann@campus.example") -> None:
        body = {"email": email, "password": PASSWORD, "name": "Ann"}
        assert (await self.client.post("/api/v1/auth/register", json=body)).status_code == 201
        answer = await self.client.post("/api/v1/auth/login", json={"email": email, "password": PASSWORD})
        self.headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}

    async def call(self, method: str, path: str, json: Any = None) -> Any:
        answer = await self.client.request(method, f"/api/v1{path}", json=json, headers=self.headers)
        assert answer.status_code < 300, answer.text
        return answer.json()

    async def meter(self, key: Ed25519PrivateKey, serial: str = "AB-1", **more: Any) -> str:
        public_key = base64.b64encode(key.public_key().public_bytes_raw()).decode()
        body = {"serial": serial, "kind": "prosumer", "rated_power_w": 10_000, "public_key": public_key, **more}
        return str((await self.call("POST", "/meters", body))["id"])


@pytest_asyncio.fixture
async def site(database: str, pool: "asyncpg.Pool[asyncpg.Record]", tmp_path: Path) -> AsyncIterator[Site]:
    async with metering(database, pool) as meters:
        await meters.start()
        await meters.up(meters.links[0])

        async def nowhere(*, waits: bool = False) -> list[Any]:
            return []

        app = create_app(
            people=PostgresPeople(pool),
            wallets=PostgresWallets(pool),
            vault=cast(Any, None),
            api_keys=PostgresApiKeys(pool),
            audit=PostgresAuditLog(pool),
            catalogue=PostgresCatalogue(pool),
            ledger=PostgresLedger(pool),
            history=PostgresHistory(pool),
            first_answers=PostgresFirstAnswers(pool, 100, 2**20),
            markets=Links(nowhere, SECRET),
            metering=MeteringPorts(
                PostgresMeters(pool),
                meters.links[0],
                PostgresEnergy(pool),
                PostgresAnalytics(pool),
                PostgresRates(pool),
            ),
            settlements=PostgresSettlements(pool),
            oracle=PostgresOracle(pool),
            risk=PostgresRisk(pool),
            chain=NoChain(),
            recurring=PostgresRecurring(pool),
            makers=PostgresMakers(pool, "THB"),
            clock=lambda: meters.now_us,
            elapsed=lambda: meters.now_us,
            settings=GatewaySettings(
                key_directory=tmp_path / "keys",
                access_seconds=86_400,  # the clock makes leaps
                bcrypt_cost=4,
                bcrypt_cost_lowered_for_tests=True,
            ),
        )
        gateway = app.state["gateway"]
        await gateway.start()
        transport = httpx.ASGITransport(cast(Any, app), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://exchange") as client:
            made = Site(meters, client)
            await made.login()
            yield made
        await gateway.stop()


def signed(key: Ed25519PrivateKey, meter_id: str, counter: int, start_us: int, export_wh: int, **more: Any) -> Any:
    reading = Interval(uuid.UUID(meter_id).bytes, counter, start_us, 900, more.get("import_wh", 0), export_wh)
    return {
        "meter_id": meter_id,
        "counter": counter,
        "start": start_us,
        "duration_s": 900,
        "import_wh": reading.import_wh,
        "export_wh": export_wh,
        "signature": base64.b64encode(key.sign(signed_bytes(reading))).decode(),
    }


async def test_signed_readings_become_energy_that_can_be_sold(site: Site) -> None:
    key = Ed25519PrivateKey.generate()
    meter_id = await site.meter(key)
    first = NOW_US - 8 * WINDOW_US

    verdicts = await site.call(
        "POST", "/readings", [signed(key, meter_id, n, first + n * WINDOW_US, 250, import_wh=20) for n in range(8)]
    )
    await site.meters.pass_time(3_600)

    assert (verdicts["accepted"], verdicts["rejected"]) == (8, 0)
    assert (await site.call("GET", f"/meters/{meter_id}"))["status"] == "verified"
    balance = await site.call("GET", "/energy/balance")
    assert (balance["generated"], balance["consumed"], balance["retired"]) == ("2.000", "0.160", "0.160")
    assert balance["available"] == {"Z1": "1.840"}
    sellable = {one["asset"]: one["available"] for one in (await site.call("GET", "/balances"))["items"]}
    assert sellable == {"energy:Z1": "1.840"}
    page = await site.call("GET", "/energy/windows?limit=3")
    assert [one["exported"] for one in page["items"]] == ["0.250"] * 3
    rest = await site.call("GET", f"/energy/windows?cursor={page['next']}")
    assert len(rest["items"]) == 5
    hours = await site.call("GET", f"/meters/{meter_id}/readings?resolution=1h")
    assert sum(one["export_wh"] for one in hours["items"]) == 2_000


async def test_a_question_can_be_asked_as_of_before(site: Site) -> None:
    key = Ed25519PrivateKey.generate()
    meter_id = await site.meter(key)
    start_us = NOW_US - 2 * WINDOW_US
    await site.call("POST", "/readings", signed(key, meter_id, 1, start_us, 250))
    await site.meters.pass_time(3_600)
    fix = Interval(uuid.UUID(meter_id).bytes, 2, start_us, 900, 0, 100, corrects=1)
    body = signed(key, meter_id, 2, start_us, 100) | {
        "corrects": 1,
        "signature": base64.b64encode(key.sign(signed_bytes(fix))).decode(),
    }
    known = site.meters.now_us
    site.meters.now_us += 60 * SECOND_US
    assert (await site.call("POST", "/readings", body))["accepted"] == 1
    await site.meters.pass_time(1)

    for query, exported, corrected in (("", 100, 2), (f"&known_at={format_instant(known)}", 250, None)):
        steps = await site.call("GET", f"/meters/{meter_id}/readings?resolution=15m{query}")
        raw = await site.call("GET", f"/meters/{meter_id}/readings?resolution=raw{query}")
        assert [one["export_wh"] for one in steps["items"]] == [exported]
        assert raw["items"][0]["corrected_by"] == corrected


async def test_a_new_owner_does_not_see_the_days_of_the_one_before(site: Site) -> None:
    key = Ed25519PrivateKey.generate()
    meter_id = await site.meter(key)
    await site.call("POST", "/readings", signed(key, meter_id, 1, NOW_US - WINDOW_US, 250))
    await site.meters.pass_time(3_600)
    bob = await site.meters.person("bob")
    real_now_us = time.time_ns() // 1_000  # assignments hold by the database's clock, which nobody sets
    pool = site.meters.pool
    await PostgresMeters(pool).assign(uuid.UUID(meter_id).bytes, bob, "Z1", real_now_us - 1, real_now_us - 2)

    found = await PostgresMeters(pool).by_id(uuid.UUID(meter_id).bytes)
    assert found is not None
    assert (found.owner_id, found.owned_from_us) == (bob, real_now_us - 1)
    await site.login("second@campus.example")
    me = int((await site.call("GET", "/users/me"))["id"])
    await PostgresMeters(pool).assign(uuid.UUID(meter_id).bytes, me, "Z1", real_now_us + 1, real_now_us)

    for query in ("raw", "15m"):
        assert (await site.call("GET", f"/meters/{meter_id}/readings?resolution={query}"))["items"] == []


async def test_an_ocmf_record_counts_as_it_is_and_not_when_a_byte_is_changed(site: Site) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    ocmf_key = base64.b64encode(der).decode()
    await site.meter(Ed25519PrivateKey.generate(), "BQ 274-003", ocmf_public_key=ocmf_key)
    began, ended = (
        datetime.fromtimestamp((NOW_US - windows * WINDOW_US) // SECOND_US, UTC).strftime(
            "%Y-%m-%dT%H:%M:%S,000+0000 S"
        )
        for windows in (2, 1)
    )
    payload = (
        f'{{"FV":"1.0","PG":"T7","MS":"BQ274003","RD":[{{"TM":"{began}","TX":"B","RV":10.5,'
        f'"RI":"1-b:1.8.0","RU":"kWh","ST":"G"}},{{"TM":"{ended}","TX":"E","RV":11.25}}]}}'
    )
    signature = key.sign(payload.encode(), ec.ECDSA(SHA256())).hex()
    record = f'OCMF|{payload}|{{"SA":"ECDSA-secp256r1-SHA256","SD":"{signature}"}}'

    answer = await site.call("POST", "/readings/ocmf", [record.replace("11.25", "11.35"), record, record])

    assert [one.get("code", one["status"]) for one in answer["results"]] == ["BAD_SIGNATURE", "accepted", "duplicate"]
    assert await site.meters.pool.fetchval("SELECT import_wh FROM readings") == 750


async def test_a_register_counts_its_difference(site: Site) -> None:
    key = Ed25519PrivateKey.generate()
    meter_id = await site.meter(key)
    body = []
    for counter, total in ((1, 5_000), (2, 5_250)):
        reading = Register(uuid.UUID(meter_id).bytes, counter, NOW_US + (counter - 3) * WINDOW_US, 0, total)
        body.append(
            {
                "meter_id": meter_id,
                "counter": counter,
                "at": reading.at_us,
                "import_register_wh": 0,
                "export_register_wh": total,
                "signature": base64.b64encode(key.sign(signed_bytes(reading))).decode(),
            }
        )

    assert (await site.call("POST", "/readings", body))["accepted"] == 2
    await site.meters.pass_time(3_600)

    assert (await site.call("GET", "/energy/balance"))["generated"] == "0.250"
