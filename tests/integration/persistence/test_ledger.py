"""The ledger's laws hold against whoever writes, and its transfers happen once.

Seen to fail for: no trigger on entries, LOCK without FOR NO KEY UPDATE, balances checked per want against the
first balance only, deposits compared by reference alone.
"""

import asyncio

import asyncpg
import pytest

from engine.records import AccountBalance, NumberTaken, ReferenceReused, Want
from persistence.ledger import PostgresLedger
from tests.support.rows import THB

ALICE, BOB = 1001, 1002


async def account(pool: asyncpg.Pool, kind: str, participant_id: int, asset: str = THB) -> int:
    found: int = await pool.fetchval(
        "SELECT account_id FROM accounts WHERE (kind, participant_id, asset) = ($1, $2, $3)",
        kind,
        participant_id,
        asset,
    )
    return found


async def transfer(pool: asyncpg.Pool, reference: str, entries: list[tuple[int, int, int]]) -> None:
    """entries: (account_id, participant_id, amount)."""
    async with pool.acquire() as connection, connection.transaction():
        transfer_id = await connection.fetchval(
            "INSERT INTO transfers (kind, reference, time_us) VALUES ('test', $1, 0) RETURNING transfer_id", reference
        )
        await connection.execute(
            "INSERT INTO entries (transfer_id, account_id, participant_id, amount)"
            " SELECT $1, e.* FROM unnest($2::bigint[], $3::bigint[], $4::bigint[]) AS e",
            transfer_id,
            *zip(*entries, strict=True),
        )


async def total(ledger: PostgresLedger, asset: str = THB) -> int:
    return sum(line.amount for line in await ledger.trial_balance() if line.asset == asset)


async def test_deposit_is_available_at_once_and_balanced_by_its_source(pool: asyncpg.Pool) -> None:
    ledger = PostgresLedger(pool)

    money = await ledger.deposit(ALICE, THB, 500, "d1", 7)
    energy = await ledger.deposit(ALICE, "energy:Z1", 30, "d2", 8)

    assert (money.amount, money.created_us) == (500, 7)
    assert await ledger.balances(ALICE) == [AccountBalance(THB, 500, 0, 0), AccountBalance("energy:Z1", 30, 0, 0)]
    assert {(line.asset, line.kind): line.amount for line in await ledger.trial_balance() if line.amount} == {
        (THB, "participants_available"): 500,
        (THB, "issuance"): -500,
        ("energy:Z1", "participants_available"): 30,
        ("energy:Z1", "generation"): -30,
    }
    assert await ledger.deposits(ALICE) == [energy, money]
    assert await ledger.deposits(ALICE, before_id=energy.deposit_id) == [money]


async def test_deposit_with_a_known_reference_happens_once(pool: asyncpg.Pool) -> None:
    ledger = PostgresLedger(pool)

    made = await asyncio.gather(*(ledger.deposit(ALICE, THB, 500, "same", n) for n in range(8)))

    assert len(set(made)) == 1
    assert await ledger.balances(ALICE) == [AccountBalance(THB, 500, 0, 0)]


@pytest.mark.parametrize("other", [(BOB, THB, 500), (ALICE, THB, 501), (ALICE, "energy:Z1", 500)])
async def test_reference_with_other_contents_is_refused(pool: asyncpg.Pool, other: tuple[int, str, int]) -> None:
    ledger = PostgresLedger(pool)
    await ledger.deposit(ALICE, THB, 500, "same", 1)

    with pytest.raises(ReferenceReused):
        await ledger.deposit(*other, "same", 2)

    assert await total(ledger) == 0
    assert await ledger.balances(BOB) in ([], [AccountBalance(THB, 0, 0, 0)])


async def test_draw_gives_more_than_the_shortfall_only_as_far_as_asked_and_there(pool: asyncpg.Pool) -> None:
    ledger = PostgresLedger(pool)
    await ledger.deposit(ALICE, THB, 100, "a", 1)

    wants = [Want(ALICE, THB, 10, 30), Want(ALICE, THB, 60, 500), Want(ALICE, THB, 1, 500)]

    assert await ledger.draw(1, 1, wants) == [30, 70, 0]
    assert await ledger.balances(ALICE) == [AccountBalance(THB, 0, 100, 0)]


