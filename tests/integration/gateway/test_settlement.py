"""Settlements, proofs and the oracle through the API, on real tables; the command line checks the proof by itself.

Seen to fail for: somebody else's side proven, a signature that nobody checks, an observation that is too old, a
provider that was put out and still counts.
"""

import base64
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import asyncpg
import httpx
import msgspec
import pytest
import pytest_asyncio
from typer.testing import CliRunner

from actors.links import Links, Place
from cli import app as command_line
from commands.oracle import read_key, submit
from commands.proof import parse_root, read_proof
from commands.shared import Failure
from engine.audit import SYSTEM
from engine.market import MarketSpec
from engine.market import Path as GridPath
from engine.oracle.submissions import signed_bytes
from engine.records import CostRecord, Want, ZoneRecord
from engine.settlement.netting import Rule
from engine.settlement.proofs import ProofWrong, verify
from engine.settlement.states import News
from engine.units import SECOND_US
from gateway.app import create_app
from gateway.ports import Metering
from gateway.settings import GatewaySettings
from persistence.api_keys import PostgresApiKeys
from persistence.audit_log import PostgresAuditLog
from persistence.catalogue import PostgresCatalogue
from persistence.first_answers import PostgresFirstAnswers
from persistence.history import PostgresHistory
from persistence.ledger import PostgresLedger
from persistence.makers import PostgresMakers
from persistence.oracle import PostgresOracle
from persistence.oracle_rounds import PostgresOracleRounds
from persistence.people import PostgresPeople
from persistence.projections import PostgresProjections
from persistence.recurring import PostgresRecurring
from persistence.risk import PostgresRisk
from persistence.settlements import PostgresSettlements, report
from persistence.wallets import PostgresWallets
from tests.support.metering import SECRET
from tests.support.no_chain import NoChain
from tests.support.oracle import Provider
from tests.support.rows import MARKET_ID, THB, batch, trade_row, trade_transfer

PASSWORD = "sunny-roof-and-battery"
ROUND_US = 300 * SECOND_US
START_US = 6_000_000 * ROUND_US
AT_ONCE = Rule(every_us=1, trades_max=100, part_accounts=6)


class Memory(Links):
    """Knows a market without an actor behind it."""

    def markets(self) -> dict[str, MarketSpec]:
        path = GridPath("Z1", "Z1", 0, 0)
        return {"CAMPUS": MarketSpec(market_id=MARKET_ID, symbol="CAMPUS", zones=("Z1",), paths=(path,))}


class Site:
    client: httpx.AsyncClient

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        self.pool, self.now_us = pool, START_US

    async def person(self, name: str, role: str = "student") -> tuple[int, dict[str, str]]:
        body = {"email": f"{name}@campus.example", "password": PASSWORD, "name": name}
        user_id = int((await self.client.post("/api/v1/auth/register", json=body)).json()["id"])
        await PostgresPeople(self.pool).update(user_id, role=role, now_us=self.now_us, origin=SYSTEM)
        login = {"email": body["email"], "password": PASSWORD}
        answer = await self.client.post("/api/v1/auth/login", json=login)
        return user_id, {"Authorization": f"Bearer {answer.json()['access_token']}"}

    async def get(self, path: str, headers: dict[str, str] | None = None, status: int = 200) -> Any:
        answer = await self.client.get(f"/api/v1{path}", headers=headers)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def send(self, method: str, path: str, body: Any, headers: dict[str, str] | None, status: int) -> Any:
        answer = await self.client.request(method, f"/api/v1{path}", json=body, headers=headers)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def trade(self, count: int, buyer: int, seller: int) -> None:
        ledger = PostgresLedger(self.pool)
        await ledger.deposit(buyer, THB, 10**9, "a", 1)
        await ledger.deposit(seller, "energy:Z1", 10**6, "b", 1)
        await ledger.draw(MARKET_ID, 1, [Want(buyer, THB, 10**9), Want(seller, "energy:Z1", 10**6)])
        rows = [trade_row(number, buyer, seller, time_us=START_US) for number in range(1, count + 1)]
        await PostgresProjections(self.pool).write(
            batch(0, count, trades=rows, transfers=[trade_transfer(row) for row in rows])
        )


