"""Readings at the gateway: every form of a body, a verdict for each, and who may speak for a meter."""

import base64
import json
import uuid
from typing import Any

import httpx
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from engine.metering.readings import Interval, batch_bytes
from engine.metering.records import PostedWindow
from engine.units import SECOND_US
from engine.views import Failed, Fault
from gateway.signed_batches import Plain, plain_batch
from tests.unit.gateway.conftest import Person, World
from tests.unit.gateway.sockets import Socket

KEY = base64.b64encode(bytes(32)).decode()
START_US = 1_700_000_000 * SECOND_US


async def meter(person: Person, serial: str = "AB-12", **more: Any) -> str:
    body = {"serial": serial, "kind": "prosumer", "rated_power_w": 10_000, "public_key": KEY, **more}
    answer = await person.post("/api/v1/meters", body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def reading(meter_id: str, counter: int, **more: Any) -> dict[str, Any]:
    signature = base64.b64encode(bytes(64)).decode()
    values = {"start": START_US, "duration_s": 900, "import_wh": 0, "export_wh": 250, "signature": signature}
    return {"meter_id": meter_id, "counter": counter, **values, **more}


async def send(world: World, person: Person, content: bytes, media_type: str, query: str = "") -> httpx.Response:
    headers = {"Authorization": f"Bearer {person.token}", "Content-Type": media_type}
    return await world.client.post(f"/api/v1/readings{query}", content=content, headers=headers)


async def test_one_reading_a_list_lines_and_msgpack_say_the_same(world: World) -> None:
    ann = await world.person()
    own = await meter(ann)
    bodies = [
        (json.dumps(reading(own, 1)).encode(), "application/json"),
        (json.dumps([reading(own, 2)]).encode(), "application/json"),
        ((json.dumps(reading(own, 3)) + "\n\n").encode(), "application/x-ndjson"),
        (msgspec.msgpack.encode(reading(own, 4)), "application/msgpack"),
        (msgspec.msgpack.encode([reading(own, 5)]), "application/msgpack"),
    ]

    answers = [await send(world, ann, *body) for body in bodies]

    expected = {"accepted": 1, "duplicates": 0, "rejected": 0, "results": [{"index": 0, "status": "accepted"}]}
    assert [answer.json() for answer in answers] == [expected] * 5
    assert [key[1] for key in world.readings.taken] == [1, 2, 3, 4, 5]


async def test_each_reading_has_its_own_verdict(world: World) -> None:
    ann, bob = await world.person(), await world.person("bob@campus.example")
    own, other = await meter(ann), await meter(bob, "XY-1")
    body = [
        reading(own, 1),
        {"meter_id": own},
        reading(other, 1),
        reading(own, 1),
        reading(own, 2, export_wh=2**70),
        reading(own, 3, signature="?"),
        reading(own, 4, start="2026-11-21T10:15:00Z"),
    ]

    answer = await ann.post("/api/v1/readings", body)

    counts = answer.json()
    statuses = [(one["status"], one.get("code")) for one in counts["results"]]
    assert (counts["accepted"], counts["duplicates"], counts["rejected"]) == (2, 1, 4)
    assert statuses == [
        ("accepted", None),
        ("rejected", "VALIDATION_FAILED"),
        ("rejected", "UNKNOWN_METER"),
        ("duplicate", None),
        ("rejected", "VALIDATION_FAILED"),
        ("rejected", "VALIDATION_FAILED"),
        ("accepted", None),
    ]
    quiet = await ann.post("/api/v1/readings?quiet=1", [reading(own, 1), reading(own, 9)])
    assert [one["index"] for one in quiet.json()["results"]] == [0]


@pytest.mark.parametrize(
    ("content", "media_type", "status"),
    [
        (b"[]", "application/json", 400),
        (b"nothing", "application/json", 400),
        (b'"text"', "application/json", 400),
        (b"", "application/msgpack", 400),
        (b"<xml/>", "text/xml", 415),
        (json.dumps([{}] * 10_001).encode(), "application/json", 400),
    ],
)
async def test_bodies_that_are_none(world: World, content: bytes, media_type: str, status: int) -> None:
    ann = await world.person()

    assert (await send(world, ann, content, media_type)).status_code == status


async def test_an_outcome_that_is_not_known_is_no_success(world: World) -> None:
    ann = await world.person()
    own = await meter(ann)
    world.readings.failure = Failed(Fault.OUTCOME_UNKNOWN, "send the same again")

    answer = await ann.post("/api/v1/readings", [reading(own, 1)])

    assert (answer.status_code, answer.json()["code"]) == (503, "OUTCOME_UNKNOWN")


async def head_end(world: World, meter_ids: list[str], key: Ed25519PrivateKey) -> tuple[str, str]:
    boss = await world.person("boss@campus.example", "admin")
    public_key = base64.b64encode(key.public_key().public_bytes_raw()).decode()
    body = {"name": "head-end", "meter_ids": meter_ids, "public_key": public_key}
    made = (await boss.post("/api/v1/admin/ami-keys", body)).json()
    return made["id"], made["secret"]


def batch(key_id: str, key: Ed25519PrivateKey, readings: list[dict[str, Any]]) -> dict[str, Any]:
    batch_id = uuid.uuid4()
    parsed = [
        Interval(
            uuid.UUID(one["meter_id"]).bytes,
            one["counter"],
            one["start"],
            one["duration_s"],
            one["import_wh"],
            one["export_wh"],
        )
        for one in readings
    ]
    signature = base64.b64encode(key.sign(batch_bytes(key_id.encode(), batch_id.bytes, parsed))).decode()
    return {"key_id": key_id, "batch_id": str(batch_id), "readings": readings, "signature": signature}


# Without a signature of its own a reading is a plain one, and its batch goes the short way.
@pytest.mark.parametrize("more", [{}, {"signature": ""}])
async def test_a_head_end_signs_a_whole_batch_of_its_meters(world: World, more: dict[str, str]) -> None:
    ann, key = await world.person(), Ed25519PrivateKey.generate()
    own, foreign = await meter(ann), await meter(ann, "XY-1")
    key_id, secret = await head_end(world, [own, "no-uuid"], key)
    body = batch(key_id, key, [reading(own, 1, **more), reading(foreign, 1, **more)])

    answer = await world.by_key(secret, "POST", "/api/v1/readings", body)

    assert [one.get("code", one["status"]) for one in answer.json()["results"]] == ["accepted", "UNKNOWN_METER"]
    assert world.readings.vouched
    shown = await world.by_key(secret, "GET", "/api/v1/meters")
    assert [one["id"] for one in shown.json()["items"]] == [own]
    assert (await world.by_key(secret, "GET", f"/api/v1/meters/{foreign}")).status_code == 404


async def test_plain_batches_go_on_as_they_were_signed_and_others_reading_by_reading(world: World) -> None:
    ann, key = await world.person(), Ed25519PrivateKey.generate()
    own = await meter(ann)
    key_id, secret = await head_end(world, [own], key)
    plain = batch(key_id, key, [reading(own, 1, signature=""), reading(own, 2, signature="")])
    spelled = batch(key_id, key, [reading(own, 3), reading(own, 4)])  # each with a signature of its own

    for media_type, encode in (("application/msgpack", msgspec.msgpack.encode), ("application/json", json.dumps)):
        for body, batches in ((plain, 1), (spelled, 0)):
            world.readings.batches = 0
            answer = await world.client.post(
                "/api/v1/readings",
                content=encode(body),
                headers={"content-type": media_type, "x-api-key": secret},
            )
            assert (answer.status_code, answer.json()["rejected"]) == (200, 0), answer.text
            assert world.readings.batches == batches


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("corrects", 1),
        ("at", START_US),
        ("import_register_wh", 1),
        ("start", "2026-01-01T00:00:00Z"),
        ("counter", 2**63),
        ("duration_s", 0),
        ("export_wh", -1),
        ("signature", "AAAA"),
        ("meter_id", "no uuid"),
    ],
)
def test_only_plain_intervals_are_plain(field: str, value: Any) -> None:
    decode = msgspec.json.Decoder(list[Plain]).decode
    good = reading("00000000-0000-0000-0000-000000000001", 1, signature="")

    assert plain_batch(json.dumps([good]).encode(), decode) is not None
    assert plain_batch(json.dumps([good, good | {field: value}]).encode(), decode) is None


