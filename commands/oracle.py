"""The provider's side of the oracle: make a key, say a value."""

import base64
import os
import time
import uuid
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from commands.shared import Failure, console
from config.load import load
from engine.oracle.submissions import VALUE_MAX, signed_bytes
from engine.units import SECOND_US
from gateway.decimals import format_scaled, parse_scaled
from gateway.errors import Problem
from gateway.instants import format_instant, parse_instant

_PEM: Final = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

app = typer.Typer(help="Provide values: retail price, emissions, what the feeds are about.", no_args_is_help=True)


@app.command("key")
def oracle_key(file: Annotated[Path, typer.Argument(help="Where to; it must not be there yet.")]) -> None:
    """Make a provider's key, and show the public key that an admin registers."""
    key = Ed25519PrivateKey.generate()
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
            opened.write(key.private_bytes(*_PEM))
    except OSError as error:
        raise Failure(f"{file} cannot be made: {error.strerror}") from error
    console.print(f"public_key {base64.b64encode(key.public_key().public_bytes_raw()).decode()}", soft_wrap=True)


@app.command("submit")
def oracle_submit(
    feed: Annotated[str, typer.Argument(help="Such as retail_price.")],
    value: Annotated[str, typer.Argument(help='In the unit of the feed, such as "4.500".')],
    provider: Annotated[str, typer.Option(help="The id that the provider was registered with.")],
    key: Annotated[Path, typer.Option(help="The file with its key.")],
    observed_at: Annotated[str, typer.Option(help="RFC 3339; now, when left out.")] = "",
    url: Annotated[str, typer.Option(help="Of the exchange; the one on this machine, when left out.")] = "",
) -> None:
    """Sign a value and send it. Sending the same again does no harm."""
    with httpx.Client(base_url=f"{url or load().url}/api/v1", timeout=10) as client:
        answer = submit(client, read_key(key), feed, value, provider, observed_at)
    again = " again" if answer["repeated"] else ""
    console.print(f"{feed} {answer['value']} at {answer['observed_at']}: accepted{again}")


def submit(
    client: httpx.Client, key: Ed25519PrivateKey, feed: str, value: str, provider: str, observed_at: str = ""
) -> dict[str, Any]:
    """What the exchange answered. Raises Failure with what it refused, or what is wrong before it is asked."""
    known = _answer(client.get(f"/oracle/feeds/{feed}"))
    try:
        identity = uuid.UUID(provider)
        scaled = parse_scaled(value, "value", known["decimals"], VALUE_MAX)
        at_us = parse_instant(observed_at, "observed-at") if observed_at else time.time_ns() // 1_000
    except ValueError as error:
        raise Failure(f"{provider!r} is no provider's id") from error
    except Problem as error:
        raise Failure(error.detail) from error
    at_us = at_us if observed_at else at_us // SECOND_US * SECOND_US
    body = {
        "feed": known["feed"],
        "value": format_scaled(scaled, known["decimals"]),
        "observed_at": format_instant(at_us),
        "provider_id": str(identity),
        "signature": base64.b64encode(key.sign(signed_bytes(identity.bytes, known["feed"], scaled, at_us))).decode(),
    }
    return _answer(client.post("/oracle/submissions", json=body))


def read_key(file: Path) -> Ed25519PrivateKey:
    """Raises Failure for a file that is not there, not a key, or of another kind; never says what is in it."""
    try:
        key = load_pem_private_key(file.read_bytes(), None)
    except OSError as error:
        raise Failure(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise Failure(f"{file} holds no Ed25519 key in PEM without a passphrase: make one with wattbook oracle key")
    return key


def _answer(answer: httpx.Response) -> dict[str, Any]:
    body: dict[str, Any] = answer.json()
    if answer.is_error:
        raise Failure(f"{body.get('code', answer.status_code)}: {body.get('detail', '')}")
    return body
