"""Unmodified solana-py, its WebSocket client and anchorpy find a cluster: answers, limits, faults, life after a kill.

Seen to fail for: a fork that restores nothing, blockhashes that a restart forgets, a second arrival that runs, a
65th lock, a notification at `processed` for who asked for `confirmed`.
"""

import asyncio
import base64
import struct
from pathlib import Path
from typing import Any

import pytest
from anchorpy.error import ProgramError
from anchorpy.program.context import Context
from anchorpy.program.core import Program
from anchorpy.provider import Provider, Wallet
from solana.exceptions import SolanaRpcException
from solana.rpc.async_api import AsyncClient
from solana.rpc.commitment import Confirmed, Finalized, Processed
from solana.rpc.core import RPCException
from solana.rpc.types import MemcmpOpts, TxOpts
from solana.rpc.websocket_api import connect
from solders.address_lookup_table_account import ID as LOOKUP_TABLES
from solders.address_lookup_table_account import AddressLookupTableAccount, derive_lookup_table_address
from solders.hash import Hash
from solders.instruction import AccountMeta, CompiledInstruction, Instruction
from solders.keypair import Keypair
from solders.message import Message, MessageV0
from solders.pubkey import Pubkey
from solders.rpc.config import RpcTransactionLogsFilterMentions
from solders.signature import Signature
from solders.system_program import ID as SYSTEM
from solders.system_program import TransferParams, transfer
from solders.sysvar import CLOCK
from solders.transaction import Transaction, VersionedTransaction

from chain.client.idl import old_idl
from chain.devnet.ledger import Ledger
from chain.devnet.rpc import Rpc
from chain.devnet.server import Devnet, NotLoopback
from chain.programs.interface import load_idl, program_id
from tests.support.devnet import DevnetProcess, connected, funded
from tests.support.patience import HUNG_SECONDS

SKIP = TxOpts(skip_preflight=True)
PREFLIGHT = TxOpts(preflight_commitment=Processed)


async def payment(client: AsyncClient, payer: Keypair, to: Pubkey, lamports: int = 10**7) -> Transaction:
    blockhash = (await client.get_latest_blockhash(Processed)).value.blockhash
    pay = transfer(TransferParams(from_pubkey=payer.pubkey(), to_pubkey=to, lamports=lamports))
    return Transaction([payer], Message.new_with_blockhash([pay], payer.pubkey(), blockhash), blockhash)


async def balance(client: AsyncClient, of: Pubkey) -> int:
    return (await client.get_balance(of)).value


async def status(client: AsyncClient, signature: Signature) -> Any:
    return (await client.get_signature_statuses([signature])).value[0]


def governance(client: AsyncClient, payer: Keypair) -> tuple[Program, Pubkey]:
    idl = load_idl("governance")
    config, _ = Pubkey.find_program_address([b"config"], program_id(idl))
    options = TxOpts(skip_confirmation=True, preflight_commitment=Processed)
    return Program(old_idl(idl), program_id(idl), Provider(client, Wallet(payer), options)), config


async def test_anchorpy_calls_reads_and_understands_errors(devnet: DevnetProcess) -> None:
    async with connected(devnet) as client:
        payer, stranger = await funded(client), await funded(client)
        program, config = governance(client, payer)
        others = {role: payer.pubkey() for role in ("minter", "settler", "publisher", "registrar")}
        accounts = {"config": config, "authority": payer.pubkey(), "system_program": SYSTEM}

        await program.rpc["initialize"](*others.values(), ctx=Context(accounts=accounts))

        found = await program.account["Config"].fetch(config)
        assert found.authority == payer.pubkey()
        assert [each.public_key for each in await program.account["Config"].all()] == [config]
        wrong, _ = governance(client, stranger)
        with pytest.raises(ProgramError) as refused:
            await wrong.rpc["pause"](ctx=Context(accounts={"config": config, "authority": stranger.pubkey()}))
        assert (refused.value.code, refused.value.msg) == (6000, "Only the authority may do this")