@pytest.mark.parametrize("more", [{}, {"signature": ""}])
async def test_a_batch_that_is_changed_or_signed_by_another_is_refused_whole(
    world: World, more: dict[str, str]
) -> None:
    ann, key = await world.person(), Ed25519PrivateKey.generate()
    own = await meter(ann)
    key_id, secret = await head_end(world, [own], key)
    good = batch(key_id, key, [reading(own, 1, **more)])
    bad = [
        {**good, "readings": [reading(own, 1, export_wh=251, **more)]},
        {**good, "batch_id": str(uuid.uuid4())},
        {**good, "readings": [reading(own, 1, **more), reading(own, 2, **more)]},
        batch(key_id, Ed25519PrivateKey.generate(), [reading(own, 1, **more)]),
        batch("a" * 16, key, [reading(own, 1, **more)]),
        {**good, "signature": "?"},
    ]

    for body in bad:
        answer = await world.by_key(secret, "POST", "/api/v1/readings", body)
        assert (answer.status_code, answer.json()["code"]) == (403, "BAD_SIGNATURE"), body
    assert not world.readings.taken
    person = await ann.post("/api/v1/readings", good)
    assert (person.status_code, person.json()["code"]) == (403, "FORBIDDEN")


async def test_the_owner_is_told_of_his_windows(world: World) -> None:
    ann, bob = await world.person(), await world.person("bob@campus.example")
    async with Socket(world) as anns, Socket(world) as bobs:
        for socket, person in ((anns, ann), (bobs, bob)):
            assert (await socket.ask({"op": "auth", "token": person.token}))["ok"]
            assert (await socket.ask({"op": "subscribe", "channel": "energy"}))["ok"]
        assert world.readings.listener is not None

        posted = PostedWindow(1, bytes(16), START_US, ann.user_id, "Z1", 30, -250, -200, 0, True)
        world.readings.listener([posted])

        told = await anns.on("energy")
        assert told["windows"] == [
            {
                "meter_id": str(uuid.UUID(int=0)),
                "start": "2023-11-14T22:13:20Z",
                "zone": "Z1",
                "imported": "0.030",
                "exported": "-0.250",
                "credited": "-0.200",
                "retired": "0.000",
                "adjustment": True,
            }
        ]


