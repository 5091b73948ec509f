"""Keys of the exchange's own authorities: encrypted at rest, used here, never handed out.

Each role has a key of its own, so that one that got out does not open the rest: governance changes rules, the others
act within them. What a file holds is sealed by whoever implements `Sealer`; a signer signs and shows its address.
"""

import contextlib
import os
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

import msgspec
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.signature import Signature

SEED_BYTES: Final = 32


class Role(StrEnum):
    """What a key of ours may do, see the governance program."""

    GOVERNANCE = "governance"
    MINTER = "minter"
    SETTLER = "settler"
    PUBLISHER = "publisher"
    REGISTRAR = "registrar"


class Sealer(Protocol):
    """Encrypts what belongs to somebody, such that it opens for nobody else. Raises what it likes on a wrong key."""

    def seal(self, secret: bytes, belongs_to: bytes) -> bytes: ...

    def unseal(self, sealed: bytes, belongs_to: bytes) -> bytes: ...


class KeyUnusable(Exception):
    """A key file is damaged, open to others, or holds another key than it says; never with what is in it."""


class Signer:
    """A key that signs. It cannot be copied, pickled or shown."""

    __slots__ = ("_keypair", "address", "role")

    def __init__(self, role: Role, keypair: Keypair) -> None:
        self.role = role
        self._keypair = keypair
        self.address: Final[Pubkey] = keypair.pubkey()  # which a keypair works out anew each time

    def sign(self, message: bytes) -> Signature:
        """Of the serialized message of a transaction."""
        return self._keypair.sign_message(message)

    def __repr__(self) -> str:
        return f"Signer({self.role}, {self.address})"

    def __reduce__(self) -> str:
        raise TypeError("a signer does not travel")


class _File(msgspec.Struct, forbid_unknown_fields=True):
    address: str
    sealed: bytes


class Authorities:
    """The keys of all roles in a directory, mode 0600; a missing one is made at its first use.

    `<role>.json` is the one that counts, `<role>.next.json` the one that shall, `<role>.1.json` and so on those that
    did, oldest first. None is ever written over.
    """

    def __init__(self, directory: Path, sealer: Sealer) -> None:
        self._directory = directory
        self._sealer = sealer

    def __repr__(self) -> str:
        return f"Authorities({self._directory})"

    def signer(self, role: Role) -> Signer:
        """Raises KeyUnusable, and what the sealer raises."""
        path = self._path(role)
        if not path.exists():
            self.put(role, os.urandom(SEED_BYTES))
        return Signer(role, self._read(role, path))

    def put(self, role: Role, seed: bytes) -> Pubkey:
        """Take a key that was made elsewhere. Raises FileExistsError: a key is never written over."""
        return self._write(role, self._path(role), seed)

    def propose(self, role: Role) -> Signer:
        """The key that shall be the next, made if there is none. Raises KeyUnusable, and what the sealer raises."""
        with contextlib.suppress(FileExistsError):
            self._write(role, self._path(role, ".next"), os.urandom(SEED_BYTES))
        return Signer(role, self._read(role, self._path(role, ".next")))

    def proposed(self) -> list[Role]:
        """The roles that have a next key."""
        return [role for role in Role if self._path(role, ".next").exists()]

    def promote(self, role: Role) -> None:
        """The next key is the one that counts, and the one before it is kept. At every instant there is one."""
        current, number = self._path(role), len(self.former(role)) + 1
        if self._read(role, current).pubkey() not in self.former(role):  # else it was cut short here
            os.link(current, self._path(role, f".{number}"))
        self._path(role, ".next").replace(current)
        self._sync()

    def former(self, role: Role) -> list[Pubkey]:
        """Whose keys counted before, oldest first. Raises KeyUnusable, and what the sealer raises."""
        found: list[Pubkey] = []
        while (path := self._path(role, f".{len(found) + 1}")).exists():
            found.append(self._read(role, path).pubkey())
        return found

    def _path(self, role: Role, kind: str = "") -> Path:
        return self._directory / f"{role}{kind}.json"

    def _write(self, role: Role, path: Path, seed: bytes) -> Pubkey:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        keypair = Keypair.from_seed(seed)
        sealed = self._sealer.seal(seed, _belongs_to(role, str(keypair.pubkey())))
        raw = msgspec.json.encode(_File(str(keypair.pubkey()), sealed))
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            os.link(draft, path)  # unlike a rename, a link never replaces a key
        finally:
            draft.unlink()
        self._sync()
        return keypair.pubkey()

    def _sync(self) -> None:
        folder = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _read(self, role: Role, path: Path) -> Keypair:
        if path.stat().st_mode & 0o077:
            raise KeyUnusable(f"{path.name}: others may read it; it needs mode 0600")
        try:
            file = msgspec.json.decode(path.read_bytes(), type=_File)
        except msgspec.DecodeError:
            raise KeyUnusable(f"{path.name}: is damaged") from None
        seed = self._sealer.unseal(file.sealed, _belongs_to(role, file.address))
        if len(seed) != SEED_BYTES or str((keypair := Keypair.from_seed(seed)).pubkey()) != file.address:
            raise KeyUnusable(f"{path.name}: holds another key than it says")
        return keypair


def _belongs_to(role: Role, address: str) -> bytes:
    return f"authority {role} {address}".encode()
