"""The participants of a bench, logged in and with funds.

Registering and logging in cost half a second of bcrypt per person, on purpose. Where the bench may look into the data
directory, accounts and sessions are therefore made as the gateway makes them, by its own code with the installation's
keys and database, but without the password check: one hash serves all. Tokens, sessions and deposits are real.
"""

import asyncio
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from actors.clock import clock_us, elapsed_us
from bench.client import ApiError, Trader, new_password
from bench.http import HttpPool
from config.load import load
from engine.audit import SYSTEM
from gateway.auth.keys import open_keys
from gateway.auth.passwords import Passwords
from gateway.auth.sessions import Sessions
from gateway.auth.tokens import AccessTokens
from gateway.settings import GatewaySettings
from persistence.embedded import EmbeddedPostgres
from persistence.people import PostgresPeople
from persistence.postgres import open_pool

FUNDING: Final = (("THB", "100000"), ("energy:Z1", "10000"))
PLENTY: Final = (("THB", "10000000"), ("energy:Z1", "1000000"))
AT_ONCE: Final = 8
BCRYPT_COST: Final = 12


async def registered(url: str, count: int, funding: Sequence[tuple[str, str]] = FUNDING) -> list[Trader]:
    """Register, log in and fund, a few at a time: passwords cost time on purpose."""
    pool, host = pool_of(url)
    marker, turn = secrets.token_hex(4), asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> Trader:
        trader = Trader(pool, host, f"load-{marker}-{number}@example.org", new_password())
        async with turn:
            while True:
                try:
                    await trader.register(f"Load {number}")
                    break
                except ApiError as error:
                    if error.status != 429:
                        raise
                    await asyncio.sleep(1)
            await fund(trader, funding)
        return trader

    return list(await asyncio.gather(*(one(number) for number in range(count))))


async def seeded(
    url: str, data_dir: Path, count: int, funding: Sequence[tuple[str, str]] = FUNDING, role: str = "student"
) -> list[Trader]:
    """The same without a password check for each; for an embedded installation whose data directory this is."""
    people_pool = await open_pool(EmbeddedPostgres(data_dir).address, 4, "bench people")
    try:
        people, options = PostgresPeople(people_pool), GatewaySettings(key_directory=data_dir / "keys")
        tokens = AccessTokens(
            open_keys(options.key_directory),
            clock_us,
            elapsed_us,
            issuer=options.issuer,
            audience=options.audience,
            seconds=options.access_seconds,
            remembered_max=1,
        )
        sessions = Sessions(
            people,
            tokens,
            clock_us,
            access_seconds=options.access_seconds,
            refresh_seconds=options.refresh_seconds,
        )
        password, marker = new_password(), secrets.token_hex(4)
        passwords = Passwords(BCRYPT_COST, workers=1, waiting_max=1)
        password_hash = await passwords.hash(password)  # as the gateway does it: a long run logs in again
        passwords.close()
        pool, host = pool_of(url)
        zone, turn = load().default_zone, asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> Trader:
            email = f"bench-{marker}-{number}@example.org"
            async with turn:
                user = await people.create(email, f"Bench {number}", password_hash, role, zone, clock_us())
                trader = Trader(pool, host, email, password)
                trader.user_id, trader.token = str(user.user_id), (await sessions.open(user, SYSTEM)).access_token
                await fund(trader, funding)
            return trader

        return list(await asyncio.gather(*(one(number) for number in range(count))))
    finally:
        await people_pool.close()


async def people(
    url: str, data_dir: Path | None, count: int, funding: Sequence[tuple[str, str]] = FUNDING
) -> list[Trader]:
    """By the quicker of the two ways that is open."""
    if data_dir is None:
        return await registered(url, count, funding)
    return await seeded(url, data_dir, count, funding)


async def fund(trader: Trader, funding: Sequence[tuple[str, str]]) -> None:
    for asset, amount in funding:
        await trader.deposit(asset, amount)


def pool_of(url: str, connections: int = AT_ONCE) -> tuple[HttpPool, str]:
    """Connections to an API, and what to write into `Host`."""
    target = urlsplit(url)
    host, port = target.hostname or "127.0.0.1", target.port or 80
    return HttpPool(host, port, connections), f"{host}:{port}"