async def test_its_websocket_client_hears_of_everything_at_its_commitment(devnet: DevnetProcess) -> None:
    async with connected(devnet) as client, connect(devnet.ws) as socket:
        payer = await funded(client)
        devnet.tick(32)
        to = Keypair().pubkey()
        made = await payment(client, payer, to)
        await socket.logs_subscribe(RpcTransactionLogsFilterMentions(payer.pubkey()), commitment=Confirmed)
        await socket.account_subscribe(to, commitment=Processed, encoding="base64")
        await socket.signature_subscribe(made.signatures[0], commitment=Confirmed)
        await socket.program_subscribe(SYSTEM, commitment=Finalized, encoding="base64")
        await socket.slot_subscribe()
        for _ in range(5):
            await next_of(socket)

        await client.send_transaction(made, PREFLIGHT)
        heard = [type((await next_of(socket))[0]).__name__]
        devnet.tick()
        heard += [type((await next_of(socket))[0]).__name__ for _ in range(3)]
        devnet.tick(31)
        heard += [type((await next_of(socket))[0]).__name__ for _ in range(3)]

        assert heard[0] == "AccountNotification"
        assert set(heard[1:4]) == {"SlotNotification", "LogsNotification", "SignatureNotification"}
        assert set(heard[4:]) == {"SlotNotification", "ProgramNotification"}


async def next_of(socket: Any) -> Any:
    return await asyncio.wait_for(socket.recv(), HUNG_SECONDS)


async def test_a_transaction_is_processed_confirmed_and_finalized(devnet: DevnetProcess) -> None:
    async with connected(devnet) as client:
        payer = await funded(client)
        signature = (await client.send_transaction(await payment(client, payer, Keypair().pubkey()), PREFLIGHT)).value
        levels = []
        for slots in (0, 1, 31):
            if slots:
                devnet.tick(slots)
            levels.append(str((await status(client, signature)).confirmation_status).rpartition(".")[2])

        assert levels == ["Processed", "Confirmed", "Finalized"]
        kept = (await client.get_transaction(signature, max_supported_transaction_version=0)).value
        assert kept is not None
        assert kept.transaction.meta is not None
        assert kept.transaction.meta.fee == 5_000
        history = (await client.get_signatures_for_address(payer.pubkey())).value
        assert history[0].signature == signature
        encoded = await client.get_transaction(signature, "base64", max_supported_transaction_version=0)
        assert encoded.value is not None


async def test_what_a_cluster_refuses_is_refused(devnet: DevnetProcess) -> None:
    async with connected(devnet) as client:
        payer = await funded(client)
        to = Keypair().pubkey()
        made = await payment(client, payer, to)
        await client.send_transaction(made, PREFLIGHT)

        with pytest.raises(RPCException, match="AlreadyProcessed"):
            await client.send_transaction(made, PREFLIGHT)
        old = Message.new_with_blockhash(
            [transfer(TransferParams(from_pubkey=payer.pubkey(), to_pubkey=to, lamports=1))],
            payer.pubkey(), Hash.new_unique(),
        )  # fmt: skip
        with pytest.raises(RPCException, match="BlockhashNotFound"):
            await client.send_transaction(Transaction([payer], old, old.recent_blockhash), PREFLIGHT)
        forged = bytearray(bytes(await payment(client, payer, to, 5)))
        forged[10] ^= 1
        with pytest.raises(RPCException, match="SignatureVerificationFailure"):
            await client.send_raw_transaction(bytes(forged), PREFLIGHT)
        await client.send_raw_transaction(bytes(forged), SKIP)
        assert await balance(client, to) == 10**7
        large = bytes(made) + bytes(1_300)
        with pytest.raises(RPCException, match="too large"):
            await client.send_raw_transaction(large, SKIP)
        with pytest.raises(RPCException, match="custom program error"):
            await client.send_transaction(await payment(client, payer, to, 10**12), PREFLIGHT)


async def test_a_failed_transaction_that_skips_the_preflight_lands_as_failed(devnet: DevnetProcess) -> None:
    async with connected(devnet) as client:
        payer = await funded(client)
        before = await balance(client, payer.pubkey())
        made = await payment(client, payer, Keypair().pubkey(), 10**12)

        signature = (await client.send_transaction(made, SKIP)).value

        found = await status(client, signature)
        assert found.err is not None
        assert await balance(client, payer.pubkey()) == before - 5_000


