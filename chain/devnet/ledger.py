"""The local chain itself: accounts in LiteSVM, slots, blockhashes, what landed, and forks.

LiteSVM runs transactions as validators do, but has no clock, takes any number of accounts and bytes, and lists nothing.
What a cluster has beside it is here: a slot each 400 ms, 150 blockhashes, 64 locked accounts, each signature once,
`processed`, `confirmed` and `finalized`, and a fork that drops what is not finalized. One thing differs: accounts are
read as of now, at whatever commitment they are asked for.
"""

import hashlib
import secrets
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from time import time
from typing import Final

from solders.account import Account
from solders.address_lookup_table_account import ID as LOOKUP_TABLES
from solders.address_lookup_table_account import AddressLookupTable
from solders.clock import Clock
from solders.hash import Hash
from solders.keypair import Keypair
from solders.litesvm import LiteSVM
from solders.message import Message, MessageV0
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from solders.sysvar import CLOCK, SLOT_HASHES
from solders.transaction import Transaction, VersionedTransaction
from solders.transaction_metadata import FailedTransactionMetadata, SimulatedTransactionInfo, TransactionMetadata

from chain.devnet import shapes
from chain.devnet.store import Changes, Record, Store
from chain.errors import error_json

BLOCKHASHES: Final = 150
ACCOUNT_LOCKS_MAX: Final = 64
CONFIRMED_AFTER: Final = 1  # slots
FINALIZED_AFTER: Final = 32
SLOTS_PER_EPOCH: Final = 432_000
FAUCET_LAMPORTS: Final = 500_000_000 * 10**9
LEVELS: Final = {"processed": 0, "confirmed": CONFIRMED_AFTER, "finalized": FINALIZED_AFTER}
# Errors of transactions that ran: they are on the chain and cost their fee. With any other a leader leaves them out.
INCLUDED: Final = ("InstructionError", "InsufficientFundsForRent", "MaxLoadedAccountsDataSizeExceeded")
READ_HASHES: Final = {LOOKUP_TABLES, SLOT_HASHES}

Landed = Callable[[Record, dict[Pubkey, Account | None]], None]


class NotIncluded(Exception):
    """The transaction cannot land: its error as JSON, and what a simulation said before."""

    def __init__(self, error: object, logs: Iterable[str] = ()) -> None:
        super().__init__(str(error))
        self.error = error
        self.logs = list(logs)


