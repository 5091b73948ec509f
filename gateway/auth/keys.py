"""The Ed25519 keys that sign access tokens, and the pepper of the API keys: files of mode 0600 in one directory.

All keys verify. The newest (the last by file name) signs as soon as it has been there for PUBLISHED_SECONDS: by then
every gateway has read it, and whoever verifies with what `/.well-known/jwks.json` publishes can have.
"""

import base64
import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PUBLISHED_SECONDS: Final = 30.0
_PATTERN: Final = "jwt-*.pem"
_PEPPER: Final = "api-key-pepper"
_PEPPER_BYTES: Final = 32


class KeyUnsafe(Exception):
    """A key file is no key, or others on this machine may read it."""


class Rotation(NamedTuple):
    """What a rotation did, by file name."""

    made: str
    removed: list[str]


class KeyRing:
    """All keys of one directory; the private ones never show in a repr. Raises KeyUnsafe."""

    def __init__(self, directory: Path, now: Callable[[], float] = time.time) -> None:
        self._directory, self._now = directory, now
        self._files: dict[Path, float] = {}  # with the instant of each, in the order of their names
        self._keys: list[Ed25519PrivateKey] = []
        self._public: dict[str, Ed25519PublicKey] = {}
        self.reload()

    def __repr__(self) -> str:
        return f"KeyRing(kids={sorted(self._public)})"

    @property
    def signing_key(self) -> Ed25519PrivateKey:
        """The newest that is published; before any is, the oldest."""
        published = self._now() - PUBLISHED_SECONDS
        ages = zip(reversed(self._files.values()), reversed(self._keys), strict=True)
        return next((key for made, key in ages if made <= published), self._keys[0])

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

    def reload(self) -> bool:
        """Read the directory again; whether it has changed. Raises KeyUnsafe, OSError; then the keys stay."""
        files = {path: path.stat().st_mtime for path in sorted(self._directory.glob(_PATTERN))}
        if files == self._files:
            return False
        if not files:
            raise KeyUnsafe(f"{self._directory}: holds no key any more")
        keys = [_read_key(path) for path in files]
        self._files, self._keys = files, keys
        self._public = {kid_of(key.public_key()): key.public_key() for key in keys}
        return True


def open_keys(directory: Path) -> KeyRing:
    """Read the keys; make the first one when there is none. Raises KeyUnsafe rather than use a key others can read."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not any(directory.glob(_PATTERN)):
        _make_file(directory / _file_name(1), _new_key())
    return KeyRing(directory)


def open_pepper(directory: Path) -> bytes:
    """Read the pepper, 32 bytes; make it when there is none. Raises KeyUnsafe."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / _PEPPER
    if not path.exists():
        _make_file(path, secrets.token_bytes(_PEPPER_BYTES))
    pepper = _read_file(path)
    if len(pepper) < _PEPPER_BYTES:
        raise KeyUnsafe(f"{path.name}: is shorter than {_PEPPER_BYTES} bytes")
    return pepper


def rotate(directory: Path, token_seconds: int, *, now: bool = False) -> Rotation:
    """Add a key, and remove those with which no living token can be signed; with `now` all others, which ends all
    access tokens: gateways that run follow within seconds.
    """
    paths = sorted(directory.glob(_PATTERN))
    made = directory / _file_name(int(paths[-1].stem.removeprefix("jwt-")) + 1 if paths else 1)
    _make_file(made, _new_key())
    since = time.time() - PUBLISHED_SECONDS - 2 * token_seconds
    # a key signs until the one after it is published
    spent = [path for path, after in pairwise(paths) if now or after.stat().st_mtime < since]
    if now and paths:
        spent.append(paths[-1])
    for path in spent:
        path.unlink()
    return Rotation(made.name, [path.name for path in spent])


def kid_of(key: Ed25519PublicKey) -> str:
    """The key's RFC 7638 thumbprint."""
    canonical = json.dumps(_jwk(key), sort_keys=True, separators=(",", ":")).encode()
    return _base64url(hashlib.sha256(canonical).digest())


def _jwk(key: Ed25519PublicKey) -> dict[str, Any]:
    return {"crv": "Ed25519", "kty": "OKP", "x": _base64url(key.public_bytes_raw())}


def _file_name(number: int) -> str:
    return f"jwt-{number:04d}.pem"


def _new_key() -> bytes:
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _make_file(path: Path, content: bytes) -> None:
    """For its owner only, whole or not at all; when another process made it meanwhile, that one counts."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # unlike a rename, a link never replaces
            os.link(draft, path)
    finally:
        draft.unlink()


def _read_file(path: Path) -> bytes:
    if path.stat().st_mode & 0o077:
        raise KeyUnsafe(f"{path.name}: others may read it; it needs mode 0600")
    return path.read_bytes()


def _read_key(path: Path) -> Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(_read_file(path), password=None)
    except (ValueError, TypeError) as error:
        raise KeyUnsafe(f"{path.name}: is no Ed25519 key") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyUnsafe(f"{path.name}: is no Ed25519 key")
    return key


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