async def test_more_than_64_accounts_are_refused(devnet: DevnetProcess) -> None:
    async with connected(devnet) as client:
        payer = await funded(client)
        devnet.tick()  # a table is bound to a recent slot
        table, addresses = await lookup_table(devnet, client, payer, 70)
        for count, landed in ((60, True), (64, False)):
            metas = [AccountMeta(each, False, False) for each in addresses[:count]]
            blockhash = (await client.get_latest_blockhash(Processed)).value.blockhash
            memo = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")
            pay = transfer(TransferParams(from_pubkey=payer.pubkey(), to_pubkey=payer.pubkey(), lamports=1))
            message = MessageV0.try_compile(
                payer.pubkey(),
                [pay, Instruction(memo, b"", metas)],
                [AddressLookupTableAccount(table, addresses)],
                blockhash,
            )
            signature = (await client.send_transaction(VersionedTransaction(message, [payer]), SKIP)).value

            assert (await status(client, signature) is not None) == landed


async def lookup_table(
    devnet: DevnetProcess, client: AsyncClient, payer: Keypair, count: int
) -> tuple[Pubkey, list[Pubkey]]:
    program = Pubkey.from_string("AddressLookupTab1e1111111111111111111111111")
    slot = (await client.get_slot(Processed)).value - 1
    table, bump = Pubkey.find_program_address([bytes(payer.pubkey()), struct.pack("<Q", slot)], program)
    addresses = [Keypair().pubkey() for _ in range(count)]
    metas = [AccountMeta(table, False, True), AccountMeta(payer.pubkey(), True, False),
             AccountMeta(payer.pubkey(), True, True), AccountMeta(SYSTEM, False, False)]  # fmt: skip
    datas = [struct.pack("<IQB", 0, slot, bump)]
    for start in range(0, count, 20):
        part = addresses[start : start + 20]
        datas.append(struct.pack("<IQ", 2, len(part)) + b"".join(map(bytes, part)))
    for data in datas:
        blockhash = (await client.get_latest_blockhash(Processed)).value.blockhash
        message = Message.new_with_blockhash([Instruction(program, data, metas)], payer.pubkey(), blockhash)
        await client.send_transaction(Transaction([payer], message, blockhash), PREFLIGHT)
        devnet.tick()
    return table, addresses


async def test_a_blockhash_counts_for_150_slots(devnet: DevnetProcess) -> None:
    async with connected(devnet) as client:
        payer = await funded(client)
        to = Keypair().pubkey()
        early, late = await payment(client, payer, to, 10**7), await payment(client, payer, to, 2 * 10**7)

        devnet.tick(149)
        await client.send_transaction(early, SKIP)
        devnet.tick()
        await client.send_transaction(late, SKIP)

        assert await balance(client, to) == 10**7


async def test_nothing_is_lost_by_a_kill(devnet: DevnetProcess) -> None:
    async with connected(devnet) as client:
        payer = await funded(client)
        to = Keypair().pubkey()
        waiting = await payment(client, payer, to, 2 * 10**7)
        signature = (await client.send_transaction(await payment(client, payer, to), PREFLIGHT)).value

        devnet.kill()
        devnet.start()

        assert await balance(client, to) == 10**7
        assert (await status(client, signature)).err is None
        await client.send_transaction(waiting, PREFLIGHT)  # its blockhash is still known
        assert await balance(client, to) == 3 * 10**7
        assert len(devnet.call("getSignaturesForAddress", str(to), {"commitment": "processed"})) == 2


async def test_a_simulation_asks_for_signatures_when_it_is_told_to(devnet: DevnetProcess) -> None:
    async with connected(devnet) as client:
        payer = await funded(client)
        raw = bytearray(bytes(await payment(client, payer, Pubkey.new_unique())))
        raw[1] ^= 1  # of the first signature
        forged = VersionedTransaction.from_bytes(bytes(raw))

        assert (await client.simulate_transaction(forged)).value.err is None
        await client.send_raw_transaction(bytes(raw), SKIP)
        devnet.tick(2)
        assert await status(client, forged.signatures[0]) is None
        with pytest.raises(RPCException, match="SignatureVerificationFailure"):
            await client.simulate_transaction(forged, sig_verify=True)
        with pytest.raises(RPCException, match="SignatureVerificationFailure"):
            await client.send_raw_transaction(bytes(raw), PREFLIGHT)


