"""The Ed25519 keys that sign access tokens, kept as PEM files of mode 0600 in one directory.

The newest key (the last by file name) signs; all of them verify, so a new key can be added without ending sessions.
"""

import base64
import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_FIRST_KEY: Final = "jwt-0001.pem"


class KeyUnsafe(Exception):
    """A key file is no Ed25519 key, or others on this machine may read it."""


class KeyRing:
    """All keys of one directory; the private one never shows in a repr."""

    def __init__(self, private_keys: list[Ed25519PrivateKey]) -> None:
        self._signing = private_keys[-1]
        self._public = {kid_of(key.public_key()): key.public_key() for key in private_keys}
        self.kid = kid_of(self._signing.public_key())

    def __repr__(self) -> str:
        return f"KeyRing(kids={sorted(self._public)})"

    @property
    def signing_key(self) -> Ed25519PrivateKey:
        return self._signing

    def public_key(self, kid: str) -> Ed25519PublicKey | None:
        return self._public.get(kid)

    def jwks(self) -> dict[str, list[dict[str, Any]]]:
        """What `/.well-known/jwks.json` publishes."""
        return {
            "keys": [
                {**_jwk(key), "kid": kid, "use": "sig", "alg": "EdDSA", "key_ops": ["verify"]}
                for kid, key in sorted(self._public.items())
            ]
        }


def open_keys(directory: Path) -> KeyRing:
    """Read the keys; make the first one when there is none. Raises KeyUnsafe rather than use a key others can read."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    paths = sorted(directory.glob("jwt-*.pem"))
    if not paths:
        _make_key(directory / _FIRST_KEY)
        paths = sorted(directory.glob("jwt-*.pem"))
    return KeyRing([_read_key(path) for path in paths])


def kid_of(key: Ed25519PublicKey) -> str:
    """The key's RFC 7638 thumbprint."""
    canonical = json.dumps(_jwk(key), sort_keys=True, separators=(",", ":")).encode()
    return _base64url(hashlib.sha256(canonical).digest())


def _jwk(key: Ed25519PublicKey) -> dict[str, Any]:
    return {"crv": "Ed25519", "kty": "OKP", "x": _base64url(key.public_bytes_raw())}


def _make_key(path: Path) -> None:
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        # unlike a rename, a link cannot replace the key that another gateway made meanwhile: then that one counts
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()


def _read_key(path: Path) -> Ed25519PrivateKey:
    if path.stat().st_mode & 0o077:
        raise KeyUnsafe(f"{path.name}: others may read it; it needs mode 0600")
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyUnsafe(f"{path.name}: is no Ed25519 key")
    return key


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
