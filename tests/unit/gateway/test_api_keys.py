"""API keys over HTTP and on sockets: what is shown, what is kept, what they may, and when they stop.

Seen to fail for: a hash without the pepper, a key that outlives its revocation or expiry, another's key revoked by its
id, both credentials at once, a use written for each request, a logout with a key that ends a session.
"""

import asyncio
import base64
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.records import ApiKeyRecord
from gateway.auth.api_keys import Secrets
from gateway.auth.keys import open_pepper
from gateway.errors import GatewayCode, Problem
from tests.support.patience import HUNG_SECONDS
from tests.unit.gateway.conftest import Person, World
from tests.unit.gateway.sockets import Socket

KEYS, AMI_KEYS, ORDERS = "/api/v1/users/me/api-keys", "/api/v1/admin/ami-keys", "/api/v1/orders"
ORDER = {"market": "Z1-SPOT", "side": "buy", "type": "limit", "price": "3.000", "quantity": "1.000"}
PUBLIC_KEY = base64.b64encode(bytes(range(32))).decode()


async def test_a_secret_is_shown_once_and_kept_as_a_peppered_hash(world: World) -> None:
    ann = await world.person()

    made = await ann.post(KEYS, {"name": "bot", "scopes": ["trade", "read", "read"]})
    shown = (await ann.get(KEYS)).json()["items"]

    assert made.status_code == 201
    body = made.json()
    secret = body.pop("secret")
    assert secret.startswith(f"wb_{body['id']}_")
    assert (body["scopes"], body["last_used_at"]) == (["read", "trade"], None)
    assert shown == [body]
    (kept,) = world.api_keys.keys.values()
    pepper = open_pepper(world.settings.key_directory)
    assert kept.secret_hash == hmac.new(pepper, secret.encode(), hashlib.sha256).digest()
    assert secret not in repr(kept)
    assert pepper.hex() not in repr(world.gateway.secrets) + repr(world.settings)


async def test_a_key_may_what_its_scopes_say_as_its_owner(world: World) -> None:
    ann = await world.person()
    trade, read = await world.key(ann, "trade"), await world.key(ann, "read")

    placed = await world.by_key(trade, "POST", ORDERS, ORDER)
    seen = await world.by_key(read, "GET", f"{ORDERS}/{placed.json()['order_id']}")
    refused = await world.by_key(read, "DELETE", f"{ORDERS}/{placed.json()['order_id']}")
    profile = await world.by_key(read, "GET", "/api/v1/users/me")

    assert (placed.status_code, seen.status_code) == (201, 200)
    assert (refused.status_code, refused.json()["detail"]) == (403, "this needs the scope trade")
    assert profile.json()["id"] == str(ann.user_id)


async def test_no_key_reaches_what_takes_a_login(world: World) -> None:
    boss = await world.person("boss@campus.example", "admin")
    every = await world.key(boss, "read", "trade", "meter")
    body = {"name": "more", "scopes": ["trade"]}

    for method, path in (("POST", KEYS), ("GET", KEYS), ("GET", "/api/v1/users/me/sessions"), ("GET", AMI_KEYS)):
        answer = await world.by_key(every, method, path, body if method == "POST" else None)
        assert (answer.status_code, answer.json()["detail"][:18]) == (403, "this needs a login"), path
    out = await world.by_key(every, "POST", "/api/v1/auth/logout")
    assert out.status_code == 401
    assert (await boss.get("/api/v1/users/me")).status_code == 200


async def test_a_token_and_a_key_at_once_are_refused_everywhere(world: World) -> None:
    ann = await world.person()
    headers = {"X-API-Key": await world.key(ann, "read")}

    for path in ("/api/v1/users/me", "/api/v1/markets"):
        assert (await ann.call("GET", path, headers=headers)).json()["code"] == "UNAUTHENTICATED"


async def test_a_public_route_minds_a_bad_key_no_more_than_a_stale_token(world: World) -> None:
    assert (await world.by_key("wb_nonsense", "GET", "/api/v1/markets")).status_code == 200


async def test_a_revoked_key_stops_at_once_here_and_within_seconds_elsewhere(world: World) -> None:
    ann, eve = await world.person(), await world.person("eve@campus.example")
    here, elsewhere = await world.key(ann, "read"), await world.key(ann, "read")
    for secret in (here, elsewhere):
        assert (await world.by_key(secret, "GET", ORDERS)).status_code == 200
    first, second = (key["id"] for key in (await ann.get(KEYS)).json()["items"])

    foreign = await eve.call("DELETE", f"{KEYS}/{first}")
    own = await ann.call("DELETE", f"{KEYS}/{first}")
    again = await ann.call("DELETE", f"{KEYS}/{first}")
    del world.api_keys.keys[second]  # as another gateway would

    assert (foreign.status_code, own.status_code, again.status_code) == (404, 204, 404)
    assert (await world.by_key(here, "GET", ORDERS)).status_code == 401
    world.clock.pass_seconds(6)
    assert (await world.by_key(elsewhere, "GET", ORDERS)).status_code == 401


