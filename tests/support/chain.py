"""The five programs on the virtual machine, with fixed keys so that compute units repeat, and what tests send."""

import hashlib
import json
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from msgspec import Struct
from solders.account import Account
from solders.clock import Clock
from solders.compute_budget import set_compute_unit_limit
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.litesvm import LiteSVM
from solders.message import Message
from solders.pubkey import Pubkey
from solders.rent import Rent
from solders.token.state import Mint, TokenAccount
from solders.transaction import Transaction
from solders.transaction_metadata import FailedTransactionMetadata, TransactionMetadata
from solders.transaction_status import InstructionErrorCustom, TransactionErrorInstructionError

from chain.client.events import events
from chain.client.programs import Event, Program, Programs, reference_programs
from chain.programs.interface import BUILT

TOKEN_PROGRAM: Final = Pubkey.from_string("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA")
SYSTEM_PROGRAM: Final = Pubkey.default()
LAMPORTS: Final = 10**12
NOW: Final = 1_800_000_000
UNITS_FILE: Final = Path(__file__).parent / "measured" / "compute_units.json"
UNITS_GROWTH_MAX: Final = 0.05
FRAMEWORK: Final = {
    101: "InstructionFallbackNotFound",
    102: "InstructionDidNotDeserialize",
    2000: "ConstraintMut",
    2006: "ConstraintSeeds",
    2012: "ConstraintAddress",
    3002: "AccountDiscriminatorMismatch",
    3005: "AccountNotEnoughKeys",
    3007: "AccountOwnedByWrongProgram",
    3010: "AccountNotSigner",
}


def key(name: str) -> Keypair:
    """The same for the same name, always."""
    return Keypair.from_seed(hashlib.sha256(f"test {name}".encode()).digest())


class Outcome(Struct, frozen=True):
    """error: a name of the IDL or of Anchor, what else the runtime said, or "" for success."""

    error: str
    events: list[Event]
    logs: list[str]
    units: int


