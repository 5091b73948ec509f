"""The follower: every journal row into the tables exactly once, whatever dies when, and never on from a divergence.

Seen to fail for: a snapshot taken without its journal hash, events not compared, a follower that starts from its
snapshot and not from its cursor. Not for: a snapshot whose own hash is not checked, while its state still decodes.
"""

import asyncio
from functools import partial

import asyncpg
import msgspec

from actors.links import Links
from actors.persistence import FollowerOptions, Persistence
from engine.journal import seal
from engine.messages import CancelAll, Entry, Side, Tick
from engine.units import MICRO
from engine.views import Applied, Await, Feed, OrderStatus
from persistence.history import PostgresHistory
from persistence.journal import PostgresJournal
from tests.support.exchange import SECRET, Exchange, order
from tests.support.patience import HUNG_SECONDS, eventually


async def trade(exchange: Exchange, buyer: int, seller: int, times: int) -> None:
    for _ in range(times):
        await exchange.placed("M", order(seller, Side.SELL, "3.000"))
        await exchange.placed("M", order(buyer, Side.BUY, "3.000"))


async def snapshots(exchange: Exchange) -> list[int]:
    """The sequences of those that are kept, newest first."""
    return [one.sequence async for one in exchange.snapshots.newest_first(1)]


async def total(exchange: Exchange, participant_id: int, asset: str = "THB") -> int:
    return sum(
        one.available + one.in_markets for one in await exchange.ledger.balances(participant_id) if one.asset == asset
    )


async def test_a_follower_that_dies_again_and_again_books_every_trade_once(exchange: Exchange) -> None:
    await exchange.open_market("M")
    exchange.start_market("M")
    buyer, seller = await exchange.trader("buyer"), await exchange.trader("seller")

    for round_ in range(6):
        exchange.follow("M", entries_max=3)
        await trade(exchange, buyer, seller, 5)
        await asyncio.sleep(0.02 * round_)
        await exchange.kill("follower M")
    exchange.follow("M")
    await exchange.followed("M")

    history = PostgresHistory(exchange.pool)
    assert [one.number for one in await history.trades(1, 10**9, 1_000)] == list(range(30, 0, -1))
    assert await total(exchange, seller) == 1_000 * MICRO + 30 * 3 * MICRO
    assert await total(exchange, buyer) == 1_000 * MICRO - 30 * 3 * MICRO
    assert await total(exchange, buyer, "energy:Z1") == 100_000 + 30 * 1_000


async def test_tables_show_orders_as_the_market_answered_them(exchange: Exchange) -> None:
    await exchange.open_market("M")
    exchange.start_market("M")
    exchange.follow("M")
    buyer, seller = await exchange.trader("buyer"), await exchange.trader("seller")
    resting = await exchange.placed("M", order(buyer, Side.BUY, "3.500", "2.000", client_order_id="mine"))
    await exchange.placed("M", order(seller, Side.SELL, "3.000"))
    await exchange.submit("M", CancelAll(buyer))
    await exchange.followed("M")

    stored = await PostgresHistory(exchange.pool).order(1, resting.order.order_id, buyer)

    assert stored is not None
    assert stored.view.status is OrderStatus.CANCELLED
    assert (stored.view.filled_wh, stored.view.remaining_wh, stored.view.client_order_id) == (1_000, 1_000, "mine")


async def test_snapshots_are_taken_and_shorten_the_next_recovery(exchange: Exchange) -> None:
    await exchange.open_market("M")
    exchange.start_market("M")
    follower = exchange.follow("M", snapshot_every=10, snapshots_kept=2)
    buyer, seller = await exchange.trader("buyer"), await exchange.trader("seller")
    for _ in range(3):  # each followed before the next, so that each has its snapshot
        await trade(exchange, buyer, seller, 10)
        sequence = await exchange.followed("M")

    kept = await eventually(lambda: snapshots(exchange), lambda kept: len(kept) == 3 and kept[0] > sequence - 20)

    assert kept[-1] == 0
    assert follower.state == "following"


