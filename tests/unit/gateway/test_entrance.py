"""Who comes in and who stays, beside a directory: local accounts, its people, and what nobody may learn.

Seen to fail for: a local password sent to the directory, a local account opened by it, an account of the directory that
a local password opens, 401 for local accounts alone while the directory is down, failures that do not count while it is
down, a refresh that does not ask it, a grace without end, a role that stays as it was, an API key whose owner nobody
asks the directory about, an error for the last admin who left his group.
"""

from typing import Any

import httpx
import pytest

from engine.records import DirectoryDown, DirectoryPerson
from gateway.auth.passwords import Passwords
from gateway.settings import Limit
from tests.unit.gateway.conftest import PASSWORD, World

LOGIN = "/api/v1/auth/login"
REFRESH = "/api/v1/auth/refresh"


class MemoryDirectory:
    """People with passwords, and what was asked of it."""

    def __init__(self) -> None:
        self.people: dict[str, tuple[DirectoryPerson, str]] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.down = False

    def put(self, name: str, role: str = "student", directory_id: str = "", email: str = "", called: str = "") -> None:
        person = DirectoryPerson((directory_id or name).encode(), email or name, called or name.title(), role)
        self.people[name] = (person, PASSWORD)

    async def check(self, name: str, password: str | None) -> DirectoryPerson | None:
        self.asked.append((name, password))
        self._answer()
        person, theirs = self.people.get(name, (None, ""))
        return person if person is not None and password == theirs else None

    async def find(self, directory_id: bytes) -> DirectoryPerson | None:
        self._answer()
        return next((one for one, _ in self.people.values() if one.directory_id == directory_id), None)

    def _answer(self) -> None:
        if self.down:
            raise DirectoryDown


@pytest.fixture
def directory(world: World) -> MemoryDirectory:
    directory = MemoryDirectory()
    world.build(directory=directory, login_limit=Limit(1_000, 1_000))
    return directory


async def login(world: World, email: str, password: str = PASSWORD) -> httpx.Response:
    return await world.client.post(LOGIN, json={"email": email, "password": password})


async def refresh(world: World, pair: dict[str, Any]) -> httpx.Response:
    return await world.client.post(REFRESH, json={"refresh_token": pair["refresh_token"]})


async def me(world: World, pair: dict[str, Any]) -> httpx.Response:
    return await world.client.get("/api/v1/users/me", headers={"Authorization": f"Bearer {pair['access_token']}"})


async def test_whom_the_directory_knows_gets_an_account_at_the_first_login(
    world: World, directory: MemoryDirectory
) -> None:
    directory.put("fay@campus.example", "faculty")

    first, second = await login(world, " Fay@Campus.Example "), await login(world, "fay@campus.example")

    assert (first.status_code, second.status_code) == (200, 200)
    shown = (await me(world, first.json())).json()
    assert (shown["email"], shown["role"], shown["source"]) == ("fay@campus.example", "faculty", "directory")
    assert len(world.people.users) == 1


async def test_no_local_password_opens_an_account_of_the_directory(world: World, directory: MemoryDirectory) -> None:
    directory.put("fay@campus.example")
    assert (await login(world, "fay@campus.example")).status_code == 200

    assert [(await login(world, "fay@campus.example", word)).status_code for word in ("nobody", "")] == [401] * 2
    passwords = Passwords(4, 1, 10, allow_low_cost=True)
    assert not await passwords.matches("nobody", b"")
    passwords.close()


