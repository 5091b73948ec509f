"""Proofs of settled trades, checked on this machine alone."""

import sys
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from commands.shared import Failure, console
from engine.settlement.proofs import Proof, ProofWrong, verify
from gateway.decimals import format_energy, format_money
from gateway.instants import format_instant

FILE_BYTES_MAX: Final = 65_536
ROOT_DIGITS: Final = 64

app = typer.Typer(help="Is a trade in its settlement? Needs neither the exchange nor a network.", no_args_is_help=True)


@app.callback()
def proofs() -> None:
    """There is one thing to do with a proof now, and it keeps its name when there are more."""


@app.command("verify")
def proof_verify(
    file: Annotated[str, typer.Argument(help="The answer of GET /trades/<id>/settlement; - for stdin.")],
    root: Annotated[str, typer.Argument(help="The settlement's root as the chain has it, in hexadecimal.")],
) -> None:
    """Check that a trade is under the root of a settlement. Status 1 when it is not."""
    proof = read_proof(_read(file))
    try:
        verify(proof, parse_root(root))
    except ProofWrong as error:
        raise Failure(f"not proven: {error}") from error
    verb = "bought" if proof.side == "buyer" else "sold"
    trade = f"{proof.market_id}-{proof.trade_number}"
    console.print(f"[green]proven[/]: trade {trade} is in settlement {proof.settlement_id}", soft_wrap=True)
    console.print(
        f"participant {proof.participant_id} {verb} {format_energy(proof.energy_wh)} kWh for "
        f"{format_money(proof.value_micro)}, fee {format_money(proof.fee_micro)}, in zone {proof.zone}, "
        f"at {format_instant(proof.time_us)}",
        soft_wrap=True,
    )


def read_proof(content: bytes) -> Proof:
    """The proof in an answer of the API, or by itself. Raises Failure that says what is wrong with it."""
    try:
        found: Any = msgspec.json.decode(content)
        if isinstance(found, dict) and "trade_id" in found:
            if found.get("proof") is None:
                raise Failure(f"there is no proof yet: the trade is {found.get('status', 'not settled')}")
            found = found["proof"]
        return msgspec.convert(found, Proof)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Failure(f"this is no proof: {error}") from error


def parse_root(text: str) -> bytes:
    digits = text.removeprefix("0x").lower()
    if len(digits) != ROOT_DIGITS or not all(one in "0123456789abcdef" for one in digits):
        raise Failure(f"a root has {ROOT_DIGITS} hexadecimal digits; this is {text!r}")
    return bytes.fromhex(digits)


def _read(file: str) -> bytes:
    try:
        if file == "-":
            content = sys.stdin.buffer.read(FILE_BYTES_MAX + 1)
        else:
            with Path(file).open("rb") as opened:
                content = opened.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise Failure(f"{file} cannot be read: {error.strerror}") from error
    if len(content) > FILE_BYTES_MAX:
        raise Failure(f"{file} is too large to be a proof")
    return content
