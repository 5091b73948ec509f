"""The submitter on a real PostgreSQL and a real local chain: each effect once, whatever fails, and the books agree."""

from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from tests.support.devnet import DevnetProcess
from tests.support.on_chain import OnChain

SLOT_SECONDS = 0.04


@pytest.fixture
def devnet(tmp_path: Path) -> Iterator[DevnetProcess]:
    process = DevnetProcess(tmp_path / "chain.sqlite", SLOT_SECONDS).start()
    try:
        yield process
    finally:
        process.kill()


@pytest_asyncio.fixture
async def world(devnet: DevnetProcess, pool: asyncpg.Pool, tmp_path: Path) -> OnChain:
    made = OnChain(devnet, pool, tmp_path)
    made.fund()
    return made


async def test_a_deposit_becomes_tokens_in_a_vault(world: OnChain) -> None:
    ann, bob = await world.people("ann", "bob")
    await world.ledger.deposit(ann, "THB", 5_000_000, "a", 1)
    await world.ledger.deposit(ann, "energy:Z1", 1_500, "b", 1)
    await world.ledger.deposit(bob, "energy:Z1", 700, "c", 1)

    async with world.submitting():
        await world.until_final()

    assert await world.held(ann) == (1_500, 5_000_000)
    assert await world.held(bob) == (700, 0)
