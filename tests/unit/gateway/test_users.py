"""People: registration, login, sessions, tokens, and what each refusal must not give away.

Seen to fail for: a login that is quicker for an account without a password.
"""

import bcrypt
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.auth.passwords import Passwords
from gateway.settings import Limit
from tests.unit.gateway.conftest import PASSWORD, World


async def test_who_registers_is_a_student_whatever_he_says(world: World) -> None:
    body = {"email": "Eve@Campus.Example", "password": PASSWORD, "name": "Eve"}

    created = await world.client.post("/api/v1/auth/register", json=body)
    again = await world.client.post("/api/v1/auth/register", json=body | {"email": "eve@campus.example"})
    greedy = await world.client.post("/api/v1/auth/register", json=body | {"role": "admin"})

    assert created.status_code == 201
    assert {k: created.json()[k] for k in ("email", "role", "zone", "status")} == {
        "email": "eve@campus.example",
        "role": "student",
        "zone": "Z1",
        "status": "active",
    }
    assert (again.status_code, again.json()["code"]) == (409, "CONFLICT")
    assert (greedy.status_code, list(greedy.json()["fields"])) == (400, ["role"])


@pytest.mark.parametrize(
    ("password", "email"),
    [
        ("short", "a@b.example"),
        ("x" * 129, "a@b.example"),
        ("password1234", "a@b.example"),
        ("Password1234", "a@b.example"),
        ("aaaaaaaaaaaaaaa", "a@b.example"),
        ("anna.bergmann", "anna.bergmann@b.example"),
        ("Anna Bergmann", "a@b.example"),
        ("AnnaBergmann2024", "a@b.example"),
        ("bergmann-anna!", "a@b.example"),
        ("Password!2024", "a@b.example"),
        ("qwertyadmin123", "a@b.example"),
        ("abcabcabcabc", "a@b.example"),
        ("sun.4sun.4sun.", "a@b.example"),
    ],
)
async def test_weak_passwords_are_refused(world: World, password: str, email: str) -> None:
    body = {"email": email, "password": password, "name": "Anna Bergmann"}

    answer = await world.client.post("/api/v1/auth/register", json=body)

    assert (answer.status_code, list(answer.json()["fields"])) == (400, ["password"])


async def test_every_character_of_a_long_password_counts() -> None:
    passwords = Passwords(4, 1, 10, allow_low_cost=True)
    kept = await passwords.hash("x" * 100 + "a")

    assert await passwords.matches("x" * 100 + "a", kept)
    assert not await passwords.matches("x" * 100 + "b", kept)
    assert not await passwords.matches("anything", None)
    passwords.close()
    with pytest.raises(AssertionError, match="tests only"):
        Passwords(11, 1, 10)


async def test_a_login_does_not_tell_whether_the_account_exists(world: World) -> None:
    await world.person("ann@campus.example")

    wrong = await world.client.post("/api/v1/auth/login", json={"email": "ann@campus.example", "password": "x" * 12})
    nobody = await world.client.post(
        "/api/v1/auth/login", json={"email": "nobody@campus.example", "password": "x" * 12}
    )

    assert wrong.status_code == nobody.status_code == 401
    assert {**wrong.json(), "request_id": ""} == {**nobody.json(), "request_id": ""}


@pytest.mark.parametrize("email", ["ann@campus.example", "nobody@campus.example", "directory@campus.example"])
async def test_every_login_compares_one_password_of_the_same_cost(
    world: World, monkeypatch: pytest.MonkeyPatch, email: str
) -> None:
    await world.person("ann@campus.example")
    await world.people.create("directory@campus.example", "Dee", b"", "student", "Z1", 1)  # without a password
    compared: list[bytes] = []

    def compare(digest: bytes, password_hash: bytes) -> bool:
        compared.append(password_hash)
        return False

    monkeypatch.setattr(bcrypt, "checkpw", compare)
    answer = await world.client.post("/api/v1/auth/login", json={"email": email, "password": "nobody"})

    assert answer.status_code == 401
    assert [one[:7] for one in compared] == [b"$2b$04$"]


async def test_an_account_without_a_password_has_none_that_fits(world: World) -> None:
    assert not await world.gateway.passwords.matches("nobody", b"")
    assert not await world.gateway.passwords.matches("", b"")


async def test_five_failures_lock_the_account_even_for_the_right_password(world: World) -> None:
    await world.person("ann@campus.example")
    for email in ("ann@campus.example", "nobody@campus.example"):
        statuses = [
            (await world.client.post("/api/v1/auth/login", json={"email": email, "password": "x" * 12})).status_code
            for _ in range(6)
        ]
        assert statuses == [401] * 5 + [423]

    locked = await world.client.post("/api/v1/auth/login", json={"email": "ann@campus.example", "password": PASSWORD})

    assert (locked.status_code, locked.json()["code"]) == (423, "ACCOUNT_LOCKED")
    assert 800 < int(locked.headers["retry-after"]) <= 900


