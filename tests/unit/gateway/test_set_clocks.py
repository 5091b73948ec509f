"""A clock that is set, ahead or back, gives nobody what he has lost, and stops no trading.

Seen to fail for: a look whose age is told by the clock, ended sessions forgotten by the clock alone and by the time
that passed alone, ended sessions asked for from an instant that is still to come, readiness by the clock.
"""

import httpx

from tests.unit.gateway.conftest import Person, World

ACCESS_SECONDS = 900


async def me(person: Person) -> httpx.Response:
    return await person.get("/api/v1/users/me")


async def test_who_was_suspended_is_known_as_such_although_the_clock_went_back(world: World) -> None:
    ann = await world.person()
    await me(ann)
    await world.people.update(ann.user_id, status="suspended", now_us=world.clock())  # by another gateway
    world.clock.go_ahead(-3_600)

    world.clock.pass_seconds(6)

    assert (await me(ann)).status_code == 403


async def test_who_has_left_stays_out_when_the_clock_was_ahead_and_comes_back(world: World) -> None:
    ann, bob = await world.person(), await world.person("bob@campus.example")
    assert (await ann.post("/api/v1/auth/logout", {"refresh_token": ann.refresh_token})).is_success
    world.clock.go_ahead(2 * ACCESS_SECONDS)
    await world.gateway.revocations.read()  # which forgets whose tokens are all dead

    world.clock.go_ahead(-2 * ACCESS_SECONDS)

    assert (await me(ann)).status_code == 401
    assert (await me(bob)).status_code == 200


async def test_who_has_left_stays_out_for_as_long_as_a_clock_that_went_back_makes_his_token_live(world: World) -> None:
    ann = await world.person()
    await me(ann)
    assert (await ann.post("/api/v1/auth/logout", {"refresh_token": ann.refresh_token})).is_success
    world.clock.go_ahead(-2 * ACCESS_SECONDS)
    world.clock.pass_seconds(ACCESS_SECONDS + 60)

    await world.gateway.revocations.read()

    assert (await me(ann)).status_code == 401


async def test_who_leaves_through_another_gateway_is_out_here_although_the_clocks_went_back(world: World) -> None:
    ann = await world.person()
    await me(ann)
    await world.gateway.revocations.read()
    world.clock.go_ahead(-600)
    (session,) = await world.people.sessions(ann.user_id)
    await world.people.end_session(session.session_id, world.clock(), None, None)

    await world.gateway.revocations.read()

    assert (await me(ann)).status_code == 401


async def test_a_clock_that_is_set_ahead_does_not_make_it_unready(world: World) -> None:
    before = await sessions(world)  # the gateway's own task has read by then, and does not so soon again
    world.clock.go_ahead(3_600)
    ahead = await sessions(world)
    world.clock.pass_seconds(60)

    assert (before, ahead, await sessions(world)) == ("up", "up", "down")


async def sessions(world: World) -> str:
    """How health sees what is known of ended sessions, now."""
    world.gateway.health._report = None
    return (await world.gateway.health.report()).dependencies["sessions"].state