async def test_a_key_expires_and_not_after_more_than_the_longest_time(world: World) -> None:
    ann = await world.person()
    secret = await world.key(ann, "read")

    async def made(expires_at: str) -> int:
        return (await ann.post(KEYS, {"name": "x", "scopes": ["read"], "expires_at": expires_at})).status_code

    assert await made("2027-01-01T00:00:00Z") == 400  # past
    assert await made("2030-01-01T00:00:00Z") == 400  # more than a year away
    assert await made("2027-12-01T00:00:00Z") == 201
    world.clock.pass_seconds(89 * 86_400)
    assert (await world.by_key(secret, "GET", ORDERS)).status_code == 200
    world.clock.pass_seconds(1 * 86_400)
    expired = await world.by_key(secret, "GET", ORDERS)
    assert (expired.status_code, expired.json()["detail"]) == (401, "the API key has expired")


async def test_there_are_only_so_many_keys_of_one_person(world: World) -> None:
    world.build(api_keys_max=2)
    ann, eve = await world.person(), await world.person("eve@campus.example")
    for _ in range(2):
        await world.key(ann, "read")

    third = await ann.post(KEYS, {"name": "x", "scopes": ["read"]})

    assert (third.status_code, third.json()["code"]) == (409, "CONFLICT")
    await world.key(eve, "read")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "", "scopes": ["read"]}, "name"),
        ({"name": "a\u0000b", "scopes": ["read"]}, "name"),
        ({"name": "x", "scopes": []}, "scopes"),
        ({"name": "x", "scopes": ["admin"]}, "scopes[0]"),
        ({"name": "x", "scopes": ["read"], "user_id": "1"}, "user_id"),
        ({"name": "x", "scopes": ["read"], "expires_at": "soon"}, "expires_at"),
    ],
)
async def test_odd_keys_are_not_made(world: World, body: dict[str, object], field: str) -> None:
    ann = await world.person()

    answer = await ann.post(KEYS, body)

    assert (answer.status_code, list(answer.json()["fields"])) == (400, [field])


async def test_suspension_and_a_lost_role_stop_the_keys_too(world: World) -> None:
    boss, ann = await world.person("boss@campus.example", "admin"), await world.person()
    secret = await world.key(ann, "trade")
    assert (await world.by_key(secret, "POST", ORDERS, ORDER)).status_code == 201
    user = f"/api/v1/admin/users/{ann.user_id}"

    assert (await boss.call("PATCH", user, {"role": "ami"})).status_code == 200
    assert (await world.by_key(secret, "POST", ORDERS, ORDER)).json()["code"] == "FORBIDDEN"
    assert (await boss.call("PATCH", user, {"role": "student", "status": "suspended"})).status_code == 200
    suspended = await world.by_key(secret, "POST", ORDERS, ORDER)
    assert (suspended.status_code, suspended.json()["detail"]) == (403, "the account is suspended")


async def test_uses_are_written_beside_the_requests_and_once_a_minute(world: World) -> None:
    ann = await world.person()
    secret = await world.key(ann, "read")
    written: list[dict[str, int]] = []
    keep = world.api_keys.note_uses

    async def note(uses: dict[str, int]) -> None:
        written.append(uses)
        await keep(uses)

    world.api_keys.note_uses = note
    for _ in range(5):
        await world.by_key(secret, "GET", ORDERS)
    assert written == []
    await world.gateway.uses.write()
    await world.by_key(secret, "GET", ORDERS)
    await world.gateway.uses.write()
    assert len(written) == 1
    world.clock.pass_seconds(61)
    await world.by_key(secret, "GET", ORDERS)
    await world.gateway.uses.write()

    assert len(written) == 2
    (shown,) = (await ann.get(KEYS)).json()["items"]
    assert shown["last_used_at"] is not None


async def test_uses_that_could_not_be_written_wait(world: World) -> None:
    ann = await world.person()
    await world.by_key(await world.key(ann, "read"), "GET", ORDERS)
    keep = world.api_keys.note_uses

    async def away(uses: dict[str, int]) -> None:
        raise OSError("the store is away")

    world.api_keys.note_uses = away
    with pytest.raises(OSError, match="away"):
        await world.gateway.uses.write()
    world.api_keys.note_uses = keep
    await world.gateway.uses.write()

    assert [key.used_us is not None for key in world.api_keys.keys.values()] == [True]


# --- head-end systems


