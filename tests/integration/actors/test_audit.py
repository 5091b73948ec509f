"""The audit finds what it is for: each planted difference is reported, and a sound exchange has none."""

import asyncpg
import pytest

from actors.audit import Acknowledged, Report, audit, verify
from engine.messages import Side
from persistence.audit import PostgresAudit
from persistence.journal import PostgresJournal
from tests.support.exchange import CURRENCY, Exchange, order
from tests.support.patience import eventually


async def traded(exchange: Exchange) -> list[Acknowledged]:
    """Some trades, some resting orders, everything projected; what the clients were told."""
    await exchange.open_market("M", taker_fee_bps=10)
    exchange.start_market("M")
    exchange.follow("M", snapshot_every=10)
    told = []
    buyer, seller = await exchange.trader("buyer"), await exchange.trader("seller")
    for number in range(12):
        who, side = ((buyer, Side.BUY), (seller, Side.SELL))[number % 2]
        answer = await exchange.placed(
            "M", order(who, side, "3.000", f"{number + 1}.000", client_order_id=f"c{number}")
        )
        trades = tuple(fill.trade_number for fill in answer.fills)
        view = answer.order
        told.append(Acknowledged(who, 1, view.order_id, view.client_order_id, view.sequence, view.quantity_wh, trades))
    await exchange.followed("M")
    await eventually(lambda: newest_snapshot(exchange))  # it comes a moment after what it holds
    return told


async def newest_snapshot(exchange: Exchange) -> int:
    async for snapshot in exchange.snapshots.newest_first(1):
        return snapshot.sequence
    return 0


async def report(exchange: Exchange, told: list[Acknowledged]) -> Report:
    journal = PostgresJournal(exchange.dsn)
    try:
        specs = await exchange.catalogue.markets()
        return await audit(specs, journal, exchange.snapshots, PostgresAudit(exchange.pool), CURRENCY, told)
    finally:
        await journal.close()


async def test_a_sound_exchange_has_no_violation(exchange: Exchange) -> None:
    told = await traded(exchange)

    found = await report(exchange, told)

    assert found.violations == []
    assert (found.orders, found.acknowledgements) == (12, 12)
    assert found.trades > 5
    assert found.snapshots >= 1


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("DELETE FROM trades WHERE number = 3", "trades in the journal"),
        ("UPDATE trades SET energy_wh = energy_wh + 1 WHERE number = 2", "trades in the journal"),
        ("DELETE FROM orders WHERE order_id = (SELECT min(order_id) FROM orders)", "orders in the journal"),
        ("UPDATE orders SET price_micro = price_micro + 1000 WHERE status IN (1, 2)", "differs between journal"),
        ("UPDATE orders SET status = 4 WHERE status IN (1, 2)", "is open in the journal only"),
        ("UPDATE accounts SET reserved = reserved - 1 WHERE reserved > 0", "differs from the ledger"),
        ("UPDATE snapshots SET state_hash = sha256('x') WHERE sequence > 0", "is not the state that a replay reaches"),
        ("UPDATE journal SET events_hash = sha256('x') WHERE first_sequence = 3", "not those that were sealed"),
    ],
)
async def test_each_damage_is_found(
    exchange: Exchange, pool: "asyncpg.Pool[asyncpg.Record]", damage: str, says: str
) -> None:
    told = await traded(exchange)
    assert (await pool.execute(damage)).split()[-1] != "0", "the damage must hit something"

    found = await report(exchange, told)

    assert any(says in violation for violation in found.violations), found.violations


async def test_ledger_damage_behind_the_databases_back_is_found(
    exchange: Exchange, pool: "asyncpg.Pool[asyncpg.Record]"
) -> None:
    told = await traded(exchange)
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(
            "SET LOCAL session_replication_role = replica"
        )  # triggers off, as only a superuser can
        await connection.execute("UPDATE accounts SET balance = balance + 7 WHERE kind = 'main' AND asset = 'THB'")

    found = await report(exchange, told)

    assert any("not the sum of their entries" in violation for violation in found.violations)
    assert any("THB sums to" in violation for violation in found.violations)


async def test_a_lost_acknowledgement_is_found(exchange: Exchange) -> None:
    told = await traded(exchange)
    ghost = Acknowledged(told[0].participant_id, 1, 9_999, "ghost", 9_999, 1_000)
    foreign = Acknowledged(told[1].participant_id, 1, told[0].order_id, "c0", 3, 1_000, (777,))
    nowhere = Acknowledged(told[1].participant_id, 5, 1, "c0", 3, 1_000)

    found = await report(exchange, [*told, ghost, foreign, nowhere])

    text = "\n".join(found.violations)
    assert "sequence 9999 is not in the journal" in text
    assert "belongs to somebody else" in text
    assert "its trade 777 is not in the journal" in text
    assert "there is no such market" in text


async def test_an_offline_replay_reaches_the_markets_own_sequence_and_says_how_far_it_is(exchange: Exchange) -> None:
    await traded(exchange)
    journal, reached = PostgresJournal(exchange.dsn), list[int]()

    done = await verify(exchange.specs["M"], journal, exchange.snapshots, reached.append)

    assert done.violations == []
    assert done.book.sequence == reached[-1] == await exchange.sequence("M")
    await journal.close()
