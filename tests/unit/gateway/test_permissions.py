"""Every route and every socket operation, with nobody, each role, and keys of each scope: the table is enforced.

Seen to fail for: a key that no scope narrows, a key on an account route, a head-end that reads its profile, a socket
operation that does not look at scopes, a secret of which only the prefix is looked at.
"""

import pytest
from litestar.routes import HTTPRoute, WebSocketRoute

from gateway.permissions import (
    ADMIN,
    AMI,
    CHANNELS,
    FACULTY,
    METER,
    OPERATIONS,
    READ,
    ROLES,
    ROUTES,
    SCOPES,
    STUDENT,
    TRADE,
    Permission,
    permission_of,
)
from tests.unit.gateway.conftest import World
from tests.unit.gateway.sockets import Socket

PLACES = {
    "{symbol}": "Z1-SPOT",
    "{name}": "market-Z1-SPOT",
    "{order_id}": "1-1",
    "{user_id}": "1",
    "{client_order_id}": "x",
    "{start}": "2027-01-15T08:00:00Z",
    "{session_id}": "none",
    "{key_id}": "none",
    "{address}": "none",
    "{meter_id}": "none",
    "{trade_id}": "1-1",
    "{settlement_id}": "0" * 32,
    "{feed}": "none",
    "{provider_id}": "none",
    "{id}": "1",
    "{recurring_id}": "1",
}
LOGIN_ONLY = ("/password", "/sessions", "/api-keys", "/admin/", "/zones", "/wallets")


async def test_every_route_that_is_served_is_in_the_table_and_the_other_way_round(world: World) -> None:
    served: set[tuple[str, str]] = set()
    for route in world.app.routes:
        if isinstance(route, HTTPRoute):
            served |= {(method, route.path_format) for method in route.methods if method != "OPTIONS"}
        elif isinstance(route, WebSocketRoute):
            served.add(("WEBSOCKET", route.path_format))

    assert served == set(ROUTES)


def test_a_route_outside_the_table_has_no_permission() -> None:
    with pytest.raises(KeyError):
        permission_of("POST", "/api/v1/mint")


def guarded() -> list[tuple[str, str, Permission]]:
    """(method, path, permission) of every route that not anyone may use."""
    found = []
    for (method, template), permission in ROUTES.items():
        path = template
        for place, value in PLACES.items():
            path = path.replace(place, value)
        assert "{" not in path or not permission.roles, path
        if permission.roles:
            found.append((method, path, permission))
    return found


async def test_every_route_refuses_who_is_not_in_its_row(world: World) -> None:
    people = {role: await world.person(f"{role}@campus.example", role) for role in sorted(ROLES)}
    for method, path, permission in guarded():
        nobody = await world.client.request(method, path)
        forged = await world.client.request(method, path, headers={"Authorization": "Bearer eyJhbGciOiJub25lIn0.e30."})

        assert (nobody.status_code, nobody.json()["code"]) == (401, "UNAUTHENTICATED"), (method, path)
        assert (forged.status_code, forged.json()["code"]) == (401, "UNAUTHENTICATED"), (method, path)
        for role, person in people.items():
            if (method, path) == ("DELETE", "/api/v1/users/me/sessions"):
                continue  # allowed to all, and would log them out
            answer = await person.call(method, path)
            refused = answer.status_code == 403 and answer.json()["code"] == "FORBIDDEN"
            assert refused is (role not in permission.roles), (method, path, role, answer.status_code, answer.text)
            assert answer.status_code != 401, (method, path, role)
            assert answer.status_code < 500, (method, path, role, answer.text)


async def test_every_route_refuses_keys_without_its_scope_and_those_of_roles_not_in_its_row(world: World) -> None:
    boss = await world.person("boss@campus.example", "admin")
    people = {role: await world.person(f"{role}@campus.example", role) for role in sorted(ROLES)}
    keys = {(role, scope): await world.key(people[role], scope) for role in sorted(ROLES) for scope in sorted(SCOPES)}
    head_end = await boss.post("/api/v1/admin/ami-keys", {"name": "head-end"})
    keys[AMI, METER] = head_end.json()["secret"]
    bad = [
        keys[STUDENT, READ][:20] + "A" * 43,
        "x",
        "wb__",
        f"wb_{'a' * 16}_{'b' * 43}",
        keys[STUDENT, READ][:-1] + "!",
        keys[STUDENT, READ].upper(),
    ]
    for method, path, permission in guarded():
        for secret in bad:
            answer = await world.by_key(secret, method, path)
            assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHENTICATED"), (method, path, secret)
        for (role, scope), secret in keys.items():
            answer = await world.by_key(secret, method, path)
            refused = answer.status_code == 403 and answer.json()["code"] == "FORBIDDEN"
            allowed = role in permission.roles and scope == permission.scope
            assert refused is not allowed, (method, path, role, scope, answer.status_code, answer.text)
            assert answer.status_code != 401, (method, path, role, scope)
            assert answer.status_code < 500, (method, path, role, scope, answer.text)