class Ledger:
    """Used by one thread. `listeners` hear of each transaction that lands, with the accounts that it changed.

    The virtual machine is told the time when somebody looks there: each time that it is told it copies all accounts.
    """

    def __init__(self, programs: dict[Pubkey, Path], path: Path | None = None) -> None:
        self.vm = LiteSVM().with_blockhash_check(False).with_transaction_history(0)
        self.store = Store(path)
        self.listeners: list[Landed] = []
        genesis = self.store.fact("genesis") or secrets.token_bytes(32)
        self.genesis = Hash(hashlib.sha256(genesis).digest())
        self.faucet = Keypair.from_seed(hashlib.sha256(genesis + b"faucet").digest())
        self._ring: dict[Hash, int] = {}  # blockhash to its slot, oldest first
        self.unix_seconds = 0  # of this slot
        self._clock_told = self._hashes_told = -1  # the ticks of which the virtual machine knows
        self._ticks = 0
        for address, file in programs.items():
            self.vm.add_program_from_file(address, file)
        for address, account in self.store.accounts():
            self.vm.set_account(address, account)
        slot = self.store.fact("slot")
        if slot is None:
            self.slot = 0
            account = Account(FAUCET_LAMPORTS, b"", Pubkey.default())
            self.vm.set_account(self.faucet.pubkey(), account)
            self.store.put({self.faucet.pubkey(): (None, account)})
            self.store.keep_facts({"genesis": genesis}, 0)
        else:
            (self.slot,) = struct.unpack("<Q", slot)
            ring = self.store.fact("ring") or b""
            self._ring = {Hash(key): at for key, at in struct.iter_unpack("<32sQ", ring)}
        self.tick()

    # --- time ---

    def tick(self, slots: int = 1) -> None:
        """Time goes on."""
        for _ in range(min(slots, BLOCKHASHES + 1)):
            self._ring[Hash(secrets.token_bytes(32))] = self.slot + slots
            while len(self._ring) > BLOCKHASHES:
                del self._ring[next(iter(self._ring))]
        self.slot += slots
        self._keep_time()

    def _keep_time(self) -> None:
        self.unix_seconds = int(time())
        self._ticks += 1
        ring = b"".join(struct.pack("<32sQ", bytes(key), at) for key, at in self._ring.items())
        facts = {"slot": struct.pack("<Q", self.slot), "ring": ring}
        self.store.keep_facts(facts, self.slot_at("finalized"))

    def _tell_clock(self) -> None:
        if self._clock_told != self._ticks:
            self._clock_told, epoch = self._ticks, self.slot // SLOTS_PER_EPOCH
            self.vm.set_clock(Clock(self.slot, 0, epoch, epoch, self.unix_seconds))

    def _tell_hashes(self) -> None:
        if self._hashes_told != self._ticks:
            self._hashes_told = self._ticks
            self.vm.set_slot_hashes([(at, key) for key, at in reversed(self._ring.items()) if at < self.slot])

    def slot_at(self, commitment: str) -> int:
        """The newest slot that has reached it."""
        return max(0, self.slot - LEVELS[commitment])

    def level_of(self, slot: int) -> str:
        age = self.slot - slot
        return "finalized" if age >= FINALIZED_AFTER else "confirmed" if age >= CONFIRMED_AFTER else "processed"

    def blockhash(self, commitment: str) -> tuple[Hash, int]:
        """The newest at that commitment, and the last block height at which it counts."""
        newest = self.slot_at(commitment)
        hashes = list(self._ring.items())
        found = next(((key, at) for key, at in reversed(hashes) if at <= newest), hashes[0])
        return found[0], found[1] + BLOCKHASHES

    def is_recent(self, blockhash: Hash) -> bool:
        return blockhash in self._ring

    def fork(self, slots: int) -> list[Record]:
        """The last slots were of a fork that lost: their transactions are dropped, newest first, blockhashes too."""
        first = max(self.slot - min(slots, FINALIZED_AFTER - 1) + 1, 0)
        restored, dropped = self.store.drop_since(first)
        for address, account in restored.items():
            self.vm.set_account(address, account or Account(0, b"", Pubkey.default()))
        self._ring = {key: at for key, at in self._ring.items() if at < first}
        self.tick()
        return dropped

    # --- accounts ---

    def account(self, address: Pubkey) -> Account | None:
        if address == CLOCK:
            self._tell_clock()
        elif address == SLOT_HASHES:
            self._tell_hashes()
        found = self.vm.get_account(address)
        return found if found is not None and found.lamports else None

    def locks(self, transaction: VersionedTransaction) -> shapes.Locks:
        """Raises NotIncluded for a lookup table that is not there."""
        message = transaction.message
        writable: list[Pubkey] = []
        readonly: list[Pubkey] = []
        for lookup in message.address_table_lookups if isinstance(message, MessageV0) else ():
            table = self.account(lookup.account_key)
            if table is None:
                raise NotIncluded("AddressLookupTableNotFound")
            addresses = AddressLookupTable.deserialize(bytes(table.data)).addresses
            try:
                writable += [addresses[index] for index in bytes(lookup.writable_indexes)]
                readonly += [addresses[index] for index in bytes(lookup.readonly_indexes)]
            except IndexError:
                raise NotIncluded("InvalidAddressLookupTableIndex") from None
        return shapes.Locks(message, writable, readonly)

    # --- transactions ---

    def check(self, transaction: VersionedTransaction, *, recent: bool = True) -> shapes.Locks:
        """What a leader asks before it runs anything. Raises NotIncluded."""
        if self.store.outcome(str(transaction.signatures[0])) is not None:
            raise NotIncluded("AlreadyProcessed")
        if recent and not self.is_recent(transaction.message.recent_blockhash):
            raise NotIncluded("BlockhashNotFound")
        locks = self.locks(transaction)
        if len(locks.keys) > ACCOUNT_LOCKS_MAX:
            raise NotIncluded("TooManyAccountLocks")
        named = set(locks.keys)
        if len(named) != len(locks.keys):
            raise NotIncluded("AccountLoadedTwice")
        self._tell_clock()
        if locks.writable_loaded or locks.readonly_loaded or named & READ_HASHES:
            self._tell_hashes()
        return locks

    def simulate(
        self, transaction: VersionedTransaction, *, recent: bool = True, verified: bool = True
    ) -> SimulatedTransactionInfo | FailedTransactionMetadata:
        """`verified`: whether its signatures must be right. Raises NotIncluded."""
        self.check(transaction, recent=recent)
        self.vm.with_sigverify(verified)
        try:
            return self.vm.simulate_transaction(transaction)
        finally:
            self.vm.with_sigverify(True)

    def land(self, transaction: VersionedTransaction, raw: bytes) -> Record:
        """Run it in this slot; its record, also of one that failed. Raises NotIncluded."""
        locks = self.check(transaction)
        before = {key: self.account(key) for key in locks.keys}
        result = self.vm.send_transaction(transaction)
        meta = result if isinstance(result, TransactionMetadata) else result.meta()
        error = error_json(result.err()) if isinstance(result, FailedTransactionMetadata) else None
        if error is not None and not (isinstance(error, dict) and next(iter(error)) in INCLUDED):
            raise NotIncluded(error, meta.logs())
        after = before | {key: self.account(key) for key in locks.writable_keys}
        changes: Changes = {key: (before[key], after[key]) for key in locks.writable_keys}
        now = int(time())
        record = shapes.record(transaction, raw, self.slot, now, error, meta, locks, before, after, self.account)
        self.store.append(record, changes)
        for listener in self.listeners:
            listener(record, {key: after[key] for key in locks.writable_keys})
        return record

    def airdrop(self, address: Pubkey, lamports: int) -> Record:
        """A transfer from the faucet. Raises NotIncluded."""
        blockhash, _ = self.blockhash("processed")
        pay = transfer(TransferParams(from_pubkey=self.faucet.pubkey(), to_pubkey=address, lamports=lamports))
        message = Message.new_with_blockhash([pay, shapes.memo(secrets.token_hex(8))], self.faucet.pubkey(), blockhash)
        raw = bytes(Transaction([self.faucet], message, blockhash))
        return self.land(VersionedTransaction.from_bytes(raw), raw)
