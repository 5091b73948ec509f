"""Limits and blocks in real tables, and their rows of the audit log.

Seen to fail for: a join that loses who is blocked and has no limits, a second block that moves the first's instant.
"""

import json

import asyncpg
import pytest

from engine.market import RiskLimits
from engine.records import OwnLimits, ParticipantRisk, RiskRecord
from persistence.audit_log import PostgresAuditLog
from persistence.people import PostgresPeople
from persistence.risk import PostgresRisk
from tests.support.exchange import Exchange

SOME = OwnLimits(RiskLimits(1, 2, 3, 4), 5)
OTHER = OwnLimits(RiskLimits(orders_max=9))


@pytest.fixture
async def ids(database: str, pool: "asyncpg.Pool[asyncpg.Record]") -> tuple[int, int, int]:
    """Two markets, and three people of whom these are the numbers."""
    exchange = Exchange(database, pool)
    await exchange.open_market("M", limits=RiskLimits(7, 8, 9, 10), messages_per_second=11, halt_seconds=12)
    await exchange.open_market("N")
    people = PostgresPeople(pool)
    users = [await people.create(f"{name}@x.example", name, b"x", "student", "Z1", 1) for name in "abc"]
    return users[0].user_id, users[1].user_id, users[2].user_id


async def test_what_is_put_replaces_what_was_and_markets_see_it(
    pool: "asyncpg.Pool[asyncpg.Record]", ids: tuple[int, int, int]
) -> None:
    risk, (a, b, c) = PostgresRisk(pool), ids
    assert await risk.put(a, {1: SOME, 2: OTHER}) == RiskRecord(a, {1: SOME, 2: OTHER})
    await risk.put(b, {1: OTHER})
    assert await risk.block(b, "why", 77) == RiskRecord(b, {1: OTHER}, 77, "why")
    await risk.block(c, "", 88)
    await risk.block(c, "again", 99)

    assert await risk.of_market(1) == {
        a: ParticipantRisk(SOME.limits, False),
        b: ParticipantRisk(OTHER.limits, True),
        c: ParticipantRisk(None, True),
    }
    assert await risk.of_market(2) == {
        a: ParticipantRisk(OTHER.limits, False),
        b: ParticipantRisk(None, True),
        c: ParticipantRisk(None, True),
    }
    assert await risk.of_user(c) == RiskRecord(c, {}, 88, "")
    assert await risk.rates() == {(1, a): 5, (2, a): 0, (1, b): 0}
    assert await risk.put(a, {}) == RiskRecord(a, {})
    assert await risk.release(b) == RiskRecord(b, {1: OTHER})
    assert await risk.of_market(2) == {c: ParticipantRisk(None, True)}


async def test_who_does_not_exist_has_nothing_and_gets_nothing(
    pool: "asyncpg.Pool[asyncpg.Record]", ids: tuple[int, int, int]
) -> None:
    risk = PostgresRisk(pool)

    assert await risk.put(99, {1: SOME}) is None
    assert await risk.block(99, "", 1) is None
    assert await risk.release(99) is None
    assert await risk.of_user(99) == RiskRecord(99, {})


async def test_each_change_is_audited_and_what_changes_nothing_is_not(
    pool: "asyncpg.Pool[asyncpg.Record]", ids: tuple[int, int, int]
) -> None:
    risk, log, a = PostgresRisk(pool), PostgresAuditLog(pool), ids[0]
    for _ in range(2):
        await risk.put(a, {1: SOME})
        await risk.block(a, "why", 77)
    for _ in range(2):
        await risk.release(a)

    rows = await log.find(2**62, 10, subject=f"user:{a}")

    assert [row.action for row in rows] == ["risk.released", "risk.blocked", "risk.limits_changed", "user.registered"]
    assert json.loads(rows[2].after or "")["market:1"]["orders_max"] == 2


async def test_a_markets_own_rules_of_risk_come_back_as_they_were(
    pool: "asyncpg.Pool[asyncpg.Record]", ids: tuple[int, int, int], database: str
) -> None:
    spec = await Exchange(database, pool).catalogue.market("M")

    assert spec is not None
    assert (spec.limits, spec.messages_per_second, spec.halt_seconds) == (RiskLimits(7, 8, 9, 10), 11, 12)
