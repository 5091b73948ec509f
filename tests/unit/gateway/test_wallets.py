"""Wallets over HTTP: what must be signed, by whom, and what is refused.

Seen to fail for: a challenge without the user's id, verification left out, addresses off the curve or of small order
taken, points of small order known by one sign only.
"""

import hashlib
from typing import Any

import pytest
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from gateway import wallets
from tests.unit.gateway.conftest import Person, World

PATH = "/api/v1/users/me/wallets"
P = 2**255 - 19  # the field of Curve25519
ORDER = 2**252 + 27742317777372353535851937790883648493  # of its large group
D = -121665 * pow(121666, -1, P) % P


async def challenged(person: Person, key: Keypair) -> str:
    answer = await person.post(f"{PATH}/challenge", {"address": str(key.pubkey())})
    assert answer.status_code == 201, answer.text
    text: str = answer.json()["challenge"]
    return text


def signed(key: Keypair, text: str) -> dict[str, str]:
    return {"address": str(key.pubkey()), "signature": str(key.sign_message(text.encode()))}


async def linked(person: Person, key: Keypair) -> dict[str, Any]:
    answer = await person.post(PATH, signed(key, await challenged(person, key)))
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def test_a_signature_of_the_challenge_links_the_address(world: World) -> None:
    ann, key = await world.person(), Keypair()

    text = await challenged(ann, key)
    answer = await ann.post(PATH, signed(key, text))

    assert answer.status_code == 201
    wallet = answer.json()
    assert {name: wallet[name] for name in ("address", "kind", "primary")} == {
        "address": str(key.pubkey()),
        "kind": "linked",
        "primary": True,
    }
    assert (await ann.get(PATH)).json()["items"] == [wallet]


async def test_the_challenge_says_site_purpose_person_address_and_end(world: World) -> None:
    ann, key = await world.person(), Keypair()

    answer = (await ann.post(f"{PATH}/challenge", {"address": str(key.pubkey())})).json()
    lines = answer["challenge"].splitlines()

    assert f"Site: {world.settings.site}" in lines
    assert "Purpose: link this address as a wallet" in lines
    assert f"User: {ann.user_id}" in lines
    assert f"Address: {key.pubkey()}" in lines
    assert f"Expires: {answer['expires_at']}" in lines
    assert len(next(line for line in lines if line.startswith("Nonce: "))) >= len("Nonce: ") + 43
    assert await challenged(ann, key) != answer["challenge"]


async def test_a_challenge_counts_once_and_for_five_minutes(world: World) -> None:
    ann, key, other = await world.person(), Keypair(), Keypair()
    first = signed(key, await challenged(ann, key))

    assert (await ann.post(PATH, first)).status_code == 201
    assert (await ann.call("DELETE", f"{PATH}/{key.pubkey()}")).status_code == 204
    again = await ann.post(PATH, first)
    late = signed(other, await challenged(ann, other))
    world.clock.pass_seconds(300)

    assert (again.status_code, again.json()["code"]) == (403, "BAD_SIGNATURE")
    assert (await ann.post(PATH, late)).json()["code"] == "BAD_SIGNATURE"


async def test_a_signature_of_anything_else_is_refused_and_spoils_nothing(world: World) -> None:
    ann, bob = await world.person(), await world.person("bob@campus.example")
    key, other = Keypair(), Keypair()
    text, theirs = await challenged(ann, key), await challenged(bob, key)
    right = signed(key, text)

    for body in (
        signed(key, text + " "),
        signed(key, theirs),
        right | {"signature": signed(other, text)["signature"]},
        right | {"address": str(other.pubkey())},
        right | {"signature": str(Keypair().sign_message(b""))},
    ):
        answer = await ann.post(PATH, body)
        assert (answer.status_code, answer.json()["code"]) == (403, "BAD_SIGNATURE"), body

    assert (await bob.post(PATH, right)).json()["code"] == "BAD_SIGNATURE"
    assert (await ann.post(PATH, right)).status_code == 201


async def test_an_address_that_is_taken_is_a_conflict_that_names_nobody(world: World) -> None:
    ann, bob, key = await world.person(), await world.person("bob@campus.example"), Keypair()
    await linked(ann, key)

    refused = await bob.post(PATH, signed(key, await challenged(bob, key)))

    assert (refused.status_code, refused.json()["code"]) == (409, "CONFLICT")
    assert str(ann.user_id) not in refused.text
    assert "ann" not in refused.text


@pytest.mark.parametrize(
    "address",
    [
        "",
        "0" * 44,
        "short",
        "1" * 31,
        str(Keypair()),  # a whole key pair: nobody should send one
        str(Pubkey.find_program_address([b"vault"], Pubkey.default())[0]),
    ],
)
async def test_what_is_no_address_of_a_key_is_refused(world: World, address: str) -> None:
    ann = await world.person()

    answer = await ann.post(f"{PATH}/challenge", {"address": address})

    assert (answer.status_code, list(answer.json()["fields"])) == (400, ["address"])
    assert address == "" or address not in answer.text


