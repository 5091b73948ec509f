"""The exchange's own keys on the chain: which there are, and new ones for those that there are."""

from typing import Annotated

import typer

from chain.client.wallets import Authorities, KeyUnusable, Role
from chain_recipes import authorities
from commands.shared import Failure, console, with_database
from config.load import load
from config.settings import Settings
from engine.audit import Origin
from persistence.audit_log import PostgresAuditLog
from persistence.postgres import open_pool

OPERATOR = Origin("operator", via="command")

app = typer.Typer(help="The exchange's own keys on the chain.", no_args_is_help=True)


@app.command()
def keys() -> None:
    """The address of each role, of the key that shall follow it, and of those before."""
    held = _held(load())
    for role in Role:
        following = f", then {held.propose(role).address}" if role in held.proposed() else ""
        before = "".join(f"\n  before: {address}" for address in held.former(role))
        console.print(f"{role}: {held.signer(role).address}{following}{before}")


@app.command()
def rotate(role: Annotated[Role, typer.Argument(help="Whose key is replaced.")]) -> None:
    """Make a role's next key. The running exchange hands over to it on the chain, once nothing is under way.

    Lanes stand still for half a minute, trading does not. The old key is kept. Called again, it changes nothing.
    """
    held = _held(load())
    try:
        known = role in held.proposed()
        old, new = held.signer(role).address, held.propose(role).address
    except KeyUnusable as error:
        raise Failure(str(error)) from error
    if not known:
        with_database(lambda dsn: _asked(dsn, role, str(old), str(new)))
    console.print(f"{role}: {old} is followed by {new}, as soon as the exchange runs and the chain answers")


def _held(settings: Settings) -> Authorities:
    if not (settings.keys / "chain").is_dir():
        raise Failure(f"{settings.keys / 'chain'} is not there: nothing has been started with this data directory yet")
    return authorities(settings)


async def _asked(dsn: str, role: Role, old: str, new: str) -> None:
    pool = await open_pool(dsn, 1, "rotate a key of the chain")
    try:
        log = PostgresAuditLog(pool)
        await log.append(OPERATOR, "chain.rotation_asked", f"role:{role}", {"address": old}, {"address": new})
    finally:
        await pool.close()
