"""The flow of zones on the channel `energy`: who is told, and what is held back.

Seen to fail for: a student who is told, faculty who see a single household, a zone that is another's, a faculty member
who moved and is told of where he was.
"""

from engine.analytics.series import Flow
from engine.metering.records import PostedWindow
from tests.unit.gateway.conftest import World
from tests.unit.gateway.memory_meters import MemoryAnalytics
from tests.unit.gateway.sockets import Socket


def closed(zone: str) -> list[PostedWindow]:
    return [PostedWindow(1, bytes(16), 0, 1, zone, 1, 1, 1, 1, False)]


def analytics(world: World) -> MemoryAnalytics:
    found = world.metering.analytics
    assert isinstance(found, MemoryAnalytics)
    return found


async def subscribed(socket: Socket, token: str) -> None:
    await socket.ask({"op": "auth", "token": token})
    assert (await socket.ask({"op": "subscribe", "channel": "energy"}))["ok"]


async def test_faculty_are_told_of_their_zone_where_nobody_stands_out(world: World) -> None:
    ann = await world.person("ann@campus.example", "faculty")
    analytics(world).now = Flow(900_000_000, 100, 250, meters=6, owners=5, largest_wh=80)
    async with Socket(world) as socket:
        await subscribed(socket, ann.token)

        told = await socket.next()

    assert (told["channel"], told["type"], told["zone"]) == ("energy", "flow", "Z1")
    # 0.100 kWh in a quarter of an hour is 400 W
    flow = {"as_of": "1970-01-01T00:30:00Z", "meters": 6, "import_power_w": 400, "export_power_w": 1_000}
    assert told["flow"] == flow


async def test_a_single_household_is_shown_to_admins_only(world: World) -> None:
    boss, ann = await world.person("boss@campus.example", "admin"), await world.person("ann@campus.example", "faculty")
    analytics(world).now = Flow(0, 100, 250, meters=1, owners=1, largest_wh=350)
    async with Socket(world) as of_boss, Socket(world) as of_ann:
        await subscribed(of_boss, boss.token)
        await subscribed(of_ann, ann.token)
        world.gateway.flows.windows_closed(closed("Z1"))

        told_boss, told_ann = await of_boss.next(), await of_ann.next()

    assert told_boss["flow"]["import_power_w"] == 400
    assert (told_ann["flow"]["meters"], told_ann["flow"]["import_power_w"]) == (1, None)


async def test_students_and_other_zones_are_not_told(world: World) -> None:
    student, ann = await world.person("student@campus.example"), await world.person("ann@campus.example", "faculty")
    boss = await world.person("boss@campus.example", "admin")
    analytics(world).now = Flow(0, 100, 250, meters=6, owners=5, largest_wh=80)
    async with Socket(world) as of_student, Socket(world) as of_ann, Socket(world) as of_boss:
        await subscribed(of_student, student.token)
        await subscribed(of_boss, boss.token)
        await subscribed(of_ann, ann.token)
        assert (await of_ann.next())["zone"] == "Z1"
        assert (await of_boss.next())["zone"] == "Z1"
        world.gateway.flows.windows_closed(closed("Z2"))
        assert (await of_boss.next())["zone"] == "Z2"
        # whatever else was told to them comes before the answer to a ping
        for socket in (of_student, of_ann):
            await socket.send({"op": "ping", "id": 1})
            assert (await socket.next())["op"] == "pong"


async def test_who_moves_is_told_of_where_he_is(world: World) -> None:
    ann = await world.person("ann@campus.example", "faculty")
    analytics(world).now = Flow(0, 100, 250, meters=6, owners=5, largest_wh=80)
    async with Socket(world) as socket:
        await subscribed(socket, ann.token)
        assert (await socket.next())["zone"] == "Z1"
        await world.people.update(ann.user_id, zone="Z2", now_us=world.clock())
        world.clock.pass_seconds(10)

        assert (await socket.next())["zone"] == "Z2"  # the login is looked at every two seconds
