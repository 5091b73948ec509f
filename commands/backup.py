"""`wattbook backup`: everything that an exchange needs to come back, taken while it trades.

Written beside its name and renamed when it is whole and durable: what was interrupted is not there under that name.
The database comes first, the private chain after it, because a chain that is ahead is what any restore will meet.
"""

import asyncio
import contextlib
import fcntl
import os
import shutil
import sqlite3
import tomllib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Final

import typer

from commands import manifest as backups
from commands.manifest import Manifest, copy, file_of, fingerprints, make_durable
from commands.shared import Failure, console, stoppable, with_database
from config.load import CONFIG_VARIABLE, load
from config.settings import Settings
from engine.messages import ENGINE_VERSION
from persistence.dumps import Contents, DumpFailed, dump

MADE_ANEW: Final = ("ray-token",)  # at every start
MASTER_KEYS: Final = "wallet-*.key"
CHAIN: Final = "devnet/chain.sqlite"

app = typer.Typer()


@app.command()
def backup(
    folder: Annotated[Path, typer.Argument(help="Is made; must not exist.")],
    with_master_keys: Annotated[
        bool,
        typer.Option(
            "--with-master-keys", help="Take the keys that seal wallets along: whoever has both has the wallets."
        ),
    ] = False,
) -> None:
    """Back everything up while the exchange runs: database, keys, private chain, settings that are files."""
    settings = load()
    try:
        with console.status("backup") as shown:
            taken = with_database(
                lambda dsn: stoppable(write_backup(settings, dsn, folder.absolute(), with_master_keys, shown.update))
            )
    except (DumpFailed, OSError) as error:
        raise Failure(str(error)) from error
    for head in taken.database.journals:
        console.print(f"{head.symbol}: journal to {head.sequence}")
    size = sum(file.bytes for file in taken.files)
    console.print(f"[green]backed up[/]: {len(taken.files)} files, {size / 1e6:.1f} MB, in {folder}", soft_wrap=True)
    if not taken.has_master_keys:
        console.print("The master keys of wallets are not in it: keep them elsewhere, a restore asks for them.")


async def write_backup(
    settings: Settings, dsn: str, folder: Path, with_master_keys: bool, say: Callable[[str], None]
) -> Manifest:
    """Write it, and give its manifest. Raises Failure, DumpFailed; then, or cancelled, nothing is left behind."""
    with _unfinished(folder) as draft:
        held = await dump(dsn, draft / "database", lambda line: say(f"database: {line}"))
        keys = _keys_of(settings, with_master_keys)
        for path in keys:
            await copy(path, draft / "keys" / path.relative_to(settings.keys))
        for path in backups.files_below(settings.archive):
            if path.suffix == ".zst":
                await copy(path, draft / "archive" / path.relative_to(settings.archive))
        say("private chain")
        await asyncio.to_thread(copy_chain, settings.folder / CHAIN, draft / CHAIN)
        for path, name in _settings_files(settings, with_master_keys):
            await copy(path, draft / "settings" / name)
        taken = await _describe(settings, draft, held, any(path.match(MASTER_KEYS) for path in keys), say)
        make_durable(draft)
        draft.rename(folder)
        make_durable(folder.parent, whole=False)
    return taken


@contextlib.contextmanager
def _unfinished(folder: Path) -> Iterator[Path]:
    """Where to write first: ours alone, empty, and gone afterwards unless it was renamed."""
    if folder.exists():
        raise Failure(f"{folder} is there already: a backup never replaces anything")
    draft = folder.with_name(folder.name + ".unfinished")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(draft, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failure(f"another backup is being written to {folder}") from None
        for left in draft.iterdir():  # of one that was killed
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        try:
            yield draft
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    finally:
        os.close(descriptor)


def _keys_of(settings: Settings, with_master_keys: bool) -> list[Path]:
    left_out = MADE_ANEW if with_master_keys else (*MADE_ANEW, MASTER_KEYS)
    return [path for path in backups.files_below(settings.keys) if not any(map(path.match, left_out))]


def _settings_files(settings: Settings, with_master_keys: bool) -> list[tuple[Path, str]]:
    found, path = [], Path(os.environ.get(CONFIG_VARIABLE, ""))
    if path.is_file() and (with_master_keys or "wallet_master_keys" not in tomllib.loads(path.read_text("utf-8"))):
        found.append((path, "wattbook.toml"))
    if settings.markets_file:
        found.append((Path(settings.markets_file), "markets.toml"))
    return found


def copy_chain(source: Path, target: Path) -> None:
    """The private chain at one instant, while it goes on; nothing when there is none."""
    if not source.exists():
        return
    target.parent.mkdir(mode=0o700)
    reading = sqlite3.connect(f"file:{source}?mode=ro", uri=True)
    with contextlib.closing(reading) as chain, contextlib.closing(sqlite3.connect(target)) as copied:
        chain.backup(copied)
    target.chmod(0o600)


async def _describe(
    settings: Settings, draft: Path, held: Contents, has_master_keys: bool, say: Callable[[str], None]
) -> Manifest:
    files = []
    for path in backups.files_below(draft):
        say(f"digest of {path.relative_to(draft)}")
        files.append(await file_of(draft, path))
    taken = Manifest(
        version=version("wattbook"),
        engine_version=ENGINE_VERSION,
        taken_at=datetime.now(UTC).isoformat(timespec="seconds"),
        database=held,
        master_keys=fingerprints(settings, settings.keys),
        has_master_keys=has_master_keys,
        files=files,
    )
    backups.write(draft, taken)
    return taken
