"""Master keys, and what is sealed with them: AES-256-GCM, bound to what the secret belongs to.

Rule: a key never changes and is never written over. A new one gets the next version and seals from then on; the older
ones stay for as long as something, or a backup of it, was sealed with them.
"""

import base64
import binascii
import os
import re
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec import Struct

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
VERSION_MAX: Final = 9_999
FILE_NAME: Final = re.compile(r"wallet-(\d{4})\.key")
GIVEN_KEY: Final = re.compile(r"([1-9]\d{0,3}):([A-Za-z0-9+/=_-]+)")


class MasterKeyProblem(Exception):
    """A master key is missing, malformed or open to others; says which, never what is in it."""


class SealBroken(Exception):
    """What was sealed does not open: it was changed, belongs to something else, or the key is another one."""


class Sealed(Struct, frozen=True):
    """key_version: of the master key; nonce 12 bytes; ciphertext: the secret's length and 16 bytes of tag."""

    key_version: int
    nonce: bytes
    ciphertext: bytes


class MasterKeys(Protocol):
    """Keys of 32 bytes by version. Raises MasterKeyProblem."""

    def newest(self) -> int: ...

    def key(self, version: int) -> bytes: ...


class GivenMasterKeys:
    """The keys of a setting: `1:<base64>,2:<base64>`, the highest version seals."""

    def __init__(self, text: str) -> None:
        self._keys: dict[int, bytes] = {}
        for part in text.split(","):
            match = GIVEN_KEY.fullmatch(part.strip())
            if match is None:
                raise MasterKeyProblem("master keys look like 1:<base64 of 32 bytes>,2:<base64 of 32 bytes>")
            version = int(match[1])
            if version in self._keys:
                raise MasterKeyProblem(f"master key {version} is given twice")
            self._keys[version] = _checked(match[2], f"master key {version}")

    def __repr__(self) -> str:
        return f"GivenMasterKeys(versions={sorted(self._keys)})"

    def newest(self) -> int:
        return max(self._keys)

    def key(self, version: int) -> bytes:
        try:
            return self._keys[version]
        except KeyError:
            raise MasterKeyProblem(f"master key {version} is not among those that are given") from None


class MasterKeyFolder:
    """`wallet-0001.key`, ... in a directory, mode 0600. Read at each use, so that a new one needs no restart."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __repr__(self) -> str:
        return f"MasterKeyFolder({self._directory})"

    def newest(self) -> int:
        """The first key is made when there is none yet."""
        return max(self._versions()) if self._versions() else self.add()

    def key(self, version: int) -> bytes:
        path = self._path(version)
        try:
            if path.stat().st_mode & 0o077:
                raise MasterKeyProblem(f"{path.name}: others may read it; it needs mode 0600")
            text = path.read_text("ascii").strip()
        except FileNotFoundError:
            raise MasterKeyProblem(f"{path.name}: is not there; what it sealed cannot be opened without it") from None
        except (OSError, UnicodeDecodeError) as error:
            raise MasterKeyProblem(f"{path.name}: cannot be read ({type(error).__name__})") from None
        return _checked(text, path.name)

    def add(self) -> int:
        """Make the key after the newest; its version. Of two that make it at once, the first one's counts."""
        version = max(self._versions(), default=0) + 1
        if version > VERSION_MAX:
            raise MasterKeyProblem(f"there are {VERSION_MAX} master keys already")
        path = self._path(version)
        draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(base64.b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):  # unlike a rename, a link never replaces a key
                os.link(draft, path)
        finally:
            draft.unlink()
        folder = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(folder)  # a secret sealed with a key whose name a power cut takes away would be lost
        finally:
            os.close(folder)
        return version

    def _versions(self) -> list[int]:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        names = (FILE_NAME.fullmatch(path.name) for path in self._directory.iterdir())
        return [int(match[1]) for match in names if match]

    def _path(self, version: int) -> Path:
        return self._directory / f"wallet-{version:04d}.key"


def master_keys(given: str, directory: Path) -> MasterKeys:
    """The given keys, or without any those of the directory. Raises MasterKeyProblem for keys that cannot be used."""
    keys: MasterKeys = GivenMasterKeys(given) if given else MasterKeyFolder(directory)
    keys.key(keys.newest())
    return keys


def seal(keys: MasterKeys, secret: bytes, belongs_to: bytes) -> Sealed:
    """Seal with the newest key. `belongs_to` is not kept: who opens must say the same."""
    version, nonce = keys.newest(), secrets.token_bytes(NONCE_BYTES)
    return Sealed(version, nonce, AESGCM(keys.key(version)).encrypt(nonce, secret, _bound(version, belongs_to)))


def unseal(keys: MasterKeys, sealed: Sealed, belongs_to: bytes) -> bytes:
    """The secret. Raises SealBroken, MasterKeyProblem."""
    key = AESGCM(keys.key(sealed.key_version))
    try:
        return key.decrypt(sealed.nonce, sealed.ciphertext, _bound(sealed.key_version, belongs_to))
    except InvalidTag:
        raise SealBroken(f"does not open with master key {sealed.key_version}") from None


def _bound(version: int, belongs_to: bytes) -> bytes:
    return b"wattbook sealed 1\x00" + version.to_bytes(4, "big") + belongs_to


def _checked(text: str, name: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise MasterKeyProblem(f"{name}: is not base64") from None
    if len(key) != KEY_BYTES:
        raise MasterKeyProblem(f"{name}: must be {KEY_BYTES} bytes")
    return key