async def test_no_point_of_small_order_is_taken(world: World) -> None:
    ann = await world.person()
    encodings = {bytes([*encoded[:31], encoded[31] | sign]) for encoded in small_order() for sign in (0, 0x80)}

    assert len(encodings) == 14
    for encoded in encodings:
        answer = await ann.post(f"{PATH}/challenge", {"address": str(Pubkey.from_bytes(encoded))})
        assert (answer.status_code, list(answer.json()["fields"])) == (400, ["address"]), encoded.hex()


def test_the_list_of_small_orders_is_complete() -> None:
    assert small_order() == wallets._SMALL_ORDER


def small_order() -> set[bytes]:
    """Every encoding, its sign bit cleared, of a point whose order divides 8; computed, slowly and plainly."""
    found: set[int] = set()
    for seed in range(40):
        y = int.from_bytes(hashlib.sha256(bytes([seed])).digest(), "little") % P
        x = root((y * y - 1) * pow(D * y * y + 1, -1, P) % P)
        if x is not None:
            found.add(times(ORDER, (x, y))[1])
    both = {y + multiple * P for y in found for multiple in (0, 1) if y + multiple * P < 2**255}
    return {y.to_bytes(32, "little") for y in both}


def root(square: int) -> int | None:
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    return x if x * x % P == square else None


def times(factor: int, point: tuple[int, int]) -> tuple[int, int]:
    total = (0, 1)
    while factor:
        if factor & 1:
            total = plus(total, point)
        point, factor = plus(point, point), factor >> 1
    return total


def plus(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    both = D * a[0] * b[0] * a[1] * b[1] % P
    x = (a[0] * b[1] + a[1] * b[0]) * pow(1 + both, -1, P)
    y = (a[1] * b[1] + a[0] * b[0]) * pow(1 - both, -1, P)
    return x % P, y % P


async def test_bodies_are_one_thing_or_the_other(world: World) -> None:
    ann, key = await world.person(), Keypair()
    whole = signed(key, await challenged(ann, key))

    for body, field in (
        ({}, "address"),
        ({"address": whole["address"]}, "signature"),
        ({"signature": whole["signature"]}, "address"),
        (whole | {"platform": True}, "platform"),
        (whole | {"signature": whole["address"]}, "signature"),
        (whole | {"user_id": "1002"}, "user_id"),
    ):
        answer = await ann.post(PATH, body)
        assert (answer.status_code, list(answer.json()["fields"])) == (400, [field]), body


async def test_a_platform_wallet_is_made_once_and_shows_no_secret(world: World) -> None:
    ann = await world.person()

    made = await ann.post(PATH, {"platform": True})
    again = await ann.post(PATH, {"platform": True})
    removed = await ann.call("DELETE", f"{PATH}/{made.json()['address']}")

    assert (made.status_code, set(made.json())) == (201, {"address", "kind", "primary", "created_at"})
    assert made.json()["kind"] == "platform"
    assert (again.status_code, removed.status_code) == (409, 409)


async def test_the_primary_wallet_is_ones_own_choice(world: World) -> None:
    ann, bob = await world.person(), await world.person("bob@campus.example")
    first, second = await linked(ann, Keypair()), await linked(ann, Keypair())
    path = f"{PATH}/{second['address']}"

    chosen = await ann.call("PATCH", path, {"primary": True})
    unchosen = await ann.call("PATCH", path, {"primary": False})

    assert (chosen.status_code, chosen.json()["primary"]) == (200, True)
    assert unchosen.status_code == 400
    shown = {one["address"]: one["primary"] for one in (await ann.get(PATH)).json()["items"]}
    assert shown == {first["address"]: False, second["address"]: True}
    for method, body in (("PATCH", {"primary": True}), ("DELETE", None)):
        assert (await bob.call(method, path, body)).json()["code"] == "NOT_FOUND"
        assert (await bob.call(method, f"{PATH}/nonsense", body)).json()["code"] == "NOT_FOUND"


async def test_challenges_and_wallets_have_bounds(world: World) -> None:
    world.build(challenges_max=2, wallets_max=2)
    ann = await world.person()
    keys = [Keypair() for _ in range(3)]

    asked = [(await ann.post(f"{PATH}/challenge", {"address": str(key.pubkey())})).status_code for key in keys]
    for key in keys[:2]:
        await linked(ann, key)
    last = await ann.post(PATH, signed(keys[2], await challenged(ann, keys[2])))

    assert asked == [201, 201, 409]
    assert (last.status_code, last.json()["code"]) == (409, "CONFLICT")
