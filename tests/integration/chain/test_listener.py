"""The listener on a real chain and a real database: each event once, deposits credited when final, forks undone."""

from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio
from solders.keypair import Keypair
from spl.token.constants import TOKEN_PROGRAM_ID
from spl.token.instructions import MintToParams, create_idempotent_associated_token_account, mint_to
from spl.token.instructions import get_associated_token_address as token_account

from chain.client.wallets import Role, Signer
from engine.records import AccountBalance
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


async def rich(world: OnChain, amount: int) -> Signer:
    """Somebody outside of the exchange with that much currency."""
    stranger, minter = Signer(Role.SETTLER, Keypair()), world.signers[Role.MINTER]
    world.devnet.call("requestAirdrop", str(stranger.address), 10**10)
    mint = world.effects.currency_mint
    making = create_idempotent_associated_token_account(minter.address, stranger.address, mint)
    account = token_account(stranger.address, mint)
    minting = mint_to(MintToParams(TOKEN_PROGRAM_ID, mint, account, minter.address, amount))
    await world.land([minter], making, minting)
    return stranger


async def test_a_deposit_of_a_stranger_is_seen_and_credited_once(world: OnChain) -> None:
    (ann,) = await world.people("ann")
    address = await world.of(ann)
    async with world.submitting():
        await world.until_final()
        stranger = await rich(world, 9_000_000)
        keypair = stranger._keypair
        async with world.listening():
            await world.land([stranger], world.pay_in(keypair, address, 1, 4_000_000))

            async def credited() -> bool:
                return bool(await world.ledger.balances(ann))

            await world.until(credited, "credited")
        async with world.listening():  # a second one finds nothing new
            await world.land([stranger], world.pay_in(keypair, address, 1, 1_000_000))

            async def twice() -> bool:
                return len(await world.ledger.deposits(ann)) == 2

            await world.until(twice, "both")

    assert await world.ledger.balances(ann) == [AccountBalance("THB", 5_000_000, 0, 0)]
    assert await world.held(ann) == (0, 5_000_000)
    assert (await world.events()).count("Deposited") == 2
