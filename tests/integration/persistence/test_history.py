"""Reads of the projections: whose they are, in which order, and by which index.

Seen to fail for: pages by instant alone, somebody else's order, the maker's price shown to the taker.
"""

import asyncpg
import pytest
import pytest_asyncio

from engine.messages import Side
from engine.projection import CandleChange
from engine.records import StatsRecord
from engine.units import FOREVER_US
from engine.views import FillView, Liquidity, OrderStatus, TradeView
from persistence import history as history_sql
from persistence import ledger as ledger_sql
from persistence import people as people_sql
from persistence.history import NEWEST, PostgresHistory
from persistence.projections import PostgresProjections
from tests.support.rows import batch, order_view, trade_row

ALICE, BOB = 1001, 1002


@pytest_asyncio.fixture
async def history(pool: asyncpg.Pool) -> PostgresHistory:
    projections = PostgresProjections(pool)
    for market_id in (1, 2):
        await projections.write(
            batch(
                0,
                10,
                market_id,
                accepted=[
                    order_view(
                        n,
                        ALICE if n % 2 else BOB,
                        created_us=n // 3,
                        status=OrderStatus.OPEN if n < 4 else OrderStatus.FILLED,
                        client_order_id="same" if n < 6 else "",
                    )
                    for n in range(1, 10)
                ],
                trades=[trade_row(n, ALICE, BOB, time_us=n // 2, taker_side=Side(n % 2)) for n in range(1, 6)],
            )
        )
    return PostgresHistory(pool)


async def test_pages_of_orders_join_without_gap_or_double(history: PostgresHistory) -> None:
    whole = await history.orders(ALICE)
    pages, before = [], None
    while page := await history.orders(ALICE, before=before, limit=3):
        pages += page
        before = (page[-1].view.created_us, page[-1].market_id, page[-1].view.order_id)

    assert pages == whole
    assert len(whole) == 10
    assert whole == sorted(whole, key=lambda o: (o.view.created_us, o.market_id, o.view.order_id), reverse=True)


async def test_orders_are_filtered(history: PostgresHistory) -> None:
    assert [o.view.order_id for o in await history.orders(ALICE, 2, (1, 2))] == [3, 1]
    assert [o.view.order_id for o in await history.orders(ALICE, 2, (1, 3))] == [9, 7, 5, 3, 1]
    assert [o.view.order_id for o in await history.orders(ALICE, 1, from_us=1, to_us=3)] == [7, 5, 3]
    assert await history.orders(9) == []


async def test_order_of_somebody_else_is_not_found(history: PostgresHistory) -> None:
    own = await history.order(1, 1, ALICE)

    assert own is not None
    assert await history.order(1, 1, BOB) is None
    assert await history.order(1, 99, ALICE) is None


async def test_newest_order_with_a_client_id_is_found(history: PostgresHistory) -> None:
    found = await history.order_by_client_id(1, ALICE, "same")

    assert found is not None
    assert found.view.order_id == 5
    assert await history.order_by_client_id(1, ALICE, "") is None
    assert await history.order_by_client_id(3, ALICE, "same") is None


async def test_fill_shows_each_side_its_own_price_and_fee(history: PostgresHistory) -> None:
    bought = [f for f in await history.fills(ALICE, 1) if f.view.trade_number == 2]
    sold = [f for f in await history.fills(BOB, 1) if f.view.trade_number == 2]

    assert bought[0].view == FillView(2, 4, Side.BUY, 3_530_000, 1_000, 3_530_000, 3_530, Liquidity.TAKER, 1, 0)
    assert sold[0].view == FillView(2, 3, Side.SELL, 3_000_000, 1_000, 3_000_000, 0, Liquidity.MAKER, 1, 0)


async def test_pages_of_fills_join_without_gap_or_double(history: PostgresHistory) -> None:
    whole = await history.fills(BOB)
    pages, before = [], None
    while page := await history.fills(BOB, before=before, limit=3):
        pages += page
        before = (page[-1].view.at_us, page[-1].market_id, page[-1].view.trade_number)

    assert pages == whole
    assert len(whole) == 10


async def test_fills_of_one_order_are_those_of_its_owner(history: PostgresHistory) -> None:
    assert [f.view.trade_number for f in await history.fills_of_orders(ALICE, [(1, 4), (1, 9_999)])] == [2]
    assert await history.fills_of_orders(BOB, [(1, 4)]) == []
    assert await history.fills_of_orders(ALICE, [(3, 4)]) == []
    assert await history.fills_of_orders(ALICE, []) == []


async def test_trades_are_shown_to_the_public_without_names(history: PostgresHistory) -> None:
    newest, *_ = await history.trades(1, limit=2)

    assert newest == TradeView(5, 5, 3_000_000, 1_000, Side.SELL, "Z1", "Z1", 2, 0, by_auction=False)
    assert [t.number for t in await history.trades(1, before_number=3)] == [2, 1]


async def test_statistics_cover_the_period(pool: asyncpg.Pool) -> None:
    minute = 60_000_000
    candles = [CandleChange(60, n * minute, n, n + 5, n - 1, n + 1, 10, 10 * n, 2) for n in range(1, 6)]
    await PostgresProjections(pool).write(batch(0, 1, candles=candles))
    history = PostgresHistory(pool)

    assert await history.stats(1, 3 * minute + 5) == StatsRecord(3, 10, 2, 6, 30, 120, 6)
    assert await history.stats(1, 9 * minute) == StatsRecord(0, 0, 0, 0, 0, 0, 0)


FAR = FOREVER_US
HOT = [
    (history_sql.ORDERS, (ALICE, None, 0, FAR, *NEWEST, [], 100), "orders_participant"),
    (history_sql.OPEN_ORDERS, (ALICE, None, 0, FAR, *NEWEST, [1, 2], 100), "orders_open"),
    (history_sql.ORDER, (1, 5, ALICE), "orders_pkey"),
    (history_sql.ORDER_BY_CLIENT_ID, (ALICE, "c-7", 1), "orders_client_id"),
    (history_sql.FILLS, (ALICE, None, *NEWEST, 100), "trades_buyer"),
    (history_sql.FILLS, (ALICE, None, *NEWEST, 100), "trades_seller"),
    (history_sql.FILLS_OF_ORDERS, (ALICE, [1], [77], 100), "trades_maker_order"),
    (history_sql.FILLS_OF_ORDERS, (ALICE, [1], [77], 100), "trades_taker_order"),
    (history_sql.TRADES, (1, FAR, 100), "trades_pkey"),
    (history_sql.CANDLES, (1, 60, 0, FAR, 100), "candles_pkey"),
    (history_sql.STATS, (1, 60, 59_000 * 60_000_000), "candles_pkey"),
    (history_sql.POSITIONS, (ALICE, None, 0, FAR, *NEWEST[:2], 100), "positions_pkey"),
    (ledger_sql.BALANCES, (ALICE,), "accounts_key"),
    (ledger_sql.LINES, (ALICE, FAR, 100), "entries_pkey"),
    (ledger_sql.DEPOSITS, (ALICE, FAR, 100), "deposits_participant"),
    (ledger_sql.DRAWS_AFTER, (1, 0, 100), "draws_pkey"),
    (people_sql.BY_EMAIL, ("u7@example.org",), "users_email_key"),
    (people_sql.SESSIONS, (ALICE, 0), "sessions_user"),
    (people_sql.SWEEP_SESSIONS, (5, 100), "sessions_expiry"),
]

FILL = """
    INSERT INTO zones VALUES ('Z1', 'One');
    INSERT INTO users (email, name, role, zone, password_hash, created_us)
        SELECT 'u' || n || '@example.org', 'n', 'student', 'Z1', '', 0 FROM generate_series(1, 2000) n;
    INSERT INTO sessions SELECT 's' || n, 1001 + n % 2000, '', 0, 0, 9e15, NULL FROM generate_series(1, 10000) n;
    INSERT INTO orders SELECT 1, n, 1001 + n % 500, 'c-' || n, 0, 1, 1000, 10, 0, 10, 0,
        CASE WHEN n % 50 = 0 THEN 1 ELSE 3 END, 0, 1, 0, false, 'Z1', n, n, n FROM generate_series(1, 50000) n;
    INSERT INTO trades SELECT 1, n, n, n, 0, 2 * n, 2 * n + 1, 1001 + n % 500, 1001 + (n + 7) % 500, n % 2, 1, 1000,
        1000, 1000, 1, 1, 0, 0, 'Z1', 'Z1' FROM generate_series(1, 50000) n;
    INSERT INTO candles SELECT 1, 60, n * 60000000::bigint, 2, 2, 2, 2, 1, 1, 1 FROM generate_series(1, 60000) n;
    INSERT INTO positions SELECT 1001 + n % 500, n, 1, 0, 0, 0, 0, 0, 0 FROM generate_series(1, 50000) n;
    INSERT INTO accounts (kind, participant_id, market_id, asset)
        SELECT 'market', 1001 + n % 500, 1 + n / 500, 'THB' FROM generate_series(0, 9999) n;
    INSERT INTO transfers (kind, reference, time_us) SELECT 't', 'r' || n, n FROM generate_series(1, 20000) n;
    ALTER TABLE entries DISABLE TRIGGER USER;
    INSERT INTO entries (transfer_id, account_id, participant_id, amount)
        SELECT n, 1 + n % 10000, 1001 + n % 500, 1 FROM generate_series(1, 20000) n;
    ALTER TABLE entries ENABLE TRIGGER USER;
    INSERT INTO deposits (participant_id, asset, amount, reference, transfer_id, created_us)
        SELECT 1001 + n % 500, 'THB', 1, 'r' || n, n, n FROM generate_series(1, 20000) n;
    INSERT INTO draws SELECT 1 + n % 5, n, 1001, 'THB', 1, n FROM generate_series(1, 20000) n;
    ANALYZE;
"""


async def test_hot_queries_use_their_indexes(pool: asyncpg.Pool) -> None:
    """On filled tables, and with the plan for any values, which a prepared statement may settle on."""
    async with pool.acquire() as connection:
        await connection.execute(FILL)
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        wrong = []
        for query, values, index in HOT:
            statement = await connection.prepare(query)
            plan = str(await statement.explain(*values))
            if f'"{index}"' not in plan.replace("'", '"') or "Seq Scan" in plan:
                wrong.append((index, plan))

    assert not wrong, wrong[0]


@pytest.mark.parametrize("query", [history_sql.ORDERS, history_sql.FILLS, ledger_sql.LINES])
def test_queries_carry_their_names_for_the_slow_query_log(query: str) -> None:
    assert query.lstrip().startswith("/* ")
