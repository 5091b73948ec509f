"""Requests of the RPC decoded, and its errors, in the words of a validator."""

import base64
import binascii
from typing import Any, Final

from solders.account import Account
from solders.transaction import VersionedTransaction

from chain.devnet import shapes
from chain.devnet.ledger import LEVELS

TRANSACTION_BYTES_MAX: Final = 1_232
VERSION: Final = "2.2.0"
Options = dict[str, Any]


class RpcError(Exception):
    """An answer that is an error, with the code that clients branch on."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code, self.message, self.data = code, message, data


def matches(data: bytes, filters: list[Any] | None) -> bool:
    """Whether an account's data pass all filters of getProgramAccounts or programSubscribe."""
    for each in filters or []:
        if "dataSize" in each and len(data) != each["dataSize"]:
            return False
        if "memcmp" in each:
            wanted, offset = each["memcmp"], each["memcmp"]["offset"]
            given, encoding = wanted["bytes"], wanted.get("encoding")
            raw = (
                bytes(given)
                if isinstance(given, list)
                else base64.b64decode(given)
                if encoding == "base64"
                else shapes.from_base58(given)
            )
            if data[offset : offset + len(raw)] != raw:
                return False
    return True


def shown(account: Account | None, options: Options | None) -> Any:
    asked = options or {}
    return shapes.account(account, asked.get("encoding"), asked.get("dataSlice"))


def level(options: Any) -> str:
    """The commitment that is asked for; a cluster's default is finalized."""
    asked = (options or {}).get("commitment") or "finalized"
    if asked not in LEVELS:
        raise RpcError(-32602, f"Invalid params: unknown commitment {asked}")
    return str(asked)


def decoded(text: str, options: Options | None) -> tuple[VersionedTransaction, bytes]:
    encoding = (options or {}).get("encoding") or "base58"
    try:
        raw = base64.b64decode(text, validate=True) if encoding == "base64" else shapes.from_base58(text)
    except (binascii.Error, ValueError) as error:
        raise RpcError(-32602, f"invalid {encoding} encoding: {error}") from error
    if len(raw) > TRANSACTION_BYTES_MAX:
        raise RpcError(
            -32602,
            f"{encoding} encoded solana_transaction::versioned::VersionedTransaction too large: {len(raw)} bytes "
            f"(max: encoded/raw 1644/{TRANSACTION_BYTES_MAX})",
        )
    try:
        transaction = VersionedTransaction.from_bytes(raw)
    except ValueError as error:
        raise RpcError(
            -32602, f"failed to deserialize solana_transaction::versioned::VersionedTransaction: {error}"
        ) from (error)
    if not transaction.signatures:
        raise RpcError(-32602, "invalid transaction: Transaction failed to sanitize accounts offsets correctly")
    return transaction, raw


def failed_simulation(failed: Any, logs: list[str], units: int = 0, returned: Any = None) -> RpcError:
    data = {
        "accounts": None,
        "err": failed,
        "innerInstructions": None,
        "loadedAccountsDataSize": 0,
        "logs": logs,
        "replacementBlockhash": None,
        "returnData": returned,
        "unitsConsumed": units,
    }
    return RpcError(-32002, f"Transaction simulation failed: {shapes.failure_text(failed)}", data)


def bad_signature() -> RpcError:
    return RpcError(-32003, "Transaction signature verification failure")


def failure(number: Any, error: RpcError) -> dict[str, Any]:
    told = {"code": error.code, "message": error.message, **({} if error.data is None else {"data": error.data})}
    return {"jsonrpc": "2.0", "error": told, "id": number}