def test_a_fork_undoes_all_of_a_slot_in_batches_and_beside_them(tmp_path: Path) -> None:
    ledger, account = Ledger({}, tmp_path / "chain.sqlite"), Pubkey.new_unique()
    ledger.airdrop(account, 10**9)
    ledger.tick()
    with ledger.store.together():
        for _ in range(3):
            ledger.airdrop(account, 10**9)
        ledger.airdrop(another := Pubkey.new_unique(), 10**9)
        assert another in ledger.store.owned_by(SYSTEM)
    ledger.airdrop(account, 10**9)
    ledger.store.close()

    ledger = Ledger({}, tmp_path / "chain.sqlite")  # as after a kill
    found = ledger.account(account)
    assert found is not None
    assert found.lamports == 5 * 10**9
    assert len(ledger.fork(2)) == 5
    ledger.store.close()
    again = Ledger({}, tmp_path / "chain.sqlite").account(account)
    assert again is not None
    assert again.lamports == 10**9


def test_the_machine_is_told_the_time_when_somebody_looks() -> None:
    """Each telling copies all accounts: an idle chain would copy them with each slot."""
    ledger, payer = Ledger({}), Keypair()
    ledger.airdrop(payer.pubkey(), 10**9)
    told = ledger.vm.get_clock().slot

    ledger.tick(3)
    idle, shown = ledger.vm.get_clock().slot, ledger.account(CLOCK)
    ledger.tick()
    ledger.airdrop(payer.pubkey(), 10**9)
    seen = ledger.vm.get_clock().slot
    ledger.tick()
    recent = ledger.slot - 1  # a table is named after a slot whose hash the machine must know
    table, bump = derive_lookup_table_address(payer.pubkey(), recent)
    signer, system = AccountMeta(payer.pubkey(), True, True), AccountMeta(SYSTEM, False, False)
    metas = [AccountMeta(table, False, True), signer, signer, system]
    create = Instruction(LOOKUP_TABLES, struct.pack("<IQB", 0, recent, bump), metas)
    blockhash, _ = ledger.blockhash("processed")
    made = Transaction([payer], Message.new_with_blockhash([create], payer.pubkey(), blockhash), blockhash)
    record = ledger.land(VersionedTransaction.from_bytes(bytes(made)), bytes(made))

    assert idle == told
    assert shown is not None
    assert struct.unpack_from("<Q", bytes(shown.data)) == (told + 3,)
    assert seen == told + 4
    assert record["err"] is None, record["logs"]


async def test_a_fork_drops_what_is_not_finalized(devnet: DevnetProcess) -> None:
    async with connected(devnet) as client:
        payer = await funded(client)
        to = Keypair().pubkey()
        kept = (await client.send_transaction(await payment(client, payer, to), PREFLIGHT)).value
        devnet.tick(3)
        made = await payment(client, payer, to, 2 * 10**7)
        dropped = (await client.send_transaction(made, PREFLIGHT)).value
        again = await payment(client, payer, to, 4 * 10**7)

        assert devnet.call("devnet_fork", 2) == [str(dropped)]

        assert await balance(client, to) == 10**7
        assert await status(client, dropped) is None
        assert (await status(client, kept)).err is None
        await client.send_transaction(again, SKIP)  # of a blockhash that the fork took along
        assert await balance(client, to) == 10**7
        devnet.kill()
        devnet.start()
        assert await balance(client, to) == 10**7


async def test_each_fault_does_what_it_says(devnet: DevnetProcess) -> None:
    async with connected(devnet) as client:
        payer = await funded(client)

        async def sent(fault: str, value: float = 0, slots: int = 0) -> tuple[int, Exception | None]:
            to, error = Keypair().pubkey(), None
            made = await payment(client, payer, to)
            devnet.call("devnet_fault", fault, 1, value)
            try:
                await client.send_transaction(made, SKIP)
            except (RPCException, SolanaRpcException) as caught:
                error = caught
            if slots:
                devnet.tick(slots)
            return await balance(client, to), error

        assert await sent("drop") == (0, None)
        assert await sent("delay", 3, 2) == (0, None)
        assert (await sent("delay", 3, 3))[0] == 10**7
        assert await sent("delay", 200, 201) == (0, None)
        assert await sent("duplicate") == (10**7, None)
        landed, unheard = await sent("unanswered")
        assert landed == 10**7
        assert isinstance(unheard, SolanaRpcException)
        refused, behind = await sent("refuse")
        assert refused == 0
        assert "behind" in str(behind)


