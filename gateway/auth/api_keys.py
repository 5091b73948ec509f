"""The secrets of API keys: `wb_<key id>_<256 random bits>`. Kept is an HMAC-SHA256 with a pepper, nothing else.

The pepper is not in the database, so that who reads the database cannot even tell whether a guess is right.
"""

import asyncio
import base64
import hmac
import re
import secrets
from typing import Final

import structlog

from engine.units import SECOND_US
from gateway.errors import GatewayCode, Problem
from gateway.ports import ApiKeys

PEPPER_BYTES_MIN: Final = 32
_SECRET: Final = re.compile(r"wb_([a-z2-7]{16})_[A-Za-z0-9_-]{43}", re.ASCII)
_USE_EVERY_US: Final = 60 * SECOND_US
_USES_MAX: Final = 1_000  # in one write; of more, the rest is noted at its next use
_NOTED_MAX: Final = 100_000
_log = structlog.get_logger(__name__)


class Secrets:
    """Makes and recognises secrets."""

    def __init__(self, pepper: bytes) -> None:
        assert len(pepper) >= PEPPER_BYTES_MIN, "a pepper that can be guessed is none"
        self._pepper = pepper

    def __repr__(self) -> str:
        return "Secrets(...)"

    def make(self) -> tuple[str, str, bytes]:
        """(key id, secret, hash to keep) of a new key."""
        key_id = base64.b32encode(secrets.token_bytes(10)).decode().lower()
        secret = f"wb_{key_id}_{secrets.token_urlsafe(32)}"
        return key_id, secret, self._hash(secret)

    def key_id(self, secret: str) -> str:
        """The key that this says to be of. Raises UNAUTHENTICATED for what is no secret at all."""
        match = _SECRET.fullmatch(secret)
        if match is None:
            raise Problem(GatewayCode.UNAUTHENTICATED, "the API key is not valid")
        return match[1]

    def fits(self, secret: str, secret_hash: bytes) -> bool:
        return hmac.compare_digest(self._hash(secret), secret_hash)

    def _hash(self, secret: str) -> bytes:
        return hmac.digest(self._pepper, secret.encode(), "sha256")


class Uses:
    """When keys were used, told to the store from time to time and beside the requests."""

    def __init__(self, keys: ApiKeys, every_seconds: float) -> None:
        self._keys, self._every_seconds = keys, every_seconds
        self._noted: dict[str, int] = {}  # key id -> the use that was noted last
        self._waiting: dict[str, int] = {}

    def note(self, key_id: str, now_us: int) -> None:
        """Once a minute is enough for what nobody reads to the second."""
        if now_us - self._noted.get(key_id, 0) < _USE_EVERY_US or len(self._waiting) >= _USES_MAX:
            return
        if len(self._noted) >= _NOTED_MAX:
            self._noted.clear()
        self._noted[key_id] = self._waiting[key_id] = now_us

    async def write(self) -> None:
        """What waits, in one statement; when that fails it waits on."""
        if not self._waiting:
            return
        uses, self._waiting = self._waiting, {}
        try:
            await self._keys.note_uses(uses)
        except BaseException:
            self._waiting = uses | self._waiting
            raise

    async def run(self) -> None:
        """Runs until cancelled by its owner."""
        while True:
            await asyncio.sleep(self._every_seconds)
            try:
                await self.write()
            except Exception as error:  # noqa: BLE001 - whatever the store raises, the next turn tries again
                _log.warning("uses of API keys not written", error=repr(error))
