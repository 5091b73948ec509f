"""What operators see: the page, what it asks for, and who may.

The page is looked at in a real browser, on a desk and on a phone; the pictures stay in pytest's temporary folder.

Seen to fail for: a route that everybody may ask, text that becomes markup; a market in trouble below those that are
not, a page with a row for each of two hundred, a market that does not say whose process it is in, a note squeezed to a
word a line.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import uvicorn

from bench.installation import free_ports
from gateway.status import ExchangeStatus
from tests.support.browser import Page, browser
from tests.support.chaos import Report
from tests.support.patience import HUNG_SECONDS
from tests.unit.gateway.conftest import PASSWORD, World, spot

NOON_US = 1_764_072_000_000_000
SCRIPT = '<script>document.title = "owned"</script>'


def market(**changes: Any) -> dict[str, Any]:
    said = {"market": "Z1-SPOT", "state": "serving", "detail": "", "address": "10.0.0.7:4111", "phase": "open"}
    numbers = {"sequence": 41, "open_orders": 7, "participants": 3, "waiting": 2, "commits": 39, "pid": 4711}
    return {**said, **numbers, "recovered_seconds": 0.25, "up": True, "faults": 1, **changes}


def seen(**actors: dict[str, Any]) -> dict[str, Any]:
    gone = {"actor": "persistence", "at_us": NOON_US, "back_us": None, "why": f"status: TimeoutError {SCRIPT}"}
    back = {"actor": "market-Z1-SPOT", "at_us": NOON_US - 9_000_000, "back_us": NOON_US - 7_000_000, "why": "died"}
    persistence = {"state": "unreachable", "detail": "status: TimeoutError", "up": False, "faults": 2}
    return {
        "pid": 4000,
        "market-Z1-SPOT": market(),
        "gateway-1": {"state": "serving", "requests": 12, "pid": 4712, "up": True, "faults": 0},
        "persistence": persistence,
        "recent_faults": [back, gone],
        **actors,
    }


async def supervised() -> dict[str, Any]:
    return seen()


async def test_the_last_chaos_run_is_shown_when_there_was_one(world: World, tmp_path: Path) -> None:
    file = tmp_path / "chaos.json"
    world.build(supervision=supervised, chaos_report=file)
    admin = await world.person(role="admin")

    before = (await admin.get("/api/v1/admin/status")).json()["chaos"]
    file.write_bytes(msgspec.json.encode(Report(8, "2026-11-22T10:00:00Z", 60.0, {"the disk is full": 2}, 900)))
    after = (await admin.get("/api/v1/admin/status")).json()["chaos"]
    file.write_text("{")
    half = (await admin.get("/api/v1/admin/status")).json()["chaos"]

    assert (before, half) == (None, None)
    assert (after["seed"], after["faults"], after["violations"]) == (8, {"the disk is full": 2}, [])


async def test_an_admin_sees_markets_actors_and_faults(world: World) -> None:
    world.build(supervision=supervised)
    admin = await world.person(role="admin")

    answer = await admin.get("/api/v1/admin/status")

    assert answer.status_code == 200, answer.text
    status = answer.json()
    assert status["supervised"] is True
    assert [market["symbol"] for market in status["markets"]] == ["Z1-SPOT"]
    assert status["markets"][0]["waiting"] == 2
    assert status["markets"][0]["behind"] == 41
    assert [actor["name"] for actor in status["actors"]] == ["gateway-1", "market-Z1-SPOT", "persistence"]
    assert status["actors"][0]["figures"] == {"requests": 12}
    assert status["actors"][2]["up"] is False
    assert [(fault["actor"], fault["back_at"] is None) for fault in status["faults"]] == [
        ("persistence", True),
        ("market-Z1-SPOT", False),
    ]
    assert status["health"]["dependencies"]


async def test_without_a_supervisor_health_is_shown_all_the_same(world: World) -> None:
    admin = await world.person(role="admin")

    status = (await admin.get("/api/v1/admin/status")).json()

    assert status["supervised"] is False
    assert status["actors"] == status["markets"] == status["faults"] == []
    assert status["health"]["dependencies"]


@pytest.mark.parametrize("role", ["student", "faculty"])
async def test_nobody_else_sees_it(world: World, role: str) -> None:
    person = await world.person(role=role)

    assert (await person.get("/api/v1/admin/status")).status_code == 403
    assert (await world.client.get("/api/v1/admin/status")).status_code == 401


async def test_no_api_key_sees_it(world: World) -> None:
    admin = await world.person(role="admin")

    answer = await world.by_key(await world.key(admin, "read"), "GET", "/api/v1/admin/status")

    assert answer.status_code == 403


async def test_the_page_holds_nothing_and_loads_nothing(world: World) -> None:
    answer = await world.client.get("/status")

    policy = answer.headers["content-security-policy"]
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "//" not in answer.text.replace("// The access token lives", "")  # no address of another host
    assert ExchangeStatus.__struct_fields__ == ("at", "health", "supervised", "markets", "actors", "faults", "chaos")


@contextlib.asynccontextmanager
async def served(world: World) -> AsyncIterator[str]:
    """The application on loopback."""
    (port,) = free_ports(1)
    server = uvicorn.Server(uvicorn.Config(world.app, port=port, lifespan="off", log_config=None))
    serving = asyncio.create_task(server._serve())
    url = f"http://127.0.0.1:{port}"
    try:
        async with asyncio.timeout(HUNG_SECONDS), httpx.AsyncClient() as client:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    await client.get(f"{url}/status")
                    break
                await asyncio.sleep(0.02)
        yield url
    finally:
        server.should_exit = True
        await serving


async def log_in(page: Page, email: str, password: str = PASSWORD) -> None:
    await page.value(
        f"here('email').value = {email!r}; here('password').value = {password!r}; "
        "document.querySelector('#login button').click()"
    )


@pytest.mark.parametrize(("device", "width", "height"), [("desk", 1280, 900), ("phone", 390, 844)])
async def test_an_admin_looks_at_it(world: World, tmp_path: Path, device: str, width: int, height: int) -> None:
    world.build(supervision=supervised)
    admin = await world.person(role="admin")
    assert admin.user_id
    async with served(world) as url, browser(tmp_path) as page:
        await page.show(f"{url}/status", width, height, is_phone=device == "phone")
        await log_in(page, "ann@campus.example")
        await page.wait_for("document.querySelectorAll('#actors tbody tr').length === 3")
        await page.picture(tmp_path / f"{device}.png")

        assert await page.value("here('login').hidden")
        assert "Z1-SPOT" in await page.value("here('markets').innerText")
        assert SCRIPT in await page.value("here('faults').innerText")  # shown, not run
        assert "Wattbook status" in await page.value("document.title")
        assert await page.value("document.documentElement.scrollWidth") <= width, "it must be scrolled sideways"
        assert [one for one in page.complaints if "favicon" not in one] == []


async def test_the_browser_shows_a_wrong_password_and_a_wrong_role(world: World, tmp_path: Path) -> None:
    await world.person()
    async with served(world) as url, browser(tmp_path) as page:
        await page.show(f"{url}/status", 390, 844, is_phone=True)
        await log_in(page, "ann@campus.example", "not-the-password")
        await page.wait_for("here('refused').textContent.length > 5")
        first = await page.value("here('refused').textContent")
        await log_in(page, "ann@campus.example")
        await page.wait_for("here('refused').textContent.includes('admins')")

        assert "admins" not in first
        assert await page.value("here('status').hidden")


MANY = 200


def many() -> dict[str, Any]:
    """Two hundred markets that share processes; the last of them by name is down, and so is what it was in."""
    names = [f"M{number:03}" for number in range(MANY)]
    actors = {
        f"market-{name}": market(market=name, host=f"markets-{1 + place // 50}") for place, name in enumerate(names)
    }
    actors[f"market-{names[-1]}"] |= {"up": False, "state": "unreachable", "detail": "status: TimeoutError"}
    return seen(**actors)


@pytest.mark.parametrize(
    ("device", "width", "height", "scheme", "shown"),
    [("desk", 1280, 900, "light", 12), ("tablet", 820, 1180, "dark", 4), ("phone", 390, 844, "dark", 4)],
)
async def test_two_hundred_markets_fit_and_the_one_in_trouble_comes_first(
    world: World, tmp_path: Path, device: str, width: int, height: int, scheme: str, shown: int
) -> None:
    async def supervision() -> dict[str, Any]:
        return many()

    world.build(supervision=supervision)
    for number in range(MANY):
        world.exchange.add(spot(f"M{number:03}"))
    await world.person(role="admin")
    async with served(world) as url, browser(tmp_path) as page:
        await page.say("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        await page.show(f"{url}/status", width, height, is_phone=device != "desk")
        await log_in(page, "ann@campus.example")
        await page.wait_for("document.querySelectorAll('#actors tbody tr').length > 0")
        await page.picture(tmp_path / f"many-{device}-{scheme}.png")

        first = await page.value("document.querySelector('#markets tbody tr').innerText")
        assert "M199" in first
        assert "TimeoutError" in first
        assert await page.value("[...document.querySelectorAll('#markets th')].every((th) => th.clientHeight < 60)")
        assert "markets-4" in first
        assert await page.value("document.querySelectorAll('#markets tbody tr').length") == shown
        assert await page.value("document.documentElement.scrollHeight") < 4 * height
        assert await page.value("document.documentElement.scrollWidth") <= width, "it must be scrolled sideways"
        assert await page.value("document.querySelector('#chaos caption').clientWidth") > 100
        await page.value("here('markets-more').click()")
        assert await page.value("document.querySelectorAll('#markets tbody tr').length") == MANY + 1
        await page.value("here('markets-more').click()")
        assert await page.value("document.querySelectorAll('#markets tbody tr').length") == shown
