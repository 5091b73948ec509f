"""Keys of roles are replaced while the exchange works: handed over on a real chain, nothing twice, nothing lost.

Seen to fail for: guards that an earlier minter made and nobody looks for, a hand-over while transactions are under way,
the currency's mint kept by the old minter, a hand-over that a start does not finish, nothing made for the new key.
"""

import pytest
from solders.pubkey import Pubkey

from chain.client.wallets import Authorities, Role
from tests.integration.chain.test_submitter import Killed, differences, later_work, some_work
from tests.support.on_chain import PROGRAMS, OnChain, Open

SLOT_SECONDS = 0.04
ALL = (Role.MINTER, Role.SETTLER, Role.PUBLISHER, Role.REGISTRAR, Role.GOVERNANCE)


def named(world: OnChain) -> dict[str, Pubkey]:
    """Whom governance's account names."""
    config = world.account("governance", "Config", world.effects.config)
    return {"governance": config["authority"]} | {role.value: config[role.value] for role in ALL[:-1]}


def failures(world: OnChain) -> int:
    """Transactions that the chain has, as failed."""
    lists = [world.devnet.call("getSignaturesForAddress", str(program.id)) for program in PROGRAMS.all]
    return len({one["signature"] for each in lists for one in each if one["err"] is not None})


async def test_every_role_gets_a_new_key_while_work_goes_on(world: OnChain) -> None:
    people = await some_work(world)
    keys = Authorities(world.folder / "authorities", Open())
    before = {role: keys.signer(role).address for role in Role}

    async def under_way() -> bool:
        return not {"signed", "sent"}.isdisjoint(await world.states())  # with bytes that a node may have

    async with world.submitting():
        await world.until_final()
        failed = failures(world)
        for number, role in enumerate(ALL, 1):
            world.devnet.call("devnet_fault", "delay", 4, 30)
            await later_work(world, people, number)
            await world.until(under_way, "transactions that land after a while")
            following = keys.propose(role).address

            async def promoted(role: Role = role, following: Pubkey = following) -> bool:
                return keys.signer(role).address == following

            await world.until(promoted, f"the next {role}")
            assert named(world)[role.value] == following
        await world.until_final()

    assert failures(world) == failed  # such as what comes with a key that counts no more
    assert {role: keys.former(role) for role in Role} == {role: [before[role]] for role in Role}
    assert await differences(world, people) == []
    rows = await world.pool.fetch("SELECT subject FROM audit_log WHERE action = 'chain.key_rotated' ORDER BY number")
    assert [row["subject"] for row in rows] == [f"role:{role.value}" for role in ALL]


@pytest.mark.parametrize("role", [Role.MINTER])
async def test_a_rotation_that_is_cut_short_goes_on(world: OnChain, role: Role) -> None:
    """The chain names the next key, and the file that counts is still the old one."""
    people = await some_work(world)
    async with world.submitting() as submitter:
        await world.until_final()
        keys = Authorities(world.folder / "authorities", Open())
        following = keys.propose(role).address

        async def dies(*_: str) -> None:
            raise Killed

        submitter._rotated = dies  # type: ignore[method-assign,assignment]
        assert world.running is not None
        with pytest.raises(BaseExceptionGroup):
            await world.running
    assert named(world)[role.value] == following != keys.signer(role).address

    await later_work(world, people, 1)
    async with world.submitting():
        await world.until_final()

    assert keys.signer(role).address == following
    assert await differences(world, people) == []


async def test_what_an_earlier_minter_has_done_is_done(world: OnChain) -> None:
    """An endpoint has forgotten that it landed: the account that guards it hangs on the key before."""
    people = await some_work(world)
    keys = Authorities(world.folder / "authorities", Open())
    async with world.submitting():
        await world.until_final()
        keys.propose(Role.MINTER)
        keys.propose(Role.SETTLER)

        async def rotated() -> bool:
            return not keys.proposed()

        await world.until(rotated, "rotated")
        await world.pool.execute(
            "UPDATE chain_submissions SET state = 'queued', signature = '', lease_owner = ''"
            " WHERE kind IN ('deposit_issued', 'energy_retired')"
        )
        await world.until_final()

    assert await differences(world, people) == []
