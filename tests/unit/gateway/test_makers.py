"""The market maker programme over the API: an admin sets obligations, a maker sees his own epochs and no others'.

Seen to fail for: a report that shows everybody everything.
"""

from engine.records import RewardRecord
from tests.unit.gateway.conftest import World

BODY = {"max_spread_bps": 200, "min_quantity": "1", "min_presence_bps": 9_000, "rebate_bps": 5}
EPOCH_US = 1_800_000_000_000_000


async def test_an_admin_obliges_lists_and_releases(world: World) -> None:
    boss, ann = await world.person("boss@campus.example", "admin"), await world.person()
    path = f"/api/v1/markets/Z1-SPOT/makers/{ann.user_id}"

    made = await boss.call("PUT", path, BODY)

    assert made.status_code == 200, made.text
    assert made.json() | {"since": ""} == {
        **BODY,
        "min_quantity": "1.000",
        "market": "Z1-SPOT",
        "user_id": str(ann.user_id),
        "since": "",
    }
    assert (await boss.get("/api/v1/markets/Z1-SPOT/makers")).json()["items"] == [made.json()]
    assert (await boss.call("PUT", "/api/v1/markets/Z1-SPOT/makers/99", BODY)).status_code == 404
    assert (await boss.call("DELETE", path)).status_code == 204
    assert (await boss.call("DELETE", path)).status_code == 404


async def test_the_report_is_of_oneself_and_for_an_admin_of_everybody(world: World) -> None:
    boss, ann = await world.person("boss@campus.example", "admin"), await world.person()
    for user_id in (ann.user_id, boss.user_id):
        world.makers.earned.append(RewardRecord(1, EPOCH_US, user_id, 9_312, 9_000, 4_000_000, 2_000))
    path = "/api/v1/analytics/market-makers"

    own = (await ann.get(path)).json()["items"]

    assert own == [
        {
            "user_id": str(ann.user_id),
            "market": "Z1-SPOT",
            "epoch": "2027-01-15T08:00:00Z",
            "presence": "0.9312",
            "fulfilled": True,
            "value": "4.00",
            "rebate": "0.002",
        }
    ]
    page = (await boss.get(path, limit=1)).json()
    rest = (await boss.get(path, limit=1, cursor=page["next"])).json()
    assert {one["user_id"] for one in page["items"] + rest["items"]} == {str(ann.user_id), str(boss.user_id)}
