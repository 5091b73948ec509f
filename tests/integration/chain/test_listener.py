"""The listener on a real chain and a real database: each event once, deposits credited when final, forks undone."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

from solders.keypair import Keypair
from spl.token.constants import TOKEN_PROGRAM_ID
from spl.token.instructions import MintToParams, create_idempotent_associated_token_account, mint_to
from spl.token.instructions import get_associated_token_address as token_account

from actors.crash_points import LISTENER_POINTS
from chain.client.wallets import Role, Signer
from engine.records import AccountBalance
from persistence.chain_desk import PostgresChainDesk
from tests.support.devnet import DevnetProcess
from tests.support.on_chain import OnChain
from tests.support.patience import HUNG_SECONDS

SLOT_SECONDS = 0.04


async def rich(world: OnChain, amount: int) -> Signer:
    """Somebody outside of the exchange with that much currency."""
    stranger, minter = Signer(Role.SETTLER, Keypair()), world.signers[Role.MINTER]
    world.devnet.call("requestAirdrop", str(stranger.address), 10**10)
    mint = world.effects.currency_mint
    making = create_idempotent_associated_token_account(minter.address, stranger.address, mint)
    account = token_account(stranger.address, mint)
    minting = mint_to(MintToParams(TOKEN_PROGRAM_ID, mint, account, minter.address, amount))
    signature = await world.land([minter], making, minting)

    async def final() -> bool:
        status = world.devnet.call("getSignatureStatuses", [signature])["value"][0]
        return bool(status["confirmationStatus"] == "finalized")

    await world.until(final, "no fork takes it back")
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


async def ready(world: OnChain, amount: int = 9_000_000) -> tuple[int, str, Signer]:
    """Ann with a vault, her address, and a stranger with money."""
    (ann,) = await world.people("ann")
    address = await world.of(ann)
    async with world.submitting():
        await world.until_final()
    return ann, address, await rich(world, amount)


def credited(world: OnChain, user_id: int, amount: int) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return [one.available for one in await world.ledger.balances(user_id)] == [amount]

    return look


def told(world: OnChain, state: str) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return "Deposited" in await world.events(state)

    return look


async def test_a_deposit_on_a_fork_that_lost_is_dropped_and_never_credited(world: OnChain) -> None:
    ann, address, stranger = await ready(world)
    async with world.listening():
        await world.land([stranger], world.pay_in(stranger._keypair, address, 1, 4_000_000))
        await world.until(told(world, "confirmed"), "confirmed")
        desk = PostgresChainDesk(world.pool)
        (pending,) = await desk.pending_deposits(ann, 10)
        assert (pending.amount, pending.is_energy) == (4_000_000, False)

        world.devnet.call("devnet_fork", 25)
        await world.until(told(world, "dropped"), "dropped")

        assert await desk.pending_deposits(ann, 10) == []
        assert await world.ledger.balances(ann) == []
        await world.land([stranger], world.pay_in(stranger._keypair, address, 1, 3_000_000))
        await world.until(credited(world, ann, 3_000_000), "the next one counts")


async def test_what_happened_while_nobody_listened_is_found(world: OnChain) -> None:
    ann, address, stranger = await ready(world)
    async with world.listening():
        await world.land([stranger], world.pay_in(stranger._keypair, address, 1, 1_000_000))
        await world.until(credited(world, ann, 1_000_000), "first")
    for amount in (20, 300, 4_000):
        await world.land([stranger], world.pay_in(stranger._keypair, address, 1, amount))

    async with world.listening():
        await world.until(credited(world, ann, 1_004_320), "all")
        world.devnet.kill()  # its connection breaks in the midst
        world.devnet.start()
        await world.land([stranger], world.pay_in(stranger._keypair, address, 1, 50_000))
        await world.until(credited(world, ann, 1_054_320), "after the break")

    assert len(await world.ledger.deposits(ann)) == 5


async def test_a_stream_that_falls_silent_is_left(world: OnChain, tmp_path: Path) -> None:
    """Time of this chain passes only when somebody says so, and then for a while nobody does."""
    still = DevnetProcess(tmp_path / "still.sqlite").start()
    world.devnet.kill()
    world.devnet = still
    try:
        async with world.listening() as listener:
            states: set[str] = set()

            async def came_and_went() -> bool:
                still.tick()
                states.add(str(listener.status()["state"]))
                if "serving" in states:
                    await asyncio.sleep(1.2)  # longer than the silence that it bears
                    states.add(str(listener.status()["state"]))
                return {"serving", "connecting"} <= states and listener.connections > 1

            await world.until(came_and_went, "reconnected")
    finally:
        still.kill()


async def test_a_listener_that_dies_anywhere_is_followed_by_another(world: OnChain) -> None:
    ann, address, stranger = await ready(world)
    deaths = 0
    for number, point in enumerate(LISTENER_POINTS):
        died = asyncio.Event()

        def crash(name: str) -> None:
            if name == point:  # noqa: B023 - called within this round
                died.set()  # noqa: B023
                raise Killed(point)  # noqa: B023

        with contextlib.suppress(Killed, BaseExceptionGroup):
            async with world.listening(crash):
                await world.land([stranger], world.pay_in(stranger._keypair, address, 1, 10**number))
                async with asyncio.timeout(HUNG_SECONDS):
                    await died.wait()
        deaths += died.is_set()

    async with world.listening():
        await world.until(credited(world, ann, 111), "all three, once")

    assert deaths == 3
    assert len(await world.ledger.deposits(ann)) == 3
    assert (await world.events()).count("Deposited") == 3


class Killed(BaseException):
    """As SIGKILL."""
