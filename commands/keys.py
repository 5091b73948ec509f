"""New keys, and those that they replace."""

from typing import Annotated, Final

import typer
from rich.progress import Progress

from commands.shared import Failure, console, with_database
from config.load import load
from config.settings import Settings
from persistence.postgres import open_pool
from persistence.sealing import MasterKeyFolder, master_keys
from persistence.wallets import Resealed, Vault

WALLETS_PER_BATCH: Final = 200

app = typer.Typer(help="New keys: those that sign access tokens, those that seal wallets.", no_args_is_help=True)


@app.command("rotate")
def keys_rotate(
    now: Annotated[
        bool, typer.Option("--now", help="A key is known to others: remove all old ones, which ends all access tokens.")
    ] = False,
) -> None:
    """Make a new key, which signs from half a minute on, and remove those that no living token was signed with."""
    from gateway.auth.keys import rotate
    from gateway.settings import ACCESS_SECONDS

    folder = load().keys
    if not folder.is_dir():
        raise Failure(f"{folder} is not there: nothing has been started with this data directory yet")
    rotation = rotate(folder, ACCESS_SECONDS, now=now)
    console.print(f"made {rotation.made}" + "".join(f"\nremoved {name}" for name in rotation.removed))


@app.command("rotate-wallets")
def rotate_wallets() -> None:
    """Seal the secrets of all platform wallets with a new master key. Interrupted, the next call goes on.

    Keys that are files get a new one; with wallet_master_keys, add the next version to the setting first.
    """
    settings = load()
    damaged = with_database(lambda dsn: rotated_wallets(dsn, settings))
    for address in damaged:
        console.print(f"[red]does not open[/] {address}: its master key is gone, or its row was changed")
    if damaged:
        raise Failure(f"{len(damaged)} wallets could not be sealed anew; they are as they were")


async def rotated_wallets(dsn: str, settings: Settings) -> list[str]:
    """Seal every platform wallet with the newest master key; the addresses of those that do not open."""
    pool = await open_pool(dsn, 2, "rotate wallets")
    try:
        held = master_keys(settings.wallet_master_keys, settings.keys)
        vault = Vault(pool, held)
        done, damaged = await _resealed(vault, held.newest())  # what an interrupted call has left
        if isinstance(held, MasterKeyFolder) and not done:
            done, damaged = await _resealed(vault, held.add())
        console.print(f"{done} wallets are sealed with master key {held.newest()} now")
        return damaged
    finally:
        await pool.close()


async def _resealed(vault: Vault, version: int) -> tuple[int, list[str]]:
    """How many wallets were sealed anew with this key, the newest, and the addresses of those that do not open."""
    done, damaged, batch = 0, list[str](), Resealed("", 0, [])
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(f"master key {version}", total=await vault.behind())
        while (batch := await vault.reseal(batch.last, WALLETS_PER_BATCH)).last:
            done += batch.done
            damaged += batch.damaged
            progress.update(task, completed=done + len(damaged))
    return done, damaged