async def test_every_socket_operation_and_channel_refuses_who_is_not_in_its_row(world: World) -> None:
    people = {role: await world.person(f"{role}@campus.example", role) for role in sorted(ROLES)}
    logins: list[tuple[str | None, str, dict[str, str]]] = [(None, "", {})]
    logins += [(role, "", {"token": person.token}) for role, person in people.items()]
    logins += [
        (role, scope, {"api_key": await world.key(people[role], scope)})
        for role in sorted(ROLES)
        for scope in sorted(SCOPES)
    ]
    requests = [({"op": op}, permission) for op, permission in OPERATIONS.items() if op != "auth"]
    requests += [({"op": "subscribe", "channel": name, "market": "Z1-SPOT"}, who) for name, who in CHANNELS.items()]
    for role, scope, login in logins:
        async with Socket(world) as socket:
            if login:
                assert (await socket.ask({"op": "auth", **login}))["ok"]
            for request, permission in requests:
                code = (await socket.ask(request)).get("error", {}).get("code")
                allowed = not permission.roles or (role in permission.roles and scope in ("", permission.scope))
                if allowed:
                    assert code not in ("FORBIDDEN", "UNAUTHENTICATED"), (request, role, scope)
                else:
                    assert code == ("FORBIDDEN" if role else "UNAUTHENTICATED"), (request, role, scope, code)


def test_a_head_end_system_never_trades_and_only_admins_administer() -> None:
    ami = {path for (_, path), permission in ROUTES.items() if AMI in permission.roles}
    own = ("/api/v1/users/me", "/api/v1/meters", "/api/v1/readings")
    assert all(path.startswith(own) and "cancel" not in path for path in ami), ami
    for (method, path), permission in ROUTES.items():
        administers = "/admin/" in path or "/zones" in path or ("/markets" in path and method != "GET")
        administers |= path.endswith(("/risk/limits/{user_id}", "/makers"))
        administers |= path.endswith("/assignments") or "/oracle/providers" in path
        administers |= ("/oracle/feeds" in path or path.startswith("/api/v1/chain/")) and method != "GET"
        assert (permission.roles == {ADMIN}) is administers, (method, path)
        trades = path.startswith(("/api/v1/orders", "/api/v1/deposits", "/api/v1/balances", "/api/v1/ledger"))
        assert not trades or permission.roles == {STUDENT, FACULTY, ADMIN}, (method, path)
    assert not any(AMI in allowed.roles for allowed in [*OPERATIONS.values(), *CHANNELS.values()])


def test_what_makes_or_ends_logins_and_whatever_administers_takes_a_login() -> None:
    for (method, path), permission in ROUTES.items():
        if permission.roles and (ADMIN in permission.roles) and any(part in path for part in LOGIN_ONLY):
            assert permission.scope == "", (method, path)
        if permission.roles == {ADMIN}:
            assert permission.scope == "", (method, path)
        if permission.scope == READ:
            assert method == "GET", (method, path)
        if permission.scope == TRADE:
            assert method != "GET", (method, path)


async def test_compact_orders_are_refused_to_who_may_not_place(world: World) -> None:
    head_end, ann = await world.person("ami@campus.example", "ami"), await world.person()
    for login in ({"token": head_end.token}, {"api_key": await world.key(ann, "read", "meter")}):
        async with Socket(world, binary=True) as socket:
            await socket.ask({"op": "auth", **login})
            await socket.send(["o", 1, "Z1-SPOT", 0, 3_000_000, 1_000, "", 0])

            assert (await socket.next())[:3] == ["e", 1, "FORBIDDEN"]