class TestChain:
    """A virtual machine on which all five are loaded; `ready()` also initializes them."""

    __test__ = False

    def __init__(self) -> None:
        self.vm = LiteSVM()
        self.programs: Programs = reference_programs()
        for program in self.programs.all:
            self.vm.add_program_from_file(program.id, BUILT / f"{program.name}.so")
        roles = ("authority", "minter", "settler", "publisher", "registrar", "alice", "bob", "mallory")
        self.keys = {name: key(name) for name in roles}
        for each in self.keys.values():
            self.vm.airdrop(each.pubkey(), LAMPORTS)
        self.at(NOW)
        self.energy_mint = self.programs.energy_token.address("initialize", "mint", {}, {})
        self.currency_mint = self.mint("currency", 6)

    def ready(self) -> "TestChain":
        operators = {role: self.public(role) for role in ("minter", "settler", "publisher", "registrar")}
        self.must("governance", "initialize", operators, "authority", authority="authority")
        for name in ("registry", "energy_token", "oracle"):
            self.must(name, "initialize", {}, "authority", authority="authority")
        mints = {"energy_mint": self.energy_mint, "currency_mint": self.currency_mint}
        self.must("trading", "initialize", {}, "authority", authority="authority", **mints)
        return self

    def public(self, name: str) -> Pubkey:
        return self.keys[name].pubkey()

    def at(self, unix_seconds: int) -> None:
        clock = self.vm.get_clock()
        self.vm.set_clock(Clock(clock.slot, 0, 0, 0, unix_seconds))

    def program(self, name: str) -> Program:
        found: Program = getattr(self.programs, name)
        return found

    def build(
        self,
        program: str,
        name: str,
        arguments: Mapping[str, Any],
        following: Sequence[AccountMeta] = (),
        /,
        **accounts: str | Pubkey,
    ) -> Instruction:
        keys = {account: self.public(who) if isinstance(who, str) else who for account, who in accounts.items()}
        return self.program(program).instruction(name, arguments, keys, following)

    def call(
        self, program: str, name: str, arguments: Mapping[str, Any], signer: str, **accounts: str | Pubkey
    ) -> Outcome:
        return self.send(self.build(program, name, arguments, **accounts), signer)

    def must(self, *arguments: Any, **named: Any) -> Outcome:
        outcome = self.call(*arguments, **named)
        assert outcome.error == "", outcome.logs
        return outcome

    def send(self, *instructions_and_signers: Instruction | str) -> Outcome:
        """The first signer pays. Every transaction has a blockhash of its own, so equal ones are two."""
        instructions = [each for each in instructions_and_signers if isinstance(each, Instruction)]
        signers = [self.keys[each] for each in instructions_and_signers if isinstance(each, str)]
        self.vm.expire_blockhash()
        if any(len(each.accounts) > 20 for each in instructions):
            instructions.insert(0, set_compute_unit_limit(1_400_000))
        blockhash = self.vm.latest_blockhash()
        message = Message.new_with_blockhash(instructions, signers[0].pubkey(), blockhash)
        sent = self.vm.send_transaction(Transaction(signers, message, blockhash))
        if isinstance(sent, TransactionMetadata):
            found = [each.event for each in events(self.programs, sent.logs())]
            return Outcome("", found, sent.logs(), sent.compute_units_consumed())
        assert isinstance(sent, FailedTransactionMetadata)
        meta = sent.meta()
        return Outcome(self._error(sent, instructions), [], meta.logs(), meta.compute_units_consumed())

    def _error(self, failed: FailedTransactionMetadata, instructions: list[Instruction]) -> str:
        error = failed.err()
        if isinstance(error, TransactionErrorInstructionError) and isinstance(error.err, InstructionErrorCustom):
            code = error.err.code
            program = self.programs.by_id(instructions[error.index].program_id)
            named = program.error(code) if program else None
            assert not named or any(f"Error Code: {named}." in line for line in failed.meta().logs())
            return named or FRAMEWORK.get(code) or f"custom {code}"
        return str(error)

    # --- state ---

    def account(self, program: str, kind: str, address: Pubkey) -> dict[str, Any]:
        found = self.vm.get_account(address)
        assert found is not None
        return self.program(program).account(bytes(found.data), kind)

    def mint(self, name: str, decimals: int, authority: str = "authority") -> Pubkey:
        address = key(f"mint {name}").pubkey()
        data = struct.pack("<I32sQBBI32s", 1, bytes(self.public(authority)), 0, decimals, 1, 0, bytes(32))
        self.put(address, TOKEN_PROGRAM, data)
        return address

    def token_account(self, name: str, mint: Pubkey, owner: str | Pubkey, amount: int = 0) -> Pubkey:
        """Of its own making: the mint's supply does not know the amount."""
        address = key(f"token account {name}").pubkey()
        holder = self.public(owner) if isinstance(owner, str) else owner
        data = struct.pack("<32s32sQ36sBI8sQ36s", bytes(mint), bytes(holder), amount, b"", 1, 0, b"", 0, b"")
        self.put(address, TOKEN_PROGRAM, data)
        return address

    def give(self, address: Pubkey, amount: int) -> None:
        """Set a token account's amount."""
        found = self.vm.get_account(address)
        assert found is not None
        data = bytearray(found.data)
        struct.pack_into("<Q", data, 64, amount)
        self.put(address, TOKEN_PROGRAM, bytes(data))

    def put(self, address: Pubkey, owner: Pubkey, data: bytes) -> None:
        lamports = Rent.default().minimum_balance(len(data))
        self.vm.set_account(address, Account(lamports, data, owner, False, 2**64 - 1))

    def amount(self, address: Pubkey) -> int:
        found = self.vm.get_account(address)
        assert found is not None
        return TokenAccount.from_bytes(bytes(found.data)).amount

    def supply(self, mint: Pubkey) -> int:
        found = self.vm.get_account(mint)
        assert found is not None
        return Mint.from_bytes(bytes(found.data)).supply

    # --- the usual beginnings ---

    def user(self, name: str) -> Pubkey:
        arguments = {"user_id": hashlib.sha256(name.encode()).digest()[:16]}
        self.must("registry", "register_user", arguments, "registrar", authority=name, registrar="registrar")
        return self.program("registry").address("register_user", "user", arguments, {"authority": self.public(name)})

    def meter(self, name: str, owner: str) -> Pubkey:
        arguments = {"serial_hash": hashlib.sha256(name.encode()).digest()}
        self.must("registry", "register_meter", arguments, "registrar", authority=owner, registrar="registrar")
        accounts = {"authority": self.public(owner)}
        return self.program("registry").address("register_meter", "meter", arguments, accounts)

    def vault(self, name: str, energy: int = 0, currency: int = 0) -> "Vault":
        if name not in self.keys:
            self.keys[name] = key(name)
        mints = {"energy_mint": self.energy_mint, "currency_mint": self.currency_mint}
        accounts: dict[str, Pubkey] = {"participant": self.public(name), "payer": self.public("authority"), **mints}
        self.must("trading", "create_vault", {}, "authority", **accounts)
        trading = self.program("trading")
        address, of_energy, of_currency = (
            trading.address("create_vault", account, {}, accounts) for account in ("vault", "energy", "currency")
        )
        self.give(of_energy, energy)
        self.give(of_currency, currency)
        return Vault(self, address, of_energy, of_currency)


class Vault(Struct, frozen=True):
    chain: TestChain
    address: Pubkey
    energy: Pubkey
    currency: Pubkey

    def metas(self) -> list[AccountMeta]:
        writable = [AccountMeta(each, False, True) for each in (self.energy, self.currency)]
        return [AccountMeta(self.address, False, False), *writable]

    def holds(self) -> tuple[int, int]:
        return self.chain.amount(self.energy), self.chain.amount(self.currency)


def within_limit(name: str, units: int) -> bool:
    """Whether the units are at most 5 % above those recorded; WATTBOOK_RECORD_UNITS=1 records them instead."""
    recorded: dict[str, int] = json.loads(UNITS_FILE.read_text()) if UNITS_FILE.exists() else {}
    if os.environ.get("WATTBOOK_RECORD_UNITS"):
        recorded[name] = units
        UNITS_FILE.write_text(json.dumps(dict(sorted(recorded.items())), indent=2) + "\n")
    return units <= recorded[name] * (1 + UNITS_GROWTH_MAX)