async def test_a_meter_is_its_owners(world: World) -> None:
    ann, bob = await world.person(), await world.person("bob@campus.example")
    boss = await world.person("root@campus.example", "admin")
    own = await meter(ann, " ab-12 34")

    for method, path in (("GET", ""), ("PATCH", ""), ("GET", "/readings")):
        body = {"retires": False} if method == "PATCH" else None
        assert (await ann.call(method, f"/api/v1/meters/{own}{path}", body)).status_code == 200
        assert (await bob.call(method, f"/api/v1/meters/{own}{path}", body)).status_code == 404
    same = await bob.post(
        "/api/v1/meters", {"serial": "AB1234", "kind": "consumer", "rated_power_w": 1, "public_key": KEY}
    )
    assert (same.status_code, same.json()["code"]) == (409, "CONFLICT")
    given = await boss.post(f"/api/v1/meters/{own}/assignments", {"owner_id": str(bob.user_id), "zone": "Z2"})
    assert (given.status_code, given.json()["owner_id"], given.json()["zone"]) == (201, str(bob.user_id), "Z2")
    assert (await ann.get(f"/api/v1/meters/{own}")).status_code == 404
    assert [one["id"] for one in (await bob.get("/api/v1/meters")).json()["items"]] == [own]


async def test_the_description_says_what_bodies_of_readings_are(world: World) -> None:
    description = (await world.client.get("/schema/openapi.json")).json()
    schemas, paths = description["components"]["schemas"], description["paths"]

    body = paths["/api/v1/readings"]["post"]["requestBody"]

    assert body["required"]
    assert set(body["content"]) == {"application/json", "application/msgpack", "application/x-ndjson"}
    one, many, batch = body["content"]["application/json"]["schema"]["anyOf"]
    assert one == many["items"]["anyOf"][0] == {"$ref": "#/components/schemas/ReadingRequest"}
    assert (many["maxItems"], batch) == (10_000, {"$ref": "#/components/schemas/BatchRequest"})
    assert schemas["ReadingRequest"]["required"] == ["meter_id", "counter"]
    assert {"start", "at", "corrects", "signature"} < schemas["ReadingRequest"]["properties"].keys()
    assert schemas["BatchRequest"]["properties"]["readings"]["items"] == many["items"]
    assert "requestBody" in paths["/api/v1/readings/ocmf"]["post"]