@pytest_asyncio.fixture
async def site(pool: "asyncpg.Pool[asyncpg.Record]", tmp_path: Path) -> AsyncIterator[Site]:
    async def nowhere(*, waits: bool = False) -> list[Place]:
        return []

    made, catalogue = Site(pool), PostgresCatalogue(pool)
    await catalogue.put_zones([ZoneRecord("Z1", "A feeder")])
    await catalogue.put_costs([CostRecord("Z1", "Z1", 0, 0, 0)], START_US)
    app = create_app(
        people=PostgresPeople(pool),
        wallets=PostgresWallets(pool),
        vault=cast(Any, None),
        api_keys=PostgresApiKeys(pool),
        audit=PostgresAuditLog(pool),
        catalogue=catalogue,
        ledger=PostgresLedger(pool),
        history=PostgresHistory(pool),
        first_answers=PostgresFirstAnswers(pool, 100, 2**20),
        markets=Memory(nowhere, SECRET),
        metering=Metering(cast(Any, None), cast(Any, Silent()), cast(Any, None), cast(Any, None), cast(Any, None)),
        chain=NoChain(),
        settlements=PostgresSettlements(pool),
        oracle=PostgresOracle(pool),
        risk=PostgresRisk(pool),
        recurring=PostgresRecurring(pool),
        makers=PostgresMakers(pool, "THB"),
        clock=lambda: made.now_us,
        elapsed=lambda: made.now_us,
        settings=GatewaySettings(
            key_directory=tmp_path / "keys",
            access_seconds=86_400,
            bcrypt_cost=4,
            bcrypt_cost_lowered_for_tests=True,
        ),
    )
    transport = httpx.ASGITransport(cast(Any, app), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://exchange") as client:
        made.client = client
        gateway = app.state["gateway"]
        await gateway.start()
        gateway.barrier.note(MARKET_ID, 0)  # no market answers here
        yield made
        await gateway.stop()


class Silent:
    """Meters that nobody reads here."""

    def listen(self, listener: Any) -> None:
        return None


async def test_a_settled_trade_is_proven_without_the_exchange(site: Site, tmp_path: Path) -> None:
    (buyer, ann), (seller, bob), (_, eve) = [await site.person(name) for name in ("ann", "bob", "eve")]
    await site.trade(5, buyer, seller)
    before = await site.get("/trades/1-3/settlement", ann)
    await PostgresSettlements(site.pool).settle_due(START_US + 1, AT_ONCE)

    found = await site.get("/trades/1-3/settlement", ann)

    assert before == {
        "trade_id": "1-3",
        "status": "executed",
        "settlement_id": None,
        "transaction_signature": None,
        "proof": None,
    }
    assert (found["status"], found["proof"]["side"], found["proof"]["participant_id"]) == ("batched", "buyer", buyer)
    assert (await site.get("/trades/1-3/settlement", bob))["proof"]["side"] == "seller"
    assert seller not in found["proof"].values()
    for trade_id, headers in (("1-3", eve), ("1-9", ann), ("7-3", ann)):
        await site.get(f"/trades/{trade_id}/settlement", headers, 404)
    await site.get("/trades/x/settlement", ann, 400)

    settlement = await site.get(f"/chain/settlements/{found['settlement_id']}")
    assert (settlement["trades"], settlement["energy"], settlement["value"]) == (5, "5.000", "17.65")
    answer = tmp_path / "answer.json"
    answer.write_bytes(msgspec.json.encode(found))
    run = CliRunner().invoke(command_line, ["proof", "verify", str(answer), settlement["root"]])
    assert run.exit_code == 0, run.output
    assert f"trade 1-3 is in settlement {found['settlement_id']}" in run.output.replace("\n", "")


async def test_the_settlement_goes_where_its_parts_go(site: Site) -> None:
    (buyer, ann), (seller, _) = [await site.person(name) for name in ("ann", "bob")]
    await site.trade(5, buyer, seller)
    await PostgresSettlements(site.pool).settle_due(START_US + 1, AT_ONCE)
    [row] = await site.pool.fetch("SELECT key FROM outbox WHERE kind = 'settle'")

    async with site.pool.acquire() as connection, connection.transaction():
        await report(connection, row["key"], News.FINALIZED, "5x", START_US + 2)

    found = await site.get("/trades/1-1/settlement", ann)
    assert (found["status"], found["transaction_signature"]) == ("finalized", "5x")
    page = await site.get("/chain/settlements?limit=1")
    assert [one["status"] for one in page["items"]] == ["finalized"]
    assert page["next"] is None
    assert page["items"][0]["parts"][0]["transaction_signature"] == "5x"
    await site.get("/chain/settlements/" + "0" * 32, None, 404)
    await site.get("/chain/settlements/xyz", None, 400)


async def test_a_proof_that_was_changed_or_is_none_is_refused_in_words(site: Site, tmp_path: Path) -> None:
    (buyer, ann), (seller, _) = [await site.person(name) for name in ("ann", "bob")]
    await site.trade(5, buyer, seller)
    unsettled = msgspec.json.encode(await site.get("/trades/1-2/settlement", ann))
    await PostgresSettlements(site.pool).settle_due(START_US + 1, AT_ONCE)
    proof = (await site.get("/trades/1-2/settlement", ann))["proof"]
    root = bytes.fromhex(proof["root"])

    verify(read_proof(msgspec.json.encode(proof)), root)
    for change, words in (
        ({"energy_wh": 2_000}, "is not under this root"),
        ({"index": 7}, "no trade 7 among 5"),
        ({"path": []}, "leads nowhere"),
        ({"root": "00" * 32}, "another settlement"),
    ):
        with pytest.raises(ProofWrong, match=words):
            verify(read_proof(msgspec.json.encode(proof | change)), root)
    for content, words in (
        (b"", "no proof"),
        (b"[]", "no proof"),
        (b"{}", "missing required field"),
        (b"\xff", "no proof"),
        (msgspec.json.encode(proof | {"index": -1}), "index"),
        (msgspec.json.encode(proof | {"path": ["00" * 32] * 33}), "path"),
        (msgspec.json.encode(proof | {"more": 1}), "unknown field"),
        (unsettled, "the trade is executed"),
    ):
        with pytest.raises(Failure, match=words):
            read_proof(content)
    with pytest.raises(Failure, match="64 hexadecimal digits"):
        parse_root("0x12")
    assert parse_root("0x" + root.hex().upper()) == root
    for file in (tmp_path, tmp_path / "none"):
        run = CliRunner().invoke(command_line, ["proof", "verify", str(file), root.hex()])
        assert isinstance(run.exception, Failure)
        assert "cannot be read" in str(run.exception)


async def test_providers_are_registered_say_values_and_are_put_out(site: Site) -> None:
    _, boss = await site.person("boss", "admin")
    _, ann = await site.person("ann")
    keys = {name: Provider(name).key for name in ("solar", "grid")}
    ids = {}
    for name, key in keys.items():
        public_key = base64.b64encode(key.public_key().public_bytes_raw()).decode()
        body = {"name": name, "public_key": public_key, "feeds": ["retail_price"]}
        await site.send("POST", "/oracle/providers", body, ann, 403)
        ids[name] = (await site.send("POST", "/oracle/providers", body, boss, 201))["id"]
        await site.send("POST", "/oracle/providers", body, boss, 409)

    def said(name: str, value: str, at_us: int, **changes: Any) -> dict[str, Any]:
        one = Provider(name)
        at = datetime.fromtimestamp(at_us // SECOND_US, UTC).isoformat()
        micro = round(float(value) * 1_000_000)

        message = signed_bytes(uuid.UUID(ids[name]).bytes, "retail_price", micro, at_us)
        signature = base64.b64encode(one.key.sign(message)).decode()
        return {
            "feed": "retail_price",
            "value": value,
            "observed_at": at,
            "provider_id": ids[name],
            "signature": signature,
            **changes,
        }

    path = "/oracle/submissions"
    first = said("solar", "4.5", site.now_us)
    assert (await site.send("POST", path, first, None, 201))["repeated"] is False
    assert (await site.send("POST", path, first, None, 201))["repeated"] is True
    await site.send("POST", path, said("solar", "4.6", site.now_us), None, 409)
    for change in ({"value": "4.6"}, {"provider_id": ids["grid"]}, {"provider_id": "0" * 8 + ids["grid"][8:]}):
        assert (await site.send("POST", path, first | change, None, 403))["code"] == "BAD_SIGNATURE"
    for field, value in (("value", "1.0000001"), ("value", "1e3"), ("signature", "x"), ("provider_id", "1")):
        await site.send("POST", path, first | {field: value}, None, 400)
    await site.send("POST", path, said("grid", "4.5", site.now_us - 301 * SECOND_US), None, 400)
    await site.send("POST", path, said("grid", "4.5", site.now_us + 61 * SECOND_US), None, 400)
    await site.send("POST", path, first | {"feed": "none"}, None, 404)
    await site.send("POST", path, said("grid", "4.7", site.now_us), None, 201)
    site.now_us += ROUND_US
    await PostgresOracleRounds(site.pool).close_due(site.now_us)
    site.now_us += SECOND_US

    feed = await site.get("/oracle/feeds/retail_price")
    assert (feed["value"], feed["spread"], feed["age_seconds"], feed["stale"]) == ("4.600000", "0.200000", 1, False)
    [shown] = (await site.get("/oracle/feeds/retail_price/rounds"))["items"]
    assert [one["value"] for one in shown["submissions"]] == ["4.500000", "4.700000"]
    assert len((await site.get("/oracle/feeds"))["items"]) == 4
    out = await site.send("PATCH", f"/oracle/providers/{ids['grid']}", {"active": False}, boss, 200)
    assert out["active"] is False
    await site.send("POST", path, said("grid", "4.7", site.now_us), None, 403)
    await site.send("PATCH", f"/oracle/providers/{'0' * 8 + ids['grid'][8:]}", {"active": False}, boss, 404)
    new = {"feed": "gas_price", "name": "Gas", "unit": "THB/kWh", "decimals": 2}
    assert (await site.send("POST", "/oracle/feeds", new, boss, 201))["stale"] is True
    await site.send("POST", "/oracle/feeds", new, boss, 409)
    assert (await site.send("PATCH", "/oracle/feeds/gas_price", {"single_provider": True}, boss, 200))["quorum"] == 1
    log = (await site.get("/admin/audit?subject=feed:gas_price", boss))["items"]
    assert [row["action"] for row in log] == ["feed.changed", "feed.made"]


def test_the_providers_client_signs_what_the_exchange_checks(tmp_path: Path) -> None:
    run = CliRunner().invoke(command_line, ["oracle", "key", str(tmp_path / "key.pem")])
    key = read_key(tmp_path / "key.pem")
    asked: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            if request.url.path.endswith("/feeds/retail_price"):
                return httpx.Response(200, json={"feed": "retail_price", "decimals": 6})
            return httpx.Response(404, json={"code": "NOT_FOUND", "detail": "feed: not found"})
        asked.append(msgspec.json.decode(request.content))
        return httpx.Response(201, json=asked[-1] | {"repeated": False})

    assert run.exit_code == 0
    assert base64.b64encode(key.public_key().public_bytes_raw()).decode() in run.output
    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o600
    provider = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
    with httpx.Client(transport=httpx.MockTransport(answer), base_url="http://x/api/v1") as client:
        submit(client, key, "retail_price", "4.5", provider, "2026-11-21T10:15:00Z")
        for arguments, words in (
            (("none", "4.5", provider), "NOT_FOUND: feed: not found"),
            (("retail_price", "4,5", provider), "decimal string"),
            (("retail_price", "4.5", "me"), "no provider's id"),
        ):
            with pytest.raises(Failure, match=words):
                submit(client, key, *arguments)
    [sent] = asked

    message = signed_bytes(uuid.UUID(provider).bytes, "retail_price", 4_500_000, 1_795_256_100 * SECOND_US)
    key.public_key().verify(base64.b64decode(sent["signature"]), message)
    assert CliRunner().invoke(command_line, ["oracle", "key", str(tmp_path / "key.pem")]).exit_code == 1
    (tmp_path / "no.pem").write_text("x")
    for file in ("no.pem", "none.pem"):
        with pytest.raises(Failure, match=file):
            read_key(tmp_path / file)