async def test_a_stolen_token_does_not_help_to_guess_the_password(world: World) -> None:
    world.build(login_limit=Limit(1_000, 1_000))
    ann = await world.person("ann@campus.example")

    statuses = [
        (
            await ann.post(
                "/api/v1/users/me/password", {"current_password": guess, "new_password": "fresh-water-well-8"}
            )
        ).status_code
        for guess in ["x" * 12] * 5 + [PASSWORD]
    ]
    login = await world.client.post("/api/v1/auth/login", json={"email": "ann@campus.example", "password": PASSWORD})

    assert statuses == [400] * 5 + [423]
    assert login.status_code == 423


async def test_a_login_that_succeeds_forgets_the_failures_before_it(world: World) -> None:
    world.build(login_limit=Limit(1_000, 1_000))
    await world.person("ann@campus.example")
    wrong = {"email": "ann@campus.example", "password": "x" * 12}
    for _ in range(2):
        for _ in range(4):
            assert (await world.client.post("/api/v1/auth/login", json=wrong)).status_code == 401
        right = await world.client.post("/api/v1/auth/login", json=wrong | {"password": PASSWORD})
        assert right.status_code == 200


async def test_a_refresh_token_is_good_once_and_its_reuse_ends_the_family(world: World) -> None:
    ann = await world.person()

    first = await world.client.post("/api/v1/auth/refresh", json={"refresh_token": ann.refresh_token})
    fresh = first.json()
    stolen = await world.client.post("/api/v1/auth/refresh", json={"refresh_token": ann.refresh_token})
    after = await world.client.post("/api/v1/auth/refresh", json={"refresh_token": fresh["refresh_token"]})
    ann.token = fresh["access_token"]

    assert (first.status_code, stolen.status_code, after.status_code) == (200, 401, 401)
    assert (await ann.get("/api/v1/users/me")).status_code == 401


async def test_a_refresh_token_cannot_be_pointed_at_another_user(world: World) -> None:
    ann, bob = await world.person(), await world.person("bob@campus.example")
    _, session_id, secret = ann.refresh_token.split(".")

    answer = await world.client.post(
        "/api/v1/auth/refresh", json={"refresh_token": f"{bob.user_id}.{session_id}.{secret}"}
    )
    odd = [
        (await world.client.post("/api/v1/auth/refresh", json={"refresh_token": token})).status_code
        for token in ("", "a.b.c", "1.2", "9" * 30 + ".b.c", f"{ann.user_id}.{session_id}.x")
    ]

    assert answer.status_code == 401
    assert odd == [401] * 5


async def test_logout_and_suspension_count_at_once(world: World) -> None:
    ann, boss = await world.person(), await world.person("boss@campus.example", "admin")

    assert (await ann.post("/api/v1/auth/logout")).status_code == 204
    assert (await ann.get("/api/v1/users/me")).status_code == 401

    bob = await world.person("bob@campus.example")
    assert (await bob.get("/api/v1/users/me")).status_code == 200
    changed = await boss.call("PATCH", f"/api/v1/admin/users/{bob.user_id}", {"status": "suspended"})
    assert changed.status_code == 200
    assert (await bob.get("/api/v1/users/me")).status_code == 401
    login = await world.client.post("/api/v1/auth/login", json={"email": "bob@campus.example", "password": PASSWORD})
    assert (login.status_code, login.json()["code"]) == (403, "FORBIDDEN")


async def test_a_session_that_another_gateway_ended_is_over_here_too(world: World) -> None:
    ann = await world.person()
    assert (await ann.get("/api/v1/users/me")).status_code == 200
    await world.people.end_sessions(ann.user_id, world.clock())

    await world.gateway.revocations.read()

    assert (await ann.get("/api/v1/users/me")).status_code == 401


async def test_an_access_token_ends_with_its_time_although_it_is_remembered(world: World) -> None:
    ann = await world.person()
    assert (await ann.get("/api/v1/users/me")).status_code == 200

    world.clock.pass_seconds(899)
    alive = await ann.get("/api/v1/users/me")
    world.clock.pass_seconds(2)
    dead = await ann.get("/api/v1/users/me")

    assert (alive.status_code, dead.status_code) == (200, 401)


