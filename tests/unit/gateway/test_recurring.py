"""Recurring orders over the API: made, shown to their owner alone, stopped, bounded."""

import pytest

from gateway.instants import format_instant
from tests.unit.gateway.conftest import World

PATH = "/api/v1/recurring-orders"
BODY = {"market": "Z1-SPOT", "side": "buy", "quantity": "1.5", "price": "3.000", "every_seconds": 900}


async def test_a_rule_is_shown_to_its_owner_and_stopped_by_him(world: World) -> None:
    ann, bob = await world.person(), await world.person("bob@campus.example")
    ends_at = format_instant(world.clock() + 3_600_000_000)

    made = await ann.post(PATH, {**BODY, "ends_at": ends_at, "count": 3})

    assert made.status_code == 201
    rule = made.json()
    assert (rule["market"], rule["side"], rule["quantity"], rule["price"]) == ("Z1-SPOT", "buy", "1.500", "3.000")
    assert (rule["ends_at"], rule["count"], rule["placed"], rule["active"]) == (ends_at, 3, 0, True)
    path = f"{PATH}/{rule['recurring_id']}"
    assert (await ann.get(path)).json() == rule
    assert (await ann.get(PATH)).json()["items"] == [rule]
    for answer in (await bob.get(path), await bob.call("DELETE", path), await ann.get(f"{PATH}/99")):
        assert answer.status_code == 404
    assert (await ann.call("DELETE", path)).json()["active"] is False
    assert (await bob.get(PATH)).json()["items"] == []


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"every_seconds": 59}, "every_seconds"),
        ({"starts_at": "2020-01-01T00:00:00Z"}, "starts_at"),
        ({"ends_at": "2020-01-01T00:00:00Z"}, "ends_at"),
        ({"price": "0"}, "price"),
        ({"count": 0}, "count"),
    ],
)
async def test_what_makes_no_rule_is_refused(world: World, fields: dict[str, object], field: str) -> None:
    ann = await world.person()

    answer = await ann.post(PATH, {**BODY, **fields})

    assert (answer.status_code, list(answer.json()["fields"])) == (400, [field])


async def test_one_may_have_so_many(world: World) -> None:
    ann = await world.person()
    for _ in range(50):
        assert (await ann.post(PATH, BODY)).status_code == 201

    assert (await ann.post(PATH, BODY)).json()["code"] == "CONFLICT"
