"""Endpoints that are slow, silent, behind or gone; transactions signed once, simulated, sent, and told by their errors.

Seen to fail for: an error of a program that is asked again elsewhere, a circuit that never opens, no bound on all
repeats together, a lock that is not counted.
"""

import asyncio
from time import monotonic

import pytest
from solana.rpc.async_api import AsyncClient
from solana.rpc.core import RPCException
from solders.address_lookup_table_account import AddressLookupTableAccount
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer

from chain.client.breaker import Circuit
from chain.client.programs import reference_programs
from chain.client.rpc import ChainUnavailable, RpcPool, RpcSettings
from chain.client.transactions import (
    Budget,
    Signed,
    TooLarge,
    latest_blockhash,
    send,
    sign,
    simulate,
)
from chain.client.wallets import Role, Signer
from tests.support.devnet import DevnetProcess, free_ports

PROGRAMS = reference_programs()


def pool_of(*urls: str, timeout_seconds: float = 0.5, total_seconds: float = 10, open_seconds: float = 60) -> RpcPool:
    return RpcPool(
        RpcSettings(
            urls=urls,
            total_seconds=total_seconds,
            open_seconds=open_seconds,
            timeout_seconds=timeout_seconds,
            wait_seconds=0.01,
            wait_seconds_max=0.02,
        )
    )


def nobody() -> str:
    return f"http://127.0.0.1:{free_ports()}"


def funded(devnet: DevnetProcess) -> Signer:
    signer = Signer(Role.SETTLER, Keypair())
    devnet.call("requestAirdrop", str(signer.address), 10**10)
    devnet.tick(2)
    return signer


def pay(signer: Signer, to: Pubkey, lamports: int = 10**7) -> Instruction:
    return transfer(TransferParams(from_pubkey=signer.address, to_pubkey=to, lamports=lamports))


async def payment(pool: RpcPool, signer: Signer, to: Pubkey) -> Signed:
    return sign([pay(signer, to)], [signer], await latest_blockhash(pool), Budget(10_000, 1))


async def test_a_dead_endpoint_is_passed_over_and_then_left_alone(devnet: DevnetProcess) -> None:
    async with pool_of(nobody(), devnet.url) as pool:
        for _ in range(10):
            await latest_blockhash(pool)

        assert [each.circuit for each in pool.states()] == [Circuit.OPEN, Circuit.CLOSED]


async def test_with_no_endpoint_left_the_chain_is_unavailable() -> None:
    async with pool_of(nobody(), nobody()) as pool:
        with pytest.raises(ChainUnavailable, match=r"no answer from RpcPool\(127"):
            await latest_blockhash(pool)


async def test_a_circuit_closes_when_the_endpoint_is_back(devnet: DevnetProcess) -> None:
    async with pool_of(devnet.url, open_seconds=0.05) as pool:
        devnet.kill()
        with pytest.raises(ChainUnavailable):
            await latest_blockhash(pool)
        assert pool.states()[0].circuit is not Circuit.CLOSED

        devnet.start()
        await latest_blockhash(pool)

        assert pool.states()[0].circuit is Circuit.CLOSED


async def test_a_silent_endpoint_costs_no_more_than_its_time_out(devnet: DevnetProcess) -> None:
    slow_seconds = 30
    devnet.call("devnet_fault", "slow", 1, slow_seconds)
    async with pool_of(devnet.url) as pool:
        began = monotonic()

        await latest_blockhash(pool)

        assert 0.4 < monotonic() - began < slow_seconds


async def test_all_repeats_together_end_in_time(devnet: DevnetProcess) -> None:
    timeout_seconds = 20
    devnet.call("devnet_fault", "slow", 1_000, 30)
    async with pool_of(devnet.url, timeout_seconds=timeout_seconds, total_seconds=0.5) as pool:
        began = monotonic()

        with pytest.raises(ChainUnavailable):
            await latest_blockhash(pool)

        assert monotonic() - began < timeout_seconds


async def test_a_node_that_is_behind_is_asked_again(devnet: DevnetProcess) -> None:
    signer, to = funded(devnet), Keypair().pubkey()
    async with pool_of(devnet.url) as pool:
        made = await payment(pool, signer, to)
        devnet.call("devnet_fault", "refuse", 2)

        await send(pool, made)

        assert devnet.call("getBalance", str(to))["value"] == 10**7