async def test_draw_grants_whole_amounts_in_order_with_consecutive_numbers(pool: asyncpg.Pool) -> None:
    ledger = PostgresLedger(pool)
    await ledger.deposit(ALICE, THB, 100, "a", 1)
    await ledger.deposit(BOB, THB, 10, "b", 1)

    wants = [Want(ALICE, THB, 60), Want(BOB, THB, 11), Want(ALICE, THB, 50), Want(ALICE, THB, 40), Want(BOB, THB, 10)]
    granted = await ledger.draw(1, 7, wants)

    assert granted == [60, 0, 0, 40, 10]
    assert [(d.number, d.participant_id, d.amount) for d in await ledger.draws_after(1, 0)] == [
        (7, ALICE, 60),
        (8, ALICE, 40),
        (9, BOB, 10),
    ]
    assert [d.number for d in await ledger.draws_after(1, 7, limit=1)] == [8]
    assert await ledger.balances(ALICE) == [AccountBalance(THB, 0, 100, 0)]
    assert [(h.market_id, h.balance) for h in await ledger.holdings(ALICE)] == [(1, 100)]
    assert await total(ledger) == 0


async def test_draw_whose_number_is_taken_moves_nothing(pool: asyncpg.Pool) -> None:
    ledger = PostgresLedger(pool)
    await ledger.deposit(ALICE, THB, 100, "a", 1)
    await ledger.draw(1, 1, [Want(ALICE, THB, 10)])

    with pytest.raises(NumberTaken):
        await ledger.draw(1, 1, [Want(ALICE, THB, 5)])

    assert await ledger.balances(ALICE) == [AccountBalance(THB, 90, 10, 0)]
    assert await ledger.draw(2, 1, [Want(ALICE, THB, 5)]) == [5]  # another market counts for itself


async def test_draws_at_the_same_time_never_overspend(pool: asyncpg.Pool) -> None:
    """Ten markets want more than there is, of two participants in opposite order."""
    ledgers = [PostgresLedger(pool) for _ in range(10)]
    for participant in (ALICE, BOB):
        await ledgers[0].deposit(participant, THB, 1_000, f"d{participant}", 1)

    async def spend(market_id: int) -> int:
        number, spent = 1, 0
        order = (ALICE, BOB) if market_id % 2 else (BOB, ALICE)
        for _ in range(10):
            granted = await ledgers[market_id].draw(market_id + 1, number, [Want(p, THB, 30) for p in order])
            number += sum(1 for amount in granted if amount)
            spent += sum(granted)
        return spent

    spent = await asyncio.gather(*(spend(n) for n in range(10)))

    assert sum(spent) == 2 * 990  # 33 grants of 30 each
    for participant in (ALICE, BOB):
        assert await ledgers[0].balances(participant) == [AccountBalance(THB, 10, 990, 0)]
    assert await total(ledgers[0]) == 0


async def test_entries_that_do_not_sum_to_zero_are_refused(pool: asyncpg.Pool) -> None:
    ledger = PostgresLedger(pool)
    await ledger.deposit(ALICE, THB, 100, "a", 1)
    await ledger.deposit(BOB, "energy:Z1", 100, "b", 1)
    alice, issuance = await account(pool, "main", ALICE), await account(pool, "issuance", 0)
    bob = await account(pool, "main", BOB, "energy:Z1")

    for entries in (
        [(alice, ALICE, 5)],
        [(alice, ALICE, 5), (issuance, 0, -4)],
        [(alice, ALICE, -5), (bob, BOB, 5)],  # zero over all, not per asset
    ):
        with pytest.raises(asyncpg.CheckViolationError, match="not to zero"):
            await transfer(pool, "t", entries)

    await transfer(pool, "t", [(alice, ALICE, 5), (issuance, 0, -5)])
    assert (await ledger.balances(ALICE))[0].available == 105


