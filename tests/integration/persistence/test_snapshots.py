"""Snapshots come back as they were, newest first, and broken ones do not stop the older."""

import asyncpg

from engine.journal import Snapshot
from persistence.snapshots import PostgresSnapshots


def snapshot(sequence: int, state: bytes = b"state", market_id: int = 1) -> Snapshot:
    return Snapshot(market_id, sequence, 1, bytes(32), bytes([1]) * 32, state)


async def test_newest_comes_first_and_none_is_above_the_bound(pool: asyncpg.Pool) -> None:
    snapshots = PostgresSnapshots(pool)
    kept = [snapshot(n, state=bytes([n]) * 1_000_000) for n in (10, 20, 30)]
    for each in kept:
        await snapshots.save(each)
    await snapshots.save(snapshot(99, market_id=2))

    assert [each async for each in snapshots.newest_first(1)] == kept[::-1]
    assert [each.sequence async for each in snapshots.newest_first(1, 20)] == [20, 10]
    assert [each.sequence async for each in snapshots.newest_first(1, 9)] == []


async def test_saving_again_replaces(pool: asyncpg.Pool) -> None:
    snapshots = PostgresSnapshots(pool)
    await snapshots.save(snapshot(10, b"old"))

    await snapshots.save(snapshot(10, b"new"))

    assert [each.state async for each in snapshots.newest_first(1)] == [b"new"]


async def test_pruning_keeps_the_newest_of_that_market(pool: asyncpg.Pool) -> None:
    snapshots = PostgresSnapshots(pool)
    for n in range(1, 6):
        await snapshots.save(snapshot(n))
    await snapshots.save(snapshot(1, market_id=2))

    assert await snapshots.prune(1, keep=2) == 3
    assert await snapshots.prune(1, keep=0) == 1  # never the last one
    assert [each.sequence async for each in snapshots.newest_first(1)] == [5]
    assert [each.sequence async for each in snapshots.newest_first(2)] == [1]


async def test_unreadable_state_comes_out_empty_so_that_an_older_one_is_tried(pool: asyncpg.Pool) -> None:
    snapshots = PostgresSnapshots(pool)
    await snapshots.save(snapshot(1, b"good"))
    await snapshots.save(snapshot(2, b"bad"))
    await pool.execute("UPDATE snapshots SET state = 'nonsense' WHERE sequence = 2")

    assert [each.state async for each in snapshots.newest_first(1)] == [b"", b"good"]