async def test_the_directory_never_opens_a_local_account_nor_hears_its_password(
    world: World, directory: MemoryDirectory
) -> None:
    ann = await world.person("ann@campus.example")
    directory.people["ann@campus.example"] = (DirectoryPerson(b"1", "ann@campus.example", "Eve", "admin"), "e" * 12)
    directory.put("eve", directory_id="2", email="ann@campus.example")
    directory.asked.clear()

    local = await login(world, "ann@campus.example")
    theirs = await login(world, "ann@campus.example", "e" * 12)
    alias = await login(world, "eve")

    assert [one.status_code for one in (local, theirs, alias)] == [200, 401, 401]
    assert directory.asked[1:] == [("ann@campus.example", None), ("eve", PASSWORD)]
    assert all(given is None for name, given in directory.asked if name == "ann@campus.example")
    assert (world.people.users[ann.user_id].role, len(world.people.users)) == ("student", 1)


async def test_a_right_local_password_waits_for_no_directory(world: World, directory: MemoryDirectory) -> None:
    await world.person("ann@campus.example")
    directory.down = True

    assert (await login(world, "ann@campus.example")).status_code == 200


async def test_no_answer_tells_who_exists_where_also_while_the_directory_is_down(
    world: World, directory: MemoryDirectory
) -> None:
    await world.person("ann@campus.example")
    directory.put("fay@campus.example")
    await login(world, "fay@campus.example")
    everybody = ("ann@campus.example", "fay@campus.example", "nobody@campus.example")

    for down, status, code in ((False, 401, "UNAUTHENTICATED"), (True, 503, "UNAVAILABLE")):
        directory.down = down
        answers = [await login(world, email, "x" * 12) for email in everybody]
        assert {(one.status_code, one.json()["code"], one.json()["detail"]) for one in answers} == {
            (status, code, answers[0].json()["detail"])
        }
    assert answers[0].headers["retry-after"] == "5"
    for email in everybody:
        statuses = [(await login(world, email, "x" * 12)).status_code for _ in range(4)]
        assert statuses == [503, 503, 503, 423], email


async def test_a_role_and_a_name_are_the_directorys_at_each_login_and_refresh(
    world: World, directory: MemoryDirectory
) -> None:
    await world.person("boss@campus.example", "admin")
    directory.put("fay@campus.example", "admin", "7")
    pair = (await login(world, "fay@campus.example")).json()
    directory.put("fay@campus.example", "student", "7", email="fay.new@campus.example", called="Fay New")

    fresh = await refresh(world, pair)
    world.clock.pass_seconds(6)
    shown = (await me(world, fresh.json())).json()

    assert fresh.status_code == 200
    assert (shown["role"], shown["name"], shown["email"]) == ("student", "Fay New", "fay.new@campus.example")
    directory.put("fay@campus.example", "faculty", "7", email="fay.new@campus.example")
    again = (await login(world, "fay@campus.example")).json()
    world.clock.pass_seconds(6)
    assert (await me(world, again)).json()["role"] == "faculty"


async def test_who_was_removed_is_out_at_the_next_refresh_with_all_his_sessions(
    world: World, directory: MemoryDirectory
) -> None:
    directory.put("fay@campus.example")
    pairs = [(await login(world, "fay@campus.example")).json() for _ in range(2)]
    del directory.people["fay@campus.example"]

    assert (await me(world, pairs[0])).status_code == 200
    assert (await refresh(world, pairs[0])).status_code == 401

    assert [(await me(world, pair)).status_code for pair in pairs] == [401, 401]
    assert (await refresh(world, pairs[1])).status_code == 401
    assert (await login(world, "fay@campus.example")).status_code == 401


async def test_an_address_given_to_somebody_else_opens_nothing_of_the_first(
    world: World, directory: MemoryDirectory
) -> None:
    directory.put("fay@campus.example", directory_id="first")
    pair = (await login(world, "fay@campus.example")).json()
    directory.put("fay@campus.example", directory_id="second")

    assert (await login(world, "fay@campus.example")).status_code == 401
    assert (await refresh(world, pair)).status_code == 401


