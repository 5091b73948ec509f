"""`wattbook restore`: a backup into an empty data directory, or into an empty database of one's own.

Everything is checked before anything is written. While it is written a file in the data directory says so, and neither
the daemon nor a command works on such a directory; at the end the database must hold what the manifest says.
"""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from commands import manifest as backups
from commands.backup import MASTER_KEYS
from commands.manifest import Manifest, copy, file_of, fingerprints, make_durable
from commands.shared import Failure, console, stoppable
from config.load import load
from config.settings import Settings
from engine.messages import ENGINE_VERSION
from persistence import migrate
from persistence.dumps import DumpFailed, contents, emptiness
from persistence.dumps import restore as restore_database
from persistence.embedded import EmbeddedPostgres, StartFailed

app = typer.Typer()


@app.command()
def restore(
    folder: Annotated[Path, typer.Argument(help="What `wattbook backup` has written.")],
    master_keys: Annotated[
        Path | None, typer.Option("--master-keys", help="Folder with wallet-*.key, if the backup has none.")
    ] = None,
) -> None:
    """Bring a backup back. data_dir must be empty, and so must the database if database_url names one."""
    settings = load()
    try:
        with console.status("restore") as shown:
            held = asyncio.run(stoppable(read_backup(settings, folder, master_keys, shown.update)))
    except (DumpFailed, StartFailed, OSError) as error:
        raise Failure(str(error)) from error
    for head in held.database.journals:
        console.print(f"{head.symbol}: journal to {head.sequence}")
    console.print(f"[green]restored[/] what {folder} has of {held.taken_at}", soft_wrap=True)
    for name in ("wattbook.toml", "markets.toml"):
        if (settings.folder / "settings" / name).exists():
            console.print(f"Its {name} is in {settings.folder / 'settings'}; name it yourself.", soft_wrap=True)
    console.print("Now: wattbook audit, then start.")


async def read_backup(
    settings: Settings, folder: Path, master_keys: Path | None, say: Callable[[str], None]
) -> Manifest:
    """Restore it. Raises Failure, DumpFailed, StartFailed; then, or cancelled, data_dir is as empty as it was."""
    held = backups.read(folder)
    _check_versions(held)
    _check_master_keys(settings, folder, held, master_keys)
    for number, file in enumerate(held.files, 1):
        say(f"checking {number} of {len(held.files)}: {file.path}")
        try:
            found = await file_of(folder, folder / file.path)
        except OSError as error:
            raise Failure(f"{folder / file.path}: {error.strerror}; nothing was restored") from None
        if found != file:
            raise Failure(f"{folder / file.path} is not what was backed up; nothing was restored")
    async with _written_to(settings):
        for file in held.files:
            kind, _, rest = file.path.partition("/")
            if kind != "database":
                await copy(
                    folder / file.path, (settings.archive if kind == "archive" else settings.folder / kind) / rest
                )
        for path in backups.files_below(master_keys) if master_keys else []:
            if path.match(MASTER_KEYS) and path.name not in {Path(file.path).name for file in held.files}:
                await copy(path, settings.keys / path.name)
        async with _target(settings) as dsn:
            await _check_database(dsn, held)
            await restore_database(
                dsn, folder / "database", held.database.timescale, lambda line: say(f"database: {line}")
            )
            now = await contents(dsn)
            if msgspec.structs.replace(now, postgres=held.database.postgres) != held.database:
                raise Failure("the database does not hold what was backed up")
    return held


def _check_versions(held: Manifest) -> None:
    if held.engine_version > ENGINE_VERSION:
        raise Failure(
            f"the backup is of engine version {held.engine_version}, this is {ENGINE_VERSION}: install {held.version}"
        )
    known = {(file.name, file.checksum.hex()) for file in migrate.read(migrate.FOLDER)}
    for name, checksum in held.database.migrations:
        if (name, checksum) not in known:
            raise Failure(f"the backup has migration {name}, which this version does not know: install {held.version}")


def _check_master_keys(settings: Settings, folder: Path, held: Manifest, given: Path | None) -> None:
    """Without the right ones a start would make others, and what is sealed would never open."""
    mine = fingerprints(settings, given or folder / "keys")
    for version, fingerprint in held.master_keys.items():
        if version not in mine:
            raise Failure(
                f"master key {version} of wallets is needed and is not in the backup: name the folder that has it with "
                "--master-keys, or set wallet_master_keys"
            )
        if mine[version] != fingerprint:
            raise Failure(f"master key {version} is not the one that sealed the wallets of this backup")


@contextlib.asynccontextmanager
async def _written_to(settings: Settings) -> AsyncIterator[None]:
    """data_dir marked as unfinished, and emptied again if this does not end well."""
    if settings.unfinished.exists():
        raise Failure(f"a restore into {settings.folder} was not finished: empty that folder first")
    for target in (settings.folder, settings.archive):
        if target.exists() and any(target.iterdir()):
            raise Failure(f"{target} is not empty: a restore replaces nothing. Name an empty folder, or move this one")
    settings.folder.mkdir(parents=True, exist_ok=True, mode=0o711)
    settings.unfinished.touch(mode=0o600)
    make_durable(settings.folder)
    try:
        yield
        for made in (settings.keys, settings.archive):
            made.mkdir(mode=0o700, parents=True, exist_ok=True)
            make_durable(made)
    except BaseException:
        shutil.rmtree(settings.archive, ignore_errors=True)
        for left in settings.folder.iterdir():
            if left != settings.unfinished:
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        settings.unfinished.unlink()
        raise
    settings.unfinished.unlink()
    make_durable(settings.folder, whole=False)


@contextlib.asynccontextmanager
async def _target(settings: Settings) -> AsyncIterator[str]:
    """The database to restore into: the one that is set, or a new private one, which ends with this."""
    if settings.database_url:
        yield settings.database_url
        return
    server = EmbeddedPostgres(settings.folder)
    try:
        yield await asyncio.to_thread(server.start)
    finally:
        await asyncio.to_thread(server.stop)


async def _check_database(dsn: str, held: Manifest) -> None:
    is_empty, postgres = await emptiness(dsn)
    if not is_empty:
        raise Failure("the database is not empty: a restore replaces nothing. Name an empty one with database_url")
    if postgres < held.database.postgres:
        raise Failure(
            f"the backup is of PostgreSQL {held.database.postgres}, this server is {postgres}: use a newer one"
        )
