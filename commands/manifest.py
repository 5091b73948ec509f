"""What a backup is: a folder with a manifest that names every file with its digest, and what the exchange was then.

manifest.json            written last; a folder without it is no backup
database/                pg_dump's directory format
keys/                    without the master keys, unless they were asked for
archive/                 rows of journals that have moved into files
devnet/chain.sqlite      the private chain, if there is one: a moment later than the database, never earlier
settings/                the files that WATTBOOK_CONFIG and markets_file name
"""

import asyncio
import hashlib
import os
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from commands.shared import Failure
from config.settings import Settings
from persistence.dumps import Contents
from persistence.sealing import MasterKeyProblem, master_keys

FORMAT: Final = 1
NAME: Final = "manifest.json"
CHUNK: Final = 2**20
FINGERPRINT_CHARACTERS: Final = 16


class File(Struct, frozen=True):
    """path: from the backup's folder; sha256 in hex."""

    path: str
    bytes: int
    sha256: str


class Manifest(Struct, frozen=True, kw_only=True):
    """master_keys: by version what tells them apart, which says nothing of them; has_master_keys: are they in it."""

    format: int = FORMAT
    version: str
    engine_version: int
    taken_at: str
    database: Contents
    master_keys: dict[int, str]
    has_master_keys: bool
    files: list[File]


def read(folder: Path) -> Manifest:
    """The manifest of a backup. Raises Failure for a folder that is none, or one of another time."""
    try:
        manifest = msgspec.json.decode((folder / NAME).read_bytes(), type=Manifest)
    except OSError as error:
        raise Failure(f"{folder} is no backup, or one that was never finished: {NAME}: {error.strerror}") from None
    except msgspec.MsgspecError as error:
        raise Failure(f"{folder / NAME} cannot be read: {error}") from None
    if manifest.format != FORMAT:
        raise Failure(f"{folder} has format {manifest.format}, and this version reads {FORMAT}")
    for file in manifest.files:
        if not (folder / file.path).resolve().is_relative_to(folder.resolve()):
            raise Failure(f"{folder / NAME} names a file outside of the backup: {file.path}")
    return manifest


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


async def file_of(folder: Path, path: Path) -> File:
    """Read the file to its end. Between two pieces of it the caller may be cancelled."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
            size += len(piece)
            await asyncio.sleep(0)
    return File(path.relative_to(folder).as_posix(), size, digest.hexdigest())


async def copy(source: Path, target: Path) -> None:
    """Copy the file for its owner only, durably; folders on the way are made, for him only, too."""
    for folder in reversed([each for each in target.parents if not each.exists()]):
        folder.mkdir(mode=0o700)
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with source.open("rb") as file, os.fdopen(descriptor, "wb") as copied:
        while piece := file.read(CHUNK):
            copied.write(piece)
            await asyncio.sleep(0)
        copied.flush()
        os.fsync(copied.fileno())


def write(folder: Path, manifest: Manifest) -> None:
    """Durably, for its owner only."""
    descriptor = os.open(folder / NAME, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(manifest)))
        file.flush()
        os.fsync(file.fileno())


def make_durable(folder: Path, *, whole: bool = True) -> None:
    """The names in this folder, and in all below if it is to be whole: a power cut could take them otherwise."""
    below = (path for path in folder.rglob("*") if whole and path.is_dir())
    for each in (folder, *below):
        descriptor = os.open(each, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def fingerprints(settings: Settings, folder: Path) -> dict[int, str]:
    """Of the master keys that are set, or are files in this folder; by version."""
    if not settings.wallet_master_keys and not list(folder.glob("wallet-*.key")):
        return {}  # asked for the newest, an empty folder would make one
    keys = master_keys(settings.wallet_master_keys, folder)
    found = {}
    for version in range(1, keys.newest() + 1):
        try:
            key = keys.key(version)
        except MasterKeyProblem:
            continue  # gone since a rotation
        told = hashlib.sha256(b"wattbook master key " + key).hexdigest()
        found[version] = told[:FINGERPRINT_CHARACTERS]
    return found
