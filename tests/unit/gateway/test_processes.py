"""Replacing the process of an actor, as an admin asks for it. Seen to fail for: no row in the audit log."""

from typing import Any

from tests.unit.gateway.conftest import World

BEGAN_US = 1_764_072_000_000_000
PATH = "/api/v1/admin/actors/market-Z1-SPOT/replacement"


class Supervised:
    """In the place of the supervisor."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.why_not = ""
        self.answers = True
        self.asked: list[tuple[str, bool, str, bool | None]] = []
        self.audited: list[str] = []

    async def supervision(self) -> dict[str, Any]:
        return {"market-Z1-SPOT": {"up": True}, "persistence": {"up": True}} if self.answers else {}

    async def replace(self, name: str, *, by_snapshot: bool, node: str, shared: bool | None) -> dict[str, Any]:
        self.asked.append((name, by_snapshot, node, shared))
        self.audited = [row.action for row in self._world.audit.rows]
        if not self.answers:
            return {}
        return self.said("refused" if self.why_not else "warming", self.why_not)

    async def replacements(self) -> dict[str, Any]:
        done = self.said("done") | {"ended_us": BEGAN_US + 2_000_000, "to_pid": 42, "seconds_without": 0.125}
        return {"market-Z1-SPOT": done} if self.answers and self.asked else {}

    def said(self, state: str, detail: str = "") -> dict[str, Any]:
        numbers = {"from_pid": 41, "to_pid": 0, "sequence": 7, "seconds_without": 0.0}
        return {"actor": "market-Z1-SPOT", "state": state, "detail": detail, **numbers} | {
            "began_us": BEGAN_US,
            "ended_us": None,
        }


async def built(world: World) -> tuple[Supervised, Any]:
    supervised = Supervised(world)
    world.build(supervision=supervised.supervision, processes=supervised)
    return supervised, await world.person(role="admin")


async def test_an_admin_asks_for_a_fresh_process_and_looks_how_it_went(world: World) -> None:
    supervised, admin = await built(world)
    assert (await admin.get(PATH)).status_code == 404

    begun = await admin.post(PATH, {"by_snapshot": True, "node": "ab12", "shared": False})
    seen = await admin.get(PATH)

    assert begun.status_code == 202, begun.text
    assert begun.json()["state"] == "warming"
    assert supervised.asked == [("market-Z1-SPOT", True, "ab12", False)]
    assert "actor.replacement_asked" in supervised.audited
    assert seen.json() == {
        "actor": "market-Z1-SPOT",
        "state": "done",
        "detail": "",
        "began_at": "2025-11-25T12:00:00Z",
        "ended_at": "2025-11-25T12:00:02Z",
        "from_pid": 41,
        "to_pid": 42,
        "sequence": 7,
        "seconds_without": 0.125,
    }


async def test_what_cannot_be_replaced_is_said(world: World) -> None:
    supervised, admin = await built(world)

    unknown = await admin.post("/api/v1/admin/actors/market-NOWHERE/replacement")
    not_replaceable = await admin.post("/api/v1/admin/actors/persistence/replacement")
    supervised.why_not = "another process is being replaced"
    busy = await admin.post(PATH)
    supervised.answers = False
    silent = await admin.post(PATH)

    assert [one.status_code for one in (unknown, not_replaceable, busy, silent)] == [404, 404, 409, 503]
    assert busy.json()["detail"] == supervised.why_not
    assert supervised.asked == [("market-Z1-SPOT", False, "", None)] * 2
