"""Solana addresses of people: proven by signing a challenge, or made for them on request.

A challenge is a text that names site, purpose, person, address and end. Whoever signs it elsewhere, for another purpose
or for somebody else signs another text. It is kept in the store, so any gateway may see the signature; it counts once.
"""

import secrets
from typing import Annotated, Final, Literal

from litestar import Controller, delete, get, patch, post
from litestar.params import FromPath, JSONBody
from msgspec import Meta, Struct
from solders.pubkey import Pubkey
from solders.signature import Signature

from engine.records import ChallengeGone, WalletRecord
from engine.units import SECOND_US, TimeUs
from gateway.errors import GatewayCode, Problem, invalid, not_found
from gateway.instants import format_instant
from gateway.requests import GatewayRequest, Page
from gateway.wire import Instant

# The points of small order (1, 2, 4, 8) without their sign bit: keys that nobody holds, for which anybody can sign.
_SMALL_ORDER: Final = frozenset(
    bytes.fromhex(encoded)
    for encoded in (
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    )
)
Base58 = Annotated[str, Meta(min_length=32, max_length=88, pattern=r"^[1-9A-HJ-NP-Za-km-z]+$")]


class ChallengeRequest(Struct, frozen=True, forbid_unknown_fields=True):
    address: Base58


class Challenge(Struct, frozen=True):
    """Sign the UTF-8 bytes of `challenge` with the key of the address."""

    challenge: str
    expires_at: Instant


class WalletRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Either `address` and the `signature` of its challenge, or `platform: true` for a new one that we keep."""

    address: Base58 | None = None
    signature: Base58 | None = None
    platform: bool = False


class WalletChange(Struct, frozen=True, forbid_unknown_fields=True):
    primary: bool


class Wallet(Struct, frozen=True):
    address: str
    kind: Literal["linked", "platform"]
    primary: bool
    created_at: Instant


class WalletController(Controller):
    path = "/users/me/wallets"
    tags = ["people"]  # noqa: RUF012 - Litestar reads it so

    @get()
    async def wallets(self, request: GatewayRequest) -> Page[Wallet]:
        """One's own wallets, oldest first."""
        return Page([_show(row) for row in await request.gateway.wallets.wallets(request.caller.user_id)])

    @post("/challenge")
    async def ask_challenge(self, request: GatewayRequest, data: JSONBody[ChallengeRequest]) -> Challenge:
        """A text to sign with the key of the address, good once and for five minutes. A newer one replaces it."""
        gateway, user_id, now_us = request.gateway, request.caller.user_id, request.gateway.clock()
        address, settings = str(_public_key(data.address)), gateway.settings
        expires_us = (now_us // SECOND_US + settings.challenge_seconds) * SECOND_US
        text = challenge_text(settings.site, user_id, address, secrets.token_urlsafe(32), expires_us)
        await gateway.wallets.put_challenge(user_id, address, text, now_us, expires_us, settings.challenges_max)
        return Challenge(text, format_instant(expires_us))

    @post()
    async def add(self, request: GatewayRequest, data: JSONBody[WalletRequest]) -> Wallet:
        """Link an address by the signature of its challenge, or have a platform wallet made. The first is primary."""
        gateway, user_id, now_us = request.gateway, request.caller.user_id, request.gateway.clock()
        most = gateway.settings.wallets_max
        if data.platform:
            if data.address is not None or data.signature is not None:
                raise invalid("platform", "stands alone: the address is made here")
            return _show(await gateway.vault.make(user_id, now_us, most, request.origin))
        if data.address is None or data.signature is None:
            raise invalid("address" if data.address is None else "signature", "is missing")
        public_key, signature = _public_key(data.address), _signature(data.signature)
        address = str(public_key)
        challenge = await gateway.wallets.challenge(user_id, address, now_us)
        # checked before it is used up, so that nobody's wrong signature costs a right one its challenge
        if challenge is None or not signature.verify(public_key, challenge.encode()):
            raise _not_signed()
        try:
            row = await gateway.wallets.link(user_id, address, challenge, now_us, most, request.origin)
        except ChallengeGone:
            raise _not_signed() from None
        return _show(row)

    @patch("/{address:str}")
    async def choose(self, request: GatewayRequest, address: FromPath[str], data: JSONBody[WalletChange]) -> Wallet:
        """Make this one's primary wallet."""
        if not data.primary:
            raise invalid("primary", "make another wallet the primary one instead")
        row = await request.gateway.wallets.make_primary(request.caller.user_id, _known(address), request.origin)
        if row is None:
            raise not_found("wallet")
        return _show(row)

    @delete("/{address:str}", status_code=204)
    async def remove(self, request: GatewayRequest, address: FromPath[str]) -> None:
        """Forget a linked wallet. A platform wallet stays."""
        if not await request.gateway.wallets.remove(request.caller.user_id, _known(address), request.origin):
            raise not_found("wallet")


def challenge_text(site: str, user_id: int, address: str, nonce: str, expires_us: TimeUs) -> str:
    """What a wallet shows to the person who signs."""
    return (
        "Wattbook asks you to prove that this Solana address is yours.\n"
        "Signing moves no money and costs nothing.\n\n"
        f"Site: {site}\n"
        "Purpose: link this address as a wallet\n"
        f"User: {user_id}\n"
        f"Address: {address}\n"
        f"Nonce: {nonce}\n"
        f"Expires: {format_instant(expires_us)}\n"
    )


def _public_key(text: str) -> Pubkey:
    """Raises VALIDATION_FAILED for what is no address, or none that a key can stand behind."""
    try:
        key = Pubkey.from_string(text)
    except ValueError:
        raise invalid("address", "is no base58 Solana address") from None
    if not key.is_on_curve():
        raise invalid("address", "has no key: it belongs to a program")
    encoded = bytes(key)
    if bytes([*encoded[:31], encoded[31] & 0x7F]) in _SMALL_ORDER:
        raise invalid("address", "is a point of small order, for which anybody can sign")
    return key


def _signature(text: str) -> Signature:
    try:
        return Signature.from_string(text)
    except ValueError:
        raise invalid("signature", "is no base58 signature of 64 bytes") from None


def _known(text: str) -> str:
    """An address in a path; what is none belongs to nobody."""
    try:
        return str(Pubkey.from_string(text))
    except ValueError:
        raise not_found("wallet") from None


def _not_signed() -> Problem:
    return Problem(
        GatewayCode.BAD_SIGNATURE, "this does not sign an open challenge for the address; ask for a new challenge"
    )


def _show(row: WalletRecord) -> Wallet:
    return Wallet(
        row.address, "platform" if row.kind == "platform" else "linked", row.primary, format_instant(row.created_us)
    )
