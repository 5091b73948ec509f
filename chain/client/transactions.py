"""Transactions made, signed, simulated and sent. Signed bytes are made once and sent as often as it takes.

Success is decided by who reads the status: that an endpoint took the bytes means nothing, see chain/client/rpc.py.
"""

import base64
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct
from solana.rpc.commitment import Commitment, Confirmed
from solana.rpc.core import RPCException
from solana.rpc.types import TxOpts
from solders.address_lookup_table_account import AddressLookupTableAccount
from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.hash import Hash
from solders.instruction import Instruction
from solders.message import MessageV0, to_bytes_versioned
from solders.rpc.responses import RpcSimulateTransactionResult, SendTransactionResp, SimulateTransactionResp
from solders.transaction import VersionedTransaction

from chain.client.programs import Programs
from chain.client.rpc import RpcPool
from chain.client.wallets import Signer
from chain.errors import error_json

TRANSACTION_BYTES_MAX: Final = 1_232
ACCOUNT_LOCKS_MAX: Final = 64
UNITS_MAX: Final = 1_400_000
SIMULATING: Final = {"encoding": "base64", "commitment": "confirmed", "sigVerify": False}
SENDING: Final = {"encoding": "base64", "skipPreflight": True, "preflightCommitment": "processed"}


class TooLarge(Exception):
    """The transaction would have more bytes or accounts than a cluster takes; split it."""


class Budget(Struct, frozen=True):
    """units: compute units at most; price: micro-lamports for each, what others outbid when blocks are full."""

    units: int = 200_000
    price: int = 0


class Blockhash(Struct, frozen=True):
    """last_height: the last block height at which a transaction with it can land."""

    hash: Hash
    last_height: int


class Signed(Struct, frozen=True):
    """raw and signature are all that a later attempt needs; last_height says until when it can land."""

    raw: bytes
    signature: str
    last_height: int


class Simulated(Struct, frozen=True):
    """error: the name of a program's error, else the runtime's JSON; "" for success."""

    error: str
    units: int
    logs: list[str]


def sign(
    instructions: Sequence[Instruction],
    signers: Sequence[Signer],
    blockhash: Blockhash,
    budget: Budget,
    tables: Sequence[AddressLookupTableAccount] = (),
) -> Signed:
    """A v0 transaction; the first signer pays. Raises TooLarge, ValueError when a signer is missing."""
    priced = [set_compute_unit_limit(min(budget.units, UNITS_MAX)), set_compute_unit_price(budget.price)]
    message = MessageV0.try_compile(signers[0].address, [*priced, *instructions], list(tables), blockhash.hash)
    if (locked := locks_of(message)) > ACCOUNT_LOCKS_MAX:
        raise TooLarge(f"{locked} accounts, of at most {ACCOUNT_LOCKS_MAX}")
    by_address = {signer.address: signer for signer in signers}
    needed = message.account_keys[: message.header.num_required_signatures]
    if missing := [str(each) for each in needed if each not in by_address]:
        raise ValueError(f"nobody signs for {', '.join(missing)}")
    body = to_bytes_versioned(message)
    signatures = [by_address[each].sign(body) for each in needed]
    raw = bytes(VersionedTransaction.populate(message, signatures))
    if len(raw) > TRANSACTION_BYTES_MAX:
        raise TooLarge(f"{len(raw)} bytes, of at most {TRANSACTION_BYTES_MAX}")
    return Signed(raw, str(signatures[0]), blockhash.last_height)


def locks_of(message: MessageV0) -> int:
    """How many accounts a transaction with this message locks."""
    return len(message.account_keys) + sum(
        len(bytes(each.writable_indexes)) + len(bytes(each.readonly_indexes)) for each in message.address_table_lookups
    )


async def latest_blockhash(pool: RpcPool) -> Blockhash:
    """Raises ChainUnavailable."""
    value = (await pool.ask(lambda client: client.get_latest_blockhash(Confirmed))).value
    return Blockhash(value.blockhash, value.last_valid_block_height)


async def simulate(pool: RpcPool, signed: Signed, programs: Programs) -> Simulated:
    """What would happen now. Raises ChainUnavailable, RPCException for bytes that no node takes."""
    transaction = VersionedTransaction.from_bytes(signed.raw)
    value = (await pool.ask(lambda client: client.simulate_transaction(transaction, commitment=Confirmed))).value
    return _simulated(value, signed.raw, programs)


async def simulate_all(pool: RpcPool, signed: Sequence[Signed], programs: Programs) -> list[Simulated | RPCException]:
    """The same of many, each by itself as things are now, with the exception for what no node takes."""
    questions = [(base64.b64encode(each.raw).decode(), SIMULATING) for each in signed]
    answers = await pool.ask_together("simulateTransaction", questions, SimulateTransactionResp)
    return [
        answer if isinstance(answer, RPCException) else _simulated(answer.value, each.raw, programs)
        for answer, each in zip(answers, signed, strict=True)
    ]


def _simulated(value: RpcSimulateTransactionResult, raw: bytes, programs: Programs) -> Simulated:
    failed = value.err is not None
    error = error_name(error_json(value.err), VersionedTransaction.from_bytes(raw), programs) if failed else ""
    return Simulated(error, value.units_consumed or 0, list(value.logs or []))


async def send(pool: RpcPool, signed: Signed) -> None:
    """Hand the bytes to an endpoint, which forwards them; also when it had them before. Raises ChainUnavailable."""
    options = TxOpts(skip_preflight=True, skip_confirmation=True, preflight_commitment=Commitment("processed"))
    try:
        await pool.ask(lambda client: client.send_raw_transaction(signed.raw, options))
    except RPCException as error:
        if "AlreadyProcessed" not in str(error):
            raise


async def send_all(pool: RpcPool, raws: Sequence[bytes]) -> None:
    """The same with many; who is told nothing of one looks at its status. Raises ChainUnavailable."""
    questions = [(base64.b64encode(raw).decode(), SENDING) for raw in raws]
    await pool.ask_together("sendTransaction", questions, SendTransactionResp)


def error_name(error: Any, transaction: VersionedTransaction, programs: Programs) -> str:
    """A transaction's error as the RPC writes it, in the words of the program that raised it when it is one of ours."""
    match error:
        case {"InstructionError": [int() as place, {"Custom": int() as code}]}:
            instruction = transaction.message.instructions[place]
            program = programs.by_id(transaction.message.account_keys[instruction.program_id_index])
            name = program.error(code) if program else None
            return name or f"custom {code}"
    return msgspec.json.encode(error).decode()
