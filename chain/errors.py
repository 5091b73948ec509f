"""A transaction's error as Solana's RPC writes it in JSON; solders has a type for each kind instead."""

import json
from typing import Any

from solders.transaction_status import TransactionErrorFieldless, TransactionErrorInstructionError


def error_json(found: Any) -> Any:
    """Such as "AccountNotFound", or {"InstructionError": [0, {"Custom": 6000}]}."""
    if isinstance(found, TransactionErrorInstructionError):
        return {"InstructionError": json.loads(found.to_json())}
    if isinstance(found, TransactionErrorFieldless):
        return str(found).rpartition(".")[2]
    return {type(found).__name__.removeprefix("TransactionError"): json.loads(found.to_json())}
