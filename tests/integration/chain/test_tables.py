"""Address lookup tables on a real chain: made, extended and used; with them more fits a transaction.

Seen to fail for: tables that do not count when a transaction is filled; accounts that are forgotten with the extension
that was lost. Not for a submitter that does not wait for its
first look at them: its first round may be smaller, and nothing else.
"""

import base64
from typing import Any

from solders.address_lookup_table_account import AddressLookupTable
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.transaction import VersionedTransaction

from chain.client.tables import FORGOTTEN_AFTER, Tables
from chain.client.wallets import Role
from engine.records import Want
from engine.settlement.netting import Rule
from persistence.projections import PostgresProjections
from persistence.settlements import PostgresSettlements
from tests.integration.chain.test_submitter import energy, meter_of
from tests.support.on_chain import OnChain
from tests.support.rows import batch, trade_row, trade_transfer

SLOT_SECONDS = 0.04
FINAL_AFTER = 33  # slots
WITHOUT_TABLES = 6  # accounts of a settlement, or windows, that fit a transaction


async def message_of(world: OnChain, signature: str) -> MessageV0:
    options = {"encoding": "base64", "maxSupportedTransactionVersion": 0}
    found: Any = world.devnet.call("getTransaction", signature, options)
    message = VersionedTransaction.from_bytes(base64.b64decode(found["transaction"][0])).message
    assert isinstance(message, MessageV0)
    return message


async def test_a_settlement_of_many_people_is_one_transaction(world: OnChain) -> None:
    people = await world.people(*(f"p{number}" for number in range(16)))
    for owner in people:
        await world.ledger.deposit(owner, "THB", 10_000, f"d{owner}", 1)
        await world.ledger.deposit(owner, "energy:Z1", 5_000, f"e{owner}", 1)
    async with world.submitting(tables=True):
        await world.until_final()
        await some_settlement(world, people)
        await world.until_final()

    [(signature, parts)] = await world.pool.fetch(
        "SELECT min(signature), count(*) FROM chain_submissions WHERE kind = 'settle'"
    )
    message = await message_of(world, signature)
    assert parts == 1
    assert message.address_table_lookups
    assert len(message.account_keys) < WITHOUT_TABLES * 3


async def some_settlement(world: OnChain, people: list[int]) -> None:
    """Half of the people sell to the other half, in a single part."""
    await world.ledger.draw(1, 1, [Want(one, asset, 900) for one in people for asset in ("THB", "energy:Z1")])
    changes = {"energy_wh": 10, "buyer_value_micro": 20, "seller_value_micro": 20, "buyer_fee_micro": 3}
    half = len(people) // 2
    rows = [
        trade_row(number, people[number - 1], people[number - 1 + half], **changes) for number in range(1, half + 1)
    ]
    transfers = [trade_transfer(row) for row in rows]
    await PostgresProjections(world.pool).write(batch(0, half, trades=rows, transfers=transfers))
    rule = Rule(every_us=1, trades_max=1_000, part_accounts=18)
    assert await PostgresSettlements(world.pool).settle_due(10**9, rule) == half


async def accounts_in_tables(world: OnChain) -> int:
    count = 0
    for (table,) in await world.pool.fetch("SELECT address FROM chain_lookup_tables"):
        found = world.devnet.call("getAccountInfo", table, {"encoding": "base64"})["value"]
        count += len(AddressLookupTable.deserialize(base64.b64decode(found["data"][0])).addresses) if found else 0
    return count


async def test_windows_of_known_meters_share_larger_transactions(world: OnChain) -> None:
    people = await world.people(*(f"p{number}" for number in range(12)))
    meters = {owner: await meter_of(world, owner) for owner in people}
    async with world.submitting(tables=True):
        for owner in people:
            await energy(world, "energy_generated", owner, meters[owner], 1, 100)
        await world.until_final()

        async def held() -> bool:
            return await accounts_in_tables(world) >= 2 * len(people)

        await world.until(held, "the meters and vaults in tables")
    world.devnet.tick(FINAL_AFTER)
    for owner in people:
        await energy(world, "energy_generated", owner, meters[owner], 2, 100)
    async with world.submitting(tables=True):  # another one finds the tables of the one before
        await world.until_final()

    together = await world.pool.fetchval(
        "SELECT max(count) FROM (SELECT count(*) FROM chain_submissions WHERE kind = 'energy_generated'"
        " AND key LIKE '%:1800' GROUP BY signature) AS per_transaction"
    )
    assert together > WITHOUT_TABLES
    assert [await world.held(owner) for owner in people] == [(200, 0)] * len(people)


async def test_what_was_lost_on_its_way_into_a_table_is_sent_again(world: OnChain) -> None:
    world.devnet.call("requestAirdrop", str(world.signers[Role.SETTLER].address), 10**12)
    pass_slots(world, FINAL_AFTER)
    accounts = [Keypair().pubkey() for _ in range(30)]  # two extensions
    async with world.pool_of() as rpc:
        tables = Tables(rpc, world.submissions)
        tables.want(accounts)
        world.devnet.call("devnet_fault", "drop", 2)
        await tables.tend(world.signers)
        pass_slots(world, FORGOTTEN_AFTER)
        await tables.tend(world.signers)
        assert not tables.holds(accounts[:1])
        pass_slots(world, FINAL_AFTER)
        await tables.tend(world.signers)

        assert tables.holds(accounts)


def pass_slots(world: OnChain, count: int) -> None:
    """One by one: a table's address hangs on a slot, and one that was jumped over has no hash."""
    for _ in range(count):
        world.devnet.tick()