async def test_an_answer_that_refuses_is_not_asked_for_again(devnet: DevnetProcess) -> None:
    asked = 0

    async def balance_of_nothing(client: AsyncClient) -> object:
        nonlocal asked
        asked += 1
        return await client.get_token_account_balance(Keypair().pubkey())

    async with pool_of(devnet.url) as pool:
        for _ in range(10):
            with pytest.raises(RPCException):
                await pool.ask(balance_of_nothing)

        assert (asked, pool.states()[0].circuit) == (10, Circuit.CLOSED)


async def test_bytes_sent_many_times_have_one_effect(devnet: DevnetProcess) -> None:
    signer, to = funded(devnet), Keypair().pubkey()
    async with pool_of(devnet.url) as pool:
        made = await payment(pool, signer, to)
        devnet.call("devnet_fault", "unanswered", 1)

        await asyncio.gather(*(send(pool, made) for _ in range(5)))

        assert devnet.call("getBalance", str(to))["value"] == 10**7
        assert devnet.call("getSignatureStatuses", [made.signature])["value"][0]["err"] is None


async def test_a_simulation_names_the_programs_error_and_its_units(devnet: DevnetProcess) -> None:
    signer = funded(devnet)
    operators = dict.fromkeys(("minter", "settler", "publisher", "registrar"), signer.address)
    begin = PROGRAMS.governance.instruction("initialize", operators, {"authority": signer.address})
    unpause = PROGRAMS.governance.instruction("unpause", {}, {"authority": signer.address})
    async with pool_of(devnet.url) as pool:
        made = sign([begin, unpause], [signer], await latest_blockhash(pool), Budget())

        failed = await simulate(pool, made, PROGRAMS)
        works = await simulate(pool, sign([begin], [signer], await latest_blockhash(pool), Budget()), PROGRAMS)

        assert failed.error == "NotPaused"
        assert works.error == ""
        assert 1_000 < works.units < 30_000


async def test_a_simulation_says_what_the_runtime_says(devnet: DevnetProcess) -> None:
    signer = funded(devnet)
    async with pool_of(devnet.url) as pool:
        too_much = sign([pay(signer, Keypair().pubkey(), 10**12)], [signer], await latest_blockhash(pool), Budget())
        small = sign([pay(signer, Keypair().pubkey(), 10**7)], [signer], await latest_blockhash(pool), Budget(units=0))
        poor = Signer(Role.SETTLER, Keypair())
        unpaid = sign([pay(poor, signer.address)], [poor], await latest_blockhash(pool), Budget())

        assert (await simulate(pool, too_much, PROGRAMS)).error == "custom 1"
        assert "ComputationalBudgetExceeded" in (await simulate(pool, small, PROGRAMS)).error
        assert (await simulate(pool, unpaid, PROGRAMS)).error == '"AccountNotFound"'


async def test_what_a_cluster_would_not_take_is_not_signed(devnet: DevnetProcess) -> None:
    signer = funded(devnet)
    async with pool_of(devnet.url) as pool:
        blockhash = await latest_blockhash(pool)
        metas = [AccountMeta(Pubkey.new_unique(), False, False) for _ in range(62)]
        table = AddressLookupTableAccount(Pubkey.new_unique(), [each.pubkey for each in metas])
        many = Instruction(PROGRAMS.trading.id, b"", metas)

        assert len(
            sign([Instruction(PROGRAMS.trading.id, b"", metas[:61])], [signer], blockhash, Budget(), [table]).raw
        )
        with pytest.raises(TooLarge, match="65 accounts"):
            sign([many], [signer], blockhash, Budget(), [table])
        with pytest.raises(TooLarge, match="bytes"):
            sign([Instruction(PROGRAMS.trading.id, bytes(1_200), [])], [signer], blockhash, Budget())
        stranger = AccountMeta(Pubkey.new_unique(), True, False)
        with pytest.raises(ValueError, match="nobody signs for"):
            sign([Instruction(PROGRAMS.trading.id, b"", [stranger])], [signer], blockhash, Budget())


def test_addresses_with_keys_are_not_shown() -> None:
    pool = RpcPool(RpcSettings(urls=("https://user:secret@rpc.example.org/v2/secret?key=secret",)))

    assert "secret" not in f"{pool!r} {pool.states()}"
    assert "rpc.example.org" in repr(pool)


def test_a_pool_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="address"):
        RpcPool(RpcSettings(urls=()))
