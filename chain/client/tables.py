"""Address lookup tables: an account that is in one costs a transaction one byte instead of 32.

Rule: only what a table holds for good is used, because a transaction whose table is not there, or shorter than it
thought, never lands. Who packs a transaction says which of its accounts last; `tend` puts those into tables, at its own
pace, and a later transaction has the use of it. To make or extend a table twice costs rent and changes nothing.
"""

import struct
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

from solana.rpc.commitment import Confirmed, Finalized
from solders.address_lookup_table_account import ID as LOOKUP_TABLE_PROGRAM
from solders.address_lookup_table_account import (
    AddressLookupTable,
    AddressLookupTableAccount,
    derive_lookup_table_address,
)
from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey
from solders.system_program import ID as SYSTEM_PROGRAM

from chain.client.rpc import RpcPool
from chain.client.transactions import Budget, latest_blockhash, send_all, sign
from chain.client.wallets import Role, Signer

TABLES_MAX: Final = 64  # that are looked into, the newest
ADDRESSES_MAX: Final = 256  # of one table
EXTENSION_MAX: Final = 20  # addresses that fit a transaction
EXTENSIONS_MAX: Final = 8  # transactions each time
WANTED_MAX: Final = 4_096
FORGOTTEN_AFTER: Final = 100  # slots, then what was asked for and is in no table is asked for again
TABLES_OF_A_TRANSACTION_MAX: Final = 4
WORTH_IT: Final = 2  # accounts in a table, whose own address the transaction has to name
UNITS: Final = 20_000


class TableStore(Protocol):
    """`tables`: the newest, with the address of who may add to each; newest first."""

    async def tables(self, most: int) -> list[tuple[str, str]]: ...
    async def add_table(self, address: str, authority: str) -> None: ...


class Tables:
    """Of one deployment. Nothing in it travels or lasts but what the store has."""

    def __init__(self, pool: RpcPool, store: TableStore) -> None:
        self._pool, self._store = pool, store
        self._held: dict[Pubkey, list[Pubkey]] = {}  # by table, what it holds for good
        self._of: dict[Pubkey, Pubkey] = {}  # by account, its table
        self._wanted: OrderedDict[Pubkey, None] = OrderedDict()
        self._asked: dict[Pubkey, int] = {}  # by account, the slot in which an extension with it was sent
        self._lengths: dict[Pubkey, int] = {}  # of tables as they will be
        self._made: dict[Pubkey, int] = {}  # by table, the slot in which it was sent

    def __repr__(self) -> str:
        return f"Tables({len(self._held)} with {len(self._of)} accounts)"

    def holds(self, addresses: Iterable[Pubkey]) -> bool:
        return all(address in self._of for address in addresses)

    def want(self, addresses: Iterable[Pubkey]) -> None:
        """These will be needed again."""
        for address in addresses:
            if address not in self._of and address not in self._asked and len(self._wanted) < WANTED_MAX:
                self._wanted[address] = None

    def for_(self, instructions: Sequence[Instruction]) -> list[AddressLookupTableAccount]:
        """The tables that shorten a transaction with these instructions."""
        used = {meta.pubkey for each in instructions for meta in each.accounts if not meta.is_signer}
        hits = Counter(self._of[address] for address in used if address in self._of)
        best = [table for table, count in hits.most_common(TABLES_OF_A_TRANSACTION_MAX) if count >= WORTH_IT]
        return [AddressLookupTableAccount(table, self._held[table]) for table in best]

    async def tend(self, signers: Mapping[Role, Signer]) -> None:
        """Look what the tables hold, and add what is wanted. Raises ChainDown."""
        slot = (await self._pool.ask(lambda client: client.get_slot(Confirmed))).value
        authority = signers[Role.SETTLER]
        ours = await self._read(authority.address, slot)
        missing = {address: sent for address, sent in self._asked.items() if address not in self._of}
        self._asked = {address: sent for address, sent in missing.items() if sent + FORGOTTEN_AFTER > slot}
        self.want(address for address in missing if address not in self._asked)  # their extension is lost
        if self._wanted:
            await self._extend(authority, ours, slot)

    async def _read(self, authority: Pubkey, slot: int) -> list[Pubkey]:
        """What each holds for good; the tables that this authority may add to, newest first."""
        known = [
            (Pubkey.from_string(table), of == str(authority)) for table, of in await self._store.tables(TABLES_MAX)
        ]
        held: dict[Pubkey, list[Pubkey]] = {}
        if known:
            tables = [table for table, _ in known]
            found = (await self._pool.ask(lambda client: client.get_multiple_accounts(tables, Finalized))).value
            for table, account in zip(tables, found, strict=True):
                if account is not None and account.owner == LOOKUP_TABLE_PROGRAM:
                    held[table] = list(AddressLookupTable.deserialize(bytes(account.data)).addresses)
        # both at once: whoever packs meanwhile must find in one what the other names
        self._held, self._of = held, {address: table for table, some in held.items() for address in some}
        self._lengths = {table: max(len(self._held.get(table, ())), self._lengths.get(table, 0)) for table, _ in known}
        self._made = {table: sent for table, sent in self._made.items() if sent + FORGOTTEN_AFTER > slot}
        return [table for table, is_ours in known if is_ours and (table in self._held or table in self._made)]

    async def _extend(self, authority: Signer, ours: Sequence[Pubkey], slot: int) -> None:
        raws: list[bytes] = []
        blockhash = await latest_blockhash(self._pool)
        table = next((each for each in ours if self._lengths[each] < ADDRESSES_MAX), None)
        while self._wanted and len(raws) < EXTENSIONS_MAX:
            calls = []
            if table is None or self._lengths[table] >= ADDRESSES_MAX:
                if raws:
                    break  # one new table at a time: its address hangs on a slot
                table, making = await self._new(authority.address)
                self._made[table] = slot
                calls.append(making)
            room = min(EXTENSION_MAX, ADDRESSES_MAX - self._lengths[table])
            part = [self._wanted.popitem(last=False)[0] for _ in range(min(room, len(self._wanted)))]
            calls.append(_extension(table, authority.address, part))
            self._lengths[table] += len(part)
            self._asked |= dict.fromkeys(part, slot)
            raws.append(sign(calls, [authority], blockhash, Budget(UNITS)).raw)
        await send_all(self._pool, raws)

    async def _new(self, authority: Pubkey) -> tuple[Pubkey, Instruction]:
        """A table with a new address; written down before anybody makes it."""
        slot = (await self._pool.ask(lambda client: client.get_slot(Finalized))).value
        table, bump = derive_lookup_table_address(authority, slot)
        await self._store.add_table(str(table), str(authority))
        self._lengths[table] = 0
        data = struct.pack("<IQB", 0, slot, bump)
        return table, Instruction(LOOKUP_TABLE_PROGRAM, data, _metas(table, authority))


def _extension(table: Pubkey, authority: Pubkey, addresses: Sequence[Pubkey]) -> Instruction:
    data = struct.pack("<IQ", 2, len(addresses)) + b"".join(map(bytes, addresses))
    return Instruction(LOOKUP_TABLE_PROGRAM, data, _metas(table, authority))


def _metas(table: Pubkey, authority: Pubkey) -> list[AccountMeta]:
    return [
        AccountMeta(table, is_signer=False, is_writable=True),
        AccountMeta(authority, is_signer=True, is_writable=False),
        AccountMeta(authority, is_signer=True, is_writable=True),  # who pays
        AccountMeta(SYSTEM_PROGRAM, is_signer=False, is_writable=False),
    ]