async def test_tokens_of_others_are_not_believed(world: World) -> None:
    ann = await world.person()
    claims = jwt.decode(ann.token, options={"verify_signature": False})
    kid = jwt.get_unverified_header(ann.token)["kid"]
    ours, theirs = world.gateway.keys.signing_key, Ed25519PrivateKey.generate()
    public = ours.public_key().public_bytes_raw()
    forged = [
        jwt.encode(claims, theirs, "EdDSA", headers={"kid": kid}),
        jwt.encode(claims, theirs, "EdDSA", headers={"kid": "other"}),
        jwt.encode(claims, None, "none", headers={"kid": kid}),  # type: ignore[arg-type]
        jwt.encode(claims, public.ljust(64), "HS256", headers={"kid": kid}),
        jwt.encode(claims | {"aud": "elsewhere"}, ours, "EdDSA", headers={"kid": kid}),
        jwt.encode(claims | {"iss": "elsewhere"}, ours, "EdDSA", headers={"kid": kid}),
        jwt.encode(claims | {"nbf": claims["nbf"] + 60}, ours, "EdDSA", headers={"kid": kid}),
        jwt.encode(claims | {"iat": claims["iat"] + 60}, ours, "EdDSA", headers={"kid": kid}),
        jwt.encode(claims | {"exp": float("inf")}, ours, "EdDSA", headers={"kid": kid}),
        jwt.encode({k: v for k, v in claims.items() if k != "jti"}, ours, "EdDSA", headers={"kid": kid}),
        jwt.encode({k: v for k, v in claims.items() if k != "sid"}, ours, "EdDSA", headers={"kid": kid}),
        jwt.encode({k: v for k, v in claims.items() if k != "exp"}, ours, "EdDSA", headers={"kid": kid}),
        "x" * 5_000,
    ]
    for token in forged:
        ann.token = token
        assert (await ann.get("/api/v1/users/me")).status_code == 401, token

    assert set(claims) == {"iss", "aud", "exp", "nbf", "iat", "jti", "sub", "role", "sid"}
    keys = (await world.client.get("/.well-known/jwks.json")).json()["keys"]
    assert [(key["kid"], key["crv"]) for key in keys] == [(kid, "Ed25519")]
    assert "d" not in keys[0]


async def test_a_role_counts_from_the_store_and_not_from_the_token(world: World) -> None:
    boss = await world.person("boss@campus.example", "admin")
    assert (await boss.get("/api/v1/admin/users")).status_code == 200

    await world.people.update(boss.user_id, role="student")
    world.clock.pass_seconds(6)

    assert (await boss.get("/api/v1/admin/users")).status_code == 403


async def test_a_new_password_needs_the_old_one_and_ends_the_other_sessions(world: World) -> None:
    ann = await world.person()
    login = {"email": "ann@campus.example", "password": PASSWORD}
    other = (await world.client.post("/api/v1/auth/login", json=login)).json()["access_token"]
    change = {"current_password": PASSWORD, "new_password": "windy-hill-and-turbine"}

    wrong = await ann.post("/api/v1/users/me/password", change | {"current_password": "x" * 12})
    right = await ann.post("/api/v1/users/me/password", change)

    assert (wrong.status_code, list(wrong.json()["fields"])) == (400, ["current_password"])
    assert right.status_code == 204
    assert (await ann.get("/api/v1/users/me")).status_code == 200
    stale = await world.client.get("/api/v1/users/me", headers={"Authorization": f"Bearer {other}"})
    assert stale.status_code == 401
    assert (await world.client.post("/api/v1/auth/login", json=login)).status_code == 401


async def test_one_sees_and_ends_ones_own_sessions(world: World) -> None:
    ann = await world.person()
    await world.client.post("/api/v1/auth/login", json={"email": "ann@campus.example", "password": PASSWORD})

    shown = (await ann.get("/api/v1/users/me/sessions")).json()["items"]
    spared = await ann.call("DELETE", "/api/v1/users/me/sessions", params={"keep_current": "true"})
    ended = await ann.call("DELETE", "/api/v1/users/me/sessions")

    assert sorted(one["current"] for one in shown) == [False, True]
    assert (spared.json(), ended.json()) == ({"ended": 1}, {"ended": 1})
    assert (await ann.get("/api/v1/users/me")).status_code == 401


async def test_profile_changes_are_ones_own_and_only_the_name(world: World) -> None:
    ann, boss = await world.person(), await world.person("boss@campus.example", "admin")

    renamed = await ann.call("PATCH", "/api/v1/users/me", {"name": "Ann B."})
    greedy = await ann.call("PATCH", "/api/v1/users/me", {"name": "Ann", "role": "admin"})
    moved = await boss.call("PATCH", f"/api/v1/admin/users/{ann.user_id}", {"zone": "Z2", "role": "faculty"})
    self_made = await boss.call("PATCH", f"/api/v1/admin/users/{boss.user_id}", {"role": "student"})
    nowhere = await boss.call("PATCH", f"/api/v1/admin/users/{ann.user_id}", {"zone": "Z9"})
    found = await boss.get("/api/v1/admin/users", q="ann")

    assert renamed.json()["name"] == "Ann B."
    assert greedy.status_code == 400
    assert (moved.json()["zone"], moved.json()["role"]) == ("Z2", "faculty")
    assert self_made.status_code == 403
    assert nowhere.status_code == 400
    assert [one["id"] for one in found.json()["items"]] == [str(ann.user_id)]


async def test_who_was_suspended_elsewhere_is_out_within_seconds(world: World) -> None:
    ann = await world.person()
    assert (await ann.get("/api/v1/users/me")).status_code == 200

    await world.people.update(ann.user_id, status="suspended")
    world.clock.pass_seconds(6)

    assert (await ann.get("/api/v1/users/me")).json()["code"] == "FORBIDDEN"