async def test_blockhashes_expire_when_a_test_says_so(devnet: DevnetProcess) -> None:
    async with connected(devnet) as client:
        payer = await funded(client)
        to = Keypair().pubkey()
        made = await payment(client, payer, to)

        devnet.call("devnet_expire")
        await client.send_transaction(made, SKIP)

        assert await balance(client, to) == 0


async def test_accounts_are_found_by_their_program_and_bytes(devnet: DevnetProcess) -> None:
    async with connected(devnet) as client:
        payer = await funded(client)
        program, config = governance(client, payer)
        accounts = {"config": config, "authority": payer.pubkey(), "system_program": SYSTEM}
        await program.rpc["initialize"](*[payer.pubkey()] * 4, ctx=Context(accounts=accounts))

        for wanted, found in ((payer.pubkey(), [config]), (Keypair().pubkey(), [])):
            filters: list[int | MemcmpOpts] = [266, MemcmpOpts(offset=8, bytes=str(wanted))]
            answer = await client.get_program_accounts(program.program_id, encoding="base64", filters=filters)
            assert [each.pubkey for each in answer.value] == found


async def test_a_batch_and_unknown_methods_are_answered(devnet: DevnetProcess) -> None:
    with pytest.raises(RuntimeError, match="-32601"):
        devnet.call("getEverything")
    with pytest.raises(RuntimeError, match="-32602"):
        devnet.call("getBalance", "no key")
    with pytest.raises(RuntimeError, match="-32602"):
        devnet.call("getBalance")
    with pytest.raises(RuntimeError, match="one of drop"):
        devnet.call("devnet_fault", "explode", 1)


@pytest.mark.parametrize(
    ("header", "again", "instruction", "words"),
    [
        ((1, 0, 1), False, CompiledInstruction(200, b"", b""), "SanitizeFailure"),
        ((1, 0, 1), False, CompiledInstruction(1, b"", bytes([99])), "SanitizeFailure"),
        ((1, 1, 1), False, CompiledInstruction(1, b"", b""), "SanitizeFailure"),
        ((1, 0, 1), True, CompiledInstruction(1, b"", b""), "AccountLoadedTwice"),
    ],
    ids=["no such program", "no such account", "payer not writable", "an account twice"],
)
async def test_a_malformed_transaction_is_refused(
    header: tuple[int, int, int], again: bool, instruction: CompiledInstruction, words: str
) -> None:
    ledger = Ledger({})
    payer = Keypair()
    ledger.airdrop(payer.pubkey(), 10**10)
    blockhash, _ = ledger.blockhash("processed")
    keys = [payer.pubkey(), payer.pubkey() if again else SYSTEM]
    message = Message.new_with_compiled_instructions(*header, keys, blockhash, [instruction])
    transaction = VersionedTransaction.populate(message, [payer.sign_message(bytes(message))])
    raw = base64.b64encode(bytes(transaction)).decode()

    answers = [
        Rpc(ledger).answer({"id": 1, "method": "sendTransaction", "params": [raw, options]})
        for options in ({"encoding": "base64"}, {"encoding": "base64", "skipPreflight": True})
    ]

    assert words in answers[0]["error"]["message"]
    assert answers[1]["result"] == str(transaction.signatures[0])
    assert ledger.store.transaction(answers[1]["result"]) is None


async def test_others_are_not_let_in(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "192.0.2.1", "::"):
        with pytest.raises(NotLoopback):
            async with Devnet(Ledger({}), 0).listening(host, 1):
                raise AssertionError("it listens")


async def test_without_faults_nobody_can_make_it_fail() -> None:
    answer = Rpc(Ledger({})).answer({"id": 1, "method": "devnet_fork", "params": [1]})

    assert answer["error"]["code"] == -32601
