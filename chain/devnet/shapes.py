"""What goes over the wire: transactions, accounts, errors and balances in the JSON of Solana's RPC."""

import base64
import struct
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Final, TypeAlias

from solders.account import Account
from solders.instruction import Instruction
from solders.message import Message, MessageV0
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction
from solders.transaction_metadata import TransactionMetadata

TOKEN: Final = Pubkey.from_string("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA")
TOKEN_2022: Final = Pubkey.from_string("TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb")
TOKENS: Final = (TOKEN, TOKEN_2022)
MEMO: Final = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")
TOKEN_ACCOUNT_BYTES: Final = 165
MINT_BYTES: Final = 82
FEE_LAMPORTS: Final = 5_000  # for each signature
ADDRESSES_KEPT_MAX: Final = 4_096
Token: TypeAlias = tuple[Pubkey, Pubkey, int]  # mint, owner, base units
ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def base58(raw: bytes) -> str:
    number, text = int.from_bytes(raw, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = ALPHABET[digit] + text
    return "1" * (len(raw) - len(raw.lstrip(b"\0"))) + text


def from_base58(text: str) -> bytes:
    """Raises ValueError."""
    number = 0
    for letter in text:
        number = number * 58 + ALPHABET.index(letter)
    return bytes(len(text) - len(text.lstrip("1"))) + number.to_bytes((number.bit_length() + 7) // 8, "big")


class Locks:
    """All accounts of a transaction, in the order in which instructions count them."""

    def __init__(self, message: Message | MessageV0, writable: list[Pubkey], readonly: list[Pubkey]) -> None:
        static, header = list(message.account_keys), message.header
        signers, count = header.num_required_signatures, len(static)
        self.writable_loaded, self.readonly_loaded = writable, readonly
        self.keys = [*static, *writable, *readonly]
        written = [
            index < signers - header.num_readonly_signed_accounts
            if index < signers
            else index < count - header.num_readonly_unsigned_accounts
            for index in range(count)
        ]
        self.writable_keys = [key for key, is_written in zip(static, written, strict=True) if is_written] + writable


@lru_cache(ADDRESSES_KEPT_MAX)
def text(key: Pubkey) -> str:
    """In base58; most transactions name the same few."""
    return str(key)


def failure_text(found: Any) -> str:
    """The words of a failed simulation."""
    match found:
        case {"InstructionError": [place, {"Custom": code}]}:
            return f"Error processing Instruction {place}: custom program error: {code:#x}"
        case {"InstructionError": [place, kind]}:
            return f"Error processing Instruction {place}: {kind}"
    return str(found)


def account(found: Account | None, encoding: str | None, part: dict[str, int] | None = None) -> Any:
    if found is None:
        return None
    data = bytes(found.data)
    if part:
        data = data[part["offset"] : part["offset"] + part["length"]]
    shown = [base58(data), "base58"] if encoding == "base58" else [base64.b64encode(data).decode(), "base64"]
    return {
        "lamports": found.lamports,
        "data": base58(data) if encoding in (None, "binary") else shown,
        "owner": text(found.owner),
        "executable": found.executable,
        "rentEpoch": found.rent_epoch,
        "space": len(found.data),
    }


def amount(base_units: int, decimals: int) -> dict[str, Any]:
    whole, rest = divmod(base_units, 10**decimals)
    digits = f"{rest:0{decimals}d}".rstrip("0") if decimals else ""
    return {
        "amount": str(base_units),
        "decimals": decimals,
        "uiAmount": base_units / 10**decimals,
        "uiAmountString": f"{whole}.{digits}" if digits else str(whole),
    }


def token(found: Account | None) -> Token | None:
    """What it says, if it is a token account."""
    if found is None or found.owner not in TOKENS or len(found.data) < TOKEN_ACCOUNT_BYTES:
        return None
    data = bytes(found.data)
    return Pubkey(data[:32]), Pubkey(data[32:64]), struct.unpack_from("<Q", data, 64)[0]


def decimals_of(read: Callable[[Pubkey], Account | None], held: Iterable[Token | None]) -> dict[Pubkey, int]:
    mints = {each[0] for each in held if each}
    found = {mint: read(mint) for mint in mints}
    return {mint: each.data[44] if each and len(each.data) >= MINT_BYTES else 0 for mint, each in found.items()}


def memo(text: str) -> Instruction:
    return Instruction(MEMO, text.encode(), [])


def returned(meta: Any) -> Any:  # solders' stubs do not know that metadata has this
    found = meta.return_data()
    data = bytes(found.data)
    return {"programId": str(found.program_id), "data": [base64.b64encode(data).decode(), "base64"]} if data else None


def record(
    transaction: VersionedTransaction,
    raw: bytes,
    slot: int,
    unix_seconds: int,
    failed: Any,
    meta: TransactionMetadata,
    locks: Locks,
    before: dict[Pubkey, Account | None],
    after: dict[Pubkey, Account | None],
    read: Callable[[Pubkey], Account | None],
) -> dict[str, Any]:
    """What is kept of a transaction that landed."""
    tokens_before = {key: token(found) for key, found in before.items()}
    tokens_after = {key: tokens_before[key] if found is before[key] else token(found) for key, found in after.items()}
    mints = decimals_of(read, [*tokens_before.values(), *tokens_after.values()])
    inner = [
        {
            "index": place,
            "instructions": [
                {
                    "programIdIndex": each.instruction().program_id_index,
                    "accounts": list(each.instruction().accounts),
                    "data": bytes(each.instruction().data),
                    "stackHeight": getattr(each, "stack_height")(),  # noqa: B009 - solders' stubs lack it
                }
                for each in group
            ],
        }
        for place, group in enumerate(meta.inner_instructions())
        if group
    ]
    return {
        "signature": str(transaction.signatures[0]),
        "slot": slot,
        "time": unix_seconds,
        "raw": raw,
        "err": failed,
        "logs": list(meta.logs()),
        "units": meta.compute_units_consumed(),
        "keys": [text(key) for key in locks.keys],
        "loaded": {
            "writable": [text(key) for key in locks.writable_loaded],
            "readonly": [text(key) for key in locks.readonly_loaded],
        },
        "pre": [_lamports(before[key]) for key in locks.keys],
        "post": [_lamports(after[key]) for key in locks.keys],
        "pre_tokens": _balances(locks.keys, before, tokens_before, mints),
        "post_tokens": _balances(locks.keys, after, tokens_after, mints),
        "inner": inner,
        "returned": returned(meta),
        "version": 0 if isinstance(transaction.message, MessageV0) else "legacy",
    }


def _lamports(found: Account | None) -> int:
    return found.lamports if found else 0


def _balances(
    keys: list[Pubkey],
    accounts: dict[Pubkey, Account | None],
    tokens: dict[Pubkey, Token | None],
    mints: dict[Pubkey, int],
) -> list[Any]:
    held = [(place, accounts[key], tokens[key]) for place, key in enumerate(keys)]
    return [
        {
            "accountIndex": place,
            "mint": text(holding[0]),
            "owner": text(holding[1]),
            "programId": text(found.owner),
            "uiTokenAmount": amount(holding[2], mints[holding[0]]),
        }
        for place, found, holding in held
        if found and holding
    ]


def status(failed: Any) -> dict[str, Any]:
    return {"Ok": None} if failed is None else {"Err": failed}


def transaction(kept: dict[str, Any], encoding: str) -> dict[str, Any]:
    """The answer of getTransaction."""
    raw: bytes = kept["raw"]
    meta = {
        "err": kept["err"],
        "status": status(kept["err"]),
        "fee": FEE_LAMPORTS * raw[0],
        "preBalances": kept["pre"],
        "postBalances": kept["post"],
        "innerInstructions": [_inner(group) for group in kept["inner"]],
        "logMessages": kept["logs"],
        "preTokenBalances": kept["pre_tokens"],
        "postTokenBalances": kept["post_tokens"],
        "rewards": [],
        "loadedAddresses": kept["loaded"],
        "computeUnitsConsumed": kept["units"],
        **({"returnData": kept["returned"]} if kept["returned"] else {}),
    }
    shown: Any = _decoded(raw)
    if encoding in ("base64", "base58"):
        shown = [base64.b64encode(raw).decode() if encoding == "base64" else base58(raw), encoding]
    return {
        "slot": kept["slot"],
        "blockTime": kept["time"],
        "transaction": shown,
        "meta": meta,
        "version": kept["version"],
    }


def _inner(group: dict[str, Any]) -> dict[str, Any]:
    """As it is told; chains of before have their data in base58 already."""
    told = [
        {**each, "data": base58(each["data"]) if isinstance(each["data"], bytes) else each["data"]}
        for each in group["instructions"]
    ]
    return {"index": group["index"], "instructions": told}


def _decoded(raw: bytes) -> dict[str, Any]:
    made = VersionedTransaction.from_bytes(raw)
    message, header = made.message, made.message.header
    shown: dict[str, Any] = {
        "header": {
            "numRequiredSignatures": header.num_required_signatures,
            "numReadonlySignedAccounts": header.num_readonly_signed_accounts,
            "numReadonlyUnsignedAccounts": header.num_readonly_unsigned_accounts,
        },
        "accountKeys": [str(key) for key in message.account_keys],
        "recentBlockhash": str(message.recent_blockhash),
        "instructions": [
            {
                "programIdIndex": each.program_id_index,
                "accounts": list(each.accounts),
                "data": base58(bytes(each.data)),
                "stackHeight": None,
            }
            for each in message.instructions
        ],
    }
    if isinstance(message, MessageV0):
        shown["addressTableLookups"] = [
            {
                "accountKey": str(each.account_key),
                "writableIndexes": list(each.writable_indexes),
                "readonlyIndexes": list(each.readonly_indexes),
            }
            for each in message.address_table_lookups
        ]
    return {"signatures": [str(each) for each in made.signatures], "message": shown}