async def test_sessions_outlive_a_directory_that_is_down_by_the_grace(world: World, directory: MemoryDirectory) -> None:
    directory.put("fay@campus.example")
    pair = (await login(world, "fay@campus.example")).json()
    directory.down = True

    world.clock.pass_seconds(3_590)
    within = await refresh(world, pair)
    world.clock.pass_seconds(11)
    beyond = await refresh(world, within.json())
    directory.down = False
    after = await refresh(world, within.json())

    assert within.status_code == 200
    assert (beyond.status_code, beyond.json()["code"]) == (503, "UNAVAILABLE")
    assert after.status_code == 200


async def test_a_clock_that_was_set_back_confirms_nobody(world: World, directory: MemoryDirectory) -> None:
    directory.put("fay@campus.example")
    pair = (await login(world, "fay@campus.example")).json()
    assert (await me(world, pair)).status_code == 200
    world.clock.go_ahead(-2 * 3_600)
    world.clock.pass_seconds(6)

    directory.down = True
    beyond_the_grace = await refresh(world, pair)
    directory.down = False
    del directory.people["fay@campus.example"]

    assert beyond_the_grace.status_code == 503
    assert (await me(world, pair)).status_code == 401


async def test_without_a_directory_its_people_are_out(world: World, directory: MemoryDirectory) -> None:
    directory.put("fay@campus.example")
    pair = (await login(world, "fay@campus.example")).json()
    world.build(directory=None)

    assert (await refresh(world, pair)).status_code == 401
    assert (await login(world, "fay@campus.example")).status_code == 401


async def test_what_the_directory_keeps_is_changed_there(world: World, directory: MemoryDirectory) -> None:
    boss = await world.person("boss@campus.example", "admin")
    directory.put("fay@campus.example")
    pair = (await login(world, "fay@campus.example")).json()
    token = {"Authorization": f"Bearer {pair['access_token']}"}
    user_id = (await me(world, pair)).json()["id"]

    renamed = await world.client.patch("/api/v1/users/me", json={"name": "F"}, headers=token)
    change = {"current_password": PASSWORD, "new_password": "windy-hill-and-turbine"}
    password = await world.client.post("/api/v1/users/me/password", json=change, headers=token)
    role = await boss.call("PATCH", f"/api/v1/admin/users/{user_id}", {"role": "admin"})
    status = await boss.call("PATCH", f"/api/v1/admin/users/{user_id}", {"status": "suspended"})

    assert [one.json()["code"] for one in (renamed, password, role)] == ["CONFLICT"] * 3
    assert status.status_code == 200
    assert (await login(world, "fay@campus.example")).json()["code"] == "FORBIDDEN"


async def test_an_api_key_does_not_outlive_its_owners_place_in_the_directory(
    world: World, directory: MemoryDirectory
) -> None:
    directory.put("fay@campus.example")
    pair = (await login(world, "fay@campus.example")).json()
    token = {"Authorization": f"Bearer {pair['access_token']}"}
    wanted = {"name": "bot", "scopes": ["read"]}
    secret = (await world.client.post("/api/v1/users/me/api-keys", json=wanted, headers=token)).json()["secret"]
    world.clock.pass_seconds(world.settings.access_seconds + 1)

    directory.down = True
    within = await world.by_key(secret, "GET", "/api/v1/users/me")
    directory.down = False
    confirmed = await world.by_key(secret, "GET", "/api/v1/users/me")
    del directory.people["fay@campus.example"]
    world.clock.pass_seconds(world.settings.access_seconds + 1)
    gone = await world.by_key(secret, "GET", "/api/v1/users/me")

    assert (within.status_code, confirmed.status_code, gone.status_code) == (200, 200, 401)


async def test_the_last_admin_who_left_his_group_is_out_and_no_error(world: World, directory: MemoryDirectory) -> None:
    directory.put("ada@campus.example", "admin")
    pair = (await login(world, "ada@campus.example")).json()
    directory.put("ada@campus.example", "student")

    assert (await refresh(world, pair)).status_code == 401
    assert (await login(world, "ada@campus.example")).status_code == 401