async def _head_end(world: World, boss: Person) -> dict[str, object]:
    body = {"name": "AMI north", "meter_ids": ["M-1", "M-2", "M-1"], "public_key": PUBLIC_KEY}
    answer = await boss.post(AMI_KEYS, body)
    assert answer.status_code == 201, answer.text
    made: dict[str, object] = answer.json()
    return made


async def test_an_admin_issues_and_revokes_the_key_of_a_head_end(world: World) -> None:
    boss, ann = await world.person("boss@campus.example", "admin"), await world.person()

    made = await _head_end(world, boss)
    secret = str(made.pop("secret"))
    shown = (await boss.get(AMI_KEYS)).json()["items"]

    assert (made["role"], made["scopes"], made["meter_ids"]) == ("ami", ["meter"], ["M-1", "M-2"])
    assert made["public_key"] == PUBLIC_KEY
    assert shown == [made]
    assert (await ann.get(AMI_KEYS)).status_code == 403
    assert (await boss.call("DELETE", f"{KEYS}/{made['id']}")).status_code == 404  # it is nobody's own
    assert (await world.by_key(secret, "POST", ORDERS, ORDER)).json()["code"] == "FORBIDDEN"
    assert (await boss.call("DELETE", f"{AMI_KEYS}/{made['id']}")).status_code == 204
    assert (await world.by_key(secret, "POST", ORDERS, ORDER)).status_code == 401


async def test_a_persons_key_is_not_revoked_as_a_head_ends(world: World) -> None:
    boss, ann = await world.person("boss@campus.example", "admin"), await world.person()
    await world.key(ann, "read")
    (key,) = (await ann.get(KEYS)).json()["items"]

    assert (await boss.call("DELETE", f"{AMI_KEYS}/{key['id']}")).status_code == 404


@pytest.mark.parametrize("public_key", ["", "x", base64.b64encode(bytes(31)).decode(), "\u00e9" * 44])
async def test_a_head_ends_public_key_has_32_bytes(world: World, public_key: str) -> None:
    boss = await world.person("boss@campus.example", "admin")

    answer = await boss.post(AMI_KEYS, {"name": "x", "public_key": public_key})

    assert (answer.status_code, list(answer.json()["fields"])) == (400, ["public_key"])


# --- sockets


async def test_a_key_logs_in_on_a_socket_and_its_scopes_hold_there(world: World) -> None:
    ann = await world.person()
    trade = await world.key(ann, "trade")
    async with Socket(world) as socket:
        said = await socket.ask({"op": "auth", "api_key": trade})
        placed = await socket.ask({"op": "place", "order": ORDER})
        orders = await socket.ask({"op": "subscribe", "channel": "orders"})
        both = await socket.ask({"op": "auth", "api_key": trade, "token": ann.token})

    assert said["user_id"] == str(ann.user_id)
    assert placed["ok"]
    assert orders["error"]["code"] == "FORBIDDEN"
    assert both["error"]["code"] == "VALIDATION_FAILED"


async def test_a_quiet_socket_ends_with_its_key(world: World) -> None:
    ann = await world.person()
    async with Socket(world) as socket:
        assert (await socket.ask({"op": "auth", "api_key": await world.key(ann, "read")}))["ok"]

        world.api_keys.keys.clear()
        world.clock.pass_seconds(3)  # more than half of what a look is good for

        assert await asyncio.wait_for(socket.closed, HUNG_SECONDS) == 4001


# --- what is no secret


@given(st.one_of(st.text(max_size=100), st.from_regex(r"wb_[a-z2-7]{15,17}_[\w-]{42,44}", fullmatch=True)))
def test_whatever_is_sent_as_a_key_is_a_key_or_refused(text: str) -> None:
    secrets = Secrets(bytes(32))
    refused: Problem | None = None
    try:
        key_id = secrets.key_id(text)
    except Problem as problem:
        refused = problem

    if refused is not None:
        assert refused.code is GatewayCode.UNAUTHENTICATED
    else:
        assert text == f"wb_{key_id}_{text[20:]}"
        assert not secrets.fits(text, bytes(32))


def test_a_secret_fits_its_own_hash_only() -> None:
    secrets, others = Secrets(bytes(32)), Secrets(bytes(31) + b"1")
    key_id, secret, kept = secrets.make()

    assert secrets.key_id(secret) == key_id
    assert secrets.fits(secret, kept)
    assert not others.fits(secret, kept)
    assert not secrets.fits(secrets.make()[1], kept)
    with pytest.raises(AssertionError, match="guessed"):
        Secrets(b"short")


def test_a_record_of_a_key_does_not_show_its_hash() -> None:
    record = ApiKeyRecord("a" * 16, 1, 1, "bot", ("read",), b"\xee" * 32, (), None, 1, 2, None)

    assert "xee" not in repr(record)