async def test_a_spoilt_snapshot_is_passed_over_for_the_one_before(
    exchange: Exchange, pool: "asyncpg.Pool[asyncpg.Record]"
) -> None:
    await exchange.open_market("M")
    exchange.start_market("M")
    exchange.follow("M", snapshot_every=10)
    buyer, seller = await exchange.trader("buyer"), await exchange.trader("seller")
    for _ in range(2):  # each followed before the next, so that each has its snapshot
        await trade(exchange, buyer, seller, 10)
        sequence = await exchange.followed("M")
    await eventually(lambda: snapshots(exchange), lambda kept: len(kept) >= 3)
    await exchange.kill("follower M")
    await exchange.kill("M")
    await pool.execute("UPDATE snapshots SET state = 'nonsense' WHERE sequence = (SELECT max(sequence) FROM snapshots)")
    await pool.execute(
        "UPDATE snapshots SET state_hash = sha256('other')"
        " WHERE sequence = (SELECT max(sequence) FROM snapshots WHERE state <> 'nonsense')"
    )

    exchange.start_market("M")

    assert await exchange.sequence("M") >= sequence


async def test_a_row_with_other_effects_stops_the_follower_for_good(exchange: Exchange) -> None:
    await exchange.open_market("M")
    exchange.start_market("M")
    buyer = await exchange.trader("buyer")
    await exchange.placed("M", order(buyer, Side.BUY, "3.500"))
    await exchange.kill("M")
    journal = PostgresJournal(exchange.dsn)
    await journal.open(1)
    last = await journal.last(1)
    assert last is not None
    entry = Entry(last.last_sequence + 1, 2**60, Tick())
    await journal.append(seal(1, [entry], [[]], last.hash))  # a tick that claims to have had no effect
    await journal.close()

    follower = exchange.follow("M")

    await eventually(lambda: follower.state, lambda state: state == "diverged")
    assert "other events" in follower.detail
    assert await exchange.projections.cursor(1) <= last.last_sequence


async def test_a_tampered_row_stops_the_market_from_starting(
    exchange: Exchange, pool: "asyncpg.Pool[asyncpg.Record]"
) -> None:
    await exchange.open_market("M")
    exchange.start_market("M")
    buyer = await exchange.trader("buyer")
    await exchange.placed("M", order(buyer, Side.BUY, "3.500"))
    await exchange.kill("M")
    entries = await pool.fetchval("SELECT entries FROM journal ORDER BY first_sequence DESC LIMIT 1")
    changed = msgspec.msgpack.decode(entries)
    changed[-1][2][4] += 1_000
    await pool.execute(
        "UPDATE journal SET entries = $1 WHERE first_sequence = (SELECT max(first_sequence) FROM journal)",
        msgspec.msgpack.encode(changed),
    )

    market = exchange.start_market("M")

    await eventually(lambda: market.status()["detail"], lambda detail: "not those that were sealed" in detail)
    assert market.status()["state"] == "recovering"


async def test_the_persistence_part_follows_markets_as_they_appear(exchange: Exchange) -> None:
    part = Persistence(
        lambda: PostgresJournal(exchange.dsn),
        exchange.snapshots,
        exchange.projections,
        exchange.directory,
        SECRET,
        FollowerOptions(poll_seconds=5.0),
    )
    exchange.tasks["persistence"] = asyncio.create_task(part.run())
    for symbol in ("M", "N"):
        await exchange.open_market(symbol)
        exchange.start_market(symbol)
        buyer = await exchange.trader(f"buyer{symbol}")
        await exchange.placed(symbol, order(buyer, Side.BUY, "3.500"))
        await exchange.followed(symbol)

    await part.drain()
    await asyncio.wait([exchange.tasks["persistence"]], timeout=HUNG_SECONDS)

    assert {name: one["state"] for name, one in part.status().items()} == {"M": "following", "N": "following"}
    assert max([one.sequence async for one in exchange.snapshots.newest_first(2)]) > 0
    assert repr(part) == "Persistence(M, N)"


async def test_a_market_tells_its_followers_and_nobody_else_who_is_waited_for(exchange: Exchange) -> None:
    await exchange.open_market("M")
    exchange.start_market("M")
    await exchange.known("M")
    follower, watcher = Links(exchange.directory, SECRET), Links(exchange.directory, SECRET)
    heard: dict[str, list[object]] = {"follower": [], "watcher": []}
    for name, links in (("follower", follower), ("watcher", watcher)):
        exchange.tasks[name] = asyncio.create_task(links.run())
        await eventually(links.markets)
        links.watch(1, frozenset(), name == "watcher", heard[name].append)
        await eventually(partial(len, heard[name]))

    assert isinstance(await exchange.links.ask(1, Await(77)), Applied)

    feeds = await eventually(lambda: [one for one in heard["follower"] if isinstance(one, Feed) and one.is_awaited])
    assert [one.sequence for one in feeds] == [77]
    assert len(heard["watcher"]) == 1
