"""Every route and every socket operation, with nobody and with each role: the table is what is enforced."""

import pytest
from litestar.routes import HTTPRoute, WebSocketRoute

from gateway.permissions import (
    ADMIN,
    AMI,
    ANYONE,
    CHANNELS,
    FACULTY,
    OPERATIONS,
    ROLES,
    ROUTES,
    STUDENT,
    permission_of,
)
from tests.unit.gateway.conftest import World
from tests.unit.gateway.sockets import Socket


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


async def test_every_route_refuses_who_is_not_in_its_row(world: World) -> None:
    people = {role: await world.person(f"{role}@campus.example", role) for role in sorted(ROLES)}
    for (method, template), permission in ROUTES.items():
        if method == "WEBSOCKET" or not permission.roles:
            continue
        path = template.replace("{symbol}", "Z1-SPOT").replace("{order_id}", "1-1").replace("{user_id}", "1")
        path = path.replace("{client_order_id}", "x").replace("{start}", "2027-01-15T08:00:00Z")

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


async def test_every_socket_operation_and_channel_refuses_who_is_not_in_its_row(world: World) -> None:
    people = {role: await world.person(f"{role}@campus.example", role) for role in sorted(ROLES)}
    requests = [({"op": op}, allowed) for op, allowed in OPERATIONS.items() if op != "auth"]
    requests += [({"op": "subscribe", "channel": name, "market": "Z1-SPOT"}, who) for name, who in CHANNELS.items()]
    for role in (None, *people):
        async with Socket(world) as socket:
            if role is not None:
                assert (await socket.ask({"op": "auth", "token": people[role].token}))["ok"]
            for request, allowed in requests:
                code = (await socket.ask(request)).get("error", {}).get("code")
                expected = (
                    None if allowed == ANYONE or role in allowed else ("FORBIDDEN" if role else "UNAUTHENTICATED")
                )
                if expected is None:
                    assert code not in ("FORBIDDEN", "UNAUTHENTICATED"), (request, role)
                else:
                    assert code == expected, (request, role, code)


def test_a_head_end_system_never_trades_and_only_admins_administer() -> None:
    ami = {path for (_, path), permission in ROUTES.items() if AMI in permission.roles}
    assert all(path.startswith("/api/v1/users/me") and "cancel" not in path for path in ami), ami
    for (method, path), permission in ROUTES.items():
        administers = "/admin/" in path or "/zones" in path or ("/markets" in path and method != "GET")
        assert (permission.roles == {ADMIN}) is administers, (method, path)
        trades = path.startswith(("/api/v1/orders", "/api/v1/deposits", "/api/v1/balances", "/api/v1/ledger"))
        assert not trades or permission.roles == {STUDENT, FACULTY, ADMIN}, (method, path)
    assert not any(AMI in allowed for allowed in [*OPERATIONS.values(), *CHANNELS.values()])


async def test_compact_orders_are_refused_to_who_may_not_place(world: World) -> None:
    head_end = await world.person("ami@campus.example", "ami")
    async with Socket(world, binary=True) as socket:
        await socket.ask({"op": "auth", "token": head_end.token})
        await socket.send(["o", 1, "Z1-SPOT", 0, 3_000_000, 1_000, "", 0])

        assert (await socket.next())[:3] == ["e", 1, "FORBIDDEN"]
