"""Help for people whom the API cannot help any more."""

import time
from typing import Annotated

import typer

from commands.shared import Failure, console, with_database
from persistence.people import PostgresPeople
from persistence.postgres import open_pool

app = typer.Typer(help="Help people whom the API cannot help any more.", no_args_is_help=True)


@app.command("password")
def users_password(email: Annotated[str, typer.Argument(help="Of a local account.")]) -> None:
    """Give somebody a new password, and end all of his sessions: for the admin who has lost his."""
    password = typer.prompt("New password", hide_input=True, confirmation_prompt=True)
    ended = with_database(lambda dsn: new_password(dsn, email, password))
    console.print(f"{email} has a new password; {ended} sessions ended")


async def new_password(dsn: str, email: str, password: str) -> int:
    """How many sessions it ended. Raises Failure for an unknown account, one of the directory, a weak password."""
    from gateway.auth.passwords import COST_MIN, Passwords, check_acceptable
    from gateway.errors import Problem

    pool, passwords = await open_pool(dsn, 2, "new password"), Passwords(COST_MIN, 1, 1)
    try:
        people = PostgresPeople(pool)
        user = await people.by_email(email.strip().lower())
        if user is None or user.source != "local":
            raise Failure(f"there is no local account {email}")
        check_acceptable(password, user.email, user.name)
        now_us = time.time_ns() // 1_000
        open_ones = len(await people.sessions(user.user_id, now_us))
        await people.set_password(user.user_id, await passwords.hash(password), "", now_us)
        return open_ones
    except Problem as problem:
        raise Failure(problem.detail) from None
    finally:
        passwords.close()
        await pool.close()