async def test_entry_of_an_unknown_account_or_under_another_name_is_refused(pool: asyncpg.Pool) -> None:
    await PostgresLedger(pool).deposit(ALICE, THB, 100, "a", 1)
    alice, issuance = await account(pool, "main", ALICE), await account(pool, "issuance", 0)

    for entries in ([(alice, BOB, 5), (issuance, 0, -5)], [(999, ALICE, 5), (issuance, 0, -5)]):
        with pytest.raises(asyncpg.ForeignKeyViolationError):
            await transfer(pool, "t", entries)


async def test_nothing_that_people_own_goes_below_zero(pool: asyncpg.Pool) -> None:
    await PostgresLedger(pool).deposit(ALICE, THB, 100, "a", 1)
    alice, issuance = await account(pool, "main", ALICE), await account(pool, "issuance", 0)

    with pytest.raises(asyncpg.CheckViolationError) as caught:
        await transfer(pool, "t", [(alice, ALICE, -101), (issuance, 0, 101)])

    assert caught.value.constraint_name == "accounts_balance_not_negative"


async def test_reserved_is_never_more_than_the_balance(pool: asyncpg.Pool) -> None:
    ledger = PostgresLedger(pool)
    await ledger.deposit(ALICE, THB, 100, "a", 1)
    await ledger.draw(1, 1, [Want(ALICE, THB, 60)])

    await pool.execute("UPDATE accounts SET reserved = 60 WHERE kind = 'market'")
    for sql in ("UPDATE accounts SET reserved = 61 WHERE kind = 'market'", "UPDATE accounts SET reserved = 1"):
        with pytest.raises(asyncpg.CheckViolationError):
            await pool.execute(sql)

    assert await ledger.balances(ALICE) == [AccountBalance(THB, 40, 60, 60)]
    assert {(line.kind, line.amount) for line in await ledger.trial_balance() if line.amount} == {
        ("participants_available", 40),
        ("participants_reserved", 60),
        ("issuance", -100),
    }


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE entries SET amount = amount + 1",
        "DELETE FROM entries",
        "TRUNCATE entries",
        "UPDATE transfers SET reference = 'other'",
        "DELETE FROM transfers",
        "UPDATE accounts SET balance = balance + 1",
        "UPDATE accounts SET participant_id = 1002 WHERE kind = 'main'",
        "DELETE FROM accounts",
        "INSERT INTO accounts (kind, participant_id, market_id, asset, balance) VALUES ('main', 1003, 0, 'THB', 5)",
    ],
)
async def test_ledger_changes_by_new_entries_only(pool: asyncpg.Pool, sql: str) -> None:
    await PostgresLedger(pool).deposit(ALICE, THB, 100, "a", 1)

    with pytest.raises(asyncpg.PostgresError) as caught:
        await pool.execute(sql)

    assert "ledger changes by new entries only" in str(caught.value) or "foreign key" in str(caught.value)


async def test_statement_shows_each_line_newest_first(pool: asyncpg.Pool) -> None:
    ledger = PostgresLedger(pool)
    await ledger.deposit(ALICE, THB, 100, "a", 5)
    await ledger.deposit(BOB, THB, 100, "b", 6)
    await ledger.draw(3, 1, [Want(ALICE, THB, 60)])

    lines = await ledger.lines(ALICE)

    assert [(line.kind, line.reference, line.account, line.market_id, line.amount) for line in lines] in (
        [
            ("draw", "draw:3:1", "market", 3, 60),
            ("draw", "draw:3:1", "main", 0, -60),
            ("deposit", "deposit:a", "main", 0, 100),
        ],
        [
            ("draw", "draw:3:1", "main", 0, -60),
            ("draw", "draw:3:1", "market", 3, 60),
            ("deposit", "deposit:a", "main", 0, 100),
        ],
    )
    assert await ledger.lines(ALICE, before_id=lines[1].line_id) == lines[2:]
    assert lines[2].created_us == 5
