"""Every change that a person or key makes over HTTP, on a real PostgreSQL: one row each, and no secret in any.

Seen to fail for: a change without a row, a row of a change that was refused, a password or token in a row, a lockout
that a restart forgets.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest_asyncio

from commands.audit import verified_log
from engine.records import CostRecord, ZoneRecord
from persistence.api_keys import PostgresApiKeys
from persistence.audit_log import PostgresAuditLog
from persistence.catalogue import PostgresCatalogue
from persistence.people import PostgresPeople
from tests.unit.gateway.conftest import PASSWORD, Person, World, spot
from tests.unit.gateway.ports import COSTS

NEW_PASSWORD = "windy-hill-and-turbine"
LOGIN = "/api/v1/auth/login"


class StoredWorld(World):
    """People, keys, catalogue and audit log are real."""

    def __init__(self, directory: Path, pool: asyncpg.Pool) -> None:
        super().__init__(directory)
        self.pool = pool
        self.people = PostgresPeople(pool)
        self.api_keys = PostgresApiKeys(pool)
        self.audit = PostgresAuditLog(pool)
        self.catalogue = PostgresCatalogue(pool)  # type: ignore[assignment]

    async def told(self, after: int = 0) -> list[tuple[str, str, str]]:
        """(actor, action, subject) of each row after this one."""
        return [(row.actor, row.action, row.subject) for row in await self.audit.after(after, 1_000)]

    async def last(self) -> int:
        number: int = (await self.audit.head())[0]
        return number


@pytest_asyncio.fixture
async def world(tmp_path: Path, pool: asyncpg.Pool) -> AsyncIterator[StoredWorld]:
    world = StoredWorld(tmp_path, pool)
    await PostgresCatalogue(pool).put_zones([ZoneRecord("Z1", "One"), ZoneRecord("Z2", "Two")])
    await PostgresCatalogue(pool).put_costs([CostRecord(*pair, *cost, 1) for pair, cost in COSTS.items()], 1)
    world.exchange.add(spot())
    world.build()
    await world.gateway.start()
    yield world
    await world.gateway.stop()
    await world.client.aclose()


async def call(person: Person, method: str, path: str, body: Any = None, status: int = 200) -> Any:
    answer = await person.call(method, f"/api/v1{path}", body)
    assert answer.status_code == status, (method, path, answer.text)
    return answer.json() if answer.content else None


async def test_a_persons_changes_are_told_one_by_one(world: StoredWorld) -> None:
    ann = await world.person()
    me, before = f"user:{ann.user_id}", await world.last()

    await call(ann, "PATCH", "/users/me", {"name": "Ann B."})
    key = await call(ann, "POST", "/users/me/api-keys", {"name": "bot", "scopes": ["read"]}, 201)
    await call(ann, "DELETE", f"/users/me/api-keys/{key['id']}", status=204)
    await call(
        ann, "POST", "/users/me/password", {"current_password": PASSWORD, "new_password": NEW_PASSWORD}, status=204
    )
    other = await world.client.post(LOGIN, json={"email": "ann@campus.example", "password": NEW_PASSWORD})
    (session,) = [one for one in (await call(ann, "GET", "/users/me/sessions"))["items"] if not one["current"]]
    await call(ann, "DELETE", f"/users/me/sessions/{session['session_id']}", status=204)
    await world.client.post("/api/v1/auth/refresh", json={"refresh_token": ann.refresh_token})
    await world.client.post("/api/v1/auth/refresh", json={"refresh_token": ann.refresh_token})

    assert other.status_code == 200
    assert await world.told(before) == [
        (me, "user.changed", me),
        (me, "api_key.made", f"key:{key['id']}"),
        (me, "api_key.revoked", f"key:{key['id']}"),
        (me, "password.changed", me),
        ("anonymous", "login.succeeded", me),
        (me, "session.ended", me),
        ("anonymous", "refresh.reused", me),
    ]


async def test_a_row_names_session_address_and_request(world: StoredWorld) -> None:
    ann = await world.person()
    (session,) = (await call(ann, "GET", "/users/me/sessions"))["items"]

    await ann.call("PATCH", "/api/v1/users/me", {"name": "Ann B."}, headers={"X-Request-Id": "mine-7"})

    (row,) = await world.audit.find(2**62, 1)
    assert (row.via, row.address, row.request_id) == (f"session:{session['session_id']}", "127.0.0.1", "mine-7")
    assert (row.before, row.after) == ('{"name":"Ann"}', '{"name":"Ann B."}')


async def test_what_admins_do_is_told(world: StoredWorld) -> None:
    boss, ann = await world.person("boss@campus.example", "admin"), await world.person()
    by, user, before = f"user:{boss.user_id}", f"user:{ann.user_id}", await world.last()

    await call(boss, "PATCH", f"/admin/users/{ann.user_id}", {"role": "faculty", "zone": "Z2"})
    await call(boss, "PATCH", f"/admin/users/{ann.user_id}", {"status": "suspended"})
    key = await call(boss, "POST", "/admin/ami-keys", {"name": "AMI north", "meter_ids": ["M-1"]}, 201)
    await call(boss, "DELETE", f"/admin/ami-keys/{key['id']}", status=204)
    await call(boss, "PUT", "/zones", {"items": [{"id": "Z2", "name": "South"}, {"id": "Z3", "name": "West"}]})
    await call(boss, "PUT", "/zones/capacities", {"items": [{"from": "Z1", "to": "Z3", "energy_per_epoch": "5.000"}]})
    await call(boss, "POST", "/markets/Z1-SPOT/halt")
    await call(boss, "POST", "/markets/Z1-SPOT/cancel-all")

    told = await world.told(before)
    assert told[:5] == [
        (by, "user.changed", user),
        (by, "user.changed", user),
        (by, "api_key.made", f"key:{key['id']}"),
        (by, "api_key.revoked", f"key:{key['id']}"),
        (by, "zones.put", "zones"),
    ]
    assert (by, "capacities.put", "zones") in told
    assert told[-2:] == [
        (by, "market.phase_asked", "market:Z1-SPOT"),
        (by, "market.cancel_all_asked", "market:Z1-SPOT"),
    ]
    changed, zones = (await world.audit.after(before, 10))[0], (await world.audit.after(before, 10))[4]
    assert changed.after == '{"role":"faculty","zone":"Z2"}'
    assert (zones.before, zones.after) == ('{"Z2":"Two"}', '{"Z2":"South","Z3":"West"}')


async def test_what_is_refused_is_no_change(world: StoredWorld) -> None:
    boss, ann = await world.person("boss@campus.example", "admin"), await world.person()
    before = await world.last()

    for method, path, body in (
        ("PATCH", "/users/me", {"name": " "}),
        ("PATCH", f"/admin/users/{ann.user_id}", {"zone": "Z9"}),
        ("PATCH", f"/admin/users/{boss.user_id}", {"role": "student"}),
        ("PATCH", f"/admin/users/{ann.user_id}", {"role": "student"}),  # which she is
        ("DELETE", "/users/me/sessions/none", None),
        ("DELETE", f"/users/me/api-keys/{'a' * 16}", None),
        ("POST", f"/admin/users/{ann.user_id}/unlock", None),  # who is not locked
    ):
        await boss.call(method, f"/api/v1{path}", body)

    assert await world.told(before) == []


async def test_a_lock_is_told_survives_a_restart_and_an_admin_opens_it(world: StoredWorld) -> None:
    boss, ann = await world.person("boss@campus.example", "admin"), await world.person()
    me, before = f"user:{ann.user_id}", await world.last()
    wrong = {"email": "ann@campus.example", "password": "x" * 12}

    for _ in range(3):
        assert (await world.client.post(LOGIN, json=wrong)).status_code == 401
    world.build()  # another process; nothing but the database is left
    for _ in range(2):
        assert (await world.client.post(LOGIN, json=wrong)).status_code == 401
    locked = await world.client.post(LOGIN, json=wrong | {"password": PASSWORD})
    await call(boss, "POST", f"/admin/users/{ann.user_id}/unlock")
    opened = await world.client.post(LOGIN, json=wrong | {"password": PASSWORD})

    assert (locked.status_code, opened.status_code) == (423, 200)
    assert 890 <= int(locked.headers["retry-after"]) <= 900
    assert await world.told(before) == [
        *[("anonymous", "login.failed", me)] * 4,
        ("anonymous", "login.locked", me),
        (f"user:{boss.user_id}", "login.unlocked", me),
        ("anonymous", "login.succeeded", me),
    ]


async def test_a_failed_login_without_an_account_does_not_tell_what_was_typed(world: StoredWorld) -> None:
    for email in ("hunter2-my-password@x.example", "\x00@x.example", "Ann"):
        answer = await world.client.post(LOGIN, json={"email": email, "password": "x" * 12})
        assert answer.status_code == 401

    rows = await world.audit.after(0, 10)
    assert [row.subject[:6] for row in rows[2:]] == ["login:"] * 3
    assert "hunter2" not in repr(rows)


async def test_the_lock_ends_by_itself(world: StoredWorld) -> None:
    await world.person()
    wrong = {"email": "ann@campus.example", "password": "x" * 12}
    for _ in range(5):
        await world.client.post(LOGIN, json=wrong)
    assert (await world.client.post(LOGIN, json=wrong)).status_code == 423

    world.clock.pass_seconds(901)

    assert (await world.client.post(LOGIN, json=wrong | {"password": PASSWORD})).status_code == 200


async def test_admins_read_the_log_with_filters_and_pages(world: StoredWorld) -> None:
    boss, ann = await world.person("boss@campus.example", "admin"), await world.person()
    await call(ann, "PATCH", "/users/me", {"name": "Ann B."})

    mine = await boss.get("/api/v1/admin/audit", actor=f"user:{ann.user_id}")
    first = (await boss.get("/api/v1/admin/audit", limit=3)).json()
    second = (await boss.get("/api/v1/admin/audit", limit=100, cursor=first["next"])).json()
    none = await boss.get("/api/v1/admin/audit", to="2020-01-01T00:00:00Z")

    (row,) = mine.json()["items"]
    assert (row["action"], row["subject"]) == ("user.changed", f"user:{ann.user_id}")
    assert (row["before"], row["after"]) == ({"name": "Ann"}, {"name": "Ann B."})
    numbers = [int(one["number"]) for one in first["items"] + second["items"]]
    assert numbers == list(range(await world.last(), 0, -1))
    assert none.json() == {"items": [], "next": None}
    for odd in ({"actor": "\x00"}, {"subject": "'; DROP TABLE audit_log"}, {"action": "x" * 5_000}):
        assert (await boss.get("/api/v1/admin/audit", **odd)).json()["items"] == []
    assert (await ann.get("/api/v1/admin/audit")).status_code == 403


async def test_no_secret_is_told_and_the_chain_holds(world: StoredWorld, database: str) -> None:
    ann = await world.person()
    secret = await world.key(ann, "read")
    await call(
        ann, "POST", "/users/me/password", {"current_password": PASSWORD, "new_password": NEW_PASSWORD}, status=204
    )

    everything = repr(await world.audit.after(0, 1_000))

    kept = await world.pool.fetchrow("SELECT password_hash, secret_hash FROM users CROSS JOIN api_keys")
    assert kept is not None
    hidden = [PASSWORD, NEW_PASSWORD, ann.token, *ann.refresh_token.split(".")[2:], secret, secret[20:]]
    hidden += [bytes(value).hex() for value in kept]
    assert not [one for one in hidden if one in everything]
    chain, broken = await verified_log(database, lambda number: None)
    assert (chain.number, broken) == (await world.last(), "")


async def test_a_new_role_ends_sessions_here_at_once_and_elsewhere_with_the_next_look(world: StoredWorld) -> None:
    boss, ann = await world.person("boss@campus.example", "admin"), await world.person()
    assert (await ann.get("/api/v1/users/me")).status_code == 200

    await call(boss, "PATCH", f"/admin/users/{ann.user_id}", {"role": "faculty"})

    assert (await ann.get("/api/v1/users/me")).status_code == 401
    assert (await world.client.post("/api/v1/auth/refresh", json={"refresh_token": ann.refresh_token})).is_error


async def test_two_admins_who_demote_each_other_at_once_leave_one(world: StoredWorld) -> None:
    one, other = [await world.person(f"{name}@campus.example", "admin") for name in ("one", "other")]

    answers = await asyncio.gather(
        one.call("PATCH", f"/api/v1/admin/users/{other.user_id}", {"role": "student"}),
        other.call("PATCH", f"/api/v1/admin/users/{one.user_id}", {"role": "student"}),
    )

    assert await world.people.count_admins() == 1
    assert min(answer.status_code for answer in answers) == 200
    assert {answer.status_code for answer in answers} <= {200, 401, 403, 409}


async def test_sessions_of_others_are_not_there(world: StoredWorld) -> None:
    ann, eve = await world.person(), await world.person("eve@campus.example")
    (session,) = (await call(ann, "GET", "/users/me/sessions"))["items"]

    await call(eve, "DELETE", f"/users/me/sessions/{session['session_id']}", status=404)
    await call(eve, "DELETE", "/users/me/sessions/%00", status=404)
    assert (await ann.get("/api/v1/users/me")).status_code == 200

    await call(ann, "DELETE", f"/users/me/sessions/{session['session_id']}", status=204)
    assert (await ann.get("/api/v1/users/me")).status_code == 401
